"""Work on several processes, with the results in order; no worker outlives the command."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import cv2

from hqvox.errors import HqvoxError
from hqvox.runner.jobs import die_with_parent

Task = TypeVar("Task")
Result = TypeVar("Result")


def in_order(
    work: Callable[[Task], Result], tasks: Sequence[Task], workers: int
) -> Iterator[Result]:
    """Results of ``work`` (a function of a module) in the order of ``tasks``.

    One worker, or one task, is done in this process. Raises HqvoxError where a worker dies, and
    whatever ``work`` raises.
    """
    if min(workers, len(tasks)) <= 1:
        yield from map(work, tasks)
        return
    context = multiprocessing.get_context("forkserver")
    # Forked from a server that has imported everything: a worker starts fast and shares memory.
    context.set_forkserver_preload(["__main__", work.__module__])
    pool = ProcessPoolExecutor(min(workers, len(tasks)), context, _begin)
    try:
        yield from pool.map(work, tasks)
    except BrokenProcessPool:
        raise HqvoxError(
            "a worker process died, perhaps because memory ran out; run the command again, with "
            "fewer --workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it, and ends this process
    cv2.setNumThreads(1)
    threading.Thread(target=die_with_parent, daemon=True).start()
