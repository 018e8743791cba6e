"""`hqvox build`: plan, run, record."""

from __future__ import annotations

import json
import os
import platform
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from typing import Literal

import yaml

import hqvox
from hqvox.config.build import BuildConfig
from hqvox.errors import HqvoxError
from hqvox.runner.crawl.crawler import CrawlOrder, crawl_here, start_crawl
from hqvox.runner.jobs import Failed, Finished, Pool, Started, process_pool, run_here, run_jobs
from hqvox.runner.plan import DOWNLOAD, Fingerprints, ShardJob, make_plan
from hqvox.runner.ray import run_ray
from hqvox.runner.worker import Crawling, Event, Progress, ShardWorker
from hqvox.workspace.covered import Covered, Owner
from hqvox.workspace.layout import Workspace
from models.store import ModelStore
from pipelines.chain import STAGE_NAMES, Stages
from pipelines.download import DownloadStage
from pipelines.fetch.client import user_agent

RUNS = "runs"
CRAWL_LOGGED_SECONDS = 30.0
"""How often the state of the crawl is logged."""
Executor = Literal["local", "ray"]
"""Where jobs run: in processes of this machine, or in actors of a Ray cluster."""
PRELOAD = ("hqvox.runner.worker", "hqvox.runner.crawl.crawler")
"""Imported once by the server that worker processes are forked from."""

VERSIONS_OF = ("torch", "numpy", "opencv-python", "pillow", "dlib-bin", "pyarrow")
"""Packages whose versions can change a result: they are written into the run's record."""


@dataclass
class BuildResult:
    """What a build did."""

    jobs: list[ShardJob]
    failed: list[Failed] = field(default_factory=list)
    photos: int = 0
    faces: int = 0
    wall_seconds: float = 0.0
    stage_seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    pixel_seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    job_seconds: float = 0.0
    """Sum over jobs of their workers' seconds, without loading networks."""


def photos_gone(workspace: Workspace, config: BuildConfig) -> str | None:
    """An error with its remedy where the folder of photographs is missing or empty, else None.

    The folder is empty where its disk is not mounted.
    """
    photos = config.discover.photos
    if not photos or (os.path.isdir(photos) and os.listdir(photos)):
        return None
    return (
        f"{photos}: the folder of photographs is not there, or empty; bring it back, "
        f"or name its new place as discover.photos in {workspace.storage.shown('hqvox.yaml')}"
    )


def plan_build(
    workspace: Workspace,
    config: BuildConfig,
    store: ModelStore,
    *,
    target: str | None = None,
    start: str | None = None,
    only: str | None = None,
    retry_failed: bool = False,
    refresh: bool = False,
) -> list[ShardJob]:
    """The jobs of a build; see :func:`hqvox.runner.plan.make_plan`.

    ``refresh``: run download again everywhere, to ask whether photos changed.
    """
    fingerprints = Fingerprints(Stages(config, store, workspace.storage))
    if refresh:
        if not config.discover.remote:
            raise HqvoxError(
                "--refresh asks servers whether photos changed, but here they come from a folder; "
                "leave it out: changed files are noticed by themselves"
            )
        if start is not None:
            raise HqvoxError("give --refresh or --from, not both: --refresh runs from download on")
        start = DownloadStage.name
    return make_plan(
        workspace, fingerprints, target=target, start=start, only=only, retry_failed=retry_failed
    )


def run_build(
    workspace: Workspace,
    config: BuildConfig,
    jobs: list[ShardJob],
    *,
    workers: int | None,
    on_event: Callable[[Event], None] = lambda event: None,
    retry_failed: bool = False,
    refresh: bool = False,
    executor: Executor = "local",
) -> BuildResult:
    """Run jobs and write the run's record. The caller holds ``workspace.lock()``.

    ``workers``: processes, by default one per core; 0 runs in this one. ``executor``: ``ray`` makes
    them actors of a cluster, by default as many as it has room for. ``retry_failed``, ``refresh``:
    as in planning; see :mod:`hqvox.runner.crawl.retry`. Raises HqvoxError where the disk refuses;
    what was committed before stays. Raises ModelError where weights are missing, before anything
    runs.
    """
    for stage in STAGE_NAMES:
        workspace.storage.remove_leftovers(f"stages/{stage}")
    for run in workspace.storage.names("runs"):
        workspace.storage.remove_leftovers(f"runs/{run}")
    result = BuildResult(jobs)
    if not jobs:
        return result
    started = time.perf_counter()
    jobs, order = split_crawl(workspace, config, jobs, retry_failed, refresh)
    crawled = {job.shard for job in order.jobs} if order else set()
    log = RunLog(workspace, config)

    def take(event: Event) -> None:
        log.write(event)
        if isinstance(event, Failed):
            result.failed.append(event)
            workspace.mark_failed(event.job.shard, {"error": event.error, "trace": event.trace})
        elif isinstance(event, Finished):
            if event.job.shard not in {failed.job.shard for failed in result.failed}:
                workspace.clear_failed(event.job.shard)
            result.job_seconds += event.seconds
        elif isinstance(event, Progress):
            if event.shard not in crawled or DownloadStage.name in event.tallies.stages:
                result.photos += event.tallies.photos
            result.faces += event.tallies.faces
            for what, seconds in event.tallies.pixel_seconds.items():
                result.pixel_seconds[what] += seconds
            for name, tally in event.tallies.stages.items():
                result.stage_seconds[name] += tally.seconds
        on_event(event)

    try:
        if executor == "ray":
            run_ray(workspace.url, config, jobs, take, workers, order=order)
        elif workers == 0:
            crawled_jobs = crawl_here(workspace.url, config, order, take) if order else []
            worker = ShardWorker(workspace.url, config)
            run_here([[job] for job in [*jobs, *crawled_jobs]], worker, take)
        else:
            count = workers or len(os.sched_getaffinity(0))
            pools = local_pools(workspace.url, config, jobs, count, order)
            run_jobs(pools, take, config.runner.max_deaths)
    finally:
        result.wall_seconds = time.perf_counter() - started
        log.close(result)
    return result


def local_pools(
    root: str,
    config: BuildConfig,
    jobs: Sequence[ShardJob],
    workers: int,
    order: CrawlOrder | None = None,
) -> list[Pool]:
    """One crawling process, if there is an order, and the worker processes.

    The workers also take the shards that the crawl has committed.
    """
    batches = [[job] for job in jobs]
    pools = [process_pool(partial(ShardWorker, root, config), workers, batches, PRELOAD)]
    if order:
        start, note = partial(start_crawl, root, config, order), "the crawl died {count} times"
        pools.insert(0, process_pool(start, 1, [order.jobs], PRELOAD, note + ", the last{how}"))
    return pools


def split_crawl(
    workspace: Workspace,
    config: BuildConfig,
    jobs: list[ShardJob],
    retry_failed: bool = False,
    refresh: bool = False,
) -> tuple[list[ShardJob], CrawlOrder | None]:
    """Jobs that workers can run at once, and the crawl, if any.

    Raises HqvoxError where a crawl lacks its contact or a source its key.
    """
    crawled = tuple(job for job in jobs if job.first <= DOWNLOAD)
    if not config.discover.remote or not crawled:
        return jobs, None
    user_agent(config.download.contact)
    discover = Stages(config, ModelStore(), workspace.storage).discover
    missing = discover.missing() if any(job.first == 0 for job in crawled) else []
    if missing:
        raise HqvoxError(missing[0])
    return [job for job in jobs if job.first > DOWNLOAD], CrawlOrder(crawled, retry_failed, refresh)


class RunLog:
    """``runs/<time>-<id>/``: the resolved configuration, versions, every event, and timings."""

    def __init__(self, workspace: Workspace, config: BuildConfig) -> None:
        self.storage = workspace.storage
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        self.folder = f"{RUNS}/{stamp}-{uuid.uuid4().hex[:6]}"
        self._lines: list[str] = []
        self._written = 0.0
        self._crawl_logged = 0.0
        versions = {"hqvox": hqvox.__version__, "python": platform.python_version()}
        for package in VERSIONS_OF:
            try:
                versions[package] = metadata.version(package)
            except metadata.PackageNotFoundError:
                versions[package] = "not installed"
        resolved = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        self.storage.write(f"{self.folder}/config.yaml", resolved.encode())
        self.storage.write(f"{self.folder}/versions.json", json.dumps(versions, indent=1).encode())

    def write(self, event: Event) -> None:
        """Log an event; the file is rewritten every few seconds."""
        record: dict[str, object] = {"time": round(time.time(), 3)}
        match event:
            case Started(job):
                record |= {"event": "started", "shard": job.shard, "stages": job.stages}
            case Finished(job, seconds):
                record |= {"event": "finished", "shard": job.shard, "seconds": round(seconds, 3)}
            case Failed(job, error, trace):
                record |= {"event": "failed", "shard": job.shard, "error": error, "trace": trace}
            case Crawling():
                if event.waiting and time.monotonic() - self._crawl_logged < CRAWL_LOGGED_SECONDS:
                    return
                self._crawl_logged = time.monotonic()
                record |= {"event": "crawling", **asdict(event)}
            case Progress(shard, identity_id, tallies):
                record |= {
                    "event": "identity",
                    "shard": shard,
                    "identity": identity_id,
                    "seconds": round(tallies.wall_seconds, 3),
                    "entered": {n: t.entered for n, t in tallies.stages.items()},
                    "rejected": {n: dict(t.rejected) for n, t in tallies.stages.items()},
                }
        self._lines.append(json.dumps(record))
        if not isinstance(event, Progress) or time.monotonic() - self._written > 5.0:
            self._flush()

    def close(self, result: BuildResult) -> None:
        """Write the whole log and the timings."""
        self._flush()
        timings = {
            "wall_seconds": result.wall_seconds,
            "photos": result.photos,
            "faces": result.faces,
            "tasks_seconds": result.job_seconds,
            "stages": dict(result.stage_seconds),
            "pixels": dict(result.pixel_seconds),
            "pid": os.getpid(),
        }
        self.storage.write(f"{self.folder}/timings.json", json.dumps(timings, indent=1).encode())

    def _flush(self) -> None:
        self._written = time.monotonic()
        self.storage.write(f"{self.folder}/log.jsonl", "\n".join([*self._lines, ""]).encode())


def erase_run_logs(covered: Covered) -> None:
    """Erase covered identities, and what failures of covered shards quote, from logs of runs."""
    storage, takedowns = covered.workspace.storage, covered.takedowns
    shards = {shard.shard for shard in covered.shards}
    for run in storage.names(RUNS):
        name = f"{RUNS}/{run}/log.jsonl"
        if not storage.exists(name):
            continue
        lines = storage.read(name).decode().splitlines()
        kept = []
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:
                continue  # damaged: what it names cannot be known
            if takedowns.covers_identity(str(record.get("identity"))):
                continue
            if record.get("shard") in shards:
                record = {k: v for k, v in record.items() if k not in ("error", "trace")}
            kept.append(json.dumps(record))
        if kept != lines:
            storage.write(name, "\n".join([*kept, ""]).encode())


RUN_LOGS = Owner("logs of runs", (f"{RUNS}/*/log.jsonl",), erase_run_logs)
RUN_RECORDS = Owner(
    "records of runs",
    tuple(f"{RUNS}/*/{name}" for name in ("config.yaml", "versions.json", "timings.json")),
    None,
)
