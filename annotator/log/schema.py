"""The tables of a review store, and the entries of the log as rows.

``review_log`` is the log of decisions and all that matters; the others say who works on what. Times
are microseconds since 1970 UTC.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from operator import attrgetter

import sqlalchemy as sa

from annotator.log.decisions import (
    DECISION_COLUMNS,
    FLAG_COLUMNS,
    Decision,
    Entry,
    faces_from_json,
    faces_to_json,
)

metadata = sa.MetaData()

META = sa.Table(
    "review_meta",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),  # 1: there is one row
    sa.Column("version", sa.Integer, nullable=False),  # of this schema
    sa.Column("last_seq", sa.BigInteger, nullable=False),  # highest number ever given in the log
    sa.Column("last_number", sa.BigInteger, nullable=False),  # the same of leases and skips
    sa.Column("generation", sa.Integer, nullable=False),  # how often entries were erased
    sa.Column("erasing", sa.Integer, nullable=False),  # 1 only within an erasing transaction
    sa.Column("workspace", sa.Text),  # the owner, see annotator.log.store.claim
)
"""One row. Every transaction that writes locks it first, so writers queue up here."""

LOG = sa.Table(
    "review_log",
    metadata,
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("key", sa.Text, nullable=False, unique=True),
    sa.Column("time_us", sa.BigInteger, nullable=False),
    sa.Column("identity_id", sa.Text, nullable=False, index=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("annotator", sa.Text, nullable=False, index=True),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("settles", sa.Boolean, nullable=False),
    sa.Column("anew", sa.Boolean, nullable=False),
    sa.Column("undoes", sa.BigInteger, unique=True),
    sa.Column("reason", sa.Text),
    sa.Column("comment", sa.Text, nullable=False),
    sa.Column("seconds", sa.Double, nullable=False),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("faces", sa.Text, nullable=False),  # JSON, see annotator.log.decisions.faces_to_json
    sa.Column("shown", sa.Text, nullable=False),  # the same; last, because it is long
)

LEASES = sa.Table(
    "review_leases",
    metadata,
    sa.Column("identity_id", sa.Text, primary_key=True),
    sa.Column("annotator", sa.Text, nullable=False, index=True),
    sa.Column("token", sa.Text, nullable=False),
    sa.Column("purpose", sa.Text, nullable=False),  # annotator.log.decisions.Purpose
    sa.Column("number", sa.BigInteger, nullable=False),  # an annotator's first one is on the screen
    sa.Column("expires_us", sa.BigInteger, nullable=False),
)

SKIPS = sa.Table(
    "review_skips",
    metadata,
    sa.Column("annotator", sa.Text, primary_key=True),
    sa.Column("identity_id", sa.Text, primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False),  # the one skipped first comes back first
)

LIGHT = [column for column in LOG.c if column.name != "shown"]
"""All but the faces that were shown, which are most of what there is to read."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_us(time: datetime) -> int:
    """Microseconds since 1970 UTC of a time with a zone."""
    return (time - _EPOCH) // timedelta(microseconds=1)


def from_us(time_us: int) -> datetime:
    """Undo :func:`to_us`."""
    return _EPOCH + timedelta(microseconds=time_us)


_columns_of_decision = attrgetter(*DECISION_COLUMNS)


def to_row(entry: Entry) -> dict[str, object]:
    """The columns of ``review_log``."""
    decision = entry.decision
    return {
        "seq": entry.seq,
        "key": entry.key,
        "time_us": to_us(entry.time),
        **{name: getattr(entry, name) for name in FLAG_COLUMNS},
        **{name: getattr(decision, name) for name in DECISION_COLUMNS},
        "seconds": float(decision.seconds),
        "faces": faces_to_json(decision.faces),
        "shown": faces_to_json(decision.shown),
    }


def to_entry(row: sa.Row) -> Entry:
    """Undo :func:`to_row`; without the column ``shown``, ``Decision.shown`` stays empty."""
    decision = Decision(
        **dict(zip(DECISION_COLUMNS, _columns_of_decision(row), strict=True)),
        faces=faces_from_json(row.faces),
        shown=faces_from_json(row.shown) if "shown" in row._fields else (),
    )
    return Entry(
        seq=row.seq,
        time=from_us(row.time_us),
        decision=decision,
        key=row.key,
        **{name: getattr(row, name) for name in FLAG_COLUMNS},
    )
