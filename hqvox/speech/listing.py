"""Listing large trees of files from run to run: unchanged folders are not listed again.

A folder's modification time changes when an entry is added, removed or renamed in it. A folder with
the same time as before is therefore taken from the cache. Folders listed less than
:data:`SETTLED_SECONDS` after they or one of their files were written are not cached, because they
may have been listed while being written. This rule misses a file that is rewritten in place under
its old name later: ``--rescan`` lists every folder.
"""

from __future__ import annotations

import io
import os
import time
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from hqvox.workspace.parquet import read_parquet
from hqvox.workspace.storage import Storage

SETTLED_SECONDS = 600.0
"""Least age of a folder's last change for its listing to be cached."""

_SCHEMA = pa.schema(
    [
        pa.field("path", pa.binary(), nullable=False),
        pa.field("mtime_ns", pa.int64(), nullable=False),
        pa.field("folders", pa.list_(pa.binary()), nullable=False),
        pa.field("names", pa.list_(pa.binary()), nullable=False),
        pa.field("sizes", pa.list_(pa.int64()), nullable=False),
        pa.field("mtimes_ns", pa.list_(pa.int64()), nullable=False),
    ]
)


@dataclass
class ListedFolder:
    """The listing of one folder, without hidden entries; names are sorted bytes."""

    mtime_ns: int
    folders: list[bytes] = field(default_factory=list)
    names: list[bytes] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    """Bytes of each file; -1 if unknown (a broken link)."""
    mtimes_ns: list[int] = field(default_factory=list)


class Listing:
    """Folders below any roots, cached from run to run in one table."""

    def __init__(self, cached: dict[bytes, ListedFolder] | None = None) -> None:
        """``cached``: of an earlier run; see :meth:`load`."""
        self._cached = cached or {}
        self._trusted: dict[bytes, ListedFolder] = {}
        self._now_ns = time.time_ns()
        self.listed = 0
        """Folders listed in this run."""
        self.recalled = 0
        """Folders taken from the cache."""
        self.unreadable: list[bytes] = []
        """Folders that cannot be listed."""

    @classmethod
    def load(cls, storage: Storage, name: str) -> Listing:
        """What :meth:`save` wrote; an empty cache where the table is missing or damaged."""
        if not storage.exists(name):
            return cls()
        try:
            rows = read_parquet(storage.read(name), _SCHEMA.names).to_pydict()
        except (OSError, pa.ArrowException):
            return cls()
        columns = [rows[field.name] for field in _SCHEMA][1:]
        values = zip(*columns, strict=True)
        return cls({path: ListedFolder(*v) for path, v in zip(rows["path"], values, strict=True)})

    def save(self, storage: Storage, name: str) -> None:
        """Write the folders of this run that the next one may take from the cache."""
        columns: dict[str, list] = {"path": list(self._trusted)}
        for key in _SCHEMA.names[1:]:
            columns[key] = [getattr(folder, key) for folder in self._trusted.values()]
        sink = io.BytesIO()
        pq.write_table(pa.table(columns, schema=_SCHEMA), sink, compression="zstd")
        storage.write(name, sink.getvalue())

    def folder(self, path: bytes) -> ListedFolder | None:
        """The listing of a folder, or None where it cannot be read (see ``unreadable``)."""
        try:
            mtime_ns = os.stat(path).st_mtime_ns
            listing = self._cached.get(path)
            if listing is not None and listing.mtime_ns == mtime_ns:
                self.recalled += 1
            else:
                listing = _list(path, mtime_ns)
                self.listed += 1
        except OSError:
            self.unreadable.append(path)
            return None
        newest = max([mtime_ns, *listing.mtimes_ns])
        if self._now_ns - newest > SETTLED_SECONDS * 1e9:
            self._trusted[path] = listing
        return listing

    def below(self, path: bytes, folder: ListedFolder) -> list[bytes]:
        """Paths of the folders in a folder, without links to a folder above it."""
        paths = [os.path.join(path, name) for name in folder.folders]
        return [below for below in paths if not (os.path.islink(below) and _leads_back(below))]


def _leads_back(link: bytes) -> bool:
    target = os.path.join(os.path.realpath(link), b"")
    return os.path.join(os.path.realpath(os.path.dirname(link)), b"").startswith(target)


def _list(path: bytes, mtime_ns: int) -> ListedFolder:
    files: list[tuple[bytes, int, int]] = []
    folders: list[bytes] = []
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.startswith(b"."):
                continue
            if entry.is_dir():
                folders.append(entry.name)
                continue
            try:
                status = entry.stat()
                files.append((entry.name, status.st_size, status.st_mtime_ns))
            except OSError:
                files.append((entry.name, -1, 0))
    files.sort()
    return ListedFolder(
        mtime_ns,
        sorted(folders),
        [f[0] for f in files],
        [f[1] for f in files],
        [f[2] for f in files],
    )
