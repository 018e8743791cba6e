"""Erasing identities and photographs from the log of decisions: the exception to append-only.

A takedown must leave nothing of a person, so entries of the log are erased too: all entries on an
erased identity, with its leases; of other identities' entries, the faces of an erased photograph.
Where a choice then has too few faces left, its entry is erased (with its undo), and the identity is
reviewed again. Numbers of erased entries are never reused.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import sqlalchemy as sa

from annotator.log.database import Database
from annotator.log.decisions import faces_from_json, faces_to_json
from annotator.log.schema import LEASES, LOG, META, SKIPS
from hqvox.errors import HqvoxError


@dataclass(frozen=True)
class Forgotten:
    """Counts of what was erased."""

    removed: int = 0
    """Entries that were erased."""
    shortened: int = 0
    """Entries that lost a face that was chosen or shown."""


def named_in(connection: sa.Connection) -> tuple[set[str], set[str]]:
    """Ids of all identities and photographs that the database names."""
    identities: set[str] = set()
    for table in (LOG, LEASES, SKIPS):
        identities.update(connection.execute(sa.select(table.c.identity_id).distinct()).scalars())
    photos: set[str] = set()
    for texts in connection.execute(sa.select(LOG.c.faces, LOG.c.shown)):
        photos.update(face.photo_id for text in texts for face in faces_from_json(text))
    return identities, photos


def forget_entries(
    database: Database, identity_ids: Collection[str], photo_ids: Collection[str], min_faces: int
) -> Forgotten:
    """Erase in one transaction, then overwrite the deleted rows in the file."""
    gone, photos = set(identity_ids), set(photo_ids)
    if not gone and not photos:
        _overwrite(database)  # what a call before this one erased, and could not overwrite
        return Forgotten()
    with database.writing() as connection:
        connection.execute(sa.update(META).values(erasing=1))
        doomed: set[int] = set()
        shortened = 0
        columns = LOG.c.seq, LOG.c.identity_id, LOG.c.kind, LOG.c.undoes, LOG.c.faces, LOG.c.shown
        for row in connection.execute(sa.select(*columns).order_by(LOG.c.seq)).all():
            if row.identity_id in gone or row.undoes in doomed:
                doomed.add(row.seq)
                continue
            if not photos:
                continue
            old = [faces_from_json(text) for text in (row.faces, row.shown)]
            faces, shown = (tuple(f for f in fs if f.photo_id not in photos) for fs in old)
            if faces != old[0] and len(faces) < min_faces:
                doomed.add(row.seq)
            elif [faces, shown] != old:
                shortened += 1
                connection.execute(
                    sa.update(LOG)
                    .where(LOG.c.seq == row.seq)
                    .values(faces=faces_to_json(faces), shown=faces_to_json(shown))
                )
        for seq in sorted(doomed, reverse=True):  # an undo before the entry that it undoes
            connection.execute(sa.delete(LOG).where(LOG.c.seq == seq))
        for identity_id in gone:
            connection.execute(sa.delete(LEASES).where(LEASES.c.identity_id == identity_id))
            connection.execute(sa.delete(SKIPS).where(SKIPS.c.identity_id == identity_id))
        connection.execute(sa.update(META).values(erasing=0, generation=META.c.generation + 1))
    _overwrite(database)
    return Forgotten(len(doomed), shortened)


def _overwrite(database: Database) -> None:
    """Free and overwrite the pages that still hold bytes of the erased rows."""
    with database.plain() as connection:
        if not database.sqlite:
            connection.exec_driver_sql("VACUUM FULL review_log")
            return
        # In the file `secure_delete` has overwritten them; the write-ahead log has old pages.
        busy = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").scalar()
    if busy:
        raise HqvoxError(
            f"{database.where}: erased, but somebody is reading it, so the bytes are still in its "
            "-wal file; close the review UI and run the same command again"
        )
