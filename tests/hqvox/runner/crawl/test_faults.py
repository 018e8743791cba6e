"""What goes wrong on the web: each fault a row with its reason, and nothing else is held up."""

from __future__ import annotations

import asyncio
import gzip
import io
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import zlib
from collections import Counter
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image
from yarl import URL

from hqvox.config.build import DownloadConfig
from hqvox.workspace.layout import Workspace
from hqvox.workspace.tables import Row
from pipelines.fetch.hosts import Host, HostQueues
from tests.helpers.crawl_site import (
    Handler,
    Request,
    Site,
    answer,
    build,
    in_turn,
    make,
    picture,
    reasons,
    rows,
)

PHOTO = picture()
SIZE = len(PHOTO)


async def reset_midway(request: Request, writer: asyncio.StreamWriter) -> None:
    """Half the body, then a reset."""
    writer.write(answer(200, PHOTO[: SIZE // 2], length=SIZE))
    await writer.drain()
    await asyncio.sleep(0.05)
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()


async def reset_once(request: Request, writer: asyncio.StreamWriter) -> None:
    if request.number == 0:
        await reset_midway(request, writer)
    else:
        writer.write(answer(200, PHOTO))


async def drip(request: Request, writer: asyncio.StreamWriter) -> None:
    """A few bytes at a time, never long silent."""
    writer.write(answer(200, b"", length=SIZE))
    for n in range(0, SIZE, 4):
        writer.write(PHOTO[n : n + 4])
        await writer.drain()
        await asyncio.sleep(0.05)


async def fall_silent(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(answer(200, PHOTO[:100], length=SIZE))
    await writer.drain()
    await asyncio.sleep(30)


async def hang_up_early(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(answer(200, PHOTO[:-100], length=SIZE))
    await writer.drain()
    writer.close()


async def stop_within_chunks(request: Request, writer: asyncio.StreamWriter) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    writer.write(head + b"400\r\n" + PHOTO[:1024] + b"\r\n")
    await writer.drain()
    writer.close()


EMPTY_BLOCKS = b"\x00\x00\x00\xff\xff" * 4096
"""Blocks of deflate that decompress to nothing."""
SENT: Counter[str] = Counter()
"""Bytes that the endless routes wrote."""


def endless(start: bytes, more: bytes, limit: int = 60_000_000) -> Handler:
    """A gzip body that goes on until the client hangs up, or after ``limit`` bytes."""
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n"

    async def send(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(head + start)
        while SENT[request.path] < limit:
            writer.write(more)
            await writer.drain()
            SENT[request.path] += len(more)
        writer.close()

    return send


def chunked(body: bytes, sizes: str = "%x") -> bytes:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + (sizes % len(body)).encode() + b"\r\n" + body + b"\r\n0\r\n\r\n"


def one_colour(side: int) -> bytes:
    """A PNG of side × side pixels in a few kilobytes."""
    sink = io.BytesIO()
    Image.new("1", (side, side)).save(sink, "PNG", optimize=True)
    return sink.getvalue()


def announcing(side: int) -> bytes:
    """A PNG whose header announces side × side pixels, without the data."""
    data = bytearray(picture(kind="PNG"))
    data[16:24] = side.to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


def heic() -> bytes:
    return struct.pack(">I", 24) + b"ftypheic" + bytes(4) + b"mif1heic" + bytes(100)


def to(place: str, status: int = 302) -> bytes:
    return answer(status, b"", f"Location: {place}")


HTML = b"<!doctype html><html><body>Please log in</body></html>"
SVG = b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
ODD_CODING = answer(200, PHOTO, "Content-Encoding: ODD").replace(b"ODD", b"\xff\xfe\xe9")
ODD_PLACE = answer(302, b"", "Location: http://ODD/").replace(b"ODD", b"\xff\xfe\xe9")
"""Headers in bytes that are no UTF-8."""
BOMB = gzip.compress(bytes(20_000_000))
SOON = format_datetime(datetime.now(UTC) + timedelta(seconds=1), usegmt=True)

# path: (route, reason, requests at least, requests at most)
FAULTS = {
    "/good": (answer(200, PHOTO), None, 1, 1),
    "/chunked": (chunked(PHOTO), None, 1, 1),
    "/zipped": (answer(200, gzip.compress(PHOTO), "Content-Encoding: gzip"), None, 1, 1),
    "/reset-always": (reset_midway, {"connection_failed", "truncated"}, 3, 9),
    "/reset-once": (reset_once, None, 2, 2),
    "/drip": (drip, "too_slow", 3, 3),
    "/silent": (fall_silent, "timed_out", 3, 3),
    "/short": (hang_up_early, "truncated", 3, 3),
    "/short-chunks": (stop_within_chunks, {"truncated", "malformed_response"}, 3, 3),
    "/bad-chunks": (chunked(PHOTO, "zz%x"), "malformed_response", 3, 9),
    # What comes too much may arrive apart from the rest, and is then not even seen.
    "/longer": (
        answer(200, PHOTO + b"and more" * 50, length=SIZE), {None, "malformed_response"}, 1, 9,
    ),
    "/wrong-type": (answer(200, PHOTO, "Content-Type: text/html"), None, 1, 1),
    "/html": (answer(200, HTML, "Content-Type: image/jpeg"), "not_an_image", 1, 1),
    "/empty": (answer(200, b""), "empty_file", 1, 1),
    "/odd-coding": (ODD_CODING, "unsupported_encoding", 1, 1),
    "/odd-place": (ODD_PLACE, "bad_url", 1, 1),
    "/loop": (to("/loop"), "too_many_redirects", 6, 6),
    "/nowhere": (answer(302), "malformed_response", 3, 3),
    "/moved": (to("/good?moved"), None, 1, 1),
    "/good?moved": (answer(200, PHOTO), None, 1, 2),
    "/to-private": (to("http://10.0.0.1/a.jpg"), "refused_address", 1, 1),
    "/to-metadata": (to("http://169.254.169.254/latest/"), "refused_address", 1, 1),
    "/to-mapped": (to("http://[::ffff:7f00:1]/a.jpg"), "refused_address", 1, 1),
    "/to-loopback": (to("http://127.0.0.1:1/a.jpg"), "refused_address", 1, 1),
    "/to-short-form": (to("http://127.1:1/a.jpg"), {"bad_url", "refused_address"}, 1, 1),
    "/to-file": (to("file:///etc/passwd"), "bad_url", 1, 1),
    "/to-credentials": (to("http://me:secret@127.0.0.1/a.jpg"), "bad_url", 1, 1),
    "/bomb": (answer(200, BOMB, "Content-Encoding: gzip"), "too_large", 1, 1),
    "/gzip-then-junk": (endless(gzip.compress(PHOTO), b"junk" * 5000), None, 1, 1),
    "/empty-blocks": (endless(gzip.compress(b"")[:10], EMPTY_BLOCKS), "too_large", 1, 1),
    "/bad-gzip": (answer(200, PHOTO, "Content-Encoding: gzip"), "malformed_response", 3, 3),
    "/half-gzip": (
        answer(200, gzip.compress(PHOTO)[:-500], "Content-Encoding: gzip"), "truncated", 3, 3,
    ),
    "/brotli": (answer(200, PHOTO, "Content-Encoding: br"), "unsupported_encoding", 1, 1),
    "/announced-large": (answer(200, b"", length=10**9), "too_large", 1, 1),
    "/streamed-large": (chunked(bytes(2_000_000)), "too_large", 1, 1),
    "/busy": (in_turn(answer(429), answer(200, PHOTO)), None, 2, 2),
    "/busy-for": (in_turn(answer(429, b"", "Retry-After: 1"), answer(200, PHOTO)), None, 2, 2),
    "/busy-until": (
        in_turn(answer(503, b"", f"Retry-After: {SOON}"), answer(200, PHOTO)), None, 2, 2,
    ),
    "/down-once": (in_turn(answer(500), answer(200, PHOTO)), None, 2, 2),
    "/down": (answer(500), "http_server_error", 3, 3),
    "/gone": (answer(410), "http_client_error", 1, 1),
    "/noai": (answer(200, PHOTO, "X-Robots-Tag: noai"), "opted_out", 1, 1),
    "/noindex-us": (answer(200, PHOTO, "X-Robots-Tag: hqvox: noindex"), "opted_out", 1, 1),
    "/noindex-them": (answer(200, PHOTO, "X-Robots-Tag: otherbot: noindex"), None, 1, 1),
    "/forbidden/1": (answer(200, PHOTO), "robots_disallowed", 0, 0),
    "/one-colour": (answer(200, one_colour(1000)), None, 1, 1),
    "/too-many-pixels": (answer(200, announcing(30_000)), "too_large", 1, 1),
    "/svg": (answer(200, SVG), "unsupported_type", 1, 1),
    "/ico": (answer(200, b"\0\0\1\0\1\0" + bytes(200)), "unsupported_type", 1, 1),
    "/heic": (answer(200, heic()), "unsupported_type", 1, 1),
    "/avif": (answer(200, picture(kind="AVIF")), None, 1, 1),
    "/sets-cookie": (answer(200, PHOTO, "Set-Cookie: track=me; Path=/"), None, 1, 1),
    "/bad-header": (b"HTTP/1.1 2OO OK\r\n\r\n", {"malformed_response"}, 3, 9),
    "/not-http": (b"220 mail.example ESMTP\r\n\r\n", {"malformed_response"}, 3, 9),
    "/not-modified": (answer(304), "malformed_response", 3, 3),
}  # fmt: skip
REFUSED = {
    "ftp://a.example/1.jpg": "bad_url",
    "http://u:p@a.example/2.jpg": "bad_url",
    "http:///1.jpg": "bad_url",
    "http://a.example:99999/1.jpg": "bad_url",
    "http://192.168.1.1/1.jpg": "refused_address",
    "http://[fe80::1]/1.jpg": "refused_address",
    "http://[64:ff9b::a00:1]/1.jpg": "refused_address",
    "http://2130706433/1.jpg": "bad_url",
    "http://name.invalid/1.jpg": "dns_failed",
    "http://a.example/" + "x" * 5000: "bad_url",
}


@pytest.fixture(scope="module")
def crawled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Site]:
    """A crawl of everything above."""
    routes = {path: route for path, (route, *_) in FAULTS.items()}
    routes["/robots.txt"] = answer(200, b"User-agent: *\nDisallow: /forbidden/\n")
    folder = tmp_path_factory.mktemp("faults")
    with Site(routes) as site:  # type: ignore[arg-type]
        urls = [("a", site.url(path)) for path in FAULTS] + [("a", url) for url in REFUSED]
        workspace = make(
            folder / "w",
            urls,
            allow_hosts=[site.host],
            max_bytes=1_000_000,
            slow_seconds=0.4,
            slowest_bytes_per_second=500,
        )
        result = build(workspace)
        assert not result.failed, result.failed
    return workspace, site


@pytest.fixture(scope="module")
def by_path(crawled: tuple[Workspace, Site]) -> dict[str, str | None]:
    return reasons(crawled[0])


@pytest.mark.parametrize("path", FAULTS)
def test_a_fault_has_its_reason(
    by_path: dict[str, str | None], crawled: tuple[Workspace, Site], path: str
) -> None:
    _, reason, least, most = FAULTS[path]
    expected = reason if isinstance(reason, set) else {reason}
    assert by_path[path] in expected
    assert least <= crawled[1].asked()[path] <= most


@pytest.mark.parametrize("url", REFUSED)
def test_an_address_is_refused(crawled: tuple[Workspace, Site], url: str) -> None:
    found = {row["url"]: row["reason"] for row in rows(crawled[0])}
    assert found[url] == REFUSED[url]


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
