"""What goes wrong on the web: each fault a row with its reason, and nothing else is held up."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
import threading
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from yarl import URL

from hqvox.config.build import DownloadConfig
from hqvox.workspace.layout import Workspace
from hqvox.workspace.tables import Row
from pipelines.fetch.hosts import Host, HostQueues
from tests.helpers.crawl_site import Request, Site, answer, build, make, picture, reasons, rows
from tests.helpers.faults import (
    ADDRESSES,
    FAULTS,
    OTHERS,
    PHOTO,
    ROBOTS,
    SENT,
    SIZE,
    Outcome,
    crawl,
    table,
    wrong,
)

DOCS = Path(__file__).parents[4] / "docs/crawling.md"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Site, dict[str, Outcome]]:
    """A crawl of all faults."""
    return crawl(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def crawled(done: tuple[Workspace, Site, dict[str, Outcome]]) -> tuple[Workspace, Site]:
    return done[:2]


@pytest.fixture(scope="module")
def outcomes(done: tuple[Workspace, Site, dict[str, Outcome]]) -> dict[str, Outcome]:
    return done[2]


@pytest.mark.parametrize("path", FAULTS)
def test_a_fault_has_its_reason(outcomes: dict[str, Outcome], path: str) -> None:
    fault = FAULTS[path]
    assert outcomes[path].reason in fault.expected
    assert fault.least <= outcomes[path].requests <= fault.most


@pytest.mark.parametrize("key", ROBOTS)
def test_a_faulty_robots_txt_has_its_reason(outcomes: dict[str, Outcome], key: str) -> None:
    fault, outcome = ROBOTS[key], outcomes[f"robots: {key}"]
    assert outcome.reason in fault.expected
    assert outcome.requests == fault.least


@pytest.mark.parametrize("url", ADDRESSES, ids=range(len(ADDRESSES)))
def test_an_address_is_refused(outcomes: dict[str, Outcome], url: str) -> None:
    assert outcomes[url].reason == ADDRESSES[url][1]


def test_the_docs_have_the_table_that_the_command_prints(outcomes: dict[str, Outcome]) -> None:
    assert wrong(outcomes) == []
    assert table() in DOCS.read_text(), "run benchmarks/faults.py and put its table there"
    changed = outcomes | {"/good": Outcome("not_an_image", 2), "robots: down": Outcome(None, 0)}
    assert len(wrong(changed)) == 3


def test_the_tests_that_the_table_names_exist() -> None:
    for _, test in OTHERS.values():
        assert callable(globals()[test])


def test_equal_bytes_are_stored_once(crawled: tuple[Workspace, Site]) -> None:
    kept = [row for row in rows(crawled[0]) if row["reason"] is None]
    of_photo = {row["photo_offset"] for row in kept if row["photo_bytes"] == SIZE}
    assert len(kept) > 10
    assert len(of_photo) == 1
    for row in kept:
        data = crawled[0].pixels("photo", row)
        assert len(data) == row["photo_bytes"]


def test_rows_carry_where_the_photo_came_from(crawled: tuple[Workspace, Site]) -> None:
    workspace, site = crawled
    found = {row["url"]: row for row in rows(workspace)}
    moved = found[site.url("/moved")]
    assert moved["final_url"] == site.url("/good?moved")
    assert moved["requested_url"] == site.url("/moved")
    assert (moved["host"], moved["http_status"], moved["photo_id"] is None) == (
        "127.0.0.1",
        200,
        False,
    )
    assert found[site.url("/gone")]["http_status"] == 410
    assert found[site.url("/svg")]["media_type"] == "image/svg+xml"
    assert found[site.url("/ico")]["media_type"] == "image/x-icon"
    assert found[site.url("/heic")]["media_type"] == "image/heic"


def test_every_attempt_is_a_row(crawled: tuple[Workspace, Site]) -> None:
    workspace, site = crawled
    attempts = attempts_of(workspace)
    of_url = Counter(row["url"] for row in attempts if row["status"] is not None)
    for path in ("/good", "/down", "/loop", "/busy-for"):
        assert of_url[site.url(path)] >= site.asked()[path]
    down = [row for row in attempts if row["url"] == site.url("/down")]
    assert [(row["status"], row["reason"]) for row in down] == [(500, "http_server_error")] * 3
    noai = [row for row in attempts if row["url"] == site.url("/noai")]
    assert noai[-1]["detail"] == "X-Robots-Tag: noai"
    forbidden = [row for row in attempts if row["url"] == site.url("/forbidden/1")]
    assert forbidden[-1]["reason"] == "robots_disallowed"
    assert any(row["final_url"] == site.url("/robots.txt") for row in attempts)


def attempts_of(workspace: Workspace) -> list[Row]:
    found: list[Row] = []
    for name in workspace.storage.names("attempts"):
        with workspace.storage.open(f"attempts/{name}") as file:
            found += pq.read_table(file).to_pylist()
    return found


def test_we_say_who_we_are_and_keep_no_cookies(crawled: tuple[Workspace, Site]) -> None:
    for request in crawled[1].requests:
        assert request.headers["user-agent"].startswith("hqvox/")
        assert "test@example.org" in request.headers["user-agent"]
        assert "cookie" not in request.headers
        assert "referer" not in request.headers


def test_retry_after_is_waited_for(tmp_path: Path) -> None:
    asked: list[float] = []

    async def busy(request: Request, writer: asyncio.StreamWriter) -> None:
        asked.append(asyncio.get_running_loop().time())
        writer.write(answer(429, b"", "Retry-After: 1") if len(asked) == 1 else answer(200, PHOTO))

    with Site({"/1": busy, "/2": busy}) as site:
        urls = [("a", site.url("/1")), ("a", site.url("/2"))]
        workspace = make(tmp_path / "w", urls, allow_hosts=[site.host], host_connections=1)
        build(workspace)
    assert reasons(workspace) == {"/1": None, "/2": None}
    assert asked[1] - asked[0] >= 0.95  # the whole host waits, not the one url


def test_a_retry_after_that_is_too_long_gives_the_host_up(tmp_path: Path) -> None:
    later = answer(429, b"", "Retry-After: 3600")
    with Site({f"/{n}": later for n in range(9)}) as site:
        urls = [("a", site.url(f"/{n}")) for n in range(9)]
        workspace = make(tmp_path / "w", urls, allow_hosts=[site.host], host_connections=2)
        build(workspace)
    assert set(reasons(workspace).values()) == {"rate_limited"}
    assert site.asked().total() <= 2


def test_a_body_is_limited_as_sent_too(crawled: tuple[Workspace, Site]) -> None:
    """Against a limit of 1 MB; what socket buffers hold comes on top."""
    assert set(SENT) == {"/gzip-then-junk", "/empty-blocks"}
    assert max(SENT.values()) < 12_000_000


def test_an_error_of_one_url_does_not_speak_for_its_host(tmp_path: Path) -> None:
    routes = {f"/{n}": answer(200, picture(n)) for n in range(12)}
    routes["/3"] = answer(500, b"", "Retry-After: 99999")
    with Site(routes) as site:  # type: ignore[arg-type]
        urls = [("a", site.url(f"/{n}")) for n in range(12)]
        workspace = make(tmp_path / "w", urls, allow_hosts=[site.host], host_connections=1)
        build(workspace)
        assert reasons(workspace) == {
            f"/{n}": "http_server_error" if n == 3 else None for n in range(12)
        }
        assert site.asked()["/3"] == 1  # it asked for more patience than we have


def test_an_outage_counts_once_however_many_requests_it_meets() -> None:
    host = Host("a.example", 0.1)
    for _ in range(64):
        host.failed(10.0, asked_at=9.0)
    assert host.failures == 1
    host.failed(12.0, asked_at=10.5)
    assert (host.failures, host.failing_since) == (2, 10.0)


def test_a_host_with_a_dot_at_its_end_is_the_same_host() -> None:
    queues = HostQueues(DownloadConfig())
    assert queues.of(URL("http://a.example/1")) is queues.of(URL("http://a.example./2"))
    assert queues.of(URL("http://a.example/1")) is not queues.of(URL("http://b.example/1"))


def test_a_host_that_dies_for_a_while_is_waited_for(tmp_path: Path) -> None:
    """Every url arrives although each meets a closed port more often than it may be retried."""
    with Site({f"/{n}": answer(200, picture(n)) for n in range(40)}) as site:
        port = site.port
    workspace = make(
        tmp_path / "w",
        [("a", f"http://127.0.0.1:{port}/{n}") for n in range(40)],
        allow_hosts=[f"127.0.0.1:{port}"],
        retries=1,
        host_patience_seconds=20.0,
    )
    back = Site({f"/{n}": answer(200, picture(n)) for n in range(40)}, port=port)
    timer = threading.Timer(1.0, back.__enter__)
    timer.start()
    try:
        build(workspace)
    finally:
        timer.join()
        back.__exit__()
    assert set(reasons(workspace).values()) == {None}


def test_a_host_that_stays_dead_is_given_up(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{taken.getsockname()[1]}"  # bound, but nobody listens
        workspace = make(
            tmp_path / "w", [("a", f"http://{host}/{n}") for n in range(200)], allow_hosts=[host]
        )
        build(workspace)
    assert set(reasons(workspace).values()) == {"connection_failed"}
    assert sum(row["seconds"] > 0 for row in attempts_of(workspace)) < 50


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_a_certificate_that_does_not_hold_is_refused(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=127.0.0.1"
    subprocess.run(
        [*command.split(), "-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with Site({"/1.jpg": answer(200, PHOTO)}, tls=context) as site:
        workspace = make(tmp_path / "w", [("a", site.url("/1.jpg"))], allow_hosts=[site.host])
        build(workspace)
    assert reasons(workspace) == {"/1.jpg": "tls_error"}
    assert not site.requests
