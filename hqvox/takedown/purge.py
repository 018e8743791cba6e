"""`hqvox purge`: taking photographs down everywhere in a workspace.

First the takedowns are written, then the owner of each kind of file erases what they cover
(:mod:`hqvox.takedown.owners`). What is erased follows from the takedowns alone: a purge that was
killed is finished by running it again, and until then the workspace refuses to be built on or
released from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hqvox.errors import HqvoxError
from hqvox.release.takedown import released_files
from hqvox.runner.crawl.spool import spooled_rows
from hqvox.runner.erasure import covered_shards, lone_photos, lookalikes
from hqvox.takedown.owners import OWNERS
from hqvox.workspace.covered import ADDRESSES, Covered, CoveredShard, covers_row
from hqvox.workspace.layout import IDENTITIES_FILE, PURGING, Workspace
from hqvox.workspace.outputs import Output, read_outputs
from hqvox.workspace.tables import Row
from hqvox.workspace.takedowns import Takedown, Takedowns, host_of, url_digest


@dataclass
class PurgePlan:
    """What a purge would do."""

    new: list[Takedown]
    takedowns: Takedowns
    """Those of the workspace, with the new ones."""
    shards: list[CoveredShard]
    released: dict[str, list[str]]
    """Of each finished release that holds any of it, the files, below the release's folder."""
    outputs: list[Output] = field(default_factory=list)
    """Exports, reports and training runs that may hold any of it: a purge does not reach them."""
    spooled: int = 0
    """Covered urls in interrupted crawls."""
    lone_photos: frozenset[str] = frozenset()
    """SHA-256 of covered photographs that no remaining row uses."""
    near_copies: int = 0
    """Photographs with other bytes that look the same."""

    @property
    def photos(self) -> set[str]:
        """SHA-256 of the stored photographs that go."""
        rows = (row for shard in self.shards for row in shard.rows)
        return {row["photo_id"] for row in rows if row["photo_offset"] is not None}

    @property
    def candidates(self) -> int:
        """Rows that go, those without a photograph included."""
        return sum(len(shard.rows) for shard in self.shards)

    @property
    def identities(self) -> list[str]:
        """Identities that go."""
        return [identity_id for shard in self.shards for identity_id in shard.identities]


def plan_purge(
    workspace: Workspace, asked: Sequence[Takedown], *, near_copies: bool = True
) -> PurgePlan:
    """Plan to take ``asked`` down; with an empty list, plan what an interrupted purge left.

    An identity covers the bytes of its photographs wherever they are. A photo or url covers the
    photographs that it names, at any address, and, with ``near_copies``, those that look the same.
    Raises HqvoxError for an identity that is not in the workspace.
    """
    before = Takedowns.read(workspace)
    _check_identities(workspace, before, asked)
    more, near = _what_follows(workspace, asked, near_copies)
    takedowns = before.added([*asked, *more])
    shards = [shard for shard in covered_shards(workspace, takedowns) if shard.touched]
    released = released_files(Covered(workspace, takedowns, shards))
    outputs = [
        output
        for output in read_outputs(workspace)
        if output.release in released or (output.kind == "report" and shards)
    ]
    return PurgePlan(
        new=before.missing([*asked, *more]),
        takedowns=takedowns,
        shards=shards,
        spooled=len({row["url"] for row in _spooled(workspace, takedowns)}),
        lone_photos=lone_photos(workspace, takedowns, shards),
        released=released,
        outputs=outputs,
        near_copies=near,
    )


def _what_follows(
    workspace: Workspace, asked: Sequence[Takedown], near_copies: bool
) -> tuple[list[Takedown], int]:
    """Takedowns of the photographs and addresses that ``asked`` implies; how many look the same.

    A host implies nothing: it covers its own copies only.
    """
    spreading = Takedowns(entry for entry in asked if entry.kind != "host")
    if not spreading.entries:
        return [], 0
    reason = spreading.entries[0].reason
    rows = [row for shard in covered_shards(workspace, spreading) for row in shard.rows]
    rows += _spooled(workspace, spreading)
    photos = {row["photo_id"] for row in rows if row["photo_offset"] is not None}
    more: list[Takedown] = []
    near = 0
    named = Takedowns(entry for entry in spreading.entries if entry.kind != "identity")
    if named.entries:
        shown = [row for row in rows if covers_row(named, row)]
        if near_copies:
            hashes = {row["phash"] for row in shown if row.get("phash") is not None}
            alike = lookalikes(workspace, hashes) - photos
            near = len(alike)
            photos |= alike
        same = Takedowns(Takedown("photo", photo) for photo in photos)
        shown += [row for shard in covered_shards(workspace, same) for row in shard.rows]
        shown += _spooled(workspace, same)
        urls = {row[name] for row in shown for name in ADDRESSES if name != "page_url"}
        more += [
            Takedown("url", url_digest(url), reason)
            for url in sorted(url for url in urls if url is not None)
            if host_of(url)  # a path on this machine may hold another picture tomorrow
        ]
    return more + [Takedown("photo", photo, reason) for photo in sorted(photos)], near


def _spooled(workspace: Workspace, takedowns: Takedowns) -> list[Row]:
    """Rows of interrupted crawls that the takedowns cover."""
    return [row for row in spooled_rows(workspace) if covers_row(takedowns, row)]


def run_purge(
    workspace: Workspace,
    plan: PurgePlan,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write the takedowns and erase what they cover. The caller holds the lock, purging.

    ``on_progress``: called with the shards done and to do. Raises HqvoxError where the disk
    refuses; running the purge again finishes it.
    """
    if not plan.takedowns.entries:
        workspace.storage.remove(PURGING)  # of a purge killed before it noted anything
        return
    workspace.storage.write(PURGING, b"")
    Takedowns.read(workspace).add(workspace, plan.new)
    covered = Covered(workspace, plan.takedowns, plan.shards, plan.lone_photos, on_progress)
    for owner in OWNERS:
        owner.remove_leftovers(workspace)
        if owner.erase is not None:
            owner.erase(covered)
    workspace.storage.remove(PURGING)


def _check_identities(workspace: Workspace, before: Takedowns, asked: Sequence[Takedown]) -> None:
    known = {row["identity_id"] for row in workspace.identities().to_pylist()}
    for entry in asked:
        if entry.kind == "identity" and not (
            entry.value in known or before.covers_identity(entry.value)
        ):
            raise HqvoxError(
                f"{workspace.url}: no identity {entry.value!r}; give its id as "
                f"{workspace.storage.shown(IDENTITIES_FILE)} has it"
            )
