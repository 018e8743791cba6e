"""Checks of who may write what into the log, made in the transaction that writes it."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from annotator.log.access import Actor
from annotator.log.decisions import Decision, LeaseLostError, Purpose, is_text
from annotator.log.fold import Fold
from annotator.log.schema import LEASES, LOG
from hqvox.errors import HqvoxError

KEY_LENGTH = 200
"""Most characters of a key."""


@dataclass
class Transaction:
    """An open transaction on the store, with what it reads."""

    connection: sa.Connection
    now_us: int
    fold: Fold
    """All committed entries. Never add to it in a transaction, which may still fail."""


def check_key(key: str) -> None:
    """Raise HqvoxError for a key that is empty, too long or not valid text."""
    if not 0 < len(key) <= KEY_LENGTH or not is_text(key):
        raise HqvoxError(f"key {key[:40]!r}: should have 1 to {KEY_LENGTH} characters")


def check_undoing(transaction: Transaction, decision: Decision, actor: Actor) -> None:
    """Raise HqvoxError where the actor may not undo that entry, or nobody can."""
    assert decision.undoes is not None
    undone = transaction.fold.standing(decision.undoes)
    where = f"decision {decision.undoes} cannot be undone"
    if undone is None:
        query = sa.select(LOG.c.kind).where(LOG.c.seq == decision.undoes)
        kind = transaction.connection.execute(query).scalar()
        because = {
            None: "there is none with that number",
            "undone": "it undoes another itself; decide again instead",
        }.get(kind, "it was undone already")
        raise HqvoxError(f"{where}: {because}")
    if undone.decision.identity_id != decision.identity_id:
        raise HqvoxError(f"{where} here: it is about {undone.decision.identity_id}")
    if undone.decision.annotator != actor.name and not actor.is_lead:
        raise HqvoxError(f"{where}: {undone.decision.annotator} made it; a lead can undo it")


def purpose_of(
    transaction: Transaction, decision: Decision, actor: Actor, seen: str | None = None
) -> Purpose:
    """The purpose of a decision: that of the actor's lease on the identity.

    Without a lease it is an opinion; from a lead, where annotators disagree, a settlement.

    Raises LeaseLostError where another annotator holds the lease now, or has decided while the
    actor held no lease; or where the lease with the token ``seen`` has ended. An expired lease that
    nobody took over still counts as held: its row stays in the table until somebody takes the
    identity over or decides on it.
    """
    identity_id = decision.identity_id
    query = sa.select(LEASES).where(LEASES.c.identity_id == identity_id)
    lease = transaction.connection.execute(query).first()
    mine = lease is not None and lease.annotator == actor.name
    if lease is not None and not mine and lease.expires_us > transaction.now_us:
        raise LeaseLostError(
            f"{identity_id}: {lease.annotator} works on it now; take the next identity"
        )
    if seen is not None and (lease is None or lease.token != seen):
        raise LeaseLostError(f"{identity_id}: is no longer yours to decide on; take the next one")
    outcome = transaction.fold.outcomes.get(identity_id)
    if outcome is not None and not mine:
        if actor.is_lead and (outcome.disputed or outcome.settlement is not None):
            return "dispute"
        if actor.name not in outcome.annotators:
            raise LeaseLostError(
                f"{identity_id}: somebody else decided on it meanwhile; take the next identity"
            )
    if lease is None or not mine:
        return "opinion"
    purpose: Purpose = lease.purpose
    return "opinion" if purpose == "dispute" and not actor.is_lead else purpose
