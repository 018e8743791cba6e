"""SQLite and PostgreSQL, opened so that what is committed is on the disk and writers queue up."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from annotator.schema import META
from hqvox.errors import HqvoxError

BUSY_SECONDS = 30.0
"""How long a writer waits for the others before it gives up, s."""


class Database:
    """Transactions on a review store; safe for threads, not to be carried over a fork."""

    def __init__(self, url_or_path: str | os.PathLike[str]) -> None:
        """Raises HqvoxError for an address that is neither a file nor PostgreSQL's."""
        url = _as_url(url_or_path)
        self.where = url.render_as_string(hide_password=True)
        self.sqlite = url.get_backend_name() == "sqlite"
        if self.sqlite:
            self.where = url.database or ""
        self._turn = threading.RLock()
        with self._explained():
            self.engine = _sqlite_engine(url) if self.sqlite else _postgres_engine(url)

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that sees one state of the store. Raises HqvoxError."""
        with self._explained(), self.engine.connect() as connection:
            if not self.sqlite:
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                yield connection

    @contextmanager
    def writing(self, locked: bool = True) -> Iterator[sa.Connection]:
        """A transaction that no other writer runs beside; committed when the block ends well.

        ``locked=False``: for migrations, when there is no row to lock yet. Raises HqvoxError.
        """
        # Threads of this process wait for each other here, where waiting costs no polling.
        with self._turn, self._explained(), self.engine.connect() as connection:
            connection = connection.execution_options(hqvox_begin="BEGIN IMMEDIATE")
            with connection.begin():
                if locked and not self.sqlite:
                    connection.execute(sa.select(META.c.id).with_for_update())
                yield connection

    @contextmanager
    def plain(self) -> Iterator[sa.Connection]:
        """A connection without a transaction, for upkeep. Raises HqvoxError."""
        with self._explained(), self.engine.connect() as connection:
            level = {} if self.sqlite else {"isolation_level": "AUTOCOMMIT"}
            yield connection.execution_options(hqvox_begin="", **level)

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            raise HqvoxError(f"{self.where}: {_remedy(error)}") from error
        except ImportError as error:
            raise HqvoxError(
                f"{self.where}: PostgreSQL needs another package: pip install 'hqvox[postgres]' "
                f"({error})"
            ) from None


def _as_url(url_or_path: str | os.PathLike[str]) -> sa.URL:
    text = os.fspath(url_or_path)
    if "://" not in text:
        return sa.URL.create("sqlite+pysqlite", database=str(Path(text).absolute()))
    shown = f"{text.split('://')[0]}://…"  # never more: it may hold a password
    try:
        url = sa.make_url(text)
        backend = url.get_backend_name()
    except (ArgumentError, NoSuchModuleError, ValueError):
        raise HqvoxError(f"review store {shown}: no address of a database") from None
    if backend in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    if backend == "sqlite" and url.database and url.database != ":memory:":
        return url.set(drivername="sqlite+pysqlite")
    raise HqvoxError(f"review store {shown}: should be a file, or postgresql://user@host/name")


def _sqlite_engine(url: sa.URL) -> sa.Engine:
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_SECONDS})

    @sa.event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions begin where we say so, below
        for pragma in (
            "journal_mode = WAL",  # readers and the writer do not wait for each other
            "synchronous = FULL",  # a commit is on the disk when it returns
            "foreign_keys = ON",
            "secure_delete = ON",  # what is erased is overwritten
        ):
            connection.execute(f"PRAGMA {pragma}").close()

    @sa.event.listens_for(engine, "begin")
    def _begun(connection: sa.Connection) -> None:
        # A writer takes the lock at once: one that starts to read and then writes could fail.
        begin = connection.get_execution_options().get("hqvox_begin", "BEGIN")
        if begin:
            connection.exec_driver_sql(begin)

    return engine


def _postgres_engine(url: sa.URL) -> sa.Engine:
    engine = sa.create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": 10})

    @sa.event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET synchronous_commit TO on")
            cursor.execute(f"SET lock_timeout TO {int(BUSY_SECONDS * 1000)}")
        connection.commit()

    return engine


def _remedy(error: DBAPIError) -> str:
    """One line for what a database refused, with what to do about it."""
    said = " ".join(str(error.orig).split())
    remedies = {
        "not a database": "not a review store, or damaged; restore it from a copy, or name another",
        "malformed": "damaged; restore it from a copy",
        "locked": "somebody else is writing for too long; end what holds the file open",
        "lock timeout": "somebody else is writing for too long; end what holds the table",
        "full": "the disk is full; free some space and try again",
        "readonly": "cannot be written; choose a place that you may write",
        "read-only": "cannot be written; choose a place that you may write",
        "unable to open": "cannot be opened; see that the folder is there and may be written",
        "locking protocol": "this file system cannot lock; put the file on a local disk",
    }
    for sign, remedy in remedies.items():
        if sign in said.lower():
            return remedy
    return f"the database refused: {said[:200]}"
