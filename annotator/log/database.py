"""SQLite and PostgreSQL with durable commits and one writer at a time."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, TimeoutError

from annotator.log.decisions import StoreAwayError
from annotator.log.schema import META
from hqvox.errors import HqvoxError
from hqvox.workspace.locks import try_lock
from hqvox.workspace.storage import disk_error

BUSY_SECONDS = 30.0
"""How long a writer waits for the others before it gives up, s."""


class Database:
    """Transactions on a review store; safe for threads, not for use after a fork."""

    def __init__(self, url_or_path: str | os.PathLike[str]) -> None:
        """Raises HqvoxError for anything but a SQLite file or a PostgreSQL url.

        Also where a SQLite file holds the tables of another program, or its folder is missing.
        """
        url = _as_url(url_or_path)
        # Options can hold a password too.
        self.where = url.set(query={}).render_as_string(hide_password=True)
        self.sqlite = url.get_backend_name() == "sqlite"
        if self.sqlite:
            self.where = url.database or ""
        try:
            self.engine = _sqlite_engine(url) if self.sqlite else _postgres_engine(url)
        except ImportError as error:
            raise HqvoxError(
                f"{self.where}: PostgreSQL needs another package: pip install 'hqvox[postgres]' "
                f"({error})"
            ) from None
        if self.sqlite:
            _check_file(Path(self.where))
        self._turn = _Turn(self.where) if self.sqlite else None

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that sees one state of the store. Raises StoreAwayError."""
        with self._explained(), self.engine.connect() as connection:
            if not self.sqlite:
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                yield connection

    @contextmanager
    def writing(self, durable: bool = True, first: bool = False) -> Iterator[sa.Connection]:
        """The only writing transaction; committed when the block ends without an error.

        ``durable``: on the disk then. Without it a power cut may lose the whole transaction, which
        is acceptable for leases. ``first``: there may be no tables yet. Raises StoreAwayError.
        """
        turn = nullcontext() if self._turn is None else self._turn.waited_for()
        with turn, self._explained(), self.engine.connect() as connection:
            connection = connection.execution_options(
                hqvox_begin="BEGIN IMMEDIATE", hqvox_durable=durable
            )
            with connection.begin():
                if not self.sqlite and not durable:
                    connection.exec_driver_sql("SET LOCAL synchronous_commit TO off")
                if not self.sqlite and not first:
                    connection.execute(sa.select(META.c.id).with_for_update())
                yield connection

    @contextmanager
    def plain(self) -> Iterator[sa.Connection]:
        """A connection without a transaction, for upkeep. Raises StoreAwayError."""
        with self._explained(), self.engine.connect() as connection:
            level = {} if self.sqlite else {"isolation_level": "AUTOCOMMIT"}
            yield connection.execution_options(hqvox_begin="", **level)

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()
        if self._turn is not None:
            self._turn.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            raise StoreAwayError(f"{self.where}: {_remedy(error)}") from error
        except TimeoutError:
            raise StoreAwayError(
                f"{self.where}: too much is read from it at once; try again"
            ) from None


class _Turn:
    """A lock for the writers of a SQLite file, in this process and in others.

    SQLite polls for its lock: with twenty writers at once some wait for seconds. The kernel wakes
    whoever waits for a file lock. SQLite's lock still protects the file; with this one nobody waits
    for it. The lock is released when the process ends.
    """

    def __init__(self, where: str) -> None:
        self._where, self._path = where, f"{where}-turn"
        self._threads = threading.Lock()
        self._closed = False
        os.close(self._open())

    @contextmanager
    def waited_for(self) -> Iterator[None]:
        """Hold the turn within the block. Raises StoreAwayError after ``BUSY_SECONDS``."""
        deadline = time.monotonic() + BUSY_SECONDS
        if not self._threads.acquire(timeout=BUSY_SECONDS):
            raise self._too_long()
        try:
            assert not self._closed, "the store was closed"
            try:
                handle = self._open()
            except HqvoxError as error:
                raise StoreAwayError(str(error)) from None
            if not _locked(handle, deadline - time.monotonic()):
                raise self._too_long()
            try:
                yield
            finally:
                os.close(handle)  # the lock goes with it
        finally:
            self._threads.release()

    def close(self) -> None:
        with self._threads:
            self._closed = True

    def _open(self) -> int:
        try:
            return os.open(self._path, os.O_RDONLY | os.O_CREAT, 0o644)
        except OSError as error:
            raise disk_error(error, self._path) from None

    def _too_long(self) -> HqvoxError:
        return StoreAwayError(
            f"{self._where}: another process has been writing for {BUSY_SECONDS:.0f} s; wait, or "
            f"end the one that `fuser {self._path}` names (it may be stopped)"
        )


def _locked(handle: int, seconds: float) -> bool:
    """Whether the lock on an open file was taken in time; the file is closed where it was not."""
    if try_lock(handle):
        return True
    decided = threading.Lock()  # taken first by either the lock's arrival or the timeout

    def wait() -> None:
        # flock has no timeout, so a thread waits for the lock, and we wait for the thread.
        fcntl.flock(handle, fcntl.LOCK_EX)
        if not decided.acquire(blocking=False):
            os.close(handle)

    waiting = threading.Thread(target=wait, name="turn", daemon=True)
    waiting.start()
    waiting.join(max(seconds, 0.0))
    if waiting.is_alive() and decided.acquire(blocking=False):
        return False
    waiting.join()
    return True


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
        return url.set(drivername="sqlite+pysqlite", database=str(Path(url.database).absolute()))
    raise HqvoxError(f"review store {shown}: should be a file, or postgresql://user@host/name")


def _check_file(path: Path) -> None:
    """Raises HqvoxError where no review store is there and none can be made."""
    if not path.parent.is_dir():
        raise HqvoxError(
            f"{path.parent}: no such folder; make it, or name another place for the review store"
        )
    if not path.is_file() or not path.stat().st_size:
        return
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            tables = sorted(name for (name,) in rows)
    except sqlite3.Error:
        return  # opening it says what is wrong
    if tables and not any(name.startswith("review_") for name in tables):
        raise HqvoxError(
            f"{path}: not a review store: it holds other tables ({', '.join(tables[:3])}); name "
            "another file"
        )


def _sqlite_engine(url: sa.URL) -> sa.Engine:
    path = Path(str(url.database))
    known = False  # whether the file was there: then no other is made in its place

    def connect() -> sqlite3.Connection:
        address = f"{path.absolute().as_uri()}?mode={'rw' if known else 'rwc'}"
        return sqlite3.connect(address, BUSY_SECONDS, uri=True, check_same_thread=False)

    engine = sa.create_engine(url, creator=connect)

    @sa.event.listens_for(engine, "connect")
    def _connected(connection: Any, record: Any) -> None:
        nonlocal known
        connection.isolation_level = None  # transactions begin where we say so, below
        for pragma in (
            "journal_mode = WAL",  # readers and the writer do not wait for each other
            "foreign_keys = ON",
            "secure_delete = ON",  # what is erased is overwritten
        ):
            connection.execute(f"PRAGMA {pragma}").close()
        record.info["file"] = _file_at(path)
        known = True

    @sa.event.listens_for(engine, "checkout")
    def _taken(_connection: Any, record: Any, _proxy: Any) -> None:
        # Else decisions would go on into a file that was moved away, and maybe nobody looks at.
        if record.info["file"] != _file_at(path):
            raise sa.exc.DisconnectionError("the file was moved")

    @sa.event.listens_for(engine, "begin")
    def _begun(connection: sa.Connection) -> None:
        # A writer takes the lock at once: one that starts to read and then writes could fail.
        options = connection.get_execution_options()
        # FULL: a commit is on the disk when it returns; NORMAL: with the next one that is.
        level = "FULL" if options.get("hqvox_durable", True) else "NORMAL"
        connection.exec_driver_sql(f"PRAGMA synchronous = {level}")
        if begin := options.get("hqvox_begin", "BEGIN"):
            connection.exec_driver_sql(begin)

    return engine


def _file_at(path: Path) -> tuple[int, int] | None:
    """What tells a file from any other at the same path; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


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
    message = " ".join(str(error.orig).split())
    remedies = {
        "not a database": "not a review store, or damaged; restore it from a copy, or name another",
        "malformed": "damaged; restore it from a copy",
        "no such table": "not a review store, or damaged; restore it from a copy",
        "locked": "somebody else is writing for too long; end what holds the file open",
        "lock timeout": "somebody else is writing for too long; end what holds the table",
        "full": "the disk is full; free some space and try again",
        "readonly": "cannot be written; choose a place that you may write",
        "read-only": "cannot be written; choose a place that you may write",
        "unable to open": "cannot be opened; see that the folder is there and may be written",
        "connection failed": "cannot be reached; see that the server runs, and who may log in",
        "connection is bad": "cannot be reached; see that the server runs",
        "locking protocol": "this file system cannot lock; put the file on a local disk",
    }
    for sign, remedy in remedies.items():
        if sign in message.lower():
            return remedy
    return f"the database refused: {message[:200]}"
