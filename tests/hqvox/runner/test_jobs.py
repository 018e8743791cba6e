"""The job engine: workers that die, defects, orders to stop, and jobs that lead to others."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hqvox.errors import HqvoxError
from hqvox.runner.jobs import (
    Failed,
    Finished,
    Idle,
    Pool,
    Started,
    Work,
    Worker,
    WorkerNotStarted,
    process_pool,
    run_here,
    run_jobs,
)
from hqvox.runner.plan import ShardJob
from models.errors import ModelError

JOBS = [ShardJob(f"{n:05d}", 0, 0, "test") for n in range(4)]
MAX_DEATHS = 3
Report = Callable[[Any], None]


def deadly(folder: Path) -> Work[ShardJob]:
    """Dies on shard 1 the first time, and on shard 2 every time; shard 3 raises a defect."""

    def work(jobs: Sequence[ShardJob], report: Report) -> None:
        (job,) = jobs
        marker = folder / job.shard
        if job.shard == "00002" or (job.shard == "00001" and not marker.exists()):
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if job.shard == "00003":
            raise ValueError("no")
        report(Finished(job, 1.5))

    return work


def stopping(error: Exception) -> Work[ShardJob]:
    """Reports that the run must stop."""

    def work(jobs: Sequence[ShardJob], report: Report) -> None:
        raise error

    return work


def unable() -> Work[ShardJob]:
    """Cannot begin."""
    raise OSError("no such device")


def leading_on() -> Work[ShardJob]:
    """A batch whose jobs each lead to another one."""

    def work(jobs: Sequence[ShardJob], report: Report) -> None:
        for job in jobs:
            report(Finished(job, 0.0, ShardJob(job.shard, 1, 1, "next")))

    return work


def working() -> Work[ShardJob]:
    """Finishes whatever it is given."""

    def work(jobs: Sequence[ShardJob], report: Report) -> None:
        for job in jobs:
            report(Finished(job, 0.0))

    return work


def sleeping(folder: Path) -> Work[ShardJob]:
    """Writes its process id and does not end."""

    def work(jobs: Sequence[ShardJob], report: Report) -> None:
        (folder / "pid.tmp").write_text(str(os.getpid()))
        (folder / "pid.tmp").rename(folder / "pid")
        time.sleep(600)

    return work


def pool(start: Callable[[], Work[Any]], batches: Sequence[Any], size: int = 1) -> Pool:
    return process_pool(start, size, batches, [__name__])


@pytest.mark.parametrize("workers", [1, 2])
def test_a_dead_worker_s_job_is_retried_and_at_last_failed(tmp_path: Path, workers: int) -> None:
    events: list[Any] = []
    batches = [[job] for job in JOBS]
    run_jobs([pool(partial(deadly, tmp_path), batches, workers)], events.append, MAX_DEATHS)
    finished = {e.job.shard: e.seconds for e in events if isinstance(e, Finished)}
    failed = {e.job.shard: e for e in events if isinstance(e, Failed)}
    started = [e.job.shard for e in events if isinstance(e, Started)]
    assert finished == {"00000": 1.5, "00001": 1.5}
    assert failed.keys() == {"00002", "00003"}
    assert failed["00002"].error == "3 workers died on it, the last with signal 9"
    assert failed["00002"].trace == failed["00002"].error
    assert failed["00003"].error == "ValueError: no"
    assert failed["00003"].trace.startswith("Traceback")
    assert started.count("00001") == 2
    assert started.count("00002") == 3


@pytest.mark.parametrize("error", [HqvoxError("/w: the disk is full"), ModelError("no weights")])
def test_an_order_to_stop_ends_the_run(error: Exception) -> None:
    batches = [[job] for job in JOBS]
    with pytest.raises(HqvoxError, match=str(error)):
        run_jobs([pool(partial(stopping, error), batches, 2)], lambda event: None, MAX_DEATHS)
    assert not multiprocessing.active_children()
    with pytest.raises(type(error)):
        run_here(batches, stopping(error), lambda event: None)


def test_work_that_cannot_begin_fails_its_jobs() -> None:
    events: list[Any] = []
    run_jobs([pool(unable, [JOBS[:1], JOBS[1:2]])], events.append, MAX_DEATHS)
    failed = [e for e in events if isinstance(e, Failed)]
    assert [f.job.shard for f in failed] == ["00000", "00001"]
    assert {f.error for f in failed} == {"OSError: no such device"}


def test_finished_jobs_lead_to_jobs_of_the_last_pool() -> None:
    events: list[Any] = []
    run_jobs([pool(leading_on, [JOBS]), pool(working, [], size=2)], events.append, MAX_DEATHS)
    finished = [(e.job.shard, e.job.why) for e in events if isinstance(e, Finished)]
    assert sorted(finished) == sorted((job.shard, why) for job in JOBS for why in ("test", "next"))
    next_jobs = run_here([JOBS], leading_on(), events.append)
    assert [job.shard for job in next_jobs] == [job.shard for job in JOBS]


def test_in_this_process_a_defect_fails_its_job_and_an_observer_s_error_ends_the_run() -> None:
    events: list[Any] = []
    run_here([[job] for job in JOBS[2:]], stopping(ValueError("no")), events.append)
    assert [e.job.shard for e in events if isinstance(e, Failed)] == ["00002", "00003"]

    def refuse(event: Any) -> None:
        if isinstance(event, Finished):
            raise OSError("cannot be noted")

    with pytest.raises(OSError, match="cannot be noted"):
        run_here([JOBS[:1]], working(), refuse)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_the_parent_ends_its_worker_ends_too(tmp_path: Path, number: int) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom functools import partial\n"
        "from tests.hqvox.runner.test_jobs import JOBS, pool, sleeping\n"
        "from hqvox.runner.jobs import run_jobs\n"
        "run_jobs([pool(partial(sleeping, Path(sys.argv[1])), [JOBS[:1]])], print, 3)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stderr=subprocess.PIPE)
    file = tmp_path / "pid"
    wait_until(file.exists)
    worker = int(file.read_text())
    parent.send_signal(number)
    parent.communicate(timeout=60)
    assert parent.returncode == -number
    wait_until(lambda: not Path(f"/proc/{worker}").exists())


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


class Place(Worker):
    """A worker that finishes what it is given, or one for which there is no room."""

    def __init__(self, room: bool) -> None:
        super().__init__()
        self.channel, self.room = object(), room
        self.messages: list[Any] = []

    def send(self, jobs: Sequence[Any]) -> None:
        self.messages = [*(Finished(job, 0.0) for job in jobs), Idle()]

    def receive(self) -> Any:
        if not self.room:
            raise WorkerNotStarted("no room")
        return self.messages.pop(0)

    def stop(self) -> None:
        pass


def test_a_worker_that_cannot_start_leaves_its_jobs_to_the_others() -> None:
    events: list[Any] = []
    rooms = iter([False, True, False, True])
    pool = Pool(lambda: Place(next(rooms)), 3, deque([job] for job in JOBS))
    run_jobs([pool], events.append, MAX_DEATHS, wait=lambda channels: channels[:1])
    finished = [event.job for event in events if isinstance(event, Finished)]
    assert sorted(finished, key=lambda job: job.shard) == JOBS
    assert not [event for event in events if isinstance(event, Failed)]
    assert pool.size == 1


def test_where_no_worker_can_start_the_run_stops() -> None:
    pool = Pool(lambda: Place(room=False), 2, deque([job] for job in JOBS))
    with pytest.raises(HqvoxError, match="no room"):
        run_jobs([pool], lambda event: None, MAX_DEATHS, wait=lambda channels: channels)
