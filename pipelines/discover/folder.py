"""The folder source: one folder of photographs per identity, as a crawl leaves them."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from hqvox.config.discover import DiscoverConfig
from hqvox.errors import HqvoxError
from hqvox.workspace.storage import Storage
from hqvox.workspace.tables import Row
from pipelines.discover.source import Candidate, Stream

SETTLED_SECONDS = 2.0
"""A file changed later than this before it was hashed could change again within the same tick of
the file system's clock: its hash is not cached."""


class FolderSource:
    """Photographs below ``photos/<identity's folder>/``.

    Those of sub-folders count too; hidden files do not.
    """

    name = "folder"

    def __init__(self, config: DiscoverConfig, storage: Storage | None = None) -> None:
        """``storage``: the workspace's; hashes of files are cached there."""
        self.config = config
        self._storage = storage
        self._caches: dict[str, FileHashes] = {}
        self._lock = threading.Lock()

    def streams(self, identity: Row) -> list[Stream]:
        """One stream: the folder's files."""
        return [Stream(None, (Candidate(url) for url in self.candidates(identity)))]

    def candidates(self, identity: Row) -> list[str]:
        """Percent-encoded paths below the photos folder, in natural order."""
        if identity["folder"] is None or not self.config.photos:
            return []
        root = local_path(self.config.photos, identity["folder"])
        names = sorted(_files(root, b""), key=_natural)
        return [f"{identity['folder']}/{quote(name)}" for name in names]

    def listing(self, identity: Row) -> list[list[Any]]:
        """Each candidate's path, size and content hash; -1 and an error number without content.

        Call :meth:`save` when all identities of the shard are listed.
        """
        shard = identity.get("shard") or ""
        with self._lock:
            if shard not in self._caches:
                self._caches[shard] = FileHashes(self._storage, shard)
        hashes = self._caches[shard]
        entries: list[list[Any]] = []
        for url in self.candidates(identity)[: self.config.limit]:
            try:
                entries.append([url, *hashes.of(local_path(self.config.photos, url))])
            except OSError as error:  # a broken link: the download stage gives its reason
                entries.append([url, -1, error.errno])
        return entries

    def listing_by_time(self, identity: Row) -> list[list[Any]]:
        """Each candidate's path, size and mtime (ns): the listing of earlier versions."""
        entries: list[list[Any]] = []
        for url in self.candidates(identity)[: self.config.limit]:
            try:
                status = os.stat(local_path(self.config.photos, url))
                entries.append([url, status.st_size, status.st_mtime_ns])
            except OSError as error:
                entries.append([url, -1, error.errno])
        return entries

    def save(self, shard: str) -> None:
        """Cache the hashes of a shard's files in the workspace, for the next listing."""
        with self._lock:
            hashes = self._caches.pop(shard, None)
        if hashes is not None:
            hashes.save()

    def settings(self) -> dict[str, Any]:
        """None: the folder's place does not matter, and its files are in :meth:`listing`."""
        return {}

    def missing(self) -> list[str]:
        """Always ready: an identity without a folder has no photographs."""
        return []

    def forecast(self, identities: Sequence[Row]) -> str:
        """How many of the identities have a folder."""
        if not self.config.photos:
            return (
                "folder: no folder of photographs is named; set discover.photos, or look elsewhere "
                "with discover.sources"
            )
        with_folder = sum(row["folder"] is not None for row in identities)
        return f"folder: {with_folder:,} identities have one in {self.config.photos}"


class FileHashes:
    """Hashes of the contents of a shard's files, cached by what changes when a file is written.

    A hash is taken from the cache where inode, size, mtime and ctime are those of the file that was
    hashed. The kernel sets the ctime at every write and nobody can set it back, so only a change
    behind the file system's back (a clock set back, a disk written to directly) goes unseen; after
    that, remove ``discover/folder`` from the workspace. The cache holds no names, and no SHA-256
    by which a photograph is known elsewhere.
    """

    def __init__(self, storage: Storage | None, shard: str) -> None:
        self._storage, self._name = storage, hashes_name(shard)
        self._cached: dict[str, str] = {}
        self._used: dict[str, str] = {}
        if storage is not None:
            with suppress(FileNotFoundError, ValueError):
                cached = json.loads(storage.read(self._name))
                self._cached = cached if isinstance(cached, dict) else {}

    def of(self, path: Path) -> tuple[int, str]:
        """Size in bytes and hash of a file's content. Raises OSError; ENXIO: it has no content."""
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.ENXIO, "not a file")
        key = _state(status)
        content = self._cached.get(key) or self._used.get(key)
        if content is None:
            content, status = _hashed(path)
            if time.time() - status.st_ctime < SETTLED_SECONDS:
                return status.st_size, content
            key = _state(status)
        self._used[key] = content
        return status.st_size, content

    def save(self) -> None:
        """Write the cache, where it changed; without it, files are hashed again."""
        if self._storage is None or self._used == self._cached:
            return
        with suppress(HqvoxError):  # a workspace that may only be read
            self._storage.write(self._name, json.dumps(self._used, sort_keys=True).encode())


def hashes_name(shard: str) -> str:
    """Relative name of a shard's cached hashes."""
    return f"discover/{FolderSource.name}/{shard}.json"


def _state(status: os.stat_result) -> str:
    parts = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return " ".join(map(str, parts))


def _hashed(path: Path) -> tuple[str, os.stat_result]:
    """Hash of a file, and its state before it was read."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        content = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
    return content.hexdigest(), status


def local_path(photos: str, url: str) -> Path:
    """Path of a percent-encoded relative url below the photos folder; any byte can be in a name."""
    return Path(os.fsdecode(os.path.join(os.fsencode(photos), unquote_to_bytes(url))))


def count_photos(photos: str, folder: str) -> int:
    """How many files lie in an identity's percent-encoded folder below the photos folder."""
    return sum(1 for _ in _files(local_path(photos, folder), b""))


def _files(folder: Path, prefix: bytes) -> Iterator[bytes]:
    try:
        entries = list(os.scandir(os.fsencode(folder)))
    except OSError:
        return  # no such folder, or not readable: an identity without photographs
    for entry in entries:
        if entry.name.startswith(b"."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(os.fsdecode(entry.path)), prefix + entry.name + b"/")
        else:
            yield prefix + entry.name


def _natural(name: bytes) -> tuple[list[tuple[int, int, bytes]], bytes]:
    parts = [p for p in re.split(rb"(\d+)", name.lower()) if p]
    return [(0, int(p), b"") if p.isdigit() else (1, 0, p) for p in parts], name
