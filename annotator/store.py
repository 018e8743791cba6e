"""The review store: an append-only log of decisions, and what it amounts to.

Every step is one transaction; a decision is on the disk when :meth:`Store.append` returns. Nothing
is ever overwritten: taking back is an entry too. The one exception is :meth:`Store.forget`, by
which a takedown reaches the log.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from annotator.access import Actor
from annotator.database import Database
from annotator.decisions import (
    DROP_REASONS,
    Decision,
    Entry,
    FaceRef,
    Kind,
    LeaseLostError,
    faces_from_json,
    faces_to_json,
)
from annotator.erasure import Forgotten, forget_entries
from annotator.fold import MIN_OVERLAP, Fold, Verdict, fold
from annotator.migrations import migrate
from annotator.place import has_store, store_url
from annotator.schema import LEASES, LOG, META, SKIPS
from hqvox.config import BuildConfig
from hqvox.errors import HqvoxError
from hqvox.workspace import Workspace

__all__ = [
    "DROP_REASONS", "Actor", "Decision", "Entry", "FaceRef", "LeaseLostError", "Store", "Verdict",
    "fold", "has_store", "open_store", "store_url",
]  # fmt: skip

Clock = Callable[[], datetime]
KEY_LENGTH = 200
"""Most characters of a key."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LIGHT = [column for column in LOG.c if column.name != "shown"]


def open_store(workspace: Workspace, config: BuildConfig | None = None) -> Store:
    """The workspace's store with the limits of its configuration; made where there is none."""
    config = config or workspace.config()
    return Store.open(
        store_url(workspace),
        min_faces=config.release.min_faces,
        max_faces=config.release.max_faces,
        min_overlap=config.review.min_overlap,
    )


@dataclass
class Step:
    """What one writing transaction works with."""

    connection: sa.Connection
    now_us: int
    fold: Fold
    """Everything committed so far; not to be added to here, since the step may yet fail."""


class Store:
    """Decisions in a database; safe for threads. After a fork, open it anew."""

    def __init__(
        self,
        database: Database,
        *,
        min_faces: int = 3,
        max_faces: int = 7,
        min_overlap: float = MIN_OVERLAP,
        clock: Clock | None = None,
    ) -> None:
        self.database = database
        self.min_faces = min_faces
        self.max_faces = max_faces
        self._clock = clock
        self._fold = Fold(min_overlap)
        self._seen = 0  # last_seq up to which the fold goes
        self._generation = 0
        self._folding = threading.RLock()

    @classmethod
    def open(
        cls,
        url_or_path: str | os.PathLike[str],
        *,
        min_faces: int = 3,
        max_faces: int = 7,
        min_overlap: float = MIN_OVERLAP,
        clock: Clock | None = None,
    ) -> Store:
        """A SQLite file, or PostgreSQL by url; made where there is none, migrated where old.

        ``clock``: of the times in the log and of leases. Default: PostgreSQL's own, so that
        machines whose clocks differ agree; this machine's for SQLite.

        Raises HqvoxError where it cannot be opened, or where a newer hqvox made it.
        """
        database = Database(url_or_path)
        try:
            with database.writing(locked=False) as connection:
                migrate(connection, database.where)
        except HqvoxError:
            database.close()
            raise
        return cls(
            database,
            min_faces=min_faces,
            max_faces=max_faces,
            min_overlap=min_overlap,
            clock=clock,
        )

    def close(self) -> None:
        """Close every connection."""
        self.database.close()

    # Writing -----------------------------------------------------------------------------------

    def append(self, decision: Decision, *, key: str, actor: Actor) -> Entry:
        """Write a decision; when this returns, it is on the disk. Its lease ends with it.

        The same ``key`` again gives the first entry back and writes nothing. Refused
        (HqvoxError), each within the transaction that would have written it:

        - a decision in another's name;
        - too few or too many faces;
        - an identity that somebody else holds a lease on, or has decided on while the actor held
          none (LeaseLostError). An expired lease that nobody took over still counts as held;
        - taking back what another decided, unless the actor is a lead; what was taken back
          already; and an undoing itself.

        A lead's decision on a disputed or settled identity settles it.
        """
        decision = replace(decision, annotator=decision.annotator or actor.name)
        if decision.annotator != actor.name:
            raise HqvoxError(f"{actor.name} cannot decide in the name of {decision.annotator}")
        self._check_faces(decision)
        if not 0 < len(key) <= KEY_LENGTH or "\0" in key:
            raise HqvoxError(f"key {key[:40]!r}: should have 1 to {KEY_LENGTH} characters")
        with self.step() as step:
            known = step.connection.execute(sa.select(LOG).where(LOG.c.key == key)).first()
            if known is not None:
                return _same(_entry(known), decision)
            settles = self._check_undo(step, decision, actor)
            if decision.undoes is None:
                settles = self._check_turn(step, decision, actor)
            seq = step.connection.execute(
                sa.update(META).values(last_seq=META.c.last_seq + 1).returning(META.c.last_seq)
            ).scalar_one()
            entry = Entry(seq, from_us(step.now_us), decision, key, actor.role, settles)
            step.connection.execute(sa.insert(LOG), _row(entry))
            if decision.undoes is None:
                self._end_turn(step, decision)
        return entry

    def undo(self, seq: int, *, key: str, actor: Actor, comment: str = "") -> Entry:
        """Take back the entry with that number, as :meth:`append` does."""
        with self.database.reading() as connection:
            query = sa.select(LOG.c.identity_id).where(LOG.c.seq == seq)
            identity_id = connection.execute(query).scalar()
        if identity_id is None:
            raise HqvoxError(f"decision {seq} cannot be undone: there is none with that number")
        decision = Decision(identity_id, "undone", undoes=seq, comment=comment)
        return self.append(decision, key=key, actor=actor)

    def forget(
        self, identity_ids: Collection[str] = (), photo_ids: Collection[str] = ()
    ) -> Forgotten:
        """Erase identities and photographs from the log, as a takedown must.

        The one exception to append-only; see :mod:`annotator.erasure`.
        """
        return forget_entries(self.database, identity_ids, photo_ids, self.min_faces)

    @contextmanager
    def step(self) -> Iterator[Step]:
        """A writing transaction with the present time and the fold; for the queue as well."""
        with self.database.writing() as connection, self._folding:
            self._refresh(connection)
            yield Step(connection, self._now_us(connection), self._fold)

    def _check_faces(self, decision: Decision) -> None:
        count, low, high = len(decision.faces), self.min_faces, self.max_faces
        if decision.kind == "chosen" and not low <= count <= high:
            raise HqvoxError(
                f"{decision.identity_id}: {count} faces chosen; choose {low} to {high}, or drop it"
            )

    def _check_undo(self, step: Step, decision: Decision, actor: Actor) -> bool:
        if decision.undoes is None:
            return False
        undone = step.fold.standing(decision.undoes)
        where = f"decision {decision.undoes} cannot be undone"
        if undone is None:
            query = sa.select(LOG.c.kind).where(LOG.c.seq == decision.undoes)
            kind = step.connection.execute(query).scalar()
            because = {
                None: "there is none with that number",
                "undone": "it undoes another itself; decide again instead",
            }.get(kind, "it was already")
            raise HqvoxError(f"{where}: {because}")
        if undone.decision.identity_id != decision.identity_id:
            raise HqvoxError(f"{where} here: it is about {undone.decision.identity_id}")
        if undone.decision.annotator != actor.name and not actor.is_lead:
            raise HqvoxError(f"{where}: {undone.decision.annotator} made it; a lead can undo it")
        return False

    def _check_turn(self, step: Step, decision: Decision, actor: Actor) -> bool:
        """Refuse what is another's; whether the decision settles a dispute."""
        identity_id = decision.identity_id
        lease = step.connection.execute(
            sa.select(LEASES).where(LEASES.c.identity_id == identity_id)
        ).first()
        if lease is not None and lease.annotator != actor.name and lease.expires_us > step.now_us:
            raise LeaseLostError(
                f"{identity_id}: {lease.annotator} works on it now; take the next one"
            )
        mine = lease if lease is not None and lease.annotator == actor.name else None
        verdict = step.fold.verdicts.get(identity_id)
        if actor.is_lead and mine is not None and mine.dispute:
            return True
        if verdict is None:
            return False
        if actor.is_lead and (verdict.status == "disputed" or verdict.settlement):
            return True
        own = any(entry.decision.annotator == actor.name for entry in verdict.opinions)
        if mine is None and not own:
            raise HqvoxError(
                f"{identity_id}: decided by somebody else meanwhile; take the next one"
            )
        return False

    def _end_turn(self, step: Step, decision: Decision) -> None:
        """Remove the lease, also one of another that expired: that one has lost its turn now."""
        identity_id = decision.identity_id
        step.connection.execute(sa.delete(LEASES).where(LEASES.c.identity_id == identity_id))
        step.connection.execute(
            sa.delete(SKIPS).where(
                SKIPS.c.identity_id == identity_id, SKIPS.c.annotator == decision.annotator
            )
        )

    def _now_us(self, connection: sa.Connection) -> int:
        if self._clock is not None:
            return to_us(self._clock())
        if self.database.sqlite:
            return to_us(datetime.now(UTC))
        return to_us(connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one())

    # Reading -----------------------------------------------------------------------------------

    def entries(
        self,
        after: int = 0,
        *,
        identity_ids: Collection[str] | None = None,
        annotator: str | None = None,
        kind: Kind | None = None,
        reason: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        newest_first: bool = False,
        limit: int | None = None,
        shown: bool = True,
    ) -> list[Entry]:
        """Entries with numbers above ``after`` that pass every filter, in order.

        ``since`` is included, ``until`` is not. ``shown=False`` leaves ``Decision.shown`` empty,
        which is most of what there is to read.
        """
        query = sa.select(*(LOG.c if shown else _LIGHT))
        query = query.where(LOG.c.seq > after)
        for name, value in {"annotator": annotator, "kind": kind, "reason": reason}.items():
            if value is not None:
                query = query.where(LOG.c[name] == value)
        if identity_ids is not None:
            query = query.where(LOG.c.identity_id.in_(list(identity_ids)))
        if since is not None:
            query = query.where(LOG.c.time_us >= to_us(since))
        if until is not None:
            query = query.where(LOG.c.time_us < to_us(until))
        query = query.order_by(LOG.c.seq.desc() if newest_first else LOG.c.seq).limit(limit)
        with self.database.reading() as connection:
            return [_entry(row) for row in connection.execute(query)]

    def state(self) -> dict[str, Verdict]:
        """The fold: what holds now for every identity that was decided on.

        ``Decision.shown`` is left empty; read :meth:`entries` for it.
        """
        with self.database.reading() as connection, self._folding:
            self._refresh(connection)
            return dict(self._fold.verdicts)

    def last(self, annotator: str) -> Entry | None:
        """The annotator's latest decision that was not undone: what their next undo takes back."""
        undoing = LOG.alias()
        query = (
            sa.select(LOG)
            .where(LOG.c.annotator == annotator, LOG.c.kind != "undone")
            .where(~sa.exists().where(undoing.c.undoes == LOG.c.seq))
            .order_by(LOG.c.seq.desc())
            .limit(1)
        )
        with self.database.reading() as connection:
            row = connection.execute(query).first()
        return None if row is None else _entry(row)

    def last_seq(self) -> int:
        """Number of the last entry; changes whenever there is something new to read."""
        with self.database.reading() as connection:
            return connection.execute(sa.select(META.c.last_seq)).scalar_one()

    def _refresh(self, connection: sa.Connection) -> None:
        """Bring the fold up to what the transaction sees."""
        last_seq, generation = connection.execute(
            sa.select(META.c.last_seq, META.c.generation)
        ).one()
        if generation != self._generation:
            self._fold = Fold(self._fold.min_overlap)
            self._seen, self._generation = 0, generation
        if last_seq > self._seen:
            query = sa.select(*_LIGHT).where(LOG.c.seq > self._seen).order_by(LOG.c.seq)
            self._fold.add(_entry(row) for row in connection.execute(query))
            self._seen = last_seq


def to_us(time: datetime) -> int:
    """Microseconds since 1970 UTC."""
    return (time - _EPOCH) // timedelta(microseconds=1)


def from_us(time_us: int) -> datetime:
    """Undo :func:`to_us`."""
    return _EPOCH + timedelta(microseconds=time_us)


def _same(known: Entry, decision: Decision) -> Entry:
    first = known.decision
    if (first.identity_id, first.annotator) != (decision.identity_id, decision.annotator):
        raise HqvoxError(f"key {known.key!r} belongs to another decision; make a new one")
    return known


def _row(entry: Entry) -> dict[str, object]:
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
        "undoes": said.undoes,
        "reason": said.reason,
        "comment": said.comment,
        "seconds": float(said.seconds),
        "fingerprint": said.fingerprint,
        "faces": faces_to_json(said.faces),
        "shown": faces_to_json(said.shown),
    }


def _entry(row: sa.Row) -> Entry:
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
    return Entry(row.seq, from_us(row.time_us), said, row.key, row.role, bool(row.settles))
