"""Assigning identities to annotators: orders, leases, second opinions, disputes.

Every method is one transaction on the store, so two annotators never hold the same identity, on
SQLite and PostgreSQL, in any number of processes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from annotator.log.access import Actor
from annotator.log.decisions import Purpose
from annotator.log.fold import Fold, Outcome
from annotator.log.rules import Transaction
from annotator.log.store import Store
from annotator.work.leases import Lease, LeaseTable, skipped, write_skip
from hqvox.config.review import Policy, ReviewConfig
from hqvox.errors import HqvoxError

__all__ = ["POLICIES", "Counts", "Lease", "Need", "Queue", "QueueItem", "is_second"]

POLICIES: tuple[str, ...] = get_args(Policy)
Need = Literal["first", "again", "second", "dispute"]


@dataclass(frozen=True)
class QueueItem:
    """An identity that people are to decide on."""

    identity_id: str
    candidates: int
    """How many faces there are to choose from."""
    certainty: float
    """Certainty of the automatic selection, 0 to 1."""


@dataclass(frozen=True)
class Counts:
    """How far the review is; ``total = first + second + disputed + done``."""

    total: int
    first: int
    """Nobody decided yet, or not since it changed."""
    second: int
    """Wait for a second annotator."""
    disputed: int
    """Wait for a lead."""
    done: int
    leased: int
    """Leased now; also counted above."""


class Queue:
    """Assigns identities to annotators. Safe for threads; several may run on one store.

    An annotator holds the identity on the screen, and at most one more that is loaded ahead.
    """

    def __init__(
        self,
        store: Store,
        items: Sequence[QueueItem],
        config: ReviewConfig,
        again: Mapping[str, int] | None = None,
    ) -> None:
        """``again``: see the attribute, which can also be set later."""
        self.store = store
        self.again: Mapping[str, int] = again or {}
        """Identities that changed since the entry with that number was made.

        They are assigned again, as if nobody had decided, also to those who did, until there is a
        newer decision. Settled ones are assigned to leads.
        """
        self.config = config
        self.items = {item.identity_id: item for item in items}
        self._orders: dict[str, list[str]] = {}
        self._fold: Fold | None = None  # the next three are read from it, up to entry _read
        self._read = 0
        self._done: set[str] = set()
        self._disputed: set[str] = set()
        fraction = config.second_fraction
        self._twice = {name for name in self.items if is_second(config.seed, fraction, name)}

    def next(
        self,
        actor: Actor,
        policy: Policy | None = None,
        skip: Collection[str] = (),
        reserve: bool = False,
    ) -> Lease | None:
        """The identity to work on: the one that the annotator holds already, else a new one.

        None where nothing is left for them. ``policy``: the configured one if None. ``skip``:
        identities that must not be assigned now; their leases are released. ``reserve``: hold the
        one after it too, in the same transaction, see :meth:`reserve_next`.
        """
        leases = self._hold(actor, policy, 2 if reserve else 1, skip)
        return leases[0] if leases else None

    def reserve_next(
        self, actor: Actor, policy: Policy | None = None, skip: Collection[str] = ()
    ) -> Lease | None:
        """Hold the identity that :meth:`next` gives after the present one, to load it ahead.

        None where there is none.
        """
        leases = self._hold(actor, policy, 2, skip)
        return leases[1] if len(leases) > 1 else None

    def peek(self, actor: Actor, policy: Policy | None = None) -> str | None:
        """The identity held ahead, else the one that probably comes next; takes no lease."""
        with self.store.snapshot() as transaction:
            table = LeaseTable(transaction, self.config.lease_seconds)
            held = [row.identity_id for row in table.of(actor.name)]
            if len(held) > 1:
                return held[1]
            free = self._free(transaction, actor, policy, table.live() | set(held))
            return next((name for name, _ in free), None)

    def lease(self, actor: Actor, identity_id: str) -> Lease | None:
        """Hold a particular identity, to be worked on first: after an undo, or from a list.

        None where somebody else holds it, or where the actor may not decide on it. Annotators may
        decide again on what they decided themselves, leads on what was settled.
        """
        with self.store.transaction(durable=False) as transaction:
            table = LeaseTable(transaction, self.config.lease_seconds)
            held = [row.identity_id for row in table.of(actor.name)]
            purpose = self._purpose(transaction.fold, actor, identity_id, own=True)
            if purpose is None or identity_id in table.live() - set(held):
                return None
            if held[:1] == [identity_id]:
                return table.keep(actor.name)[0]
            for name in held[1:]:
                table.drop(name)
            return table.take(actor, identity_id, purpose, first=True)

    def renew(self, lease: Lease) -> Lease | None:
        """Hold it, and what is held ahead, for another ``lease_seconds`` from now.

        None where it is lost: it had expired and somebody took it, or it was decided on.
        """
        with self.store.transaction(durable=False) as transaction:
            table = LeaseTable(transaction, self.config.lease_seconds)
            if table.find(lease) is None:
                return None
            kept = table.keep(lease.annotator, always=True)
            return next(one for one in kept if one.identity_id == lease.identity_id)

    def release(self, lease: Lease) -> None:
        """End the lease; nothing happens where it is lost already."""
        with self.store.transaction(durable=False) as transaction:
            table = LeaseTable(transaction, self.config.lease_seconds)
            if table.find(lease) is not None:
                table.drop(lease.identity_id)

    def skip(self, lease: Lease) -> None:
        """End the lease and assign the identity last, after all that was skipped before."""
        with self.store.transaction(durable=False) as transaction:
            table = LeaseTable(transaction, self.config.lease_seconds)
            if table.find(lease) is not None:
                table.drop(lease.identity_id)
                write_skip(transaction, lease.annotator, lease.identity_id)

    def counts(self) -> Counts:
        """How far the review is."""
        with self.store.snapshot() as transaction:
            needs = [self.need(name, transaction.fold.outcomes.get(name)) for name in self.items]
            live = LeaseTable(transaction, self.config.lease_seconds).live()
        first = needs.count("first") + needs.count("again")
        second, disputed, done = (needs.count(need) for need in ("second", "dispute", None))
        return Counts(len(needs), first, second, disputed, done, len(live & self.items.keys()))

    def disputes(self) -> list[str]:
        """Identities that wait for a lead, in the order of the configured policy."""
        outcomes = self.store.state()
        order = self._order(self.config.policy)
        return [name for name in order if self.need(name, outcomes.get(name)) == "dispute"]

    def need(self, identity_id: str, outcome: Outcome | None) -> Need | None:
        """What an identity needs next; None: nothing."""
        if identity_id not in self.items:
            return None
        if outcome is None:
            return "first"
        if outcome.holds is None:
            return "dispute"
        if outcome.latest <= self.again.get(identity_id, 0):
            return "again" if outcome.settlement is None else "dispute"
        return self._need_of_second(identity_id, outcome)

    def _need_of_second(self, identity_id: str, outcome: Outcome) -> Need | None:
        single = outcome.settlement is None and len(outcome.opinions) == 1
        return "second" if single and identity_id in self._twice else None

    def _hold(
        self, actor: Actor, policy: Policy | None, wanted: int, skip: Collection[str]
    ) -> list[Lease]:
        """What the actor holds, the one on the screen first, brought to ``wanted`` if possible."""
        with self.store.transaction(durable=False) as transaction:
            table = LeaseTable(transaction, self.config.lease_seconds)
            for row in table.of(actor.name):
                still = self._purpose(transaction.fold, actor, row.identity_id, own=True)
                if row.identity_id in skip or still is None:
                    table.drop(row.identity_id)
            leases = table.keep(actor.name)
            if len(leases) < wanted:
                passed = table.live() | {lease.identity_id for lease in leases} | set(skip)
                for name, purpose in self._free(transaction, actor, policy, passed):
                    leases.append(table.take(actor, name, purpose))
                    if len(leases) >= wanted:
                        break
            return leases

    def _free(
        self, transaction: Transaction, actor: Actor, policy: Policy | None, passed: Collection[str]
    ) -> Iterator[tuple[str, Purpose]]:
        """Identities that the actor may take, best first, and what for.

        A lead's disputes come before all else, those between others first.
        """
        self._read_on(transaction.fold)
        back = skipped(transaction, actor.name)
        late = set(back)
        order = self._order(policy or self.config.policy)
        order = [name for name in order if name not in late] + back if back else order
        if actor.is_lead:
            outcomes = transaction.fold.outcomes
            disputes = [
                name
                for name in self._disputed | self.again.keys()
                if self.need(name, outcomes.get(name)) == "dispute" and name not in passed
            ]
            if disputes:
                place = {name: number for number, name in enumerate(order)}
                disputes.sort(key=lambda n: (actor.name in outcomes[n].annotators, place[n]))
                for name in disputes:
                    yield name, "dispute"
        for name in order:
            if name in passed or (name in self._done and name not in self.again):
                continue
            purpose = self._purpose(transaction.fold, actor, name)
            if purpose is not None and purpose != "dispute":
                yield name, purpose

    def _read_on(self, fold: Fold) -> None:
        """Cache which identities are done or disputed: late in a review most are done.

        Called in a transaction, so by one thread at a time. ``again`` is not cached: it can be set.
        """
        if fold is not self._fold:
            self._fold, self._read = fold, 0
            self._done, self._disputed = set(), set()
        for name in fold.touched[self._read :]:
            self._done.discard(name)
            self._disputed.discard(name)
            outcome = fold.outcomes.get(name)
            if outcome is not None and outcome.disputed:
                self._disputed.add(name)
            elif outcome is not None and self._need_of_second(name, outcome) is None:
                self._done.add(name)
        self._read = len(fold.touched)

    def _purpose(
        self, fold: Fold, actor: Actor, identity_id: str, own: bool = False
    ) -> Purpose | None:
        """The purpose for which the actor may get an identity; None: may not.

        ``own``: also identities that they decided on themselves, and for leads settled ones.
        """
        outcome = fold.outcomes.get(identity_id)
        need = self.need(identity_id, outcome)
        if need == "again":
            return "again"
        if outcome is None or identity_id not in self.items:
            return None if need is None else "opinion"
        if actor.is_lead and (need == "dispute" or (own and outcome.settlement is not None)):
            return "dispute"
        if actor.name in outcome.annotators:
            return "opinion" if own else None
        return "opinion" if need == "second" else None

    def _order(self, policy: str) -> list[str]:
        if policy not in POLICIES:
            raise HqvoxError(f"{policy!r} is no policy; use one of {', '.join(POLICIES)}")
        if policy not in self._orders:
            seed = self.config.seed
            keys: dict[str, Callable[[QueueItem], tuple[float, str]]] = {
                "most_candidates": lambda item: (-item.candidates, item.identity_id),
                "least_certain": lambda item: (item.certainty, item.identity_id),
                "random": lambda item: (_share(f"order:{seed}:{item.identity_id}"), ""),
            }
            items = sorted(self.items.values(), key=keys[policy])
            self._orders[policy] = [item.identity_id for item in items]
        return self._orders[policy]


def is_second(seed: int, fraction: float, identity_id: str) -> bool:
    """Whether an identity is reviewed twice; depends on seed and id alone."""
    return _share(f"second:{seed}:{identity_id}") < fraction


def _share(text: str) -> float:
    """A number from 0 to 1 by the text's hash, uniformly distributed."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64
