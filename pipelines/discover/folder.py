"""The folder source: one folder of photographs per identity, as a crawl leaves them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from hqvox.config.discover import DiscoverConfig
from hqvox.workspace.tables import Row
from pipelines.discover.source import Candidate, Stream


class FolderSource:
    """Photographs below ``photos/<identity's folder>/``.

    Those of sub-folders count too; hidden files do not.
    """

    name = "folder"

    def __init__(self, config: DiscoverConfig) -> None:
        self.config = config

    def streams(self, identity: Row) -> list[Stream]:
        """One stream: the folder's files."""
        return [Stream(None, (Candidate(url) for url in self.candidates(identity)))]

    def candidates(self, identity: Row) -> list[str]:
        """Percent-encoded paths below the photos folder, in natural order, up to the limit."""
        if identity["folder"] is None or not self.config.photos:
            return []
        root = local_path(self.config.photos, identity["folder"])
        names = sorted(_files(root, b""), key=_natural)
        return [f"{identity['folder']}/{quote(name)}" for name in names[: self.config.limit]]

    def listing(self, identity: Row) -> list[list[Any]]:
        """Each candidate's path, size and mtime (ns)."""
        entries: list[list[Any]] = []
        for url in self.candidates(identity):
            try:
                status = os.stat(local_path(self.config.photos, url))
                entries.append([url, status.st_size, status.st_mtime_ns])
            except OSError as error:  # a broken link: the download stage gives its reason
                entries.append([url, -1, error.errno])
        return entries

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
