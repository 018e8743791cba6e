"""The review store: an append-only log of decisions, and the outcome of it.

Every change is one transaction; a decision is on the disk when :meth:`Store.append` returns.
Entries are never overwritten: an undo is an entry too. The one exception is :meth:`Store.forget`,
which erases what was taken down.
"""

from __future__ import annotations

import os
import secrets
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
from annotator.log.fold import MIN_OVERLAP, Fold, Outcome, fold
from annotator.log.migrations import migrate
from annotator.log.place import FILE, PLACE, has_store, store_url
from annotator.log.rules import Transaction, check_key, check_undoing, purpose_of
from annotator.log.schema import LEASES, LIGHT, LOG, META, SKIPS, from_us, to_entry, to_row, to_us
from hqvox.config.build import BuildConfig
from hqvox.errors import HqvoxError
from hqvox.workspace.layout import Workspace

__all__ = [
    "DROP_REASONS",
    "Actor",
    "Decision",
    "Entry",
    "FaceRef",
    "LeaseLostError",
    "Outcome",
    "Store",
    "fold",
    "has_store",
    "no_store",
    "open_store",
    "store_url",
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
    """An empty store for readers of a workspace that has none; removed afterwards."""
    with TemporaryDirectory() as folder, closing(Store.open(Path(folder) / FILE)) as store:
        yield store


class Store:
    """Decisions in a database; safe for threads. Open another one after a fork."""

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
        """Open a SQLite file, or PostgreSQL by url; made where missing, migrated where old.

        ``min_faces``, ``max_faces``: how many may be chosen; ``min_overlap``: from which two
        choices agree, see :mod:`annotator.log.fold`. ``clock``: of the times in the log and of
        leases. Default: PostgreSQL's own, so that machines whose clocks differ agree; this
        machine's for SQLite. ``workspace``: the owner of the decisions; a database stores its name.

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

    def append(
        self, decision: Decision, *, key: str, actor: Actor, lease: str | None = None
    ) -> Entry:
        """Write a decision and end the actor's lease on the identity.

        It is on the disk when this returns. The same ``key`` again returns the first entry and
        writes nothing. Refused with HqvoxError, checked in the same transaction:

        - an actor whose access was removed (AccessRemovedError);
        - a decision in another annotator's name;
        - too few or too many faces;
        - an identity that somebody else holds a lease on, or has decided on while the actor held
          none (LeaseLostError). An expired lease that nobody took over still counts as held;
        - where ``lease`` is given, the token of the lease that the actor saw the identity under:
          that lease has ended, as when they decided in another tab (LeaseLostError);
        - undoing another annotator's decision, unless the actor is a lead; undoing an entry that
          is undone already, or an undo.

        The entry has the purpose of the actor's lease; without a lease it is an opinion, or a
        settlement where the actor is a lead and the identity is disputed or settled.
        """
        decision = replace(decision, annotator=decision.annotator or actor.name)
        if decision.annotator != actor.name:
            raise HqvoxError(f"{actor.name} cannot decide in the name of {decision.annotator}")
        self._check_faces(decision)
        check_key(key)
        with self.transaction() as transaction:
            actor.check()
            known = transaction.connection.execute(sa.select(LOG).where(LOG.c.key == key)).first()
            if known is not None:
                return _same(to_entry(known), decision)
            purpose = None
            if decision.undoes is not None:
                check_undoing(transaction, decision, actor)
            else:
                purpose = purpose_of(transaction, decision, actor, lease)
                _end_turn(transaction, decision)
            entry = Entry(
                seq=_next_seq(transaction),
                time=from_us(transaction.now_us),
                decision=decision,
                key=key,
                role=actor.role,
                settles=purpose == "dispute",
                anew=purpose == "again",
            )
            transaction.connection.execute(sa.insert(LOG), to_row(entry))
        return entry

    def undo(self, seq: int, *, key: str, actor: Actor, comment: str = "") -> Entry:
        """Undo the entry with that number, by the rules of :meth:`append`."""
        with self.database.reading() as connection:
            query = sa.select(LOG.c.identity_id).where(LOG.c.seq == seq)
            identity_id = connection.execute(query).scalar()
        if identity_id is None:
            raise HqvoxError(f"decision {seq} cannot be undone: there is none with that number")
        decision = Decision(identity_id, "undone", undoes=seq, comment=comment)
        return self.append(decision, key=key, actor=actor)

    def adopt(self, entries: Sequence[Entry]) -> list[Entry]:
        """Import entries of another store, all or none of them; returns those that were new.

        Names, roles, times and keys are kept. Numbers are assigned by this store;
        ``Decision.undoes`` is a number of the other store. Entries whose key is known are skipped,
        so importing twice changes nothing. Leases and numbers of faces are not checked: they were
        where the entries were made. Leases on their identities end.

        Raises HqvoxError where an entry undoes one that is not among them.
        """
        with self.transaction() as transaction:
            return _adopt(transaction, entries)

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
    def transaction(self, durable: bool = True) -> Iterator[Transaction]:
        """A transaction that may write; writers run one at a time.

        ``durable``: on the disk when the block has ended, which leases need not be.
        """
        with self.database.writing(durable) as connection, self._open(connection) as transaction:
            yield transaction

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

    def state(self) -> dict[str, Outcome]:
        """The outcome of every identity that was decided on, by its id.

        ``Decision.shown`` is left empty; :meth:`entries` has it.
        """
        with self.snapshot() as transaction:
            return dict(transaction.fold.outcomes)

    def last(self, annotator: str) -> Entry | None:
        """The annotator's latest decision that is not undone: what their next undo undoes."""
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
    def snapshot(self) -> Iterator[Transaction]:
        """A transaction that only reads, and waits for no writer."""
        with self.database.reading() as connection, self._open(connection) as transaction:
            yield transaction

    @contextmanager
    def _open(self, connection: sa.Connection) -> Iterator[Transaction]:
        with self._folding:
            self._refresh(connection)
            yield Transaction(connection, self._now_us(connection), self._fold)

    def _refresh(self, connection: sa.Connection) -> None:
        """Add to the fold what the transaction sees; another thread may be ahead already."""
        query = sa.select(META.c.last_seq, META.c.generation)
        last_seq, generation = connection.execute(query).one()
        if generation > self._generation:  # entries were erased: fold all again
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


def _next_seq(transaction: Transaction) -> int:
    return transaction.connection.execute(
        sa.update(META).values(last_seq=META.c.last_seq + 1).returning(META.c.last_seq)
    ).scalar_one()


def _end_turn(transaction: Transaction, decision: Decision) -> None:
    """Remove the lease on the identity, also another annotator's expired one, and the skip."""
    here = decision.identity_id
    transaction.connection.execute(sa.delete(LEASES).where(LEASES.c.identity_id == here))
    transaction.connection.execute(
        sa.delete(SKIPS).where(SKIPS.c.annotator == decision.annotator, SKIPS.c.identity_id == here)
    )


def _same(known: Entry, decision: Decision) -> Entry:
    first = known.decision
    if (first.identity_id, first.annotator) != (decision.identity_id, decision.annotator):
        raise HqvoxError(f"key {known.key!r} belongs to another decision; make a new one")
    return known


def _adopt(transaction: Transaction, entries: Sequence[Entry]) -> list[Entry]:
    """Append entries whose key is unknown, in the order of their numbers; returns those."""
    last_seq = transaction.connection.execute(sa.select(META.c.last_seq)).scalar_one()
    rows = transaction.connection.execute(sa.select(LOG.c.key, LOG.c.seq, LOG.c.undoes)).all()
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
        transaction.connection.execute(sa.update(META).values(last_seq=last_seq))
        transaction.connection.execute(sa.insert(LOG), [to_row(entry) for entry in added])
        touched = {entry.decision.identity_id for entry in added}
        transaction.connection.execute(
            sa.delete(LEASES).where(LEASES.c.identity_id == sa.bindparam("touched")),
            [{"touched": identity_id} for identity_id in touched],
        )
    return added


def _target(entry: Entry, here: dict[int, int]) -> int | None:
    """Number in this store of the entry that this one undoes, if it is an undo."""
    undoes = entry.decision.undoes
    if undoes is None:
        return None
    if undoes not in here:
        raise HqvoxError(
            f"entry {entry.seq} undoes entry {undoes}, which is not among those imported; "
            "export the whole log"
        )
    return here[undoes]


def claim(connection: sa.Connection, workspace: Workspace, where: str) -> None:
    """Make the workspace the owner of a database, in the caller's writing transaction.

    A file is in its workspace, but a database is named by an address, which may be copied into
    another configuration. So both keep the same random name, which stays when a workspace is moved.
    Raises HqvoxError where the database belongs to another workspace.
    """
    storage = workspace.storage
    name = storage.read(PLACE).decode("utf-8", "replace").strip() if storage.exists(PLACE) else ""
    owner = connection.execute(sa.select(META.c.workspace)).scalar_one()
    if owner is None:
        name = name or secrets.token_hex(16)
        connection.execute(sa.update(META).values(workspace=name))
    elif name != owner:
        raise HqvoxError(
            f"{where}: holds the decisions of another workspace; name another database in "
            f"review.store, or, if {workspace.url} was made anew in its place, write {owner} into "
            f"{storage.shown(PLACE)}"
        )
    if not storage.exists(PLACE):
        storage.write(PLACE, f"{name}\n".encode())
