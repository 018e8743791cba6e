"""Hashes of files: recorded at first use, remembered while the files stay as they are."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

from models.errors import ModelError
from models.fetch import locked

log = logging.getLogger(__name__)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


class HashBook:
    """What is known of hashes: recorded at first use by name, and remembered by path.

    A JSON file, rewritten whole under a lock; where the folder cannot be written, what is learned
    lasts as long as this object.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._memory: dict[str, dict[str, Any]] = {"recorded": {}, "seen": {}}

    def of(self, path: Path, anew: bool = False) -> str:
        """SHA-256 of a file in hex; read again only if the file changed, or ``anew``."""
        stat = path.stat()
        mark = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        key = str(path.resolve())
        known = self._read()["seen"].get(key)
        if known is not None and known["mark"] == mark and not anew:
            return str(known["sha256"])
        sha256 = file_sha256(path)
        self._write("seen", key, {"mark": mark, "sha256": sha256})
        return sha256

    def recorded(self, name: str) -> str | None:
        """Hash recorded at first use of a name, or None."""
        sha256 = self._read()["recorded"].get(name)
        return None if sha256 is None else str(sha256)

    def record(self, name: str, sha256: str) -> str:
        """Record a hash unless there is one; return the one that stands."""
        standing = self.recorded(name)
        if standing is not None:
            return standing
        return str(self._write("recorded", name, sha256, keep=True))

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            stored = json.loads(self.path.read_text(encoding="utf-8"))
            return {part: {**stored[part], **self._memory[part]} for part in self._memory}
        except (FileNotFoundError, NotADirectoryError):
            return self._memory
        except OSError as error:
            raise ModelError(f"{self.path} cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{self.path} is damaged ({error}); delete it") from error

    def _write(self, part: str, key: str, value: Any, keep: bool = False) -> Any:
        try:
            with locked(self.path.with_name(".hashes.lock")):
                book = self._read()
                if keep and key in book[part]:
                    return book[part][key]
                book[part][key] = value
                temporary = self.path.with_name(f".hashes.{os.getpid()}.tmp")
                temporary.write_text(json.dumps(book, indent=1, sort_keys=True), encoding="utf-8")
                os.replace(temporary, self.path)
        except OSError as error:
            log.debug("%s cannot be written (%s): hashes last for this process", self.path, error)
            self._memory[part][key] = value
        return value
