"""Shard workers as actors of a Ray cluster; the workspace lies on storage that all nodes reach.

The work is the one of :mod:`hqvox.runner.local`, shard by shard, and gives the same bytes. A worker
that dies (its node is lost, out of memory) gives its shard back; after ``max_deaths`` deaths the
shard is marked failed, and the rest goes on.
"""

from __future__ import annotations

import os
import queue
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import hqvox
from hqvox.config.build import BuildConfig
from hqvox.errors import HqvoxError
from hqvox.runner.crawl.crawler import CrawlOrder
from hqvox.runner.local import Event, Failed, Finished, Started, crawl_first, one_line
from hqvox.runner.plan import ShardTask
from hqvox.runner.worker import ShardWorker
from models.errors import ModelError

Message = tuple[str, Any]
"""What a worker says: ``progress`` Progress, ``done`` seconds, ``failed`` (line, trace), or
``stop`` line, after which the whole build ends."""


def run_ray(
    root: str,
    config: BuildConfig,
    tasks: Sequence[ShardTask],
    on_event: Callable[[Event], None],
    workers: int | None = None,
    address: str | None = None,
    order: CrawlOrder | None = None,
) -> None:
    """Run tasks on a Ray cluster; what must be crawled is crawled here, before.

    ``address``: of the cluster, as ``ray.init`` takes it; by default that of the environment
    variable RAY_ADDRESS, or a cluster of this machine alone, started for this build. ``workers``:
    actors, by default as many as the cluster has room for; each asks for ``runner.ray_cpus`` and
    ``runner.ray_gpus``. ``order``: of the crawl, in this process, so that its pace holds for every
    host however large the cluster is.

    Raises HqvoxError where Ray is not installed, the cluster cannot be reached or has no room, a
    node runs another version or does not see the workspace, or the disk refuses.
    """
    ray = _import_ray()
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    started_here = not ray.is_initialized()
    if started_here:
        _connect(ray, address, workers, config)
    try:
        room = workers or _room(ray, config)
        if order:
            tasks = [*tasks, *crawl_first(root, config, order, on_event)]
        _work(ray, root, config, tasks, on_event, min(room, len(tasks)))
    finally:
        if started_here:
            ray.shutdown()


def serve_task(worker: ShardWorker, task: ShardTask) -> Iterator[Message]:
    """Run one task in a thread and pass on what it says, the outcome last."""
    said: queue.SimpleQueue[Message] = queue.SimpleQueue()

    def work() -> None:
        try:
            seconds = worker.run(task, lambda progress: said.put(("progress", progress)))
        except (HqvoxError, ModelError) as error:
            said.put(("stop", str(error)))
        except Exception as error:  # a defect: the shard is marked, the rest goes on
            said.put(("failed", (one_line(error), traceback.format_exc())))
        else:
            said.put(("done", seconds))

    threading.Thread(target=work, daemon=True).start()
    while True:
        message = said.get()
        yield message
        if message[0] != "progress":
            return


class ShardActor:
    """A worker on some node; its networks are loaded at the first task that needs them."""

    def __init__(self, root: str, config: BuildConfig) -> None:
        self.root, self.config = root, config
        self.worker: ShardWorker | None = None

    def run(self, version: str, task: ShardTask) -> Iterator[Message]:
        """Run a task for a build of hqvox ``version``; yields :data:`Message`, the outcome last."""
        if version != hqvox.__version__:
            yield (
                "stop",
                f"{os.uname().nodename}: hqvox {hqvox.__version__} is installed there, the build "
                f"is of {version}; install the same on every node",
            )
            return
        try:
            self.worker = self.worker or ShardWorker(self.root, self.config)
        except (HqvoxError, ModelError, OSError) as error:
            yield (
                "stop",
                f"{os.uname().nodename}: {error}; the workspace must lie on storage that every "
                "node reaches by the same path",
            )
            return
        yield from serve_task(self.worker, task)


def _import_ray() -> Any:
    try:
        import ray
    except ImportError:
        raise HqvoxError("--executor ray needs Ray: pip install 'hqvox[ray]'") from None
    return ray


def _connect(ray: Any, address: str, workers: int | None, config: BuildConfig) -> None:
    own: dict[str, Any] = {}
    if address == "local":
        own = {"include_dashboard": False}
        if workers:
            own["num_cpus"] = max(1, round(workers * config.runner.ray_cpus))
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **own)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise HqvoxError(
            f"Ray at {address!r}: {one_line(error)}; start it with `ray start --head`, or leave "
            "the address out to use this machine"
        ) from None


def _room(ray: Any, config: BuildConfig) -> int:
    """How many workers the cluster has room for."""
    there = ray.cluster_resources()
    room = int(there.get("CPU", 0) // config.runner.ray_cpus)
    if config.runner.ray_gpus:
        room = min(room, int(there.get("GPU", 0) // config.runner.ray_gpus))
    if room < 1:
        raise HqvoxError(
            f"the Ray cluster has {there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs, "
            f"too few for a worker of {config.runner.ray_cpus:g} and {config.runner.ray_gpus:g}; "
            "lower runner.ray_cpus or runner.ray_gpus"
        )
    return room


def _work(
    ray: Any,
    root: str,
    config: BuildConfig,
    tasks: Sequence[ShardTask],
    on_event: Callable[[Event], None],
    count: int,
) -> None:
    # Dead actors are replaced here, where it is known which shard each had, not by Ray.
    kind = ray.remote(
        num_cpus=config.runner.ray_cpus, num_gpus=config.runner.ray_gpus, max_restarts=0
    )(ShardActor)
    waiting = deque(tasks)
    deaths: dict[str, int] = {}
    running: dict[Any, tuple[Any, ShardTask]] = {}
    """Stream of messages to (actor, task)."""

    def give(actor: Any) -> None:
        if waiting:
            task = waiting.popleft()
            on_event(Started(task))
            stream = actor.run.options(num_returns="streaming").remote(hqvox.__version__, task)
            running[stream] = (actor, task)

    for _ in range(count):
        give(kind.remote(root, config))
    while running:
        (stream,), _ = ray.wait(list(running), num_returns=1)
        actor, task = running[stream]
        try:
            what, value = ray.get(next(stream))
        except (ray.exceptions.RayActorError, StopIteration) as error:
            del running[stream]
            deaths[task.shard] = deaths.get(task.shard, 0) + 1
            if deaths[task.shard] >= config.runner.max_deaths:
                line = f"{deaths[task.shard]} workers died on it, the last: {one_line(error)}"
                on_event(Failed(task, line, str(error)))
            else:
                waiting.appendleft(task)
            give(kind.remote(root, config))
            continue
        if what == "progress":
            on_event(value)
            continue
        if what == "stop":
            raise HqvoxError(value)
        on_event(Finished(task, value) if what == "done" else Failed(task, *value))
        del running[stream]
        give(actor)
