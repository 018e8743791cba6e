"""A PostgreSQL server of one's own, where its programs are installed."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

_numbers = count()


class Server:
    """A server on a Unix socket; everybody may log in as postgres."""

    def __init__(self, folder: Path, start: Callable[[], None], stop: Callable[[], None]) -> None:
        self.folder, self._start, self._stop = folder, start, stop

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stopped within the block."""
        self._stop()
        try:
            yield
        finally:
            self._start()

    def new_database(self) -> str:
        """Url of an empty database."""
        import psycopg

        name = f"review_{next(_numbers)}"
        with psycopg.connect(host=str(self.folder), user="postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql://postgres@/{name}?host={self.folder}"


@contextmanager
def running() -> Iterator[Server]:
    """A server; the test is skipped where none can be started."""
    pytest.importorskip("psycopg")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin")) or [Path("/usr/local/bin")]
    programs = found[-1]
    if not (programs / "initdb").exists():
        pytest.skip("PostgreSQL is not installed")
    as_owner: list[str] = []
    if os.geteuid() == 0:  # which the server refuses to run as
        try:
            owner = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
        if shutil.which("runuser") is None:
            pytest.skip("PostgreSQL does not run as root, and there is no runuser")
        as_owner = ["runuser", "-u", "postgres", "--"]
    # Not pytest's folder: the owner must be able to enter it, and a socket's path must be short.
    folder = Path(tempfile.mkdtemp(prefix="hqvox-pg-"))
    try:
        if as_owner:
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        data = str(folder / "data")
        _run(
            [*as_owner, programs / "initdb", "-D", data, "-A", "trust", "-U", "postgres", "-N"],
            folder,
        )
        control = [*as_owner, programs / "pg_ctl", "-D", data, "-w", "-l", folder / "log"]
        options = ["-o", f"-k {folder} -c listen_addresses= -c fsync=off"]

        def start() -> None:
            _run([*control, *options, "start"], folder)

        def stop() -> None:
            _run([*control, "-m", "immediate", "stop"], folder)

        start()
        try:
            yield Server(folder, start, stop)
        finally:
            stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(command: list[object], folder: Path) -> None:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"PostgreSQL cannot be started here: {(done.stderr or done.stdout)[-300:]}")
