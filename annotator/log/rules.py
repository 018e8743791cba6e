"""Who may write what into the log. Called within the transaction that would write it."""

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
class Step:
    """What one transaction works with."""

    connection: sa.Connection
    now_us: int
    fold: Fold
    """Everything committed so far; nothing is added to it here, since the step may yet fail."""


def check_key(key: str) -> None:
    """Raise HqvoxError for a key that is empty, too long or no text."""
    if not 0 < len(key) <= KEY_LENGTH or not is_text(key):
        raise HqvoxError(f"key {key[:40]!r}: should have 1 to {KEY_LENGTH} characters")


def check_undoing(step: Step, decision: Decision, actor: Actor) -> None:
    """Raise HqvoxError where the actor may not take that back, or nobody can."""
    assert decision.undoes is not None
    undone = step.fold.standing(decision.undoes)
    where = f"decision {decision.undoes} cannot be undone"
    if undone is None:
        query = sa.select(LOG.c.kind).where(LOG.c.seq == decision.undoes)
        kind = step.connection.execute(query).scalar()
        because = {
            None: "there is none with that number",
            "undone": "it undoes another itself; decide again instead",
        }.get(kind, "it was undone already")
        raise HqvoxError(f"{where}: {because}")
    if undone.decision.identity_id != decision.identity_id:
        raise HqvoxError(f"{where} here: it is about {undone.decision.identity_id}")
    if undone.decision.annotator != actor.name and not actor.is_lead:
        raise HqvoxError(f"{where}: {undone.decision.annotator} made it; a lead can undo it")


def purpose_of(step: Step, decision: Decision, actor: Actor) -> Purpose:
    """What the decision is: what the actor holds the identity for.

    Without a lease it is an opinion, or a lead's word where there is a disagreement.

    Raises LeaseLostError where the identity is another's: leased to them now, or decided on by them
    while the actor held no lease. A lease that expired but that nobody took over still counts as
    held, because it still stands in the table: whoever takes an identity over replaces it, and
    whoever decides removes it.
    """
    identity_id = decision.identity_id
    query = sa.select(LEASES).where(LEASES.c.identity_id == identity_id)
    lease = step.connection.execute(query).first()
    mine = lease is not None and lease.annotator == actor.name
    if lease is not None and not mine and lease.expires_us > step.now_us:
        raise LeaseLostError(
            f"{identity_id}: {lease.annotator} works on it now; take the next identity"
        )
    verdict = step.fold.verdicts.get(identity_id)
    if verdict is not None and not mine:
        if actor.is_lead and (verdict.disputed or verdict.settlement is not None):
            return "dispute"
        if actor.name not in verdict.annotators:
            raise LeaseLostError(
                f"{identity_id}: somebody else decided on it meanwhile; take the next identity"
            )
    if lease is None or not mine:
        return "opinion"
    purpose: Purpose = lease.purpose
    return "opinion" if purpose == "dispute" and not actor.is_lead else purpose
