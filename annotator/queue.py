"""Who works on which identity: orders, leases, second opinions, disputes.

Every step is one transaction of the store, so two annotators never get the same identity, on
SQLite and PostgreSQL alike, from however many processes.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, get_args

import sqlalchemy as sa

from annotator.access import Actor
from annotator.fold import Verdict
from annotator.schema import LEASES, META, SKIPS
from annotator.store import Step, Store, from_us
from hqvox.config_review import Policy, ReviewConfig
from hqvox.errors import HqvoxError

POLICIES: tuple[str, ...] = get_args(Policy)
Need = Literal["first", "second", "dispute"]


@dataclass(frozen=True)
class QueueItem:
    """An identity that people are to decide on."""

    identity_id: str
    candidates: int
    """How many faces there are to choose from."""
    certainty: float
    """How sure the machine is of its own pick, 0 to 1."""


@dataclass(frozen=True)
class Lease:
    """An identity that is held for an annotator."""

    identity_id: str
    annotator: str
    token: str
    """Tells this lease from any other on the same identity."""
    expires: datetime
    """UTC; from then on somebody else may take it."""
    dispute: bool = False
    """Two annotators disagree, and the lead who holds it settles that."""


@dataclass(frozen=True)
class Counts:
    """How far the review is; ``total = first + second + disputed + done``."""

    total: int
    first: int
    """Nobody decided yet."""
    second: int
    """Wait for a second annotator."""
    disputed: int
    """Wait for a lead."""
    done: int
    leased: int
    """Held by somebody now; they are counted above as well."""


class Queue:
    """Gives identities to annotators. Safe for threads; several may run on one store."""

    def __init__(self, store: Store, items: Sequence[QueueItem], config: ReviewConfig) -> None:
        self.store = store
        self.config = config
        self.items = {item.identity_id: item for item in items}
        self._orders: dict[str, list[str]] = {}
        self._twice = {
            name for name in self.items if is_second(config.seed, config.second_fraction, name)
        }

    def next(
        self,
        actor: Actor,
        policy: Policy | None = None,
        skip: Collection[str] = (),
        reserve: bool = False,
    ) -> Lease | None:
        """The identity to work on: the one that the annotator holds already, else a new one.

        None where nothing is left for them. ``skip``: identities that are not to be given.
        ``reserve``: hold the one after it too, in the same transaction, see :meth:`reserve_next`.
        """
        leases = self._hold(actor, policy, 2 if reserve else 1, skip)
        return leases[0] if leases else None

    def reserve_next(
        self, actor: Actor, policy: Policy | None = None, skip: Collection[str] = ()
    ) -> Lease | None:
        """Hold the identity that :meth:`next` will give after the present one, to load ahead."""
        leases = self._hold(actor, policy, 2, skip)
        return leases[1] if len(leases) > 1 else None

    def peek(self, actor: Actor, policy: Policy | None = None) -> str | None:
        """The identity that probably comes after the present one; nothing is held for it."""
        with self.store.step() as step:
            held = self._held(step, actor)
            if len(held) > 1:
                return held[1].identity_id
            passed = {row.identity_id for row in held}
            return next(self._free(step, actor, policy, passed), (None, False))[0]

    def lease(self, actor: Actor, identity_id: str) -> Lease | None:
        """Hold a particular identity, to be worked on first: after an undo, or from a list.

        None where somebody else holds it, or where it is not theirs to decide on (again).
        """
        with self.store.step() as step:
            held = self._held(step, actor)
            for row in held:
                if row.identity_id == identity_id:
                    number = min(r.number for r in held) - 1 if row is not held[0] else row.number
                    return self._write(step, actor, identity_id, row.dispute, number)
            verdict = step.fold.verdicts.get(identity_id)
            need = self.need(identity_id, verdict)
            dispute = (
                actor.is_lead
                and verdict is not None
                and (need == "dispute" or verdict.settlement is not None)
            )
            own = verdict is not None and actor.name in _names(verdict)
            may = dispute or own or need == "first" or (need == "second" and not own)
            if identity_id in self._taken(step, actor) or not may:
                return None
            for row in held[1:]:
                self._delete(step, row.identity_id)
            number = held[0].number - 1 if held else self._number(step)
            return self._write(step, actor, identity_id, dispute, number)

    def renew(self, lease: Lease) -> Lease | None:
        """Hold it, and what is reserved with it, for another ``lease_seconds`` from now.

        None where it is lost: it had expired and somebody took it, or it was decided on.
        """
        with self.store.step() as step:
            row = self._row(step, lease)
            if row is None:
                return None
            expires_us = self._expiry(step)
            step.connection.execute(
                sa.update(LEASES)
                .where(LEASES.c.annotator == lease.annotator)
                .values(expires_us=expires_us)
            )
        return Lease(
            row.identity_id, row.annotator, row.token, from_us(expires_us), bool(row.dispute)
        )

    def release(self, lease: Lease) -> None:
        """Give it back; nothing happens where it is lost already."""
        with self.store.step() as step:
            if self._row(step, lease) is not None:
                self._delete(step, lease.identity_id)

    def skip(self, lease: Lease) -> None:
        """Give it back, and have it last: after all else, and all that was skipped before."""
        with self.store.step() as step:
            if self._row(step, lease) is None:
                return
            self._delete(step, lease.identity_id)
            where = SKIPS.c.annotator == lease.annotator, SKIPS.c.identity_id == lease.identity_id
            step.connection.execute(sa.delete(SKIPS).where(*where))
            step.connection.execute(
                sa.insert(SKIPS),
                {
                    "annotator": lease.annotator,
                    "identity_id": lease.identity_id,
                    "number": self._number(step),
                },
            )

    def counts(self) -> Counts:
        """How far the review is."""
        with self.store.step() as step:
            verdicts = step.fold.verdicts
            needs = [self.need(name, verdicts.get(name)) for name in self.items]
            query = sa.select(LEASES.c.identity_id).where(LEASES.c.expires_us > step.now_us)
            leased = sum(name in self.items for name in step.connection.execute(query).scalars())
        first, second, disputed = (needs.count(n) for n in get_args(Need))
        done = len(needs) - first - second - disputed
        return Counts(len(needs), first, second, disputed, done, leased)

    def disputes(self) -> list[str]:
        """Identities that wait for a lead, in the order of the configured policy."""
        verdicts = self.store.state()
        order = self._order(self.config.policy)
        return [name for name in order if self.need(name, verdicts.get(name)) == "dispute"]

    def need(self, identity_id: str, verdict: Verdict | None) -> Need | None:
        """What an identity waits for; None: for nothing."""
        if identity_id not in self.items:
            return None
        if verdict is None:
            return "first"
        if verdict.status == "disputed":
            return "dispute"
        single = verdict.settlement is None and len(verdict.opinions) == 1
        return "second" if single and identity_id in self._twice else None

    # Steps within a transaction ----------------------------------------------------------------

    def _hold(
        self, actor: Actor, policy: Policy | None, wanted: int, skip: Collection[str]
    ) -> list[Lease]:
        with self.store.step() as step:
            rows = self._held(step, actor)
            for row in rows:
                if row.identity_id in skip:
                    self._delete(step, row.identity_id)
            rows = [row for row in rows if row.identity_id not in skip]
            leases = [self._write(step, actor, r.identity_id, r.dispute, r.number) for r in rows]
            if len(leases) < wanted:
                passed = {lease.identity_id for lease in leases} | set(skip)
                for identity_id, dispute in self._free(step, actor, policy, passed):
                    number = self._number(step)
                    leases.append(self._write(step, actor, identity_id, dispute, number))
                    if len(leases) >= wanted:
                        break
            return leases

    def _held(self, step: Step, actor: Actor) -> list[sa.Row]:
        query = sa.select(LEASES).where(LEASES.c.annotator == actor.name).order_by(LEASES.c.number)
        return list(step.connection.execute(query))

    def _taken(self, step: Step, actor: Actor) -> set[str]:
        query = sa.select(LEASES.c.identity_id).where(
            LEASES.c.annotator != actor.name, LEASES.c.expires_us > step.now_us
        )
        return set(step.connection.execute(query).scalars())

    def _free(
        self, step: Step, actor: Actor, policy: Policy | None, passed: Collection[str]
    ) -> Iterator[tuple[str, bool]]:
        """Identities that the actor may take, and whether to settle: best first."""
        query = (
            sa.select(SKIPS.c.identity_id)
            .where(SKIPS.c.annotator == actor.name)
            .order_by(SKIPS.c.number)
        )
        skipped = list(step.connection.execute(query).scalars())
        not_now = self._taken(step, actor) | set(passed)
        late = set(skipped)
        order = self._order(policy or self.config.policy)
        rest = [name for name in order if name not in late] + skipped
        verdicts = step.fold.verdicts
        if actor.is_lead:
            for name in rest:
                verdict = verdicts.get(name)
                if name not in not_now and self.need(name, verdict) == "dispute":
                    yield name, True
        for name in rest:
            if name in not_now:
                continue
            verdict = verdicts.get(name)
            need = self.need(name, verdict)
            if need == "first" or (
                need == "second" and verdict is not None and actor.name not in _names(verdict)
            ):
                yield name, False

    def _order(self, policy: str) -> list[str]:
        if policy not in POLICIES:
            raise HqvoxError(f"{policy!r} is no policy; use one of {', '.join(POLICIES)}")
        if policy not in self._orders:
            key: Callable[[QueueItem], tuple[float, str]] = {
                "most_candidates": lambda item: (-item.candidates, item.identity_id),
                "least_certain": lambda item: (item.certainty, item.identity_id),
                "random": lambda item: (_share(f"order:{self.config.seed}:{item.identity_id}"), ""),
            }[policy]
            self._orders[policy] = [i.identity_id for i in sorted(self.items.values(), key=key)]
        return self._orders[policy]

    def _row(self, step: Step, lease: Lease) -> sa.Row | None:
        where = LEASES.c.identity_id == lease.identity_id, LEASES.c.token == lease.token
        return step.connection.execute(sa.select(LEASES).where(*where)).first()

    def _write(
        self, step: Step, actor: Actor, identity_id: str, dispute: bool, number: int
    ) -> Lease:
        token, expires_us = secrets.token_hex(8), self._expiry(step)
        old = step.connection.execute(
            sa.select(LEASES).where(LEASES.c.identity_id == identity_id)
        ).first()
        if old is not None and old.annotator == actor.name:
            token = old.token
        if old is not None:
            self._delete(step, identity_id)
        row = {
            "identity_id": identity_id,
            "annotator": actor.name,
            "token": token,
            "dispute": dispute,
            "number": number,
            "expires_us": expires_us,
        }
        step.connection.execute(sa.insert(LEASES), row)
        return Lease(identity_id, actor.name, token, from_us(expires_us), bool(dispute))

    def _delete(self, step: Step, identity_id: str) -> None:
        step.connection.execute(sa.delete(LEASES).where(LEASES.c.identity_id == identity_id))

    def _expiry(self, step: Step) -> int:
        return step.now_us + round(self.config.lease_seconds * 1_000_000)

    def _number(self, step: Step) -> int:
        return step.connection.execute(
            sa.update(META).values(last_number=META.c.last_number + 1).returning(META.c.last_number)
        ).scalar_one()


def is_second(seed: int, fraction: float, identity_id: str) -> bool:
    """Whether an identity goes to two annotators; the same for everybody, at any time."""
    return _share(f"second:{seed}:{identity_id}") < fraction


def _share(text: str) -> float:
    """A text's place between 0 and 1, evenly spread."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64


def _names(verdict: Verdict) -> set[str]:
    return {entry.decision.annotator for entry in verdict.opinions}
