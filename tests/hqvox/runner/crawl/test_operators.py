"""What the operator of a crawl can say while it runs, and what the crawl says of itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from yarl import URL

from hqvox.config.build import DownloadConfig
from hqvox.config.hosts import HostsConfig, load_hosts
from hqvox.errors import HqvoxError
from hqvox.runner.crawl import crawler
from hqvox.workspace.layout import Workspace
from pipelines.fetch.hosts import HostQueues
from tests.helpers.crawl_site import Request, Site, answer, build, make, picture, reasons


def test_the_longest_name_counts() -> None:
    hosts = load_hosts(
        "hosts:\n  example.org: {connections: 1}\n  img.example.org: {block: true}\n"
        "  127.0.0.1:8000: {requests_per_second: 2}\n",
        "hosts.yaml",
    )
    assert hosts.of("example.org").connections == 1
    assert hosts.of("www.example.org").connections == 1
    assert hosts.of("a.img.example.org").block
    assert hosts.of("a.img.example.org").connections is None
    assert not hosts.of("notexample.org").block
    assert hosts.of("127.0.0.1:8000").requests_per_second == 2
    assert hosts.of("127.0.0.1:8001").requests_per_second is None
    assert load_hosts("pause: true", "").of("a.example").pause
    assert load_hosts("", "") == HostsConfig()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("hosts: {a.example: {conections: 1}}", "did you mean"),
        ("hosts: {a.example: {connections: 0}}", "connections: 0 will not do"),
        ("hosts: [a.example]", "hosts.yaml:1: hosts"),
        ("hosts: {a.example: 7}", "hosts.yaml:1: hosts: 7 will not do"),
        ("pause: [", "hosts.yaml"),
    ],
)
def test_a_file_that_will_not_do_is_one_line(text: str, line: str) -> None:
    with pytest.raises(HqvoxError, match=r"hosts\.yaml") as error:
        load_hosts(text, "hosts.yaml")
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_pace_and_connections_follow_the_operator() -> None:
    async def check() -> None:
        queues = HostQueues(DownloadConfig())
        host, other = (queues.of(URL(f"http://{name}/1")) for name in ("a.example", "b.example"))
        assert (host.interval_seconds, host.connections) == (0.25, 2)
        entry = "hosts: {a.example: {requests_per_second: 0.5, connections: 7}}"
        queues.limit(load_hosts(entry, ""))
        assert (host.interval_seconds, host.connections) == (2.0, 7)
        assert (other.interval_seconds, other.connections) == (0.25, 2)
        host.delay_seconds = 5.0  # robots.txt asks for more
        assert host.interval_seconds == 5.0

    asyncio.run(check())


def serving(count: int, then: Callable[[Request], None]) -> dict[str, object]:
    """Photographs that call ``then`` before they are sent."""

    async def send(request: Request, writer: asyncio.StreamWriter) -> None:
        then(request)
        writer.write(answer(200, picture(int(request.path[1:]))))
        await writer.drain()

    return {f"/{n}": send for n in range(count)}


def test_a_running_crawl_rereads_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paused at its start, it makes no request; then the pause ends, and then it blocks a host."""
    monkeypatch.setattr(crawler, "REPORT_SECONDS", 0.05)
    file = tmp_path / "w/hosts.yaml"
    states = []
    report = crawler.write_status

    def note(workspace: Workspace, status: dict[str, object]) -> None:
        report(workspace, status)
        states.append(status)
        if len(states) == 4:
            assert not site.requests, "paused"
            file.write_text("hosts: {127.0.0.1: {requests_per_second: 8, connections: 1}}")

    def block(request: Request) -> None:
        if request.path == "/2":
            file.write_text("hosts: {127.0.0.1: {block: true}}")

    monkeypatch.setattr(crawler, "write_status", note)
    with Site(serving(40, block)) as site:  # type: ignore[arg-type]
        workspace = make(
            tmp_path / "w", [("a", site.url(f"/{n}")) for n in range(40)], allow_hosts=[site.host]
        )
        file.write_text("pause: true")
        build(workspace)
        found = reasons(workspace)
        assert {found["/0"], found["/1"], found["/2"]} == {None}
        assert found["/39"] == "host_blocked"
        assert site.asked()["/39"] == 0
        file.unlink()
        build(workspace, retry_failed=True)
        assert set(reasons(workspace).values()) == {None}
    assert states[1]["hosts"][0]["paused"] is True  # type: ignore[index]
    assert states[1]["hosts"][0]["waiting"] == 40  # type: ignore[index]
    status = json.loads((tmp_path / "w/hosts/status.json").read_text())
    assert (status["waiting"], status["hosts"], status["problem"]) == (0, [], "")
    assert status["fetched"] > 30


def test_a_file_that_breaks_while_the_crawl_runs_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crawler, "REPORT_SECONDS", 0.02)
    problems = set()
    report = crawler.write_status

    def note(workspace: Workspace, status: dict[str, object]) -> None:
        report(workspace, status)
        problems.add(status["problem"])
        if any(problems):
            (tmp_path / "w/hosts.yaml").write_text("pause: false")

    def breaks(request: Request) -> None:
        if request.path == "/3":
            (tmp_path / "w/hosts.yaml").write_text("pause: perhaps")

    monkeypatch.setattr(crawler, "write_status", note)
    with Site(serving(30, breaks)) as site:  # type: ignore[arg-type]
        urls = [("a", site.url(f"/{n}")) for n in range(30)]
        workspace = make(
            tmp_path / "w", urls, allow_hosts=[site.host], host_requests_per_second=30.0
        )
        build(workspace)
    assert set(reasons(workspace).values()) == {None}
    assert any("hosts.yaml:1: pause: 'perhaps' will not do" in line for line in problems)
    (tmp_path / "w/hosts.yaml").write_text("pause: perhaps")
    with pytest.raises(HqvoxError, match="pause: 'perhaps' will not do"):
        build(workspace, refresh=True)


@pytest.mark.parametrize(
    ("limit", "line"),
    [
        ({"stop_after_mb": 1}, r"crawl stopped: [12] MB fetched \(download\.stop_after_mb\)"),
        (
            {"stop_after_hours": 0.3 / 3600},
            r"crawl stopped: .* h have passed \(download\.stop_after_hours\)",
        ),
    ],
)
def test_a_crawl_stops_at_its_limits_and_goes_on_when_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: dict[str, object], line: str
) -> None:
    monkeypatch.setattr(crawler, "REPORT_SECONDS", 0.02)
    monkeypatch.setattr(crawler, "SHARDS_IN_FLIGHT", 1)  # two wait when it stops
    monkeypatch.setattr(crawler, "URLS_AHEAD", 1)
    large = {n: picture(n, side=600, kind="PNG") for n in range(12)}
    with Site({f"/{n}": answer(200, data) for n, data in large.items()}) as site:
        urls = [(f"p{n % 3}", site.url(f"/{n}")) for n in range(12)]
        workspace = make(
            tmp_path / "w",
            urls,
            allow_hosts=[site.host],
            host_requests_per_second=10.0,
            host_connections=1,
            **limit,
        )
        result = build(workspace)
        assert 2 <= len(result.failed) <= 3
        assert {failed.error for failed in result.failed} == {result.failed[0].error}
        pattern = line + r"; run again to go on"
        with pytest.raises(HqvoxError, match=pattern):
            raise HqvoxError(result.failed[0].error)
        before = site.asked()
        assert 0 < before.total() < 12
        build(workspace, settings=tuple(f"download.{name}=null" for name in limit))
        assert set(reasons(workspace).values()) == {None}
        again = [path for path, count in site.asked().items() if count > 1]
        assert len(again) <= 1  # the one that was in flight
    assert workspace.failures() == {}
