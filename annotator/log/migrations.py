"""Migrations of a review store's schema, version by version.

A released version is never changed: a change gets the next number and a function that migrates from
the version before. The functions hold literal SQL and do not use :mod:`annotator.log.schema`, which
changes over time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import sqlalchemy as sa

from hqvox.errors import HqvoxError

_POSTGRES_LOCK = 0x6871766F78  # "hqvox": PostgreSQL's number of the lock that migrations take


def migrate(connection: sa.Connection, where: str) -> None:
    """Bring the store to the newest version, within the caller's writing transaction.

    Raises HqvoxError where a newer hqvox wrote it.
    """
    newest = max(MIGRATIONS)
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_POSTGRES_LOCK)))
    version = 0
    if sa.inspect(connection).has_table("review_meta"):
        stored = connection.execute(sa.text("SELECT version FROM review_meta")).scalar()
        if stored is None:
            raise HqvoxError(f"{where}: not a review store, or damaged; restore it from a copy")
        version = stored
    if version > newest:
        raise HqvoxError(
            f"{where}: a newer hqvox made this review store (version {version}, this one knows "
            f"{newest}); upgrade with: pip install --upgrade hqvox"
        )
    for number in range(version + 1, newest + 1):
        MIGRATIONS[number](connection)
        connection.execute(sa.text("UPDATE review_meta SET version = :v"), {"v": number})


def _first(connection: sa.Connection) -> None:
    """Version 1: the log, which refuses to be changed, leases and skips."""
    postgres = connection.dialect.name == "postgresql"
    for statement in (*_TABLES, *(_POSTGRES_TRIGGERS if postgres else _SQLITE_TRIGGERS)):
        if not postgres:  # where the rows themselves lie in the order of such a column
            statement = statement.replace("seq BIGINT PRIMARY KEY", "seq INTEGER PRIMARY KEY")
        connection.exec_driver_sql(statement)


_TABLES = (
    """CREATE TABLE review_meta (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        version INTEGER NOT NULL,
        last_seq BIGINT NOT NULL,
        last_number BIGINT NOT NULL,
        generation INTEGER NOT NULL,
        erasing INTEGER NOT NULL)""",
    "INSERT INTO review_meta VALUES (1, 0, 0, 0, 0, 0)",
    """CREATE TABLE review_log (
        seq BIGINT PRIMARY KEY,
        key TEXT NOT NULL UNIQUE,
        time_us BIGINT NOT NULL,
        identity_id TEXT NOT NULL,
        kind TEXT NOT NULL CHECK (kind IN ('chosen', 'dropped', 'undone')),
        annotator TEXT NOT NULL,
        role TEXT NOT NULL CHECK (role IN ('annotator', 'lead')),
        settles BOOLEAN NOT NULL,
        anew BOOLEAN NOT NULL,
        undoes BIGINT UNIQUE REFERENCES review_log (seq),
        reason TEXT,
        comment TEXT NOT NULL,
        seconds DOUBLE PRECISION NOT NULL,
        fingerprint TEXT NOT NULL,
        faces TEXT NOT NULL,
        shown TEXT NOT NULL)""",
    "CREATE INDEX review_log_identity ON review_log (identity_id)",
    "CREATE INDEX review_log_annotator ON review_log (annotator, seq)",
    """CREATE TABLE review_leases (
        identity_id TEXT PRIMARY KEY,
        annotator TEXT NOT NULL,
        token TEXT NOT NULL,
        purpose TEXT NOT NULL CHECK (purpose IN ('opinion', 'dispute', 'again')),
        number BIGINT NOT NULL,
        expires_us BIGINT NOT NULL)""",
    "CREATE INDEX review_leases_annotator ON review_leases (annotator)",
    """CREATE TABLE review_skips (
        annotator TEXT NOT NULL,
        identity_id TEXT NOT NULL,
        number BIGINT NOT NULL,
        PRIMARY KEY (annotator, identity_id))""",
)

# Append-only is held by the database, whoever connects. Only a transaction that has set `erasing`
# may change the log, as a purge does; it sets it back before it commits, so nobody else ever sees
# it set.
_SQLITE_TRIGGERS = (
    *(
        f"""CREATE TRIGGER review_log_no_{what.lower()} BEFORE {what} ON review_log
            WHEN (SELECT erasing FROM review_meta) = 0
            BEGIN SELECT RAISE(ABORT, 'review_log is append-only'); END"""
        for what in ("UPDATE", "DELETE")
    ),
    # INSERT OR REPLACE deletes what it replaces without asking the trigger above.
    """CREATE TRIGGER review_log_no_replace BEFORE INSERT ON review_log
        WHEN EXISTS (
            SELECT 1 FROM review_log
            WHERE seq = NEW.seq OR key = NEW.key OR undoes = NEW.undoes)
        BEGIN SELECT RAISE(ABORT, 'review_log is append-only'); END""",
)
_POSTGRES_TRIGGERS = (
    """CREATE FUNCTION review_log_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF (SELECT erasing FROM review_meta) = 0 THEN
                RAISE EXCEPTION 'review_log is append-only';
            END IF;
            IF TG_OP = 'DELETE' THEN RETURN OLD; ELSE RETURN NEW; END IF;
        END $$""",
    """CREATE TRIGGER review_log_no_change BEFORE UPDATE OR DELETE ON review_log
        FOR EACH ROW EXECUTE FUNCTION review_log_append_only()""",
    """CREATE TRIGGER review_log_no_truncate BEFORE TRUNCATE ON review_log
        FOR EACH STATEMENT EXECUTE FUNCTION review_log_append_only()""",
)


def _second(connection: sa.Connection) -> None:
    """Version 2: which workspace the store belongs to."""
    connection.exec_driver_sql("ALTER TABLE review_meta ADD COLUMN workspace TEXT")


MIGRATIONS: Mapping[int, Callable[[sa.Connection], None]] = {1: _first, 2: _second}
"""What leads to each version from the one before."""
