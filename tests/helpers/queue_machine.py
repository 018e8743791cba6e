"""Any interleaving of what annotators do, held against a simple model."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from annotator.log.access import Actor
from annotator.log.fold import fold
from annotator.log.store import Decision, LeaseLostError, Store
from annotator.work.queue import Lease, Queue, QueueItem, is_second
from hqvox.config.review import ReviewConfig
from hqvox.errors import HqvoxError
from tests.helpers.review_model import Model
from tests.helpers.review_tools import ANNA, BERT, FACES, LEAD, Clock, new_key

NAMES = [f"id{n}" for n in range(3)]
CONFIG = ReviewConfig(second_fraction=0.6, lease_seconds=60.0, seed=2)
ACTORS = st.sampled_from([ANNA, BERT, LEAD])
IDENTITIES = st.sampled_from(NAMES)
FIRSTS = st.sampled_from([None, 0, 1, 4])
"""Which three faces are chosen: 0 and 1 agree, 4 agrees with neither; None drops."""


class Review(RuleBasedStateMachine):
    """Annotators on two stores of one database, each with a queue of its own."""

    def __init__(self, open_store: Callable[[Clock], Store]) -> None:
        super().__init__()
        self.clock = Clock()
        self.open = lambda: open_store(self.clock)
        self.stores = [self.open(), self.open()]
        items = [QueueItem(name, 9, 0.5) for name in NAMES]
        self.queues = [Queue(store, items, CONFIG) for store in self.stores]
        twice = {name for name in NAMES if is_second(CONFIG.seed, 0.6, name)}
        assert 0 < len(twice) < len(NAMES)
        self.model = Model(NAMES, twice, CONFIG.lease_seconds)
        self.leases: list[Lease] = []
        self.turn = 0

    @property
    def queue(self) -> Queue:
        """The one or the other, in turn, as if two processes worked."""
        self.turn += 1
        return self.queues[self.turn % 2]

    def _held_now(self, lease: Lease, actor: Actor) -> None:
        end = (lease.expires - self.clock()).total_seconds()
        assert 0.5 * CONFIG.lease_seconds <= end <= CONFIG.lease_seconds
        for name, (who, _, dispute) in list(self.model.held.items()):
            if who == actor.name:
                ends = self.model.now + end
                self.model.held[name] = (who, ends, dispute)
        self.leases.append(lease)

    @rule(actor=ACTORS, ahead=st.booleans())
    def take(self, actor: Actor, ahead: bool) -> None:
        model = self.model
        for name in [name for name in NAMES if model.mine(name, actor)]:
            opinions = model.opinions(name)
            own = actor.name in opinions or (actor.is_lead and model.settlement(name))
            need = model.need(name)
            if not (own or need in ("first", "second") or (need == "dispute" and actor.is_lead)):
                del model.held[name]  # there is nothing left to do on it
        mine = [name for name in NAMES if model.mine(name, actor)]
        free = model.free(actor)
        queue = self.queue
        lease = queue.next(actor, reserve=ahead)
        if lease is None:
            assert not mine
            assert not free
            return
        given = [lease]
        if ahead and (second := queue.reserve_next(actor)) is not None:
            given.append(second)
        assert len({one.identity_id for one in given}) == len(given)
        assert len(given) == min(2 if ahead else 1, len(mine) + len(free)) or len(mine) > 1
        for one in given:
            name = one.identity_id
            assert not model.live(name, actor), "leased twice at a time"
            if name not in mine:
                assert one.dispute == free[name]
                model.held[name] = (actor.name, 0.0, one.dispute)
        if mine:
            assert lease.identity_id in mine
        for one in given:
            self._held_now(one, actor)

    @rule(actor=ACTORS, name=IDENTITIES, first=FIRSTS, again=st.booleans())
    def decide(self, actor: Actor, name: str, first: int | None, again: bool) -> None:
        """On anything, held or not."""
        self._decide(actor, name, first, again)

    @rule(actor=ACTORS, first=FIRSTS, ahead=st.booleans())
    def take_and_decide(self, actor: Actor, first: int | None, ahead: bool) -> None:
        self.take(actor=actor, ahead=ahead)
        self.decide_on_what_is_held(actor=actor, first=first, again=False)

    @rule(actor=ACTORS, first=FIRSTS, again=st.booleans())
    def decide_on_what_is_held(self, actor: Actor, first: int | None, again: bool) -> None:
        mine = [name for name in NAMES if self.model.mine(name, actor)]
        if mine:
            self._decide(actor, mine[0], first, again)

    def _decide(self, actor: Actor, name: str, first: int | None, again: bool) -> None:
        decision = Decision(name, "dropped", shown=FACES, reason="turned_away")
        if first is not None:
            decision = Decision(name, "chosen", FACES[first : first + 3], FACES)
        key, store = new_key(), self.queue.store
        if not self.model.accepts(name, actor):
            with pytest.raises(LeaseLostError):
                store.append(decision, key=key, actor=actor)
            return
        faces = None if first is None else frozenset(range(first, first + 3))
        self.model.decide(name, actor, faces, key)
        entry = store.append(decision, key=key, actor=actor)
        assert entry.seq == self.model.log[-1].seq
        if again:  # the answer was lost, and the page sends it again
            assert self.queue.store.append(decision, key=key, actor=actor) == entry

    @rule(actor=ACTORS, back=st.integers(0, 3))
    def undo(self, actor: Actor, back: int) -> None:
        if back >= self.model.seq:
            return
        seq = self.model.seq - back
        said = next((said for said in self.model.log if said.seq == seq), None)
        store = self.queue.store
        if said is None or said.undone or not (actor.is_lead or said.annotator == actor.name):
            with pytest.raises(HqvoxError, match="cannot be undone"):
                store.undo(seq, key=new_key(), actor=actor)
            return
        entry = store.undo(seq, key=new_key(), actor=actor)
        said.undone = True
        self.model.undos[entry.seq] = seq

    @rule(data=st.data(), what=st.sampled_from(["release", "skip", "renew"]))
    def use_a_lease(self, data: st.DataObject, what: str) -> None:
        """One that was given some time, and may be lost by now."""
        if not self.leases:
            return
        lease = data.draw(st.sampled_from(self.leases[-6:]))
        queue, name, model = self.queue, lease.identity_id, self.model
        row = model.held.get(name)
        if what == "renew":
            renewed = queue.renew(lease)
            if renewed is not None:
                assert row is not None
                assert row[0] == lease.annotator
                actor = next(a for a in (ANNA, BERT, LEAD) if a.name == lease.annotator)
                self._held_now(renewed, actor)
                assert renewed.token == lease.token
        else:
            before = queue.counts().leased
            getattr(queue, what)(lease)
            if row is not None and row[0] == lease.annotator:
                left = {r.identity_id for r in _rows(queue)}
                if name not in left:
                    del model.held[name]
            else:
                assert queue.counts().leased == before

    @rule(seconds=st.sampled_from([1, 31, 61]))
    def wait(self, seconds: int) -> None:
        self.clock.forward(seconds)
        self.model.now += seconds

    @rule()
    def open_anew(self) -> None:
        self.stores[0].close()
        self.stores[0] = self.open()
        items = [QueueItem(name, 9, 0.5) for name in NAMES]
        self.queues[0] = Queue(self.stores[0], items, CONFIG)

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        entries = self.queue.store.entries()
        model = self.model
        assert [entry.seq for entry in entries] == list(range(1, model.seq + 1))
        said = {said.seq: said for said in model.log}
        for entry in entries:
            if entry.decision.undoes is not None:
                assert model.undos[entry.seq] == entry.decision.undoes
                continue
            one = said[entry.seq]
            faces = frozenset(FACES.index(face) for face in entry.decision.faces) or None
            assert (one.identity_id, one.annotator, one.key, one.settles, one.faces) == (
                entry.decision.identity_id,
                entry.decision.annotator,
                entry.key,
                entry.settles,
                faces,
            )

    @invariant()
    def the_fold_is_the_models(self) -> None:
        for queue in self.queues:
            state = queue.store.state()
            assert {name: outcome.status for name, outcome in state.items()} == {
                name: status for name in NAMES if (status := self.model.status(name))
            }
            for name, outcome in state.items():
                opinions = {
                    entry.decision.annotator: frozenset(map(FACES.index, entry.decision.faces))
                    or None
                    for entry in outcome.opinions
                }
                assert opinions == self.model.opinions(name)
            light = queue.store.entries(shown=False)
            assert fold(light) == state

    @invariant()
    def leases_and_counts_are_the_models(self) -> None:
        queue = self.queue
        rows = _rows(queue)
        assert {row.identity_id: row.annotator for row in rows} == {
            name: who for name, (who, _, _) in self.model.held.items()
        }
        needs = [self.model.need(name) for name in NAMES]
        counts = queue.counts()
        assert (counts.first, counts.second, counts.disputed, counts.done) == tuple(
            needs.count(need) for need in ("first", "second", "dispute", None)
        )
        live = [1 for _, end, _ in self.model.held.values() if end > self.model.now]
        assert counts.leased == len(live)

    def teardown(self) -> None:
        for store in self.stores:
            store.close()


def _rows(queue: Queue) -> list:
    from annotator.log.schema import LEASES

    with queue.store.snapshot() as transaction:
        return list(transaction.connection.execute(LEASES.select()))


def folder_in_memory() -> tempfile.TemporaryDirectory:
    """A folder in memory where there is such a file system: these tests do not test a disk."""
    shm = Path("/dev/shm")
    return tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None)


def check(machine: Callable[[], Review], examples: int, steps: int) -> None:
    """Run so many interleavings of so many steps."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
