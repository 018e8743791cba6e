"""`hqvox build`: plan, run, record."""

from __future__ import annotations

import json
import os
import platform
import time
import uuid
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from typing import Literal

import yaml

import hqvox
from hqvox.config.build import BuildConfig
from hqvox.errors import HqvoxError
from hqvox.runner.crawl.crawler import Crawling, CrawlOrder
from hqvox.runner.local import Event, Failed, Finished, Started, run_here, run_pool
from hqvox.runner.plan import Fingerprints, ShardTask, make_plan
from hqvox.runner.ray import run_ray
from hqvox.runner.worker import Progress, download_stage
from hqvox.workspace.covered import Covered, Owner
from hqvox.workspace.layout import Workspace
from models.store import ModelStore
from pipelines.chain import STAGE_NAMES, make_stages
from pipelines.discover.stage import DiscoverStage
from pipelines.download import DownloadStage
from pipelines.fetch.client import user_agent

RUNS = "runs"
CRAWL_NOTED_SECONDS = 30.0
"""How often the log takes down how the crawl stands."""
Executor = Literal["local", "ray"]
"""Who runs the shards: processes of this machine, or actors of a Ray cluster."""

VERSIONS_OF = ("torch", "numpy", "opencv-python", "pillow", "dlib-bin", "pyarrow")
"""Packages whose versions can change a result: they are written into the run's record."""


@dataclass
class BuildResult:
    """What a build did."""

    tasks: list[ShardTask]
    failed: list[Failed] = field(default_factory=list)
    photos: int = 0
    wall_seconds: float = 0.0
    stage_seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    pixel_seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    task_seconds: float = 0.0
    """Sum over shards of the time their worker spent on them, networks' loading apart."""


def photos_gone(workspace: Workspace, config: BuildConfig) -> str | None:
    """What to do where the folder of photographs was moved, or None.

    An empty folder is what a disk that is not mounted leaves.
    """
    photos = config.discover.photos
    if not photos or (os.path.isdir(photos) and os.listdir(photos)):
        return None
    return (
        f"{photos}: the folder of photographs is not there, or empty; bring it back, "
        f"or name its new place as discover.photos in {workspace.storage.path('hqvox.yaml')}"
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
) -> list[ShardTask]:
    """The tasks of a build; see :func:`hqvox.runner.plan.make_plan`.

    ``refresh``: run download again everywhere, to ask whether photos changed.
    """
    stages = make_stages(config, store, workspace.storage)
    fingerprints = Fingerprints(stages, config, store)
    if refresh:
        if not download_stage(stages).remote:
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
    tasks: list[ShardTask],
    *,
    workers: int | None,
    on_event: Callable[[Event], None] = lambda event: None,
    retry_failed: bool = False,
    refresh: bool = False,
    executor: Executor = "local",
) -> BuildResult:
    """Run tasks and write the run's record. The caller holds ``workspace.lock()``.

    ``workers``: processes, by default one per core; 0 runs in this one. ``executor``: ``ray`` makes
    them actors of a cluster, by default as many as it has room for. ``retry_failed``, ``refresh``:
    as in planning; they say what a crawl asks for again. Raises HqvoxError where the disk refuses;
    what was committed until then stays. Raises ModelError where weights are missing, before
    anything runs.
    """
    result = BuildResult(tasks)
    if not tasks:
        return result
    started = time.perf_counter()
    tasks, order = split_crawl(workspace, config, tasks, retry_failed, refresh)
    crawled = {task.shard for task in order.tasks} if order else set()
    log = RunLog(workspace, config)

    def take(event: Event) -> None:
        log.write(event)
        if isinstance(event, Failed):
            result.failed.append(event)
            workspace.mark_failed(event.task.shard, {"error": event.error, "trace": event.trace})
        elif isinstance(event, Finished):
            workspace.clear_failed(event.task.shard)
            result.task_seconds += event.seconds
        elif isinstance(event, Progress):
            if event.shard not in crawled or DownloadStage.name in event.tallies.stages:
                result.photos += event.tallies.photos
            for what, seconds in event.tallies.pixel_seconds.items():
                result.pixel_seconds[what] += seconds
            for name, tally in event.tallies.stages.items():
                result.stage_seconds[name] += tally.seconds
        on_event(event)

    for stage in STAGE_NAMES:
        workspace.storage.remove_leftovers(f"stages/{stage}")
    for run in workspace.storage.names("runs"):
        workspace.storage.remove_leftovers(f"runs/{run}")
    try:
        if executor == "ray":
            run_ray(workspace.url, config, tasks, take, workers, order=order)
        elif workers == 0:
            run_here(workspace.url, config, tasks, take, order)
        else:
            count = workers or len(os.sched_getaffinity(0))
            run_pool(workspace.url, config, tasks, take, count, order=order)
    finally:
        result.wall_seconds = time.perf_counter() - started
        log.close(result)
    return result


def split_crawl(
    workspace: Workspace,
    config: BuildConfig,
    tasks: list[ShardTask],
    retry_failed: bool = False,
    refresh: bool = False,
) -> tuple[list[ShardTask], CrawlOrder | None]:
    """Tasks that workers can run at once, and what must be crawled before, if anything.

    Raises HqvoxError where a crawl lacks its contact or a source its key.
    """
    stages = make_stages(config, ModelStore(), workspace.storage)
    discover = next(stage for stage in stages if isinstance(stage, DiscoverStage))
    first = tuple(task for task in tasks if task.first <= STAGE_NAMES.index(DownloadStage.name))
    if not discover.remote or not first:
        return tasks, None
    user_agent(config.download.contact)
    missing = discover.missing() if any(task.first == 0 for task in first) else []
    if missing:
        raise HqvoxError(missing[0])
    return [task for task in tasks if task not in first], CrawlOrder(first, retry_failed, refresh)


class RunLog:
    """``runs/<time>-<id>/``: the resolved configuration, versions, every event, and timings."""

    def __init__(self, workspace: Workspace, config: BuildConfig) -> None:
        self.storage = workspace.storage
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        self.folder = f"{RUNS}/{stamp}-{uuid.uuid4().hex[:6]}"
        self._lines: list[str] = []
        self._written = 0.0
        self._crawl_noted = 0.0
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
        """Note an event; the log on disk is renewed every few seconds."""
        record: dict[str, object] = {"time": round(time.time(), 3)}
        match event:
            case Started(task):
                record |= {"event": "started", "shard": task.shard, "stages": task.stages}
            case Finished(task, seconds):
                record |= {"event": "finished", "shard": task.shard, "seconds": round(seconds, 3)}
            case Failed(task, error, trace):
                record |= {"event": "failed", "shard": task.shard, "error": error, "trace": trace}
            case Crawling():
                if event.waiting and time.monotonic() - self._crawl_noted < CRAWL_NOTED_SECONDS:
                    return
                self._crawl_noted = time.monotonic()
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
            "tasks_seconds": result.task_seconds,
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
