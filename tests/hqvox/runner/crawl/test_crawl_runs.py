"""The crawl as a build runs it: processes that die, sources that fail, what is shown and logged."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from hqvox.config.build import BuildConfig
from hqvox.errors import HqvoxError
from hqvox.runner.build import local_pools
from hqvox.runner.crawl.crawler import CrawlOrder
from hqvox.runner.jobs import Failed, Finished, Work, run_jobs
from hqvox.runner.plan import ShardJob
from hqvox.runner.progress import Display, crawl_line
from hqvox.runner.worker import Crawling, Event
from hqvox.workspace import identities
from hqvox.workspace.layout import Workspace
from pipelines.discover.source import QuotaSpent, SourceError
from pipelines.discover.stage import DiscoverStage
from tests.helpers.crawl_site import QUICK, Site, answer, build, make, picture, reasons, rows

JOBS = tuple(ShardJob(f"{n:05d}", 0, 1, "test") for n in range(3))
STANDING = Crawling(
    urls=5000, waiting=3600, fetched=1260, unchanged=0, failed={"timed_out": 40, "opted_out": 100},
    bytes=104_580_000, hosts_waiting=7, requests=1500, seconds=10.0,
)  # fmt: skip


def dying_crawl(root: str, config: BuildConfig, order: CrawlOrder) -> Work[ShardJob]:
    """Finishes one shard and dies, until shard 2 is the only one left; dies on that always."""

    def work(jobs: Sequence[ShardJob], report: Callable[[Event], None]) -> None:
        if jobs[0].shard != "00002":
            report(Finished(jobs[0], 1.0))
        os.kill(os.getpid(), signal.SIGKILL)

    return work


def crawl_on_a_full_disk(root: str, config: BuildConfig, order: CrawlOrder) -> Work[ShardJob]:
    """Reports that the disk is full."""

    def work(jobs: Sequence[ShardJob], report: Callable[[Event], None]) -> None:
        raise HqvoxError("/w: the disk is full")

    return work


def run_crawl(start: Any, monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """The events of a build whose crawling process runs ``start`` in place of the crawl."""
    events: list[Event] = []
    monkeypatch.setattr("hqvox.runner.build.start_crawl", start)
    config = BuildConfig()
    pools = local_pools("", config, [], 1, CrawlOrder(JOBS))
    run_jobs(pools, events.append, config.runner.max_deaths)
    return events


def test_a_crawl_that_dies_goes_on_with_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    events = run_crawl(dying_crawl, monkeypatch)
    assert [e.job.shard for e in events if isinstance(e, Finished)] == ["00000", "00001"]
    (failed,) = [e for e in events if isinstance(e, Failed)]
    assert failed.job.shard == "00002"
    assert failed.error == "the crawl died 3 times, the last with signal 9"


def test_a_crawl_that_must_stop_stops_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HqvoxError, match="disk is full"):
        run_crawl(crawl_on_a_full_disk, monkeypatch)


def test_a_source_that_fails_leaves_its_shard_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = DiscoverStage.process

    def process(self: DiscoverStage, found: list, pixels: object) -> list:
        if found[0]["identity_id"] == "b":
            raise SourceError("quota of google spent (100 of 100 today)")
        return real(self, found, pixels)  # type: ignore[arg-type]

    monkeypatch.setattr(DiscoverStage, "process", process)
    with Site({f"/{n}": answer(200, picture(n)) for n in range(3)}) as site:
        urls = [(person, site.url(f"/{n}")) for n, person in enumerate("abc")]
        workspace = make(tmp_path / "w", urls, allow_hosts=[site.host])
        result = build(workspace)
        assert [(f.job.shard, f.error) for f in result.failed] == [
            ("00001", "quota of google spent (100 of 100 today)")
        ]
        assert workspace.committed("discover", "00001") is None
        monkeypatch.undo()
        assert not build(workspace).failed
    assert reasons(workspace) == {"/0": None, "/1": None, "/2": None}
    assert site.asked() == {"/0": 1, "/1": 1, "/2": 1}
    assert workspace.failures() == {}


def test_a_spent_quota_does_not_hold_back_what_other_sources_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = DiscoverStage.process

    def process(self: DiscoverStage, found: list, pixels: object) -> list:
        candidates = real(self, found, pixels)  # type: ignore[arg-type]
        if found[0]["identity_id"] != "b":
            return candidates
        error = QuotaSpent("quota of google spent (100 of 100 today)")
        error.candidates = candidates[:1]
        raise error

    monkeypatch.setattr(DiscoverStage, "process", process)
    with Site({f"/{n}": answer(200, picture(n)) for n in range(4)}) as site:
        urls = [(person, site.url(f"/{n}")) for n, person in enumerate("abcb")]
        workspace = make(tmp_path / "w", urls, allow_hosts=[site.host])
        for _ in range(2):
            result = build(workspace, target="duplicates")
            assert [f.error for f in result.failed] == ["quota of google spent (100 of 100 today)"]
            assert reasons(workspace) == {"/0": None, "/1": None, "/2": None}
            assert list(workspace.failures()) == ["00001"]
            later = workspace.read_stage("duplicates", "00001", ["reason"])
            assert later is not None
            assert later["reason"].to_pylist() == [None]
            assert site.asked() == {"/0": 1, "/1": 1, "/2": 1}
        monkeypatch.undo()
        assert not build(workspace, target="duplicates").failed
    assert reasons(workspace) == {f"/{n}": None for n in range(4)}
    assert site.asked() == {f"/{n}": 1 for n in range(4)}
    assert workspace.failures() == {}
    later = workspace.read_stage("duplicates", "00001", ["reason"])
    assert later is not None
    assert len(later) == 2


def test_a_defect_marks_its_shard_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Workspace.write_stage

    def write_stage(self: Workspace, stage: str, shard: str, *rest: object) -> None:
        if shard == "00000":
            raise ValueError("no")
        real(self, stage, shard, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Workspace, "write_stage", write_stage)
    with Site({f"/{n}": answer(200, picture(n)) for n in range(2)}) as site:
        urls = [(person, site.url(f"/{n}")) for n, person in enumerate("ab")]
        workspace = make(tmp_path / "w", urls, allow_hosts=[site.host])
        (failed,) = build(workspace).failed
    assert failed.error == "ValueError: no"
    assert "Traceback" in failed.trace
    assert workspace.committed("download", "00001") is not None


def test_a_full_disk_ends_the_crawl_and_a_rerun_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.writev, iter(range(1000))

    def writev(handle: int, parts: list) -> int:
        if next(calls) > 8:
            raise OSError(28, "No space left on device")
        return real(handle, parts)

    monkeypatch.setattr(os, "writev", writev)
    with Site({f"/{n}": answer(200, picture(n)) for n in range(9)}) as site:
        urls = [("a", site.url(f"/{n}")) for n in range(9)]
        workspace = make(tmp_path / "w", urls, allow_hosts=[site.host], host_connections=1)
        with pytest.raises(HqvoxError, match="the disk is full; free some space"):
            build(workspace)
        monkeypatch.undo()
        build(workspace)
    assert set(reasons(workspace).values()) == {None}
    assert site.asked().total() <= 10  # the one that did not fit comes again


def test_on_object_storage_the_spool_lies_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with Site({f"/{n}": answer(200, picture(n)) for n in range(3)}) as site:
        local = make(tmp_path / "w", [("a", site.url(f"/{n}")) for n in range(3)])
        values = {
            "format": 1,
            "discover": {"sources": ["urls"], "urls": {"file": str(tmp_path / "w.csv")}},
            "download": {**QUICK, "allow_hosts": [site.host]},
        }
        people = identities.to_table(identities.read_csv(tmp_path / "w-people.csv"))
        url = f"memory://{tmp_path.name}"
        workspace = Workspace.create(url, yaml.safe_dump(values), people)
        build(workspace)
    assert len(rows(workspace)) == 3
    for row in rows(workspace):
        assert workspace.pixels("photo", row) == picture(int(row["url"][-1]))
    assert not list((tmp_path / "cache").rglob("*.tar"))
    assert not local.storage.exists("stages")


def test_how_a_crawl_stands_in_one_line() -> None:
    assert crawl_line(STANDING) == (
        "crawl: 1400/5000 urls, 140.0/s, 104.6 MB, 90 % had, failed: opted_out 100, timed_out 40, "
        "7 hosts waiting, 0:00:25 left of these"
    )


def test_the_crawl_is_shown_without_a_terminal_too(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(width=40, force_terminal=False, record=True)
    monkeypatch.setattr("hqvox.runner.progress.PLAIN_EVERY_SECONDS", 0.0)
    with Display(console, ("discover", "download"), 3) as display:
        display(STANDING)
    assert "1400/5000 urls" in console.export_text()


def test_the_log_takes_the_crawl_down(tmp_path: Path) -> None:
    with Site({"/1": answer(200, picture())}) as site:
        workspace = make(tmp_path / "w", [("a", site.url("/1"))], allow_hosts=[site.host])
        build(workspace)
    (log,) = (tmp_path / "w" / "runs").glob("*/log.jsonl")
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert {"started", "finished", "identity", "crawling"} <= {e["event"] for e in events}
    last = [e for e in events if e["event"] == "crawling"][-1]
    assert (last["fetched"], last["waiting"]) == (1, 0)


def test_refresh_of_a_folder_is_refused(tmp_path: Path, small_world: Path) -> None:
    values = {"format": 1, "discover": {"photos": str(small_world)}}
    people = identities.to_table(identities.read_folders(small_world))
    workspace = Workspace.create(str(tmp_path / "w"), yaml.safe_dump(values), people)
    with pytest.raises(HqvoxError, match="here they come from a folder"):
        build(workspace, refresh=True)
