"""Where a release is written until it is whole.

On a local disk everything goes to a temporary sibling that is renamed at the end; on object
storage ``release.json`` comes last, and without it there is no release.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from hqvox.storage import TEMPORARY, Storage, disk_error

FOLDER = "releases"
INFO = "release.json"
"""Written last on object storage: a folder without it is not a release."""
CHECKSUMS = "SHA256SUMS"


class Target:
    """Where a release's files go until it is whole; use as a context manager."""

    def __init__(self, storage: Storage, name: str) -> None:
        self.storage = storage
        self.final = f"{FOLDER}/{name}"
        self.folder = f"{FOLDER}/.{name}{TEMPORARY}" if storage.local else self.final
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
            self.storage.write(f"{self.folder}/{name}", data)
        return self.sums[name]

    def finish(self) -> None:
        """Write the checksums and ``release.json``, then give the release its name."""
        assert self._last is not None
        lines = [f"{digest}  {name}\n" for name, digest in sorted(self.sums.items())]
        self.storage.write(f"{self.folder}/{CHECKSUMS}", "".join(lines).encode())
        self.storage.write(f"{self.folder}/{INFO}", self._last)
        if self.folder != self.final:
            try:
                os.rename(self.storage.path(self.folder), self.storage.path(self.final))
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
