"""Jobs run by actors of a Ray cluster; the workspace lies on storage that all nodes reach.

The work is that of :mod:`hqvox.runner.worker`, so the bytes are the same as on one machine. Deaths,
retries and failures are counted by :func:`hqvox.runner.jobs.run_jobs`.
"""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import hqvox
from hqvox.config.build import BuildConfig
from hqvox.errors import HqvoxError
from hqvox.runner.crawl.crawler import CrawlOrder, crawl_here
from hqvox.runner.jobs import Idle, Pool, Stop, Worker, WorkerDied, one_line, run_jobs, serve_batch
from hqvox.runner.plan import ShardJob
from hqvox.runner.worker import Event, ShardWorker
from models.errors import ModelError

Message = Event | Idle | Stop


def run_ray(
    root: str,
    config: BuildConfig,
    jobs: Sequence[ShardJob],
    on_event: Callable[[Event], None],
    workers: int | None = None,
    address: str | None = None,
    order: CrawlOrder | None = None,
) -> None:
    """Run jobs on a Ray cluster, after crawling in this process.

    ``address``: of the cluster, as ``ray.init`` takes it; by default that of the environment
    variable RAY_ADDRESS, or a cluster of this machine alone, started for this build. ``workers``:
    actors, by default as many as the cluster has room for; each asks for ``runner.ray_cpus`` and
    ``runner.ray_gpus``. ``order``: what to crawl. One process crawls, so that the limits per host
    hold however large the cluster is.

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
            jobs = [*jobs, *crawl_here(root, config, order, on_event)]
        # Ray must not restart dead actors: run_jobs does, and knows which shard each had.
        kind = ray.remote(
            num_cpus=config.runner.ray_cpus, num_gpus=config.runner.ray_gpus, max_restarts=0
        )(ShardActor)
        pool = Pool(
            lambda: _ActorWorker(ray, kind.remote(root, config)), room, deque([job] for job in jobs)
        )
        run_jobs(
            [pool],
            on_event,
            config.runner.max_deaths,
            wait=lambda streams: ray.wait(streams, num_returns=1)[0],
        )
    finally:
        if started_here:
            ray.shutdown()


class ShardActor:
    """A worker on some node; its networks are loaded at the first job that needs them."""

    def __init__(self, root: str, config: BuildConfig) -> None:
        self.root, self.config = root, config
        self.worker: ShardWorker | None = None

    def run(self, version: str, jobs: Sequence[ShardJob]) -> Iterator[Message]:
        """Run jobs for a build of hqvox ``version``; yields the worker's messages to its parent."""
        node = os.uname().nodename
        if version != hqvox.__version__:
            yield Stop(
                f"{node}: hqvox {hqvox.__version__} is installed there, the build "
                f"is of {version}; install the same on every node"
            )
            return
        try:
            self.worker = self.worker or ShardWorker(self.root, self.config)
        except (HqvoxError, ModelError, OSError) as error:
            yield Stop(
                f"{node}: {error}; the workspace must lie on storage that every "
                "node reaches by the same path"
            )
            return
        messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        arguments = (jobs, self.worker, messages.put)
        threading.Thread(target=serve_batch, args=arguments, daemon=True).start()
        while True:
            message = messages.get()
            yield message
            if isinstance(message, Idle | Stop):
                return


class _ActorWorker(Worker):
    """An actor as the build sees it; ``channel`` is the stream of messages of its last batch."""

    def __init__(self, ray: Any, actor: Any) -> None:
        super().__init__()
        self.ray, self.actor = ray, actor

    def send(self, jobs: Sequence[Any]) -> None:
        run = self.actor.run.options(num_returns="streaming")
        self.channel = run.remote(hqvox.__version__, jobs)

    def receive(self) -> Any:
        try:
            return self.ray.get(next(self.channel))
        except (self.ray.exceptions.RayActorError, StopIteration) as error:
            raise WorkerDied(f": {one_line(error)}", str(error)) from None

    def stop(self) -> None:
        self.ray.kill(self.actor)


def _import_ray() -> Any:
    try:
        import ray
    except ImportError:
        raise HqvoxError("--executor ray needs Ray: pip install 'hqvox[ray]'") from None
    return ray


def _connect(ray: Any, address: str, workers: int | None, config: BuildConfig) -> None:
    options: dict[str, Any] = {}
    if address == "local":
        options = {"include_dashboard": False}
        if workers:
            options["num_cpus"] = max(1, round(workers * config.runner.ray_cpus))
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise HqvoxError(
            f"Ray at {address!r}: {one_line(error)}; start it with `ray start --head`, or leave "
            "the address out to use this machine"
        ) from None


def _room(ray: Any, config: BuildConfig) -> int:
    """How many workers the cluster has room for."""
    resources = ray.cluster_resources()
    room = int(resources.get("CPU", 0) // config.runner.ray_cpus)
    if config.runner.ray_gpus:
        room = min(room, int(resources.get("GPU", 0) // config.runner.ray_gpus))
    if room < 1:
        raise HqvoxError(
            f"the Ray cluster has {resources.get('CPU', 0):g} CPUs and "
            f"{resources.get('GPU', 0):g} GPUs, too few for a worker of {config.runner.ray_cpus:g} "
            f"and {config.runner.ray_gpus:g}; lower runner.ray_cpus or runner.ray_gpus"
        )
    return room
