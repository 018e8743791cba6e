"""All file access of a build: atomic writes, range reads, listing; a folder and s3:// alike.

A file is written to a temporary sibling, flushed to disk and renamed, so a reader sees the whole
file or none. On an object store the finished file is uploaded in one piece, which has the same
effect. What the operating system refuses becomes a :class:`HqvoxError` that names the remedy.
"""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import fsspec
import fsspec.utils

from hqvox.errors import HqvoxError

TEMPORARY = ".tmp"
"""Ending of files being written; before it stands the number of the process that writes."""
STAGED = "hqvox-"
"""Beginning of files that are written on this machine and then uploaded."""
_WRITER = re.compile(r"\..*\.([0-9]{1,7})\.tmp|hqvox-([0-9]{1,7})-\w+\.tmp", re.DOTALL)


class Storage:
    """Files below one root, named by relative POSIX paths."""

    def __init__(self, root: str | Path) -> None:
        """``root``: a folder, or a URL that fsspec knows (``s3://bucket/prefix``).

        Raises HqvoxError where the scheme is unknown or its package is not installed.
        """
        self.url = str(root)
        self.local = "://" not in self.url or self.url.startswith("file://")
        try:
            self.fs, self.root = fsspec.core.url_to_fs(self.url)
        except ImportError as error:
            scheme = self.url.split("://")[0]
            raise HqvoxError(
                f"{self.url}: reading {scheme}:// needs another package: "
                f"pip install 'hqvox[{scheme}]' ({error})"
            ) from None
        except ValueError as error:
            raise HqvoxError(f"{self.url}: {error}") from None

    def path(self, name: str) -> str:
        """Full path of a relative name, as the file system takes it."""
        return f"{self.root.rstrip('/')}/{name}" if name else self.root

    def shown(self, name: str) -> str:
        """Full path of a relative name for people: with ``s3://`` where it is in a bucket."""
        return self.path(name) if self.local else str(self.fs.unstrip_protocol(self.path(name)))

    def exists(self, name: str) -> bool:
        """Whether a file or folder of that name is there."""
        return bool(self.fs.exists(self.path(name)))

    def names(self, folder: str) -> list[str]:
        """Sorted names (last parts) of the files in a folder; empty where it is missing."""
        try:
            entries = self.fs.ls(self.path(folder), detail=False)
        except FileNotFoundError:
            return []
        names = (str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in entries)
        return sorted(name for name in names if not name.endswith(TEMPORARY))

    def read(self, name: str, offset: int = 0, size: int | None = None) -> bytes:
        """Bytes of a file, or ``size`` bytes from ``offset`` on. Raises FileNotFoundError."""
        with self.fs.open(self.path(name), "rb") as file:
            file.seek(offset)
            return bytes(file.read() if size is None else file.read(size))

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """Open a file for reading. Raises FileNotFoundError."""
        with self.fs.open(self.path(name), "rb") as file:
            yield file

    def write(self, name: str, data: bytes) -> None:
        """Write a whole file atomically. Raises HqvoxError on a full or read-only disk."""
        with self.writing(name) as file:
            file.write(data)

    @contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """Atomic write: yields a binary file that appears under its name when the block ends.

        Where the block raises, nothing appears. Raises HqvoxError on a full or read-only disk.
        """
        pending = self.begin(name)
        try:
            yield pending.file
            pending.commit()
        except OSError as error:
            raise disk_error(error, self.shown(name)) from error
        finally:
            pending.discard()

    def begin(self, name: str) -> PendingFile:
        """Start a file whose commit is decided later; see :class:`PendingFile`."""
        try:
            return PendingFile(self, name)
        except OSError as error:
            raise disk_error(error, self.shown(name)) from error

    def remove(self, name: str) -> None:
        """Remove a file; nothing happens where it is missing."""
        if self.exists(name):
            try:
                self.fs.rm_file(self.path(name))
            except OSError as error:
                raise disk_error(error, self.shown(name)) from error

    def remove_leftovers(self, folder: str) -> None:
        """Remove what killed writers left in a local folder (call only while no one writes)."""
        if self.local:
            for leftover in Path(self.path(folder)).glob(f".*{TEMPORARY}"):
                leftover.unlink(missing_ok=True)

    def sweep(self, leave: Sequence[str] = ()) -> None:
        """Remove what writers of this machine that are gone left in any folder but ``leave``.

        Also what they left unsent, where the files are on object storage.
        """
        if not self.local:
            for file in Path(tempfile.gettempdir()).glob(f"{STAGED}*{TEMPORARY}"):
                _remove_if_abandoned(file)
            return
        for folder, folders, names in os.walk(self.path("")):
            if folder.rstrip("/") == self.root.rstrip("/"):
                folders[:] = [name for name in folders if name not in leave]
            for name in names:
                if name.endswith(TEMPORARY):
                    _remove_if_abandoned(Path(folder) / name)


def _remove_if_abandoned(file: Path) -> None:
    """Remove a temporary file whose writer is gone."""
    writer = _WRITER.fullmatch(file.name)
    if writer is not None and not process_lives(int(writer[1] or writer[2])):
        with suppress(OSError):  # another user's, or gone
            file.unlink()


def process_lives(pid: int) -> bool:
    """Whether a process of that number runs on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


class PendingFile:
    """A file being written, invisible until :meth:`commit`."""

    def __init__(self, storage: Storage, name: str) -> None:
        self.storage = storage
        self.target = storage.path(name)
        if storage.local:
            folder = Path(self.target).parent
            folder.mkdir(parents=True, exist_ok=True)
            leaf = Path(self.target).name
            self.temporary = folder / f".{leaf}.{os.getpid()}{TEMPORARY}"
        else:
            handle, temporary = tempfile.mkstemp(TEMPORARY, f"{STAGED}{os.getpid()}-")
            os.close(handle)
            self.temporary = Path(temporary)
        self.file: IO[bytes] = open(self.temporary, "w+b")  # noqa: SIM115 - closed by commit/discard

    def commit(self) -> None:
        """Flush to disk and give the file its name. Raises OSError."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        if self.storage.local:
            os.replace(self.temporary, self.target)
            directory = os.open(Path(self.target).parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        else:
            self.storage.fs.put_file(str(self.temporary), self.target)

    def discard(self) -> None:
        """Close, and remove what was not committed."""
        with suppress(OSError):  # closing writes what is left, which a full disk refuses again
            self.file.close()
        self.temporary.unlink(missing_ok=True)


def disk_error(error: OSError, where: str) -> HqvoxError:
    """One line for what the operating system refused, with what to do about it."""
    remedies = {
        errno.ENOSPC: "the disk is full; free some space and run the same command again",
        errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
        errno.EROFS: "the file system is read-only; choose a place that can be written",
        errno.EACCES: "permission denied; choose a place that you may write",
        errno.EPERM: "permission denied; choose a place that you may write",
        errno.ENOTDIR: "a file stands where a folder is needed; choose another place",
        errno.EEXIST: "a file stands where a folder is needed; choose another place",
        errno.ENOENT: "no such folder; choose another place",
    }
    code = error.errno if error.errno is not None else -1
    return HqvoxError(f"{where}: {remedies.get(code, error.strerror or str(error))}")
