"""Entries of the log as rows of its table, and back. Times are microseconds since 1970 UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from annotator.log.decisions import Decision, Entry, faces_from_json, faces_to_json
from annotator.log.schema import LOG

LIGHT = [column for column in LOG.c if column.name != "shown"]
"""All but the faces that were shown, which are most of what there is to read."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_us(time: datetime) -> int:
    """Microseconds since 1970 UTC of a time with a zone."""
    return (time - _EPOCH) // timedelta(microseconds=1)


def from_us(time_us: int) -> datetime:
    """Undo :func:`to_us`."""
    return _EPOCH + timedelta(microseconds=time_us)


def to_row(entry: Entry) -> dict[str, object]:
    """The columns of ``review_log``."""
    said = entry.decision
    return {
        "seq": entry.seq,
        "key": entry.key,
        "time_us": to_us(entry.time),
        "identity_id": said.identity_id,
        "kind": said.kind,
        "annotator": said.annotator,
        "role": entry.role,
        "settles": entry.settles,
        "anew": entry.anew,
        "undoes": said.undoes,
        "reason": said.reason,
        "comment": said.comment,
        "seconds": float(said.seconds),
        "fingerprint": said.fingerprint,
        "faces": faces_to_json(said.faces),
        "shown": faces_to_json(said.shown),
    }


def to_entry(row: sa.Row) -> Entry:
    """Undo :func:`to_row`; without the column ``shown``, ``Decision.shown`` stays empty."""
    said = Decision(
        identity_id=row.identity_id,
        kind=row.kind,
        faces=faces_from_json(row.faces),
        shown=faces_from_json(row.shown) if "shown" in row._fields else (),
        reason=row.reason,
        comment=row.comment,
        annotator=row.annotator,
        seconds=row.seconds,
        fingerprint=row.fingerprint,
        undoes=row.undoes,
    )
    return Entry(
        seq=row.seq,
        time=from_us(row.time_us),
        decision=said,
        key=row.key,
        role=row.role,
        settles=bool(row.settles),
        anew=bool(row.anew),
    )
