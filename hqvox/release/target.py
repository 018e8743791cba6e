"""Where a release is written until it is complete.

On a local disk everything goes to a temporary sibling that is flushed and renamed at the end; on
object storage ``release.json`` comes last, and without it there is no release.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from hqvox.release.layout import CHECKSUMS, FOLDER, INFO
from hqvox.workspace.storage import TEMPORARY, Storage, disk_error


class HashedFile:
    """A file being written, whose SHA-256 is known when it ends."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> None:
        """Append."""
        self._file.write(data)
        self._hash.update(data)

    @property
    def sha256(self) -> str:
        """Of what was written so far, hex."""
        return self._hash.hexdigest()


@dataclass(frozen=True)
class Sink:
    """Writes files below an unfinished release; can be sent to another process."""

    url: str
    """Of the workspace."""
    folder: str
    """Of the unfinished release, below the workspace."""

    def write(self, name: str, data: bytes) -> str:
        """Write a file below the release; return its SHA-256. Raises HqvoxError."""
        with self.writing(name) as file:
            file.write(data)
        return file.sha256

    @contextmanager
    def writing(self, name: str) -> Iterator[HashedFile]:
        """Write a file below the release piece by piece. Raises HqvoxError."""
        storage = Storage(self.url)
        path = f"{self.folder}/{name}"
        if not storage.local:
            with storage.writing(path) as file:
                yield HashedFile(file)
            return
        # The folder appears at once, so its files need neither rename nor flush of their own.
        place = Path(storage.path(path))
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("wb") as file:
                yield HashedFile(file)
        except OSError as error:
            raise disk_error(error, str(place)) from error


class Target:
    """Where a release's files go until it is complete; use as a context manager."""

    def __init__(self, storage: Storage, name: str) -> None:
        self.storage = storage
        self.final = f"{FOLDER}/{name}"
        self.folder = f"{FOLDER}/.{name}{TEMPORARY}" if storage.local else self.final
        self.sink = Sink(storage.url, self.folder)
        self.sums: dict[str, str] = {}
        self._last: bytes | None = None

    def __enter__(self) -> Target:
        remove_leftovers(self.storage, self.final)
        return self

    def write(self, name: str, data: bytes) -> str:
        """Write a file below the release; return its SHA-256."""
        self.sums[name] = hashlib.sha256(data).hexdigest()
        if name == INFO:
            self._last = data
        else:
            self.sink.write(name, data)
        return self.sums[name]

    def written(self, sums: Mapping[str, str]) -> None:
        """Record files that were written to :attr:`sink`: name and SHA-256."""
        self.sums.update(sums)

    def finish(self) -> None:
        """Write the checksums and ``release.json``, then give the release its name."""
        assert self._last is not None
        lines = [f"{digest}  {name}\n" for name, digest in sorted(self.sums.items())]
        self.sink.write(CHECKSUMS, "".join(lines).encode())
        self.sink.write(INFO, self._last)
        if self.folder == self.final:
            return
        try:
            # One flush of everything: thousands of files one by one would take minutes.
            os.sync()
            os.rename(self.storage.path(self.folder), self.storage.path(self.final))
            folder = os.open(self.storage.path(FOLDER), os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise disk_error(error, self.storage.path(self.final)) from error

    def __exit__(self, *error: object) -> None:
        if self.folder != self.final:
            shutil.rmtree(self.storage.path(self.folder), ignore_errors=True)


def remove_leftovers(storage: Storage, release: str) -> None:
    """Remove what a killed command left: call while holding the workspace's lock.

    Locally, every temporary folder; on object storage, the unfinished files of this release.
    """
    if storage.local:
        for leftover in Path(storage.path(FOLDER)).glob(f".*{TEMPORARY}"):
            try:
                shutil.rmtree(leftover)
            except OSError as error:
                raise disk_error(error, str(leftover)) from error
    elif storage.exists(release):
        storage.fs.rm(storage.path(release), recursive=True)
