"""The review store: an append-only log of decisions, and what it amounts to.

Every step is one transaction; a decision is on the disk when :meth:`Store.append` returns. Nothing
is ever overwritten: taking back is an entry too. The one exception is :meth:`Store.forget`, by
which a takedown reaches the log.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import sqlalchemy as sa

from annotator.log.access import Actor
from annotator.log.database import Database
from annotator.log.decisions import DROP_REASONS, Decision, Entry, FaceRef, Kind, LeaseLostError
from annotator.log.erasure import Forgotten, forget_entries, named_in
from annotator.log.fold import MIN_OVERLAP, Fold, Verdict, fold
from annotator.log.migrations import migrate
from annotator.log.ownership import claim
from annotator.log.place import FILE, has_store, store_url
from annotator.log.rules import Step, check_key, check_undoing, purpose_of
from annotator.log.schema import LEASES, LIGHT, LOG, META, SKIPS, from_us, to_entry, to_row, to_us
from hqvox.config.build import BuildConfig
from hqvox.errors import HqvoxError
from hqvox.workspace.layout import Workspace

__all__ = [
    "DROP_REASONS", "Actor", "Decision", "Entry", "FaceRef", "LeaseLostError", "Store", "Verdict",
    "fold", "has_store", "no_store", "open_store", "store_url",
]  # fmt: skip

Clock = Callable[[], datetime]


def open_store(workspace: Workspace, config: BuildConfig | None = None) -> Store:
    """The workspace's store with the limits of its configuration; made where there is none.

    Raises HqvoxError where it cannot be opened.
    """
    config = config or workspace.config()
    return Store.open(
        store_url(workspace),
        min_faces=config.release.min_faces,
        max_faces=config.release.max_faces,
        min_overlap=config.review.min_overlap,
        workspace=workspace,
    )


@contextmanager
def no_store() -> Iterator[Store]:
    """A store that nobody wrote to, for who only reads where there is none; gone afterwards."""
    with TemporaryDirectory() as folder, closing(Store.open(Path(folder) / FILE)) as store:
        yield store


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
        """See :meth:`open`; ``database`` has the present schema."""
        self.database = database
        self.min_faces = min_faces
        self.max_faces = max_faces
        self._clock = clock
        self._fold = Fold(min_overlap)
        self._seen = 0  # last_seq up to which the fold goes
        self._generation = 0
        self._folding = threading.Lock()

    @classmethod
    def open(
        cls,
        url_or_path: str | os.PathLike[str],
        *,
        min_faces: int = 3,
        max_faces: int = 7,
        min_overlap: float = MIN_OVERLAP,
        clock: Clock | None = None,
        workspace: Workspace | None = None,
    ) -> Store:
        """A SQLite file, or PostgreSQL by url; made where there is none, migrated where old.

        ``min_faces``, ``max_faces``: how many may be chosen; ``min_overlap``: from where on two
        choices agree, see :mod:`annotator.log.fold`. ``clock``: of the times in the log and of
        leases. Default: PostgreSQL's own, so that machines whose clocks differ agree; this
        machine's for SQLite. ``workspace``: whose decisions these are, which a database remembers.

        Raises HqvoxError where it cannot be opened, where a newer hqvox made it, or where it is
        another workspace's.
        """
        database = Database(url_or_path)
        limits = {"min_faces": min_faces, "max_faces": max_faces}
        try:
            with database.writing(first=True) as connection:
                migrate(connection, database.where)
                if workspace is not None and not database.sqlite:
                    claim(connection, workspace, database.where)
        except HqvoxError:
            database.close()
            raise
        return cls(database, **limits, min_overlap=min_overlap, clock=clock)

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

        The decision is what the identity was given out for; without a lease an opinion, or a
        lead's word where it is disputed or settled.
        """
        decision = replace(decision, annotator=decision.annotator or actor.name)
        if decision.annotator != actor.name:
            raise HqvoxError(f"{actor.name} cannot decide in the name of {decision.annotator}")
        self._check_faces(decision)
        check_key(key)
        with self.step() as step:
            known = step.connection.execute(sa.select(LOG).where(LOG.c.key == key)).first()
            if known is not None:
                return _same(to_entry(known), decision)
            purpose = None
            if decision.undoes is not None:
                check_undoing(step, decision, actor)
            else:
                purpose = purpose_of(step, decision, actor)
                _end_turn(step, decision)
            entry = Entry(
                seq=_next_seq(step),
                time=from_us(step.now_us),
                decision=decision,
                key=key,
                role=actor.role,
                settles=purpose == "dispute",
                anew=purpose == "again",
            )
            step.connection.execute(sa.insert(LOG), to_row(entry))
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

    def adopt(self, entries: Sequence[Entry]) -> list[Entry]:
        """Take over entries of another store, all or none of them; returns those that were new.

        Names, roles, times and keys stay as they are, numbers become this store's, and
        ``Decision.undoes`` is read as a number of the other store. What has a key that is here
        already is passed over, so taking the same entries over again does nothing. No rule about
        turns or numbers of faces holds for them: they held where the entries were made. Leases on
        their identities end.

        Raises HqvoxError where an entry takes back one that is not among them.
        """
        with self.step() as step:
            return _adopt(step, entries)

    def subjects(self) -> tuple[set[str], set[str]]:
        """Ids of all identities and photographs that the log, leases and skips name."""
        with self.database.reading() as connection:
            return named_in(connection)

    def forget(
        self, identity_ids: Collection[str] = (), photo_ids: Collection[str] = ()
    ) -> Forgotten:
        """Erase identities and photographs from the log, as a takedown must.

        The one exception to append-only; see :mod:`annotator.log.erasure`.
        """
        return forget_entries(self.database, identity_ids, photo_ids, self.min_faces)

    @contextmanager
    def step(self, durable: bool = True) -> Iterator[Step]:
        """A transaction that may write, and that no other writer runs beside.

        ``durable``: it is on the disk when the block has ended, as leases need not be.
        """
        with self.database.writing(durable) as connection, self._step(connection) as step:
            yield step

    def _check_faces(self, decision: Decision) -> None:
        count, low, high = len(decision.faces), self.min_faces, self.max_faces
        if decision.kind == "chosen" and not low <= count <= high:
            raise HqvoxError(
                f"{decision.identity_id}: {count} faces chosen; choose {low} to {high}, or drop it"
            )

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
        query = sa.select(*(LOG.c if shown else LIGHT)).where(LOG.c.seq > after)
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
            return [to_entry(row) for row in connection.execute(query)]

    def state(self) -> dict[str, Verdict]:
        """The fold: what holds now for every identity that was decided on.

        ``Decision.shown`` is left empty; read :meth:`entries` for it.
        """
        with self.look() as step:
            return dict(step.fold.verdicts)

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
        return None if row is None else to_entry(row)

    def last_seq(self) -> int:
        """Number of the last entry; changes whenever there is something new to read."""
        with self.database.reading() as connection:
            return connection.execute(sa.select(META.c.last_seq)).scalar_one()

    @contextmanager
    def look(self) -> Iterator[Step]:
        """A transaction that only reads, and waits for no writer."""
        with self.database.reading() as connection, self._step(connection) as step:
            yield step

    @contextmanager
    def _step(self, connection: sa.Connection) -> Iterator[Step]:
        with self._folding:
            self._refresh(connection)
            yield Step(connection, self._now_us(connection), self._fold)

    def _refresh(self, connection: sa.Connection) -> None:
        """Bring the fold up to what the transaction sees; it may be further already."""
        query = sa.select(META.c.last_seq, META.c.generation)
        last_seq, generation = connection.execute(query).one()
        if generation > self._generation:  # entries were erased: begin anew
            self._fold = Fold(self._fold.min_overlap)
            self._seen, self._generation = 0, generation
        if generation == self._generation and last_seq > self._seen:
            query = sa.select(*LIGHT).where(LOG.c.seq > self._seen).order_by(LOG.c.seq)
            self._fold.add(to_entry(row) for row in connection.execute(query))
            self._seen = last_seq

    def _now_us(self, connection: sa.Connection) -> int:
        if self._clock is not None:
            return to_us(self._clock())
        if self.database.sqlite:
            return to_us(datetime.now(UTC))
        return to_us(connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one())


def _next_seq(step: Step) -> int:
    return step.connection.execute(
        sa.update(META).values(last_seq=META.c.last_seq + 1).returning(META.c.last_seq)
    ).scalar_one()


def _end_turn(step: Step, decision: Decision) -> None:
    """Remove the lease; also another's that expired, since their turn is over with this."""
    here = decision.identity_id
    step.connection.execute(sa.delete(LEASES).where(LEASES.c.identity_id == here))
    step.connection.execute(
        sa.delete(SKIPS).where(SKIPS.c.annotator == decision.annotator, SKIPS.c.identity_id == here)
    )


def _same(known: Entry, decision: Decision) -> Entry:
    first = known.decision
    if (first.identity_id, first.annotator) != (decision.identity_id, decision.annotator):
        raise HqvoxError(f"key {known.key!r} belongs to another decision; make a new one")
    return known


def _adopt(step: Step, entries: Sequence[Entry]) -> list[Entry]:
    """Append what is not here yet, in the order of the numbers there; returns what was new."""
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
