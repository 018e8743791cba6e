"""`hqvox build`: plan, run, record."""

from __future__ import annotations

import json
import os
import platform
import time
import uuid
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata

import yaml

import hqvox
from hqvox.config import BuildConfig
from hqvox.runner.local import Event, Failed, Finished, Started, run_here, run_pool
from hqvox.runner.plan import Fingerprints, ShardTask, make_plan
from hqvox.runner.worker import Progress
from hqvox.workspace import Workspace
from models.store import ModelStore
from pipelines.chain import STAGE_NAMES, make_stages

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


def plan_build(
    workspace: Workspace,
    config: BuildConfig,
    store: ModelStore,
    *,
    target: str | None = None,
    start: str | None = None,
    only: str | None = None,
    retry_failed: bool = False,
) -> list[ShardTask]:
    """The tasks of a build; see :func:`hqvox.runner.plan.make_plan`."""
    fingerprints = Fingerprints(make_stages(config, store, workspace.storage), config, store)
    return make_plan(
        workspace, fingerprints, target=target, start=start, only=only, retry_failed=retry_failed
    )


def run_build(
    workspace: Workspace,
    config: BuildConfig,
    tasks: list[ShardTask],
    *,
    workers: int,
    on_event: Callable[[Event], None] = lambda event: None,
) -> BuildResult:
    """Run tasks and write the run's record. The caller holds ``workspace.lock()``.

    ``workers``: processes; 0 runs in this one. Raises HqvoxError where the disk refuses; what was
    committed until then stays. Raises ModelError where weights are missing, before anything runs.
    """
    result = BuildResult(tasks)
    if not tasks:
        return result
    started = time.perf_counter()
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
            result.photos += event.tallies.photos
            for what, seconds in event.tallies.pixel_seconds.items():
                result.pixel_seconds[what] += seconds
            for name, tally in event.tallies.stages.items():
                result.stage_seconds[name] += tally.seconds
        on_event(event)

    for stage in STAGE_NAMES:
        workspace.storage.remove_leftovers(f"stages/{stage}")
    try:
        if workers == 0:
            run_here(workspace.url, config, tasks, take)
        else:
            run_pool(workspace.url, config, tasks, take, workers)
    finally:
        result.wall_seconds = time.perf_counter() - started
        log.close(result)
    return result


class RunLog:
    """``runs/<time>-<id>/``: the resolved configuration, versions, every event, and timings."""

    def __init__(self, workspace: Workspace, config: BuildConfig) -> None:
        self.storage = workspace.storage
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        self.folder = f"runs/{stamp}-{uuid.uuid4().hex[:6]}"
        self._lines: list[str] = []
        self._written = 0.0
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
