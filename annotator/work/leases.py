"""Leases and skips in the database: the statements that the queue is made of."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from annotator.log.access import Actor
from annotator.log.decisions import Purpose
from annotator.log.rules import Transaction
from annotator.log.schema import LEASES, META, SKIPS, from_us


@dataclass(frozen=True)
class Lease:
    """An identity that is held for an annotator."""

    identity_id: str
    annotator: str
    token: str
    """Tells this lease from any other on the same identity."""
    expires: datetime
    """UTC; from then on somebody else may take it."""
    purpose: Purpose = "opinion"

    @property
    def dispute(self) -> bool:
        """Whether annotators disagree, and the lead who holds it is to settle that."""
        return self.purpose == "dispute"


class LeaseTable:
    """The leases as one transaction finds and leaves them."""

    def __init__(self, transaction: Transaction, lease_seconds: float) -> None:
        self._transaction = transaction
        self._expires_us = transaction.now_us + round(lease_seconds * 1_000_000)
        self._late_us = transaction.now_us + round(lease_seconds * 500_000)
        rows = transaction.connection.execute(sa.select(LEASES).order_by(LEASES.c.number))
        self._rows = {row.identity_id: row for row in rows}

    def of(self, annotator: str) -> list[sa.Row]:
        """An annotator's, the one on the screen first; also expired ones that nobody took."""
        return [row for row in self._rows.values() if row.annotator == annotator]

    def live(self) -> set[str]:
        """Identities that somebody holds."""
        now_us = self._transaction.now_us
        return {name for name, row in self._rows.items() if row.expires_us > now_us}

    def find(self, lease: Lease) -> sa.Row | None:
        """The row of a lease, unless it is lost."""
        row = self._rows.get(lease.identity_id)
        return row if row is not None and row.token == lease.token else None

    def take(self, actor: Actor, identity_id: str, purpose: Purpose, first: bool = False) -> Lease:
        """Hold an identity that nobody else does; ``first``: before what the actor holds."""
        self.drop(identity_id)
        held = self.of(actor.name)
        token = secrets.token_hex(8)
        row = {
            "identity_id": identity_id,
            "annotator": actor.name,
            "token": token,
            "purpose": purpose,
            "number": held[0].number - 1 if first and held else next_number(self._transaction),
            "expires_us": self._expires_us,
        }
        self._transaction.connection.execute(sa.insert(LEASES), row)
        return Lease(identity_id, actor.name, token, from_us(self._expires_us), purpose)

    def keep(self, annotator: str, always: bool = False) -> list[Lease]:
        """Hold what an annotator holds for longer; without ``always`` only when half is over."""
        rows = self.of(annotator)
        if any(always or row.expires_us < self._late_us for row in rows):
            self._transaction.connection.execute(
                sa.update(LEASES)
                .where(LEASES.c.annotator == annotator)
                .values(expires_us=self._expires_us)
            )
            expiries = [self._expires_us] * len(rows)
        else:
            expiries = [row.expires_us for row in rows]
        return [
            Lease(row.identity_id, annotator, row.token, from_us(expires_us), row.purpose)
            for row, expires_us in zip(rows, expiries, strict=True)
        ]

    def drop(self, identity_id: str) -> None:
        """Hold it no longer."""
        if self._rows.pop(identity_id, None) is not None:
            here = LEASES.c.identity_id == identity_id
            self._transaction.connection.execute(sa.delete(LEASES).where(here))


def skipped(transaction: Transaction, annotator: str) -> list[str]:
    """What an annotator skipped, longest ago first."""
    query = sa.select(SKIPS.c.identity_id).where(SKIPS.c.annotator == annotator)
    return list(transaction.connection.execute(query.order_by(SKIPS.c.number)).scalars())


def write_skip(transaction: Transaction, annotator: str, identity_id: str) -> None:
    """Note a skip, as the latest."""
    here = SKIPS.c.annotator == annotator, SKIPS.c.identity_id == identity_id
    transaction.connection.execute(sa.delete(SKIPS).where(*here))
    row = {"annotator": annotator, "identity_id": identity_id, "number": next_number(transaction)}
    transaction.connection.execute(sa.insert(SKIPS), row)


def next_number(transaction: Transaction) -> int:
    """A number higher than all before."""
    return transaction.connection.execute(
        sa.update(META).values(last_number=META.c.last_number + 1).returning(META.c.last_number)
    ).scalar_one()
