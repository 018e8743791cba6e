"""Worker processes on this machine: each loads its networks once and takes shards one by one.

Where photographs come over the network, one more process crawls, and hands each shard on as it is
committed.

A worker that dies (killed, out of memory, a crash in native code) gives its shard back; after
``max_deaths`` deaths the shard is marked failed, and the rest goes on.
"""

from __future__ import annotations

import multiprocessing
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from hqvox.config.build import BuildConfig
from hqvox.errors import HqvoxError
from hqvox.runner.crawl.crawler import Crawled, CrawlEvent, Crawling, CrawlOrder, NotCrawled, crawl
from hqvox.runner.crawl.process import CrawlProcess
from hqvox.runner.crawl.shard import DOWNLOAD
from hqvox.runner.plan import ShardTask
from hqvox.runner.processes import die_with_parent, one_line
from hqvox.runner.worker import Progress, ShardWorker
from models.errors import ModelError


@dataclass(frozen=True)
class Started:
    """A shard was handed to a worker."""

    task: ShardTask


@dataclass(frozen=True)
class Finished:
    """A shard is committed; ``seconds`` of work, networks' loading apart."""

    task: ShardTask
    seconds: float


@dataclass(frozen=True)
class Failed:
    """A shard could not be finished; ``trace`` says what happened, for the log."""

    task: ShardTask
    error: str
    trace: str


Event = Started | Finished | Failed | Progress | Crawling


def run_here(
    root: str,
    config: BuildConfig,
    tasks: Sequence[ShardTask],
    on_event: Callable[[Event], None],
    order: CrawlOrder | None = None,
) -> None:
    """Run tasks in this process, one after the other; what must be crawled before the rest.

    Raises HqvoxError where the disk refuses.
    """
    rest = crawl_first(root, config, order, on_event) if order else []
    worker = ShardWorker(root, config)
    for task in [*tasks, *rest]:
        on_event(Started(task))
        try:
            seconds = worker.run(task, on_event)
        except (HqvoxError, ModelError):
            raise
        except Exception as error:  # a defect: the shard is marked, the rest goes on
            on_event(Failed(task, one_line(error), traceback.format_exc()))
        else:
            on_event(Finished(task, seconds))


def crawl_first(
    root: str, config: BuildConfig, order: CrawlOrder, on_event: Callable[[Event], None]
) -> list[ShardTask]:
    """Crawl in this process; return what the crawled shards need from the stages that follow.

    Raises HqvoxError where the disk refuses.
    """
    rest: list[ShardTask] = []
    for task in order.tasks:
        on_event(Started(task))
    crawl(root, config, order, lambda event: _pass_on(event, rest.append, on_event))
    return rest


def _pass_on(
    event: CrawlEvent, hand_on: Callable[[ShardTask], None], on_event: Callable[[Event], None]
) -> None:
    match event:
        case Crawled(task, seconds, rest):
            on_event(Finished(task, seconds))
            if rest is not None:
                hand_on(rest)
        case NotCrawled(task, error, trace):
            on_event(Failed(task, error, trace))
        case _:
            on_event(event)


def run_pool(
    root: str,
    config: BuildConfig,
    tasks: Sequence[ShardTask],
    on_event: Callable[[Event], None],
    workers: int,
    serve: Callable[[Connection, str, BuildConfig], None] | None = None,
    order: CrawlOrder | None = None,
) -> None:
    """Run tasks on ``workers`` processes. Raises HqvoxError where one reports that it must stop.

    ``serve``: what a worker process runs, :func:`serve_shards` by default. ``order``: what one more
    process crawls meanwhile; the workers take its shards as they come.
    """
    life = serve or serve_shards
    # Forked from a server that has imported everything: a worker starts at once, and shares it.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hqvox.runner.worker", "hqvox.runner.crawl.process"])
    queue = deque(tasks)
    deaths: dict[str, int] = {}
    crawling = CrawlProcess(context, root, config, order) if order else None
    following = sum(task.last > DOWNLOAD for task in order.tasks) if order else 0
    size = min(workers, len(tasks) + following)
    pool = [_Worker(context, life, root, config) for _ in range(size)]
    try:
        for crawled in order.tasks if order else ():
            on_event(Started(crawled))
        for member in pool:
            member.give(queue, on_event)
        while any(member.task for member in pool) or (crawling and crawling.alive):
            pipes = [m.pipe for m in pool if m.task]
            if crawling and crawling.alive:
                pipes.append(crawling.pipe)
            ready = wait(pipes)
            if crawling and crawling.alive and crawling.pipe in ready:
                for event in crawling.hear():
                    _pass_on(event, queue.append, on_event)
                for member in pool:
                    if member.task is None and queue:
                        member.give(queue, on_event)
            for number, member in enumerate(pool):
                if member.pipe not in ready:
                    continue
                try:
                    kind, value = member.pipe.recv()
                except (EOFError, OSError):
                    task = member.task
                    assert task is not None
                    code = member.stop()
                    deaths[task.shard] = deaths.get(task.shard, 0) + 1
                    if deaths[task.shard] >= config.runner.max_deaths:
                        line = f"{deaths[task.shard]} workers died on it, the last with {code}"
                        on_event(Failed(task, line, line))
                    else:
                        queue.appendleft(task)
                    pool[number] = _Worker(context, life, root, config)
                    pool[number].give(queue, on_event)
                    continue
                if kind == "progress":
                    on_event(value)
                elif kind == "stop":
                    raise HqvoxError(value)
                else:
                    assert member.task is not None
                    if kind == "done":
                        on_event(Finished(member.task, value))
                    else:
                        on_event(Failed(member.task, *value))
                    member.give(queue, on_event)
    finally:
        if crawling and crawling.alive:
            crawling.stop()
        for member in pool:
            member.stop()


class _Worker:
    """A worker process as its parent sees it."""

    def __init__(self, context: Any, serve: Any, root: str, config: BuildConfig) -> None:
        self.pipe, child = context.Pipe()
        self.task: ShardTask | None = None
        self.process = context.Process(target=serve, args=(child, root, config), daemon=True)
        self.process.start()
        child.close()

    def give(self, queue: deque[ShardTask], on_event: Callable[[Event], None]) -> None:
        """Hand the next task over, if there is one."""
        self.task = queue.popleft() if queue else None
        if self.task is not None:
            on_event(Started(self.task))
            try:
                self.pipe.send(self.task)
            except OSError:
                return  # it died before it took the task: reading from it says so

    def stop(self) -> str:
        """End the process; return how it ended."""
        self.pipe.close()
        self.process.join(timeout=0.2)
        if self.process.is_alive():
            self.process.terminate()
            self.process.join()
        code = self.process.exitcode
        return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"


def serve_shards(pipe: Connection, root: str, config: BuildConfig) -> None:
    """A worker's life: take tasks until the parent closes the pipe."""
    threading.Thread(target=die_with_parent, daemon=True).start()
    try:
        worker: ShardWorker | None = None
        while True:
            task = pipe.recv()
            try:
                worker = worker or ShardWorker(root, config)
                seconds = worker.run(task, lambda progress: pipe.send(("progress", progress)))
            except (HqvoxError, ModelError) as error:
                pipe.send(("stop", str(error)))
            except Exception as error:  # a defect: the shard is marked, the rest goes on
                pipe.send(("failed", (one_line(error), traceback.format_exc())))
            else:
                pipe.send(("done", seconds))
    except (EOFError, ConnectionError, KeyboardInterrupt):
        return  # the parent is done, or gone
