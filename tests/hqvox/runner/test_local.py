"""The pool: a worker that dies gives its shard back; one that cannot finish it is marked failed."""

from __future__ import annotations

import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from hqvox.config.build import BuildConfig
from hqvox.errors import HqvoxError
from hqvox.runner.local import Event, Failed, Finished, Started, run_pool
from hqvox.runner.plan import ShardTask

TASKS = [ShardTask(f"{n:05d}", 0, 0, "test") for n in range(4)]


def serve_with_deaths(pipe: Connection, root: str, config: BuildConfig) -> None:
    """Dies on shard 1 the first time, and on shard 2 every time; shard 3 raises a defect."""
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        marker = Path(root) / task.shard
        if task.shard == "00002" or (task.shard == "00001" and not marker.exists()):
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if task.shard == "00003":
            pipe.send(("failed", ("ValueError: no", "Traceback …")))
        else:
            pipe.send(("done", 1.5))


def serve_full_disk(pipe: Connection, root: str, config: BuildConfig) -> None:
    """Reports that the disk is full."""
    pipe.recv()
    pipe.send(("stop", "/w: the disk is full"))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_dead_worker_gives_its_shard_back(tmp_path: Path, workers: int) -> None:
    events: list[Event] = []
    run_pool(str(tmp_path), BuildConfig(), TASKS, events.append, workers, serve=serve_with_deaths)
    finished = {e.task.shard for e in events if isinstance(e, Finished)}
    failed = {e.task.shard: e for e in events if isinstance(e, Failed)}
    started = [e.task.shard for e in events if isinstance(e, Started)]
    assert finished == {"00000", "00001"}
    assert failed.keys() == {"00002", "00003"}
    assert "3 workers died on it, the last with signal 9" in failed["00002"].error
    assert failed["00003"].trace == "Traceback …"
    assert started.count("00001") == 2
    assert started.count("00002") == 3


def test_a_full_disk_stops_the_build(tmp_path: Path) -> None:
    with pytest.raises(HqvoxError, match="disk is full"):
        run_pool(str(tmp_path), BuildConfig(), TASKS, lambda _: None, 2, serve=serve_full_disk)
