"""An annotator's process that is killed between any two statements loses and doubles nothing."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
import sqlalchemy as sa

from annotator.log.access import Actor
from annotator.log.fold import fold
from annotator.log.store import Store
from annotator.work.queue import Queue
from hqvox.config.review import ReviewConfig
from tests.helpers.review_tools import ANNA, BERT, FACES, LEAD, chosen, dropped, logged, people


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["annotator.work.queue", "tests.helpers.review_tools"])
    return context


def steps(folder: Path) -> Iterator[str]:
    """Everything that writes, in a fixed order; each key once the step is through."""
    store = Store.open(folder / "r.sqlite")
    queue = Queue(store, people(4), ReviewConfig(second_fraction=1.0))

    def decide(actor: Actor, key: str, face: int | None) -> str:
        name = NAME_OF[key]
        if all(entry.key != key for entry in store.entries()):
            lease = queue.next(actor, reserve=True)
            assert lease is not None
            assert lease.identity_id == name, (key, lease)
        decision = dropped(name) if face is None else chosen(name, face)
        store.append(decision, key=key, actor=actor)
        return key

    yield decide(ANNA, "a0", 0)
    yield decide(ANNA, "a1", None)
    yield decide(BERT, "b0", 6)
    yield decide(LEAD, "l0", 3)
    first = next(entry for entry in store.entries() if entry.key == "a1")
    yield store.undo(first.seq, key="u1", actor=ANNA).key
    lease = queue.next(BERT)
    if lease is not None and lease.identity_id == "id001":
        queue.skip(lease)
    yield "skipped"
    store.adopt([logged(7, ANNA, dropped("id009"))])
    yield "logged 7"
    store.close()


NAME_OF = {"a0": "id000", "a1": "id001", "b0": "id000", "l0": "id000"}
KEYS = ["a0", "a1", "b0", "l0", "u1", "logged 7"]
"""Of the log that all steps together leave."""


def count_down(kill_at: int) -> Callable[[], int]:
    """Have this process killed at the ``kill_at``-th statement or commit; how many there were."""
    passed = 0

    def count(*_: object) -> None:
        nonlocal passed
        passed += 1
        if passed == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    # "checkin" comes after the commit.
    for event in ("before_cursor_execute", "after_cursor_execute", "commit", "checkin"):
        sa.event.listen(sa.Engine, event, count)
    return lambda: passed


def work(folder: Path, kill_at: int) -> None:
    """Go through the steps, and be killed before the ``kill_at``-th statement or commit."""
    passed = count_down(kill_at)
    done = os.open(folder / "done", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for key in steps(folder):
        os.write(done, f"{key}\n".encode())
    os.write(done, f"all {passed()}\n".encode())


def run_each(folder: Path, points: list[int]) -> None:
    """Go through the steps in a fork for each point; in a process of its own, with one thread."""
    gc.freeze()  # or the collector of each fork would copy the memory of all that was imported
    for kill_at in points:
        (folder / str(kill_at)).mkdir()
        pid = os.fork()
        if not pid:
            work(folder / str(kill_at), kill_at)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if killed != bool(kill_at):
            raise AssertionError(f"point {kill_at}: ended with {status}")


def run(context: ForkServerContext, folder: Path, points: list[int]) -> dict[int, list[str]]:
    """Of each point, the steps that the process said were through."""
    child = context.Process(target=run_each, args=(folder, points))
    child.start()
    child.join(500)
    assert child.exitcode == 0
    said = {}
    for kill_at in points:
        done = folder / str(kill_at) / "done"
        said[kill_at] = done.read_text().splitlines() if done.exists() else []
    return said


def check(folder: Path, said: list[str]) -> None:
    """What must hold of a store, however its writer ended."""
    store = Store.open(folder / "r.sqlite")
    entries = store.entries()
    keys = [entry.key for entry in entries]
    assert keys == KEYS[: len(keys)]
    lost = [key for key in said if key in KEYS and key not in keys]
    assert not lost, f"acknowledged, and gone: {lost}"
    assert [entry.seq for entry in entries] == list(range(1, len(keys) + 1))
    assert store.last_seq() == len(keys)
    assert fold(store.entries(shown=False)) == store.state()
    assert all(entry.decision.shown == FACES for entry in entries if entry.decision.shown)
    with sqlite3.connect(folder / "r.sqlite") as raw:
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert raw.execute("SELECT erasing FROM review_meta").fetchone() == (0,)
        held = dict(raw.execute("SELECT identity_id, annotator FROM review_leases"))
    if "a0" in keys and "b0" not in keys:
        assert held.get("id000") != "Anna"  # her turn on it ended with the decision
    store.close()
    assert len(list(steps(folder))) == 7  # and all goes on where it was cut off
    store = Store.open(folder / "r.sqlite")
    assert [entry.key for entry in store.entries()] == KEYS
    store.close()


def points(context: ForkServerContext, folder: Path) -> int:
    """How many statements and commits there are."""
    said = run(context, folder, [0])[0]
    check(folder / "0", said[:-1])
    return int(said[-1].removeprefix("all "))


def test_killed_between_some_statements(processes: ForkServerContext, tmp_path: Path) -> None:
    last = points(processes, tmp_path)
    assert last > 100
    for kill_at, said in run(processes, tmp_path, list(range(1, last, 37))).items():
        check(tmp_path / str(kill_at), said)


@pytest.mark.slow
def test_killed_between_any_two_statements(processes: ForkServerContext, tmp_path: Path) -> None:
    last = points(processes, tmp_path)
    seen = set()
    for kill_at, said in run(processes, tmp_path, list(range(1, last + 1))).items():
        check(tmp_path / str(kill_at), said)
        seen.add(len(said))
    assert seen == set(range(7))  # it was killed before, in and after each step


@pytest.mark.slow
def test_killed_while_forgetting(processes: ForkServerContext, tmp_path: Path) -> None:
    child = processes.Process(target=forget_each, args=(tmp_path, list(range(1, 60))))
    child.start()
    child.join(500)
    assert child.exitcode == 0
    ends = set()
    for folder in tmp_path.iterdir():
        store = Store.open(folder / "r.sqlite")
        names = {entry.decision.identity_id for entry in store.entries()}
        assert names in ({"id000", "id001", "id009"}, {"id001", "id009"})
        assert set(store.state()) == names - {"id001"}
        ends.add(len(names))
        store.forget(["id000"])
        assert {e.decision.identity_id for e in store.entries()} == {"id001", "id009"}
        assert not any(b"id000" in file.read_bytes() for file in folder.glob("r.sqlite*"))
        store.close()
    assert ends == {2, 3}


def forget_each(folder: Path, points: list[int]) -> None:
    """Erase somebody, and be killed on the way, at each point."""
    gc.freeze()
    for kill_at in points:
        inside = folder / str(kill_at)
        inside.mkdir()
        list(steps(inside))
        pid = os.fork()
        if not pid:
            count_down(kill_at)
            Store.open(inside / "r.sqlite").forget(["id000"])
            os._exit(0)
        os.waitpid(pid, 0)
