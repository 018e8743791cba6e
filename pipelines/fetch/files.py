"""Files in which hosts say what may be requested and used, kept on disk for a day across crawls.

One line a file: its url, the time of the request (seconds since 1970), its body (zlib, base64).
In memory there are only the lines' places. At :data:`MOST_BYTES` nothing more is kept, until the
next crawl leaves out what is older than a day.
"""

from __future__ import annotations

import base64
import json
import os
import time
import zlib
from pathlib import Path
from types import TracebackType

KEPT_SECONDS = 24 * 3600.0
"""RFC 9309, 2.4: at most a day."""
MOST_BYTES = 64_000_000


class HostFiles:
    """Kept files by url; use as a context manager. Raises OSError where the disk refuses."""

    def __init__(self, path: Path | None) -> None:
        """``path``: None keeps nothing."""
        self._path = path
        self._places: dict[str, tuple[int, int, float]] = {}
        """By url: offset and size of its line, and the time of the request."""

    def __enter__(self) -> HostFiles:
        if self._path is None:
            return self
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lines: dict[str, bytes] = {}
        for line in self._path.read_bytes().splitlines() if self._path.exists() else ():
            try:
                url, asked_at, _ = json.loads(line)
                if time.time() - asked_at < KEPT_SECONDS:
                    lines[str(url)] = line + b"\n"
            except (ValueError, TypeError):
                continue  # cut off by a kill: the host is asked again
        draft = self._path.with_suffix(".tmp")
        draft.write_bytes(b"".join(lines.values()))
        os.replace(draft, self._path)
        self._file = open(self._path, "r+b", buffering=0)
        end = 0
        for url, line in lines.items():
            self._places[url] = (end, len(line), json.loads(line)[1])
            end += len(line)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._path is not None:
            self._file.close()

    def get(self, url: str) -> tuple[bytes, float] | None:
        """The file's body and its age in seconds; None if it must be requested."""
        offset, size, asked_at = self._places.get(url, (0, 0, 0.0))
        age = time.time() - asked_at
        if not 0 <= age < KEPT_SECONDS:
            return None
        line = os.pread(self._file.fileno(), size, offset)
        try:
            return zlib.decompress(base64.b64decode(json.loads(line)[2])), age
        except (ValueError, IndexError, TypeError, zlib.error):
            return None

    def put(self, url: str, body: bytes) -> None:
        """Keep a file that was requested now; an empty body means that there is none."""
        if self._path is None:
            return
        packed = base64.b64encode(zlib.compress(body)).decode()
        asked_at = time.time()
        line = json.dumps([url, asked_at, packed]).encode() + b"\n"
        end = self._file.seek(0, os.SEEK_END)
        if end + len(line) > MOST_BYTES:
            return
        self._file.write(line)
        self._places[url] = (end, len(line), asked_at)
