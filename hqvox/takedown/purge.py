"""`hqvox purge`: taking photographs down, everywhere in a workspace and for good.

First the tombstones are written, then everything they cover is erased
(:mod:`hqvox.takedown.erasure`). What is erased follows from the tombstones alone: a purge that was
killed is finished by running it again, and until then the workspace refuses to be built on or
released from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hqvox.errors import HqvoxError
from hqvox.release.layout import INFO
from hqvox.release.read import Release, release_names
from hqvox.runner.crawl.spool import spool_folder
from hqvox.runner.plan import Fingerprints
from hqvox.takedown.erasure import ShardEraser, erase_around
from hqvox.takedown.erasure_crawl import erase_crawls
from hqvox.takedown.erasure_review import erase_reviews
from hqvox.trainer.packing import drop_packs_of
from hqvox.workspace.layout import IDENTITIES_FILE, PURGING, Workspace
from hqvox.workspace.tables import KEYS, Row
from hqvox.workspace.tombstones import Tombstone, Tombstones, host_of, url_digest
from models.store import ModelStore
from pipelines.chain import Stages

ADDRESSES = ("url", "page_url", "requested_url", "final_url")
"""Columns with an address that leads to a photo."""
_WHAT = ("photo_id", "photo_offset", "photo_bytes", "phash")


@dataclass
class ShardFind:
    """The photographs of one shard that are to go."""

    shard: str
    rows: list[Row] = field(default_factory=list)
    """Keys, addresses, ``photo_id``, ``phash``; null where not known."""
    identities: list[str] = field(default_factory=list)
    """Identities of the shard that are to go themselves."""
    unreadable: bool = False
    """A table is damaged or missing beside its tar: nobody can tell what they hold."""

    @property
    def touched(self) -> bool:
        """Whether anything of the shard has to go."""
        return bool(self.rows or self.identities or self.unreadable)


@dataclass
class PurgePlan:
    """What a purge would do."""

    new: list[Tombstone]
    stones: Tombstones
    """Those of the workspace, with the new ones."""
    shards: list[ShardFind]
    released: dict[str, list[str]]
    """Of each finished release that holds any of it, the files, below the release's folder."""
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
    workspace: Workspace, asked: Sequence[Tombstone], *, near_copies: bool = True
) -> PurgePlan:
    """What taking ``asked`` down comes to; an empty list finishes what earlier purges left.

    With an identity go the bytes of its photographs wherever they are. With a photo or url go the
    photographs it names, at whatever address, and, with ``near_copies``, those that look the same.
    Raises HqvoxError for an identity that is not in the workspace.
    """
    before = Tombstones.read(workspace)
    _check_identities(workspace, before, asked)
    more, near = _what_follows(workspace, asked, near_copies)
    stones = before.added([*asked, *more])
    return PurgePlan(
        new=before.missing([*asked, *more]),
        stones=stones,
        shards=[shard for shard in scan(workspace, stones) if shard.touched],
        released=_released(workspace, stones),
        near_copies=near,
    )


def _what_follows(
    workspace: Workspace, asked: Sequence[Tombstone], near_copies: bool
) -> tuple[list[Tombstone], int]:
    """The tombstones of photographs and addresses that go with ``asked``; how many are alike.

    A host asks for its own copies only; everything else for the photographs wherever they are.
    """
    own = Tombstones(stone for stone in asked if stone.kind != "host")
    if not own.entries:
        return [], 0
    reason = own.entries[0].reason
    found = [row for shard in scan(workspace, own) for row in shard.rows]
    photos = {row["photo_id"] for row in found if row["photo_offset"] is not None}
    more: list[Tombstone] = []
    near = 0
    named = Tombstones(stone for stone in own.entries if stone.kind != "identity")
    if named.entries:
        shown = [row for row in found if covers(named, row)]
        if near_copies:
            hashes = {row["phash"] for row in shown if row["phash"] is not None}
            alike = _lookalikes(workspace, hashes) - photos
            near = len(alike)
            photos |= alike
        same = Tombstones(Tombstone("photo", photo) for photo in photos)
        shown += [row for shard in scan(workspace, same) for row in shard.rows]
        urls = {row[name] for row in shown for name in ADDRESSES if name != "page_url"}
        more += [
            Tombstone("url", url_digest(url), reason)
            for url in sorted(url for url in urls if url is not None)
            if host_of(url)  # a path on this machine may hold another picture tomorrow
        ]
    return more + [Tombstone("photo", photo, reason) for photo in sorted(photos)], near


def run_purge(
    workspace: Workspace,
    plan: PurgePlan,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write the tombstones and erase what they cover. The caller holds the lock, purging.

    ``on_progress``: told the shards done and to do. Raises HqvoxError where the disk refuses; run
    again, it goes on.
    """
    if not plan.stones.entries:
        workspace.storage.remove(PURGING)  # one that was cut short before it had noted anything
        return
    workspace.storage.write(PURGING, b"")
    Tombstones.read(workspace).add(workspace, plan.new)
    everyone = workspace.identities().to_pylist()
    gone = set(plan.identities)
    of_shard = workspace.shards()
    # First what lies around: the tables still say which addresses belong to whom.
    rows = [row for find in plan.shards for row in find.rows]
    erase_crawls(
        workspace,
        plan.stones,
        {row[name] for row in rows for name in ADDRESSES if name != "page_url"} - {None},
        [(find.shard, identity) for find in plan.shards for identity in find.identities],
    )
    erase_around(
        workspace,
        plan.stones,
        {find.shard for find in plan.shards},
        {find.shard for find in plan.shards if find.identities},
    )
    for number, find in enumerate(plan.shards):
        members = of_shard.get(find.shard, [])
        staying = [row for row in members if row["identity_id"] not in gone]
        eraser = ShardEraser(workspace, find.shard, plan.stones)
        if find.unreadable or not staying:
            eraser.erase_all()
        else:
            renewed = _renewed(workspace, members, staying) if find.identities else {}
            eraser.erase(find.rows, renewed)
        on_progress(number + 1, len(plan.shards))
    erase_reviews(workspace, plan.stones)
    if rows or gone:
        drop_packs_of(workspace)  # faces of releases, packed for training
    if gone:
        table = workspace.identities()
        keep = [row["identity_id"] not in gone for row in everyone]
        with workspace.storage.writing(IDENTITIES_FILE) as file:
            pq.write_table(table.filter(pa.array(keep, pa.bool_())), file, compression="zstd")
    workspace.storage.remove(PURGING)


def scan(workspace: Workspace, stones: Tombstones) -> Iterator[ShardFind]:
    """Of every shard, what the tombstones cover."""
    of_shard = workspace.shards()
    for shard in sorted({*of_shard, *_shards_on_disk(workspace)}):
        find = ShardFind(shard)
        find.identities = [
            row["identity_id"]
            for row in of_shard.get(shard, [])
            if stones.covers_identity(row["identity_id"])
        ]
        rows = _joined(workspace, shard)
        if rows is None:
            find.unreadable = bool(stones.entries)
        else:
            find.rows = [row for row in rows if row["orphan"] or covers(stones, row)]
        yield find


def covers(stones: Tombstones, row: Row) -> bool:
    """Whether a row's identity, photo, or an address that leads to it was taken down."""
    return (
        stones.covers_identity(row["identity_id"])
        or stones.covers_photo(row.get("photo_id"))
        or any(map(stones.covers_url, {row.get(name) for name in ADDRESSES}))
    )


def _joined(workspace: Workspace, shard: str) -> list[Row] | None:
    """A shard's candidates with what discover and download know; None where that is unreadable.

    ``orphan``: in download but no longer in discover, as a purge leaves it that was killed between
    the two.
    """
    tables = {}
    for stage in ("discover", "download", "duplicates"):
        try:
            table = workspace.read_stage(stage, shard)
        except HqvoxError:  # damaged: what it held cannot be known
            return None
        if table is not None:
            there = [name for name in (*KEYS, *ADDRESSES, *_WHAT) if name in table.schema.names]
            tables[stage] = table.select(there).to_pylist()
        else:
            tables[stage] = None
    tar = workspace.storage.exists(workspace.tar_name("download", shard))
    cut_short = (spool_folder(workspace) / f"{shard}.jsonl").exists()
    if tar and tables["download"] is None and not cut_short:
        return None
    nothing: Row = dict.fromkeys((*ADDRESSES, *_WHAT))
    rows: dict[tuple[str, int], Row] = {}
    for stage, found in tables.items():
        for row in found or []:
            key = (row["identity_id"], row["candidate"])
            if key not in rows and stage == "duplicates":
                continue
            known: dict[str, Any] = rows.setdefault(
                key, nothing | dict(zip(("identity_id", "candidate"), key, strict=True))
            )
            known.setdefault("orphan", stage != "discover" and tables["discover"] is not None)
            known.update({name: row[name] for name in nothing if name in row})
    return list(rows.values())


def _shards_on_disk(workspace: Workspace) -> set[str]:
    """Shards with files, which a purge that was killed may have left without identities."""
    names = [
        name
        for stage in ("discover", "download")
        for name in workspace.storage.names(f"stages/{stage}")
    ]
    return {name.rsplit(".", 1)[0] for name in names if name.endswith((".parquet", ".tar"))}


def _lookalikes(workspace: Workspace, hashes: set[int]) -> set[str]:
    """Photographs whose perceptual hash is one of ``hashes``, or as near as duplicates are."""
    if not hashes:
        return set()
    limit = workspace.config().duplicates.max_distance_bits
    wanted = np.array(sorted(hashes), dtype=np.uint64)
    alike = set()
    for shard in workspace.shards():
        rows = [r for r in _joined(workspace, shard) or [] if r["phash"] is not None]
        ours = np.array([row["phash"] for row in rows], dtype=np.uint64)
        for value in wanted:
            differing = np.unpackbits((ours ^ value).view(np.uint8).reshape(-1, 8), axis=1)
            near = np.flatnonzero(differing.sum(axis=1) <= limit)
            alike |= {rows[i]["photo_id"] for i in near.tolist()}
    return alike


def _check_identities(workspace: Workspace, before: Tombstones, asked: Sequence[Tombstone]) -> None:
    known = {row["identity_id"] for row in workspace.identities().to_pylist()}
    for stone in asked:
        if stone.kind == "identity" and not (
            stone.value in known or before.covers_identity(stone.value)
        ):
            raise HqvoxError(
                f"{workspace.url}: no identity {stone.value!r}; give its id as "
                f"{workspace.storage.path(IDENTITIES_FILE)} has it"
            )


def _renewed(
    workspace: Workspace, members: Sequence[Row], staying: Sequence[Row]
) -> dict[str, dict[str, Any]]:
    """Fingerprints of a shard without the identities that go, by those it has with them.

    Renewed so, what was up to date stays it, and nothing is fetched again.
    """
    try:
        prints = Fingerprints(Stages(workspace.config(), ModelStore(), workspace.storage))
        pairs = zip(prints.of(members), prints.of(staying), strict=True)
        return {was["hash"]: now for was, now in pairs}
    except HqvoxError:
        # A configuration that cannot be used now must not keep anybody from being taken down:
        # the shard is stale then, and the next build looks at it anew.
        return {}


def _released(workspace: Workspace, stones: Tombstones) -> dict[str, list[str]]:
    found = {}
    for name in release_names(workspace):
        try:
            release = Release(workspace, name)
            rows, info = release.manifest().to_pylist(), release.info()
        except HqvoxError as error:
            found[name] = [f"it cannot be read, look yourself: {error}"]
            continue
        files = [
            row[kind]
            for row in rows
            if covers(stones, row)
            for kind in ("masked_file", "origin_file")
        ]
        if any(stones.covers_identity(row["identity_id"]) for row in info.get("dropped", ())):
            files.append(INFO)  # it names those who were left out
        if files:
            found[name] = files
    return found
