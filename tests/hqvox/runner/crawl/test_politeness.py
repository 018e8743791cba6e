"""robots.txt, opt-out headers, pace and number of connections."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest

from hqvox.errors import HqvoxError
from pipelines.fetch.client import ByteBudget
from pipelines.fetch.files import HostFiles
from pipelines.fetch.headers import opted_out
from pipelines.fetch.robots import Rules, parse
from tests.helpers.crawl_site import RULES as RULES_FILES
from tests.helpers.crawl_site import (
    Request,
    Site,
    answer,
    build,
    in_turn,
    make,
    picture,
    reasons,
    write_urls,
)

ALL = ("noai", "noimageai", "noindex", "noimageindex")


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        (["noai"], "noai"),
        (["NoImageAI"], "noimageai"),
        (["nofollow, noindex"], "noindex"),
        (["none"], "noindex"),
        (["hqvox: noai"], "noai"),
        (["HQVox: nofollow, noimageindex"], "noimageindex"),
        (["*: noai"], "noai"),
        (["otherbot: noai, noindex"], None),
        (["otherbot: noai", "hqvox: noindex"], "noindex"),
        (["otherbot: noai", "noindex"], "noindex"),
        (["unavailable_after: 25 Jun 2010 15:00:00 PST, noai"], "noai"),
        (["max-image-preview: large"], None),
        (["all", "nofollow", ""], None),
    ],
)
def test_opt_out_headers(headers: list[str], found: str | None) -> None:
    assert opted_out(headers, "hqvox", ALL) == found


def test_opt_outs_that_are_not_to_be_kept_are_not() -> None:
    assert opted_out(["noindex"], "hqvox", ["noai"]) is None


def test_robots_rules_are_those_for_us() -> None:
    rules = parse(
        b"\xef\xbb\xbfUser-agent: *\nDisallow: /\n\nUser-agent: hqvox\nDisallow: /no*.jpg$\n"
        b"Allow: /\nCrawl-delay: 2.5\n",
        "hqvox",
    )
    assert rules.allow("http://a.example/yes.jpg")
    assert not rules.allow("http://a.example/no1.jpg")
    assert rules.allow("http://a.example/no1.jpg?x")
    assert rules.delay_seconds == 2.5


@pytest.mark.parametrize("name", ["hqvox/0.1.0", "hqvox (+https://a.example)", "HQVox/2 # us"])
def test_a_group_for_our_product_in_any_version_is_for_us(name: str) -> None:
    body = f"User-agent: {name}\nDisallow: /\n\nUser-agent: *\nAllow: /\n"
    assert not parse(body.encode(), "hqvox").allow("http://a.example/1.jpg")
    other = body.replace(name, "otherbot/1").encode()
    assert parse(other, "hqvox").allow("http://a.example/1.jpg")


@pytest.mark.parametrize(
    "body",
    [bytes(range(256)) * 10, "User-agent: *\nAllow: /\n".encode("utf-16"), b"\x89PNG\r\n\0\0"],
)
def test_a_robots_txt_that_is_no_text_allows_nothing(body: bytes) -> None:
    assert not parse(body, "hqvox").allow("http://a.example/1.jpg")


def test_robots_txt_is_asked_for_once_a_host(tmp_path: Path) -> None:
    routes = {f"/{n}": answer(200, picture(n)) for n in range(20)}
    with Site({**routes, "/robots.txt": answer(200, b"User-agent: *\nDisallow: /1\n")}) as site:
        workspace = make(
            tmp_path / "w", [("a", site.url(f"/{n}")) for n in range(20)], allow_hosts=[site.host]
        )
        build(workspace)
    found = reasons(workspace)
    refused = {path for path, reason in found.items() if reason == "robots_disallowed"}
    assert refused == {path for path in routes if path.startswith("/1")}
    assert sum(request.path == "/robots.txt" for request in site.requests) == 1
    assert not refused & site.asked().keys()


def robots_requests(site: Site) -> int:
    return sum(request.path == "/robots.txt" for request in site.requests)


def test_robots_txt_is_kept_for_a_day_over_several_crawls(tmp_path: Path) -> None:
    routes = {f"/{n}": answer(200, picture(n)) for n in range(4)}
    rules = answer(200, b"User-agent: *\nDisallow: /2\n")
    with Site({**routes, "/robots.txt": rules}) as site:
        urls = [("a", site.url(f"/{n}")) for n in range(4)]
        workspace = make(tmp_path / "w", urls[:1], allow_hosts=[site.host])
        build(workspace)
        write_urls(tmp_path / "w.csv", urls[:3])
        build(workspace)
        assert reasons(workspace) == {"/0": None, "/1": None, "/2": "robots_disallowed"}
        assert robots_requests(site) == 1

        file = tmp_path / "w/hosts/files.jsonl"
        kept = [json.loads(line) for line in file.read_text().splitlines()]
        assert [url for url, _, _ in kept] == [site.url(path) for path in RULES_FILES]
        older = [json.dumps([url, asked_at - 25 * 3600, body]) for url, asked_at, body in kept]
        file.write_text("\n".join([*older, ""]))
        write_urls(tmp_path / "w.csv", urls)
        build(workspace)
        assert robots_requests(site) == 2
        build(workspace, refresh=True)
        assert robots_requests(site) == 3
    assert workspace.storage.names("hosts") == ["files.jsonl", "status.json"]


def test_files_of_hosts_survive_a_kill_and_stay_within_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "hosts/files.jsonl"
    with HostFiles(file) as files:
        files.put("http://a.example/robots.txt", b"first")
        files.put("http://a.example/robots.txt", b"second")
        files.put("http://b.example/robots.txt", b"")
    whole = file.read_bytes()
    file.write_bytes(whole + whole.splitlines()[0][:-5])  # cut off within a line
    with HostFiles(file) as files:
        kept = [files.get(f"http://{host}.example/robots.txt") for host in "abc"]
        assert [entry and entry[0] for entry in kept] == [b"second", b"", None]
        monkeypatch.setattr("pipelines.fetch.files.MOST_BYTES", file.stat().st_size + 10)
        files.put("http://c.example/robots.txt", b"third")
        assert files.get("http://c.example/robots.txt") is None
    assert len(file.read_bytes().splitlines()) == 2


def test_a_long_robots_txt_is_parsed_once_and_matched_once_a_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a megabyte of patterns: neither is done in the event loop."""
    parsed, matched = [], []
    allow = Rules.allow

    def note_parse(body: bytes, agent: str) -> Rules:
        parsed.append(threading.current_thread())
        return parse(body, agent)

    def note_match(self: Rules, url: str) -> bool:
        matched.append(threading.current_thread())
        return allow(self, url)

    monkeypatch.setattr("pipelines.fetch.robots.parse", note_parse)
    monkeypatch.setattr(Rules, "allow", note_match)
    lines = "".join(f"Disallow: /*/{n}/*.gif$\n" for n in range(20_000))
    routes = {f"/{n}": answer(200, picture(n)) for n in range(20)}
    routes["/3"] = in_turn(answer(500), answer(200, picture(3)))  # asked for twice
    robots = answer(200, f"User-agent: *\n{lines}Disallow: /5$\n".encode())
    with Site({**routes, "/robots.txt": robots}) as site:
        urls = [("a", site.url(path)) for path in routes]
        workspace = make(tmp_path / "w", urls, allow_hosts=[site.host])
        build(workspace)
    found = reasons(workspace)
    assert {path for path, reason in found.items() if reason} == {"/5"}
    assert len(parsed) == 1
    assert len(matched) == len(urls)
    assert threading.main_thread() not in {*parsed, *matched}


def test_robots_txt_that_a_server_cannot_give_allows_nothing(tmp_path: Path) -> None:
    with Site({"/1": answer(200, picture()), "/robots.txt": answer(500)}) as site:
        workspace = make(tmp_path / "w", [("a", site.url("/1"))], allow_hosts=[site.host])
        build(workspace)
        assert reasons(workspace) == {"/1": "http_server_error"}
        assert not site.asked()
        site.routes["/robots.txt"] = answer(404)
        build(workspace, retry_failed=True)
    assert reasons(workspace) == {"/1": None}


def test_robots_may_be_left_alone(tmp_path: Path) -> None:
    with Site({"/1": answer(200, picture(), "X-Robots-Tag: noai")}) as site:
        site.routes["/robots.txt"] = answer(200, b"User-agent: *\nDisallow: /\n")
        workspace = make(tmp_path / "w", [("a", site.url("/1"))], allow_hosts=[site.host])
        build(workspace)
        assert reasons(workspace) == {"/1": "robots_disallowed"}
        build(workspace, settings=("download.robots=false",))
        assert reasons(workspace) == {"/1": "opted_out"}
        build(workspace, settings=("download.robots=false", "download.opt_out=[noindex]"))
    assert reasons(workspace) == {"/1": None}


def test_pace_and_connections_of_a_host_are_kept(tmp_path: Path) -> None:
    times: list[float] = []
    now, most = 0, 0

    async def slow(request: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        times.append(asyncio.get_running_loop().time())
        await asyncio.sleep(0.15)
        now -= 1
        writer.write(answer(200, picture()))

    with Site({f"/{n}": slow for n in range(12)}) as site:
        workspace = make(
            tmp_path / "w",
            [("a", site.url(f"/{n}")) for n in range(12)],
            allow_hosts=[site.host],
            host_connections=3,
            host_requests_per_second=25.0,
        )
        build(workspace)
    assert set(reasons(workspace).values()) == {None}
    assert most <= 3
    assert times[-1] - times[0] >= 11 / 25 - 0.1


def test_a_crawl_without_contact_is_refused_in_one_line(tmp_path: Path) -> None:
    workspace = make(tmp_path / "w", [("a", "http://a.example/1.jpg")], contact="")
    with pytest.raises(HqvoxError, match=r"set download\.contact in hqvox\.yaml") as error:
        build(workspace)
    assert "\n" not in str(error.value)


def test_memory_for_bodies_is_shared_out() -> None:
    async def work() -> None:
        budget, most = ByteBudget(1000), 0

        async def download(size: int) -> None:
            nonlocal most
            for _ in range(size // 50):
                await budget.take(asyncio.current_task(), 50)
                most = max(most, budget.used)
                await asyncio.sleep(0)
            budget.give_back(asyncio.current_task(), size // 50 * 50)

        async with asyncio.timeout(120):
            await asyncio.gather(*(download(800) for _ in range(20)), download(5000))
        assert budget.used == 0
        assert most <= 1000 + 5000

    asyncio.run(work())


def test_robots_of_a_redirect_count_too(tmp_path: Path) -> None:
    with Site({"/no": answer(200, picture())}) as site:
        site.routes["/robots.txt"] = answer(200, b"User-agent: *\nDisallow: /no\n")
        site.routes["/yes"] = in_turn(answer(301, b"", "Location: /no"))
        workspace = make(tmp_path / "w", [("a", site.url("/yes"))], allow_hosts=[site.host])
        build(workspace)
    assert reasons(workspace) == {"/yes": "robots_disallowed"}
    assert site.asked() == {"/yes": 1}


RULES = b"User-agent: *\n"


def test_a_crawl_delay_holds_from_the_first_picture_on(tmp_path: Path) -> None:
    times: list[float] = []

    async def note(request: Request, writer: asyncio.StreamWriter) -> None:
        times.append(time.monotonic())
        writer.write(answer(200, picture(len(times))))
        await writer.drain()

    with Site({"/robots.txt": answer(200, RULES + b"Crawl-delay: 0.4\n")}) as site:
        site.routes |= {f"/{n}": note for n in range(3)}
        workspace = make(
            tmp_path / "w", [("ann", site.url(f"/{n}")) for n in range(3)], allow_hosts=[site.host]
        )
        build(workspace)
    assert min(after - before for before, after in pairwise(times)) > 0.3


def test_a_crawl_delay_that_nobody_can_wait_for_refuses(tmp_path: Path) -> None:
    with Site({"/robots.txt": answer(200, RULES + b"Crawl-delay: 100000\n")}) as site:
        workspace = make(
            tmp_path / "w", [("ann", site.url(f"/{n}")) for n in range(20)], allow_hosts=[site.host]
        )
        build(workspace)
    assert set(reasons(workspace).values()) == {"robots_disallowed"}
    assert not site.asked()


def test_rules_that_cannot_be_read_allow_nothing(tmp_path: Path) -> None:
    packed = answer(200, RULES + b"Disallow: /\n", "Content-Encoding: br")
    with Site({"/robots.txt": packed, "/1": answer(200, picture())}) as site:
        workspace = make(tmp_path / "w", [("ann", site.url("/1"))], allow_hosts=[site.host])
        build(workspace)
    assert reasons(workspace) == {"/1": "unsupported_encoding"}
    assert not site.asked()


def test_what_is_disallowed_takes_no_time(tmp_path: Path) -> None:
    """At two requests a second, sixty pictures that must not be asked for are through at once."""
    with Site({"/robots.txt": answer(200, RULES + b"Disallow: /\n")}) as site:
        workspace = make(
            tmp_path / "w",
            [("ann", site.url(f"/{n}")) for n in range(60)],
            allow_hosts=[site.host],
            host_requests_per_second=2.0,
        )
        started = time.monotonic()
        build(workspace)
    assert time.monotonic() - started < 10
    assert set(reasons(workspace).values()) == {"robots_disallowed"}
