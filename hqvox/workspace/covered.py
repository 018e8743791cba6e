"""What takedowns cover in a workspace, and who erases it from which files.

Each module that writes a kind of file into a workspace declares an :class:`Owner` of it: the names
of the files, and the function that erases what takedowns cover from them. ``hqvox.takedown`` has
the list of all owners and calls them in order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from hqvox.workspace.tables import Row

if TYPE_CHECKING:  # both declare owners of files
    from hqvox.workspace.layout import Workspace
    from hqvox.workspace.takedowns import Takedowns

ADDRESSES = ("url", "page_url", "requested_url", "final_url")
"""Columns with an address that leads to a photo."""


@dataclass
class CoveredShard:
    """What takedowns cover in one shard."""

    shard: str
    rows: list[Row] = field(default_factory=list)
    """Keys, addresses, ``photo_id``, ``phash`` of photographs; null where not known."""
    identities: list[str] = field(default_factory=list)
    unreadable: bool = False
    """A table is damaged or missing beside its tar: what they hold cannot be known."""

    @property
    def touched(self) -> bool:
        """Whether anything of the shard is covered."""
        return bool(self.rows or self.identities or self.unreadable)


@dataclass(frozen=True)
class Covered:
    """What is to be erased from a workspace: the takedowns, and what the tables say they cover."""

    workspace: Workspace
    takedowns: Takedowns
    shards: Sequence[CoveredShard] = ()
    """Only those of which anything is covered."""
    photos: frozenset[str] = frozenset()
    """SHA-256 of covered photographs that no remaining row uses."""
    on_progress: Callable[[int, int], None] = lambda done, total: None
    """Called with the shards done and to do."""

    @cached_property
    def addresses(self) -> frozenset[str]:
        """Addresses of covered photographs; not those of pages, which may show others as well."""
        rows = (row for shard in self.shards for row in shard.rows)
        found = {row[name] for row in rows for name in ADDRESSES if name != "page_url"}
        return frozenset(found - {None})

    @cached_property
    def candidates(self) -> frozenset[tuple[str, int]]:
        """Identity and position of every candidate that is covered."""
        rows = (row for shard in self.shards for row in shard.rows)
        return frozenset((row["identity_id"], row["candidate"]) for row in rows)

    @property
    def identities(self) -> list[tuple[str, str]]:
        """Shard and id of every identity that is covered."""
        return [(shard.shard, id_) for shard in self.shards for id_ in shard.identities]

    def address(self, url: str | None) -> bool:
        """Whether a takedown covers the url, or it is the address of a covered photograph."""
        return url in self.addresses or self.takedowns.covers_url(url)


def covers_row(takedowns: Takedowns, row: Row) -> bool:
    """Whether a row's identity, its photo, or an address that leads to it was taken down."""
    return (
        takedowns.covers_identity(row["identity_id"])
        or takedowns.covers_photo(row.get("photo_id"))
        or any(map(takedowns.covers_url, {row.get(name) for name in ADDRESSES}))
    )


@dataclass(frozen=True)
class Owner:
    """A kind of files in a workspace, and how takedowns are erased from them."""

    name: str
    files: tuple[str, ...]
    """Patterns of names below the workspace: ``*`` within one folder, ``/**`` for all below."""
    erase: Callable[[Covered], None] | None
    """Erases what is covered. Called again after a kill, it finishes. Raises HqvoxError where the
    disk refuses. None: these files hold nothing about a photograph or a person."""

    def claims(self, name: str) -> bool:
        """Whether the file of that name, below the workspace, is of this owner."""
        return any(_matches(name, pattern) for pattern in self.files)

    def remove_leftovers(self, workspace: Workspace) -> None:
        """Remove unfinished files that killed writers left beside this owner's files."""
        if not workspace.storage.local:
            return
        root = Path(workspace.storage.path(""))
        for parent in {pattern.rpartition("/")[0] for pattern in self.files}:
            for folder in root.glob(parent) if parent else [root]:
                workspace.storage.remove_leftovers(folder.relative_to(root).as_posix())


def _matches(name: str, pattern: str) -> bool:
    parts, wanted = name.split("/"), pattern.split("/")
    if wanted[-1] == "**":
        wanted = wanted[:-1]
        if len(parts) <= len(wanted):
            return False
        parts = parts[: len(wanted)]
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))
