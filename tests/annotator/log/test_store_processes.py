"""Annotators in processes of their own, on one store: nothing is lost, nobody gets in the way."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from annotator.log.access import Actor
from annotator.log.decisions import StoreAwayError
from annotator.log.place import VARIABLE
from annotator.log.store import Store, open_store
from annotator.work.queue import Queue, is_second
from hqvox.config.review import ReviewConfig
from hqvox.errors import HqvoxError
from hqvox.workspace.layout import Workspace
from tests.helpers import postgres_server
from tests.helpers.postgres_server import Server
from tests.helpers.queue_machine import Review, check, folder_in_memory
from tests.helpers.review_tools import (
    ANNA,
    BERT,
    FACES,
    LEAD,
    Clock,
    chosen,
    decide,
    dropped,
    people,
    undo,
)
from tests.helpers.small_review import make_review

CONFIG = ReviewConfig(second_fraction=0.2)


def annotate(url: str, number: int, decisions: int, identities: int, barrier: Barrier) -> None:
    """Make so many decisions, as fast as can be; leave a file with what was acknowledged."""
    barrier.wait(120)
    store = Store.open(url)  # all at once, also when there is nothing yet
    queue = Queue(store, people(identities), CONFIG)
    actor = Actor(f"annotator {number}")
    for turn in range(decisions):
        lease = queue.next(actor, reserve=turn % 2 == 0)
        assert lease is not None
        decision = chosen(lease.identity_id, turn % 5)
        key = f"{number}:{turn}"
        entry = store.append(decision, key=key, actor=actor)
        if turn % 7 == 0:
            assert store.append(decision, key=key, actor=actor) == entry
        if turn % 11 == 0:
            store.undo(entry.seq, key=f"{key}:undo", actor=actor)
    store.close()


def team(url: str, annotators: int, decisions: int) -> None:
    """Run them, then look at the log."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["annotator.work.queue"])
    barrier = context.Barrier(annotators)
    identities = annotators * decisions
    children = [
        context.Process(target=annotate, args=(url, number, decisions, identities, barrier))
        for number in range(annotators)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(3000)
    assert [child.exitcode for child in children] == [0] * annotators

    store = Store.open(url)
    entries = store.entries()
    undone = len(range(0, decisions, 11))
    keys = {f"{n}:{turn}" for n in range(annotators) for turn in range(decisions)}
    keys |= {f"{n}:{turn}:undo" for n in range(annotators) for turn in range(0, decisions, 11)}
    assert {entry.key for entry in entries} == keys
    assert len(entries) == len(keys) == annotators * (decisions + undone)
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    assert all(
        len(entry.decision.shown) == len(FACES) for entry in entries[::50] if entry.decision.shown
    )
    # Whoever had an identity had it alone: no more opinions stand than were asked for.
    state = store.state()
    standing = Counter({name: len(outcome.opinions) for name, outcome in state.items()})
    assert sum(standing.values()) == annotators * (decisions - undone)
    for name, number in standing.items():
        assert number <= (2 if is_second(CONFIG.seed, CONFIG.second_fraction, name) else 1)
    # Of what one annotator did, the order is theirs.
    for number in range(annotators):
        own = [e.key for e in entries if e.decision.annotator == f"annotator {number}"]
        turns = [int(key.split(":")[1]) for key in own]
        assert turns == sorted(turns)
    store.close()


def test_four_at_once(tmp_path: Path) -> None:
    team(str(tmp_path / "reviews.sqlite"), 4, 50)


@pytest.mark.slow(seconds=40)
def test_twenty_at_once() -> None:
    with folder_in_memory() as folder:
        team(f"{folder}/reviews.sqlite", 20, 500)


# PostgreSQL -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with postgres_server.running() as started:
        yield started


@pytest.mark.slow(seconds=60)
def test_twenty_at_once_on_postgresql(server: Server) -> None:
    team(server.new_database(), 20, 500)


@pytest.mark.slow
def test_postgresql_is_as_the_model_says(server: Server) -> None:
    class OnPostgres(Review):
        def __init__(self) -> None:
            url = server.new_database()
            super().__init__(lambda clock: Store.open(url, clock=clock))

    check(OnPostgres, examples=15, steps=30)


@pytest.mark.slow
def test_postgresql_keeps_the_log_as_it_is(server: Server) -> None:
    url = server.new_database()
    store, other = Store.open(url), Store.open(url)
    entry = decide(store, ANNA, chosen("id1", 0, 4))
    decide(store, BERT, dropped("id2"))
    assert other.entries()[0] == entry
    assert other.entries()[0].time.utcoffset() is not None
    undo(store, LEAD, 2)
    with psycopg.connect(url, autocommit=True) as raw:
        for statement in (
            "UPDATE review_log SET comment = 'x'",
            "DELETE FROM review_log",
            "TRUNCATE review_log",
            "INSERT INTO review_log SELECT * FROM review_log ON CONFLICT (seq) "
            "DO UPDATE SET comment = 'x'",
        ):
            with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
                raw.execute(statement)
    assert (store.forget(["id2"], [FACES[0].photo_id])).removed == 2
    assert list(other.state()) == ["id1"]
    assert other.entries()[0].decision.faces == FACES[1:4]
    store.close()
    other.close()


@pytest.mark.slow
def test_a_newer_postgresql_store_is_left_alone(server: Server) -> None:
    url = server.new_database()
    Store.open(url).close()
    with psycopg.connect(url) as raw:
        raw.execute("UPDATE review_meta SET version = 99")
    with pytest.raises(HqvoxError, match="a newer hqvox"):
        Store.open(url)


@pytest.mark.slow
def test_postgresql_that_is_stopped_is_away_and_comes_back(server: Server) -> None:
    store = Store.open(server.new_database())
    first = decide(store, ANNA, chosen("id1", 0, 4))
    with server.stopped(), pytest.raises(StoreAwayError, match="cannot be reached"):
        store.last_seq()
    decide(store, BERT, dropped("id2"))
    assert store.entries()[0] == first
    assert store.last_seq() == 2
    store.close()


@pytest.mark.slow
def test_postgresql_tells_the_time_for_all(server: Server) -> None:
    store = Store.open(server.new_database())
    entry = decide(store, ANNA, chosen("id1"))
    with store.database.reading() as connection:
        now = connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    assert 0 <= (now - entry.time).total_seconds() < 60
    store.close()
    stopped = Store.open(server.new_database(), clock=Clock())
    assert decide(stopped, ANNA, chosen("id1")).time == Clock()()
    stopped.close()


@pytest.mark.slow
def test_a_postgresql_database_serves_one_workspace(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, server.new_database())
    one, two = (make_review(tmp_path / name, ("Ada",)) for name in ("one", "two"))
    store = open_store(Workspace.open(one))
    decide(store, ANNA, chosen("id0"))
    store.close()
    with pytest.raises(HqvoxError, match="decisions of another workspace"):
        open_store(Workspace.open(two))
    store = open_store(Workspace.open(one.rename(tmp_path / "moved")))
    assert list(store.state()) == ["id0"]
    store.close()
