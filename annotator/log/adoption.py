"""Taking over the entries of another review store, as an import does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import sqlalchemy as sa

from annotator.log.access import Actor
from annotator.log.decisions import Entry
from annotator.log.rows import to_row
from annotator.log.rules import Step, check_key
from annotator.log.schema import LEASES, LOG, META
from hqvox.errors import HqvoxError


def adopt_entries(step: Step, entries: Sequence[Entry]) -> list[Entry]:
    """Append what is not here yet, in the order of the numbers there; returns what was new.

    See :meth:`annotator.log.store.Store.adopt`.
    """
    last_seq = step.connection.execute(sa.select(META.c.last_seq)).scalar_one()
    rows = step.connection.execute(sa.select(LOG.c.key, LOG.c.seq, LOG.c.undoes)).all()
    known = {row.key: row.seq for row in rows}
    undone = {row.undoes for row in rows if row.undoes is not None}
    here: dict[int, int] = {}  # number there to number here
    added: list[Entry] = []
    for entry in sorted(entries, key=lambda entry: entry.seq):
        check_key(entry.key)
        Actor(entry.decision.annotator, entry.role)
        if entry.key in known:
            here[entry.seq] = known[entry.key]
            continue
        target = _target(entry, here)
        if target in undone:
            continue
        if target is not None:
            undone.add(target)
        last_seq += 1
        here[entry.seq] = known[entry.key] = last_seq
        added.append(replace(entry, seq=last_seq, decision=replace(entry.decision, undoes=target)))
    if added:
        step.connection.execute(sa.update(META).values(last_seq=last_seq))
        step.connection.execute(sa.insert(LOG), [to_row(entry) for entry in added])
        touched = {entry.decision.identity_id for entry in added}
        step.connection.execute(
            sa.delete(LEASES).where(LEASES.c.identity_id == sa.bindparam("touched")),
            [{"touched": identity_id} for identity_id in touched],
        )
    return added


def _target(entry: Entry, here: dict[int, int]) -> int | None:
    """Number here of what the entry takes back, if it does."""
    undoes = entry.decision.undoes
    if undoes is None:
        return None
    if undoes not in here:
        raise HqvoxError(
            f"entry {entry.seq} takes back entry {undoes}, which is not among those taken over; "
            "export the whole log"
        )
    return here[undoes]
