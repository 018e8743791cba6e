"""Jobs run by actors of a Ray cluster; the workspace lies on storage that all nodes reach.

The work is that of :mod:`hqvox.runner.worker`, so the bytes are the same as on one machine. Deaths,
retries and failures are counted by :func:`hqvox.runner.jobs.run_jobs`.
"""

from __future__ import annotations

import hashlib
import os
import queue
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import hqvox
from hqvox.config.build import BuildConfig
from hqvox.errors import HqvoxError
from hqvox.runner.crawl.crawler import CrawlOrder, crawl_here
from hqvox.runner.jobs import (
    Idle,
    Pool,
    Stop,
    Worker,
    WorkerDied,
    WorkerNotStarted,
    one_line,
    run_jobs,
    serve_batch,
)
from hqvox.runner.plan import ShardJob
from hqvox.runner.worker import Event, ShardWorker
from models.errors import ModelError

Message = Event | Idle | Stop
LOOK_SECONDS = 2.0
"""How often the cluster is looked at while no worker reports anything."""
TRY = """
import sys, ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
except Exception as error:
    print(f"{type(error).__name__}: {error}".splitlines()[0])
    sys.exit(1)
"""
"""Connects to a cluster. In a process of its own, since Ray waits for minutes and then aborts."""


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

    A worker whose node died is replaced while there is room elsewhere; else the others take its
    jobs. Before and after the build, workers of the same workspace that are still ending are
    waited for, so that no two write the same files.

    Raises HqvoxError where Ray is not installed, the cluster cannot be reached or has no room, does
    not answer within ``runner.ray_wait_seconds``, a node runs another version or does not see the
    workspace, or the disk refuses.
    """
    ray = _import_ray()
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    started_here = not ray.is_initialized()
    if started_here:
        _connect(ray, address, workers, config)
    limit = config.runner.ray_wait_seconds
    prefix = f"hqvox-{hashlib.sha256(root.encode()).hexdigest()[:16]}-"
    try:
        wait_for_leftovers(ray, prefix, limit)
        room = workers or _room(ray, config)
        if order:
            jobs = [*jobs, *crawl_here(root, config, order, on_event)]
        # Ray must not restart dead actors: run_jobs does, and knows which shard each had.
        kind = ray.remote(
            num_cpus=config.runner.ray_cpus, num_gpus=config.runner.ray_gpus, max_restarts=0
        )(ShardActor)

        def start() -> Worker:
            actor = kind.options(name=f"{prefix}{uuid.uuid4().hex}").remote(root, config)
            return _ActorWorker(ray, actor, limit)

        pool = Pool(start, room, deque([job] for job in jobs))
        try:
            run_jobs(
                [pool],
                on_event,
                config.runner.max_deaths,
                wait=lambda streams: _wait(ray, pool, streams, limit),
            )
        finally:
            wait_for_leftovers(ray, prefix, limit)
    finally:
        if started_here:
            ray.shutdown()


class ShardActor:
    """A worker on some node; its networks are loaded at the first job that needs them."""

    def __init__(self, root: str, config: BuildConfig) -> None:
        self.root, self.config = root, config
        self.worker: ShardWorker | None = None

    def started(self) -> None:
        """Nothing: answers as soon as the actor is there."""

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

    def __init__(self, ray: Any, actor: Any, limit: float) -> None:
        """``limit``: how long the actor may take to start, seconds."""
        super().__init__()
        self.ray, self.actor = ray, actor
        self._starting: Any = actor.started.remote()
        self._give_up = time.monotonic() + limit

    def overdue(self) -> bool:
        """Whether the actor has not started in time."""
        if self._starting is not None and self.ray.wait([self._starting], timeout=0)[0]:
            self._starting = None  # started, or dead, which the stream tells
        return self._starting is not None and time.monotonic() > self._give_up

    def send(self, jobs: Sequence[Any]) -> None:
        run = self.actor.run.options(num_returns="streaming")
        self.channel = run.remote(hqvox.__version__, jobs)

    def receive(self) -> Any:
        if self.overdue():
            raise WorkerNotStarted(
                "the Ray cluster has no room for a worker any more: nodes died, or others use "
                "them; start nodes, and run the same command again"
            )
        try:
            return self.ray.get(next(self.channel))
        except (self.ray.exceptions.RayActorError, StopIteration) as error:
            raise WorkerDied(f": {one_line(error)}", str(error)) from None

    def stop(self) -> None:
        self.ray.kill(self.actor)


def _wait(ray: Any, pool: Pool, streams: list[Any], limit: float) -> list[Any]:
    """Those of the streams that have a message, or whose actor does not start.

    Raises HqvoxError where the cluster is gone.
    """
    while True:
        ready: list[Any] = ray.wait(streams, num_returns=1, timeout=LOOK_SECONDS)[0]
        workers = [worker for worker in pool.workers if isinstance(worker, _ActorWorker)]
        ready += [w.channel for w in workers if w.busy and w.channel not in ready and w.overdue()]
        if ready:
            return ready
        within(limit, ray.nodes)


def within(limit: float, ask: Callable[[], Any]) -> Any:
    """The cluster's answer. Raises HqvoxError where there is none in time."""
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put((ask(), None))
        except Exception as error:  # handed to the caller, whatever it is
            answers.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        answer, error = answers.get(timeout=limit)
    except queue.Empty:
        raise HqvoxError(
            f"the Ray cluster has not answered for {limit:g} s; see whether its head node runs, "
            "and run the same command again"
        ) from None
    if error is not None:
        raise HqvoxError(f"the Ray cluster is gone: {one_line(error)}") from None
    return answer


def wait_for_leftovers(ray: Any, prefix: str, limit: float) -> None:
    """Wait until no actor of the workspace is there: a killed one may still be writing.

    ``prefix``: of its actors' names. Raises HqvoxError where they do not end in time.
    """
    give_up = time.monotonic() + limit
    while True:
        actors = within(limit, lambda: ray.util.list_named_actors(all_namespaces=True))
        left = sum(actor["name"].startswith(prefix) for actor in actors)
        if not left:
            return
        if time.monotonic() > give_up:
            raise HqvoxError(
                f"{left} workers of another build of this workspace still run in the Ray cluster "
                f"after {limit:g} s; wait for them, or stop that build"
            )
        time.sleep(0.1)


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
    else:
        _try(address, config.runner.ray_wait_seconds)
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise _unreachable(address, one_line(error)) from None


def _try(address: str, limit: float) -> None:
    """Raise HqvoxError where no cluster answers at the address in time."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:  # most often nothing listens there, which shows at once
            socket.create_connection((host.strip("[]"), int(port)), timeout=limit).close()
        except OSError as error:
            raise _unreachable(address, error.strerror or str(error)) from None
    command = [sys.executable, "-c", TRY, address]
    try:
        tried = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        raise _unreachable(address, f"no answer in {limit:g} s") from None
    if tried.returncode:
        why = tried.stdout.strip().splitlines()[-1:] or ["no Ray cluster answers there"]
        raise _unreachable(address, why[0])


def _unreachable(address: str, why: str) -> HqvoxError:
    return HqvoxError(
        f"Ray at {address!r}: {why}; start it with `ray start --head`, or leave "
        "the address out to use this machine"
    )


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
