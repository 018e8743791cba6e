"""Names and addresses: what may be connected to, with a resolver under the test's control."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Sequence

import pytest

from hqvox.config.build import DownloadConfig
from pipelines.fetch.engine import Engine, FetchResult
from pipelines.fetch.guard import Guard, Lookup, RefusedUrlError, is_public, system_lookup
from tests.helpers.crawl_site import QUICK, Request, Site, answer, picture

PRIVATE = [
    "0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.8.8.8", "169.254.169.254",
    "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.168.0.1", "198.18.0.1", "224.0.0.1",
    "240.0.0.1", "255.255.255.255", "168.63.129.16", "::", "::1", "fe80::1", "fe80::1%eth0",
    "fc00::1", "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808", "2002:7f00:1::", "2001:db8::1",
    "fec0::1", "::ffff:0:7f00:1", "4000::1",
]  # fmt: skip
PUBLIC = ["8.8.8.8", "93.184.216.34", "2606:2800:220:1::1", "::ffff:8.8.8.8", "64:ff9b::808:808"]


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_inside_networks_are_refused(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_pass(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


def test_only_the_named_port_of_an_allowed_host_is_let_through() -> None:
    guard = Guard(["127.0.0.1:8000", "intranet.example"])
    assert guard.url("http://127.0.0.1:8000/a").port == 8000
    with pytest.raises(RefusedUrlError):
        guard.url("http://127.0.0.1:8001/a")
    guard.check("Intranet.example", 443, ipaddress.ip_address("10.0.0.1"))
    with pytest.raises(RefusedUrlError):
        guard.check("example", 443, ipaddress.ip_address("10.0.0.1"))


def test_an_allowed_host_is_written_as_in_urls() -> None:
    guard = Guard(["[::1]:8000"])
    assert guard.url("http://[::1]:8000/a").port == 8000
    with pytest.raises(RefusedUrlError):
        guard.url("http://[::1]:80/a")
    for useless in ("http://127.0.0.1:8000", "127.0.0.1:8000/", "a b", "::1", "me@host", ""):
        with pytest.raises(ValueError, match="IPv6 in brackets"):
            DownloadConfig(allow_hosts=[useless])


@pytest.mark.parametrize(
    "host",
    [
        "2130706433",
        "0177.0.0.1",
        "127.1",
        "127.0.1",
        "127.0.0.1.",
        "0",
        "00127.0.0.1",
        "127.000.0.1",
    ],
)
def test_numbers_that_some_take_for_an_address_are_no_host(host: str) -> None:
    with pytest.raises(RefusedUrlError, match="is not an address"):
        Guard().url(f"http://{host}/a")


@pytest.mark.parametrize(
    "host",
    ["0x7f000001", "localhost", "localhost.", "127。0。0。1", "１２７.0.0.1", "[::1]"],
)
def test_other_spellings_of_this_machine_get_nowhere(host: str) -> None:
    """The system's own resolver is asked: it may know the name, or may not."""
    with Site({"/1.jpg": answer(200, picture())}) as site:
        (outcome,) = fetch([f"http://{host}:{site.port}/1.jpg"], system_lookup)
    assert outcome.reason in ("refused_address", "dns_failed")
    assert not site.requests


def fetch(urls: list[str], lookup: Lookup, **settings: object) -> list[FetchResult]:
    """Fetch urls with names resolved by ``lookup``; the outcomes in the order of the urls."""
    config = DownloadConfig(**{**QUICK, "robots": False, **settings})  # type: ignore[arg-type]
    found: dict[str, FetchResult] = {}

    async def work() -> None:
        async with Engine(config, lookup) as engine:
            for url in urls:
                engine.add(url, lambda outcome: found.update({outcome.url: outcome}))
            async with asyncio.timeout(120):
                while len(found) < len(urls):
                    engine.check()
                    await asyncio.sleep(0.01)

    asyncio.run(work())
    return [found[url] for url in urls]


def test_a_name_that_resolves_to_a_private_address_is_refused() -> None:
    async def lookup(host: str, port: int) -> Sequence[str]:
        return {"inside.test": ["10.0.0.1"], "both.test": ["93.184.216.34", "127.0.0.1"]}[host]

    with Site({"/1.jpg": answer(200, picture())}) as site:
        urls = [f"http://inside.test:{site.port}/1.jpg", f"http://both.test:{site.port}/1.jpg"]
        outcomes = fetch(urls, lookup)
    assert [outcome.reason for outcome in outcomes] == ["refused_address"] * 2
    assert "inside.test is at 10.0.0.1" in str(outcomes[0].attempts[-1]["detail"])
    assert not site.requests


def test_a_redirect_to_a_name_that_resolves_to_a_private_address_is_refused() -> None:
    async def lookup(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"]

    with Site() as site:
        site.routes["/1"] = answer(302, b"", f"Location: http://inside.test:{site.port}/2")
        site.routes["/2"] = answer(200, picture())
        url = f"http://outside.test:{site.port}/1"
        (outcome,) = fetch([url], lookup, allow_hosts=[f"outside.test:{site.port}"])
    assert outcome.reason == "refused_address"
    assert [request.path for request in site.requests] == ["/1"]


def test_an_answer_of_the_dns_that_changes_swaps_nothing() -> None:
    """What was checked is connected to: the name is resolved once, the second answer never used."""
    answers = iter([["127.0.0.2"], ["127.0.0.1"], ["127.0.0.1"]])
    asked: list[str] = []

    async def lookup(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return next(answers)

    class Public(Guard):
        def check(self, host: str, port: int, address: object) -> None:
            """127.0.0.2 stands for a public address; 127.0.0.1 is private."""
            if str(address) != "127.0.0.2":
                raise RefusedUrlError("refused_address", "private")

    async def work(port: int) -> list[FetchResult]:
        found: list[FetchResult] = []
        config = DownloadConfig(**{**QUICK, "robots": False})  # type: ignore[arg-type]
        engine = Engine(config, lookup)
        engine.client.guard = Public()
        async with engine:
            for number in range(3):
                engine.add(f"http://swaps.test:{port}/{number}", found.append)
                while len(found) <= number:
                    await asyncio.sleep(0.01)
        return found

    with Site({f"/{n}": answer(200, picture(), "Connection: close") for n in range(3)}) as site:
        # Nobody listens at 127.0.0.2, so that whoever asks the DNS again gets through to the site.
        outcomes = asyncio.run(work(site.port))
    assert {outcome.reason for outcome in outcomes} == {"connection_failed"}
    assert asked == ["swaps.test"]
    assert not site.requests


@pytest.mark.parametrize("share", [True, False])
def test_names_at_one_address_share_a_pace_if_asked_for(share: bool) -> None:
    """Twelve photographs under three names, 20 requests a second, one at a time."""
    times: list[float] = []
    now, most = 0, 0

    async def slow(request: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        times.append(asyncio.get_running_loop().time())
        await asyncio.sleep(0.1)
        now -= 1
        writer.write(answer(200, picture()))

    async def lookup(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"]

    names = ("a.test", "b.test", "c.test")
    with Site({f"/{n}": slow for n in range(4)}) as site:
        urls = [f"http://{name}:{site.port}/{n}" for n in range(4) for name in names]
        outcomes = fetch(
            urls,
            lookup,
            allow_hosts=[f"{name}:{site.port}" for name in names],
            share_pace=share,
            host_requests_per_second=20.0,
            host_connections=1,
        )
    assert {outcome.reason for outcome in outcomes} == {None}
    assert len(times) == 12
    if share:
        assert most == 1
        assert times[-1] - times[0] >= 11 * 0.1 - 0.05
    else:
        assert most > 1


def test_a_name_that_does_not_exist_fails_at_once() -> None:
    import socket

    asked: list[str] = []

    async def lookup(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    outcomes = fetch([f"http://nowhere.test/{n}" for n in range(20)], lookup)
    assert {outcome.reason for outcome in outcomes} == {"dns_failed"}
    assert len(asked) <= 8


def test_cookies_of_one_host_are_not_told_to_another_nor_to_itself() -> None:
    async def lookup(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"]

    with Site({"/1": answer(200, picture(), "Set-Cookie: a=b; Path=/")}) as site:
        hosts = [f"{name}.test:{site.port}" for name in ("one", "two")]
        urls = [f"http://{host}/1" for host in hosts]
        fetch([*urls, f"{urls[0]}?again"], lookup, allow_hosts=hosts)
    assert len(site.requests) == 3
    assert not any("cookie" in request.headers for request in site.requests)
