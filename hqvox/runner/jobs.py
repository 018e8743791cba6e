"""The job engine: jobs run in this process, in child processes, or in the actors of a cluster.

A *job* is one shard and the stages to run on it. A *worker* takes a batch of jobs and reports
events; the last event of a job is Finished or Failed. The crawl takes all its jobs in one batch,
all others take one job at a time. The rules are the same everywhere:

- A defect (an unexpected exception) fails the job; the other jobs go on.
- HqvoxError or ModelError (a full disk, missing weights) stops the whole run.
- If a worker dies (killed, out of memory, a crash in native code), a new one retries the jobs that
  it had not finished. A job on which ``max_deaths`` workers died fails.
- When a run ends, by an error and by Ctrl-C too, all workers are stopped. Child processes also end
  when their parent is killed.

Every worker process imports this module, so it imports nothing heavy.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import traceback
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol, TypeVar

from hqvox.errors import HqvoxError
from models.errors import ModelError

DEATH_NOTE = "{count} workers died on it, the last{how}"
MAX_JOIN_SECONDS = 0.2
"""How long a child process may take to end by itself before it is terminated."""


class Job(Protocol):
    """One shard and what to do with it."""

    @property
    def shard(self) -> str:
        """Name of the shard; at most one job of a run has it at a time."""

    @property
    def why(self) -> str:
        """Why it has to run, in words."""

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages to run."""


J = TypeVar("J", bound=Job)
P = TypeVar("P")
"""What a kind of worker reports between the start and the end of a job."""


@dataclass(frozen=True)
class Started:
    """A job was given to a worker; again after a worker died on it."""

    job: Job


@dataclass(frozen=True)
class Finished:
    """A job is committed; ``seconds`` of work, without loading networks."""

    job: Job
    seconds: float
    next_job: Any = None
    """The job that can run now that this one is finished; the last pool's workers take it."""


@dataclass(frozen=True)
class Failed:
    """A job could not be finished; ``trace`` is the traceback, or ``error`` where there is none."""

    job: Job
    error: str
    trace: str
    next_job: Any = None
    """As of Finished: what can run in spite of the failure."""


JobEvent = Started | Finished | Failed


@dataclass(frozen=True)
class Idle:
    """Message of a worker to its parent: the batch is done."""


@dataclass(frozen=True)
class Stop:
    """Message of a worker to its parent: the whole run must stop."""

    error: str


Work = Callable[[Sequence[J], Callable[[Any], None]], None]
"""Work on a batch of jobs, reporting events."""


class WorkerDied(Exception):
    """A worker ended before its batch; ``how`` follows "the last" in the error of its jobs."""

    def __init__(self, how: str, trace: str = "") -> None:
        super().__init__(how)
        self.how, self.trace = how, trace


class WorkerNotStarted(WorkerDied):
    """Nothing has room for the worker any more; its jobs are left to the others."""


# In the worker -----------------------------------------------------------------------------------


def work_on(jobs: Sequence[J], work: Work[J], report: Callable[[Any], None]) -> None:
    """Have a batch worked on; an unexpected exception fails the jobs that are not finished.

    Raises HqvoxError, ModelError where the whole run must stop.
    """
    unfinished = {job.shard: job for job in jobs}

    def note(event: Any) -> None:
        if isinstance(event, Finished | Failed):
            unfinished.pop(event.job.shard, None)
        report(event)

    try:
        work(jobs, note)
    except (HqvoxError, ModelError):
        raise
    except Exception as error:
        if not unfinished:
            raise
        for job in unfinished.values():
            report(Failed(job, one_line(error), traceback.format_exc()))


def serve_batch(jobs: Sequence[J], work: Work[J], send: Callable[[Any], None]) -> None:
    """Send the events of a batch, then Idle; or Stop."""
    try:
        work_on(jobs, work, send)
    except (HqvoxError, ModelError) as error:
        send(Stop(str(error)))
    else:
        send(Idle())


def serve(pipe: Connection, start: Callable[[], Work[Any]]) -> None:
    """Main function of a child process: take batches until the parent closes the pipe.

    ``start`` loads what the work needs; it is called with the first batch.
    """
    threading.Thread(target=die_with_parent, daemon=True).start()
    started = cache(start)
    # EOFError, ConnectionError: the parent has finished, or is gone.
    with suppress(EOFError, ConnectionError, KeyboardInterrupt):
        while True:
            serve_batch(pipe.recv(), lambda jobs, report: started()(jobs, report), pipe.send)


def die_with_parent() -> None:
    """End this process when the parent is gone: the workspace's lock went with the parent."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def one_line(error: BaseException) -> str:
    """What went wrong, for a table or a terminal."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


# In the parent -----------------------------------------------------------------------------------


class Worker(ABC):
    """A worker as its parent sees it."""

    channel: Any
    """What :func:`run_jobs` waits on while the worker is busy."""

    def __init__(self) -> None:
        self.busy = False
        self.unfinished: dict[str, Job] = {}

    def give(self, jobs: Sequence[Job]) -> None:
        """Hand a batch over."""
        self.busy = True
        self.unfinished = {job.shard: job for job in jobs}
        self.send(jobs)

    @abstractmethod
    def send(self, jobs: Sequence[Job]) -> None:
        """Send a batch; :meth:`receive` notices a dead worker."""

    @abstractmethod
    def receive(self) -> Any:
        """The next message: an event, Idle or Stop. Raises WorkerDied."""

    @abstractmethod
    def stop(self) -> None:
        """End the worker, whatever it is doing."""


class _ProcessWorker(Worker):
    def __init__(self, start: Callable[[], Work[Any]], preload: Sequence[str]) -> None:
        super().__init__()
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(preload))
        self.channel, child = context.Pipe()
        self.process = context.Process(target=serve, args=(child, start), daemon=True)
        self.process.start()
        child.close()

    def send(self, jobs: Sequence[Job]) -> None:
        with suppress(OSError):
            self.channel.send(jobs)

    def receive(self) -> Any:
        try:
            return self.channel.recv()
        except (EOFError, OSError):
            self.stop()
            code = self.process.exitcode or 0
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise WorkerDied(f" with {how}") from None

    def stop(self) -> None:
        self.channel.close()  # an idle process ends then
        self.process.join(MAX_JOIN_SECONDS)
        if self.process.is_alive():
            self.process.terminate()
            self.process.join()


@dataclass
class Pool:
    """Workers of one kind, and the batches of jobs that wait for them."""

    start: Callable[[], Worker]
    size: int
    """Most workers at a time. One starts when a batch waits and no worker is idle."""
    waiting: deque[Sequence[Job]]
    death_note: str = DEATH_NOTE
    """Error of a job whose workers died."""
    workers: list[Worker] = field(default_factory=list)
    deaths: Counter[str] = field(default_factory=Counter)
    """Deaths of workers, by shard that they had not finished."""

    def assign(self, on_event: Callable[[JobEvent], None], more_to_come: bool) -> list[Worker]:
        """Give waiting batches to idle workers; return the busy ones.

        Idle workers are kept only where there is ``more_to_come``.
        """
        while self.waiting:
            idle = next((worker for worker in self.workers if not worker.busy), None)
            if idle is None:
                if len(self.workers) >= self.size:
                    break
                self.workers.append(idle := self.start())
            jobs = self.waiting.popleft()
            for job in jobs:
                on_event(Started(job))
            idle.give(jobs)
        busy = [worker for worker in self.workers if worker.busy]
        if not more_to_come:
            for worker in self.workers:
                if not worker.busy:
                    worker.stop()
            self.workers = busy
        return busy

    def bury(self, worker: Worker, died: WorkerDied, max_deaths: int) -> list[Failed]:
        """Count a death for every unfinished job: put it first in the queue, or give it up.

        Raises HqvoxError where the worker could not start, and there is no other.
        """
        worker.stop()
        self.workers.remove(worker)
        if isinstance(died, WorkerNotStarted):
            self.size -= 1
            if not self.size:
                raise HqvoxError(died.how)
            self.waiting.appendleft(list(worker.unfinished.values()))
            return []
        retried, failed = [], []
        for shard, job in worker.unfinished.items():
            self.deaths[shard] += 1
            if self.deaths[shard] < max_deaths:
                retried.append(job)
            else:
                line = self.death_note.format(count=self.deaths[shard], how=died.how)
                failed.append(Failed(job, line, died.trace or line))
        if retried:
            self.waiting.appendleft(retried)
        return failed


def process_pool(
    start: Callable[[], Work[Any]],
    size: int,
    batches: Iterable[Sequence[Job]],
    preload: Sequence[str],
    death_note: str = DEATH_NOTE,
) -> Pool:
    """A pool of child processes, each forked from a server that has imported ``preload``.

    So they start at once and share the memory of what was imported. ``start``: called in the
    process with its first batch; it must be picklable.
    """
    return Pool(lambda: _ProcessWorker(start, preload), size, deque(batches), death_note)


def run_jobs(
    pools: Sequence[Pool],
    on_event: Callable[[JobEvent | P], None],
    max_deaths: int,
    wait: Callable[[list[Any]], Iterable[Any]] = wait,
) -> None:
    """Run the jobs of all pools. All workers have ended when this returns or raises.

    ``wait``: returns those of some channels that have a message. Raises HqvoxError where a worker
    reports that the run must stop.
    """
    try:
        while True:
            busy: dict[Any, tuple[Pool, Worker]] = {}
            for pool in pools:
                workers = pool.assign(on_event, more_to_come=bool(busy))
                busy |= {worker.channel: (pool, worker) for worker in workers}
            if not busy:
                return
            for channel in wait(list(busy)):
                pool, worker = busy[channel]
                try:
                    message = worker.receive()
                except WorkerDied as died:
                    for failed in pool.bury(worker, died, max_deaths):
                        on_event(failed)
                    continue
                if isinstance(message, Stop):
                    raise HqvoxError(message.error)
                if isinstance(message, Idle):
                    worker.busy = False
                    continue
                if isinstance(message, Finished | Failed):
                    worker.unfinished.pop(message.job.shard, None)
                    if message.next_job is not None:
                        pools[-1].waiting.append([message.next_job])
                on_event(message)
    finally:
        for pool in pools:
            for worker in pool.workers:
                worker.stop()


def run_here(
    batches: Iterable[Sequence[J]], work: Work[J], on_event: Callable[[JobEvent | P], None]
) -> list[Any]:
    """Run batches in this process, one after the other; return their next jobs.

    Raises HqvoxError, ModelError where the run must stop.
    """
    next_jobs: list[Any] = []

    def take(event: Any) -> None:
        if isinstance(event, Finished | Failed) and event.next_job is not None:
            next_jobs.append(event.next_job)
        on_event(event)

    for jobs in batches:
        for job in jobs:
            on_event(Started(job))
        work_on(jobs, work, take)
    return next_jobs
