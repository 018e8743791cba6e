"""Takedowns in what builds write: stage tables and their pixels.

The rows of an erased photograph vanish from the tables of discover and download; its bytes in the
download tar are overwritten with zeros where they lie, so every other photograph keeps its offset,
and tables and tar agree whichever of them is written first. What is made from photographs (crops,
masks, measurements) goes for the whole shard, and the next build makes it again. A kill leaves
nothing half done.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

import numpy as np

from hqvox.errors import HqvoxError
from hqvox.runner.crawl.spool import has_spool
from hqvox.runner.plan import Fingerprints
from hqvox.workspace.covered import ADDRESSES, Covered, CoveredShard, Owner, covers_row
from hqvox.workspace.layout import TAR_OF, Workspace
from hqvox.workspace.parquet import filtered
from hqvox.workspace.shards import ERASED, blank_header
from hqvox.workspace.tables import KEYS, Row
from hqvox.workspace.takedowns import Takedowns
from models.store import ModelStore
from pipelines.chain import STAGE_NAMES, Stages
from pipelines.discover.folder import hashes_name

FETCHED = ("discover", "download")
"""Stages whose tables are kept but for the rows that go: their content costs requests to others."""
_WHAT = ("photo_id", "photo_offset", "photo_bytes", "phash")
_CHUNK = 1 << 22

# What takedowns cover ----------------------------------------------------------------------------


def covered_shards(workspace: Workspace, takedowns: Takedowns) -> Iterator[CoveredShard]:
    """Of every shard, what the takedowns cover."""
    of_shard = workspace.shards()
    for shard in sorted({*of_shard, *_shards_on_disk(workspace)}):
        covered = CoveredShard(shard)
        covered.identities = [
            row["identity_id"]
            for row in of_shard.get(shard, [])
            if takedowns.covers_identity(row["identity_id"])
        ]
        rows = candidate_rows(workspace, shard)
        if rows is None:
            covered.unreadable = bool(takedowns.entries)
        else:
            covered.rows = [row for row in rows if row["orphan"] or covers_row(takedowns, row)]
        yield covered


def candidate_rows(workspace: Workspace, shard: str) -> list[Row] | None:
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
            known = [name for name in (*KEYS, *ADDRESSES, *_WHAT) if name in table.schema.names]
            tables[stage] = table.select(known).to_pylist()
        else:
            tables[stage] = None
    tar = workspace.storage.exists(workspace.tar_name("download", shard))
    if tar and tables["download"] is None and not has_spool(workspace, shard):
        return None
    nothing: Row = dict.fromkeys((*ADDRESSES, *_WHAT))
    rows: dict[tuple[str, int], Row] = {}
    for stage, stage_rows in tables.items():
        for row in stage_rows or []:
            key = (row["identity_id"], row["candidate"])
            if key not in rows and stage == "duplicates":
                continue
            joined: dict[str, Any] = rows.setdefault(
                key, nothing | dict(zip(("identity_id", "candidate"), key, strict=True))
            )
            joined.setdefault("orphan", stage != "discover" and tables["discover"] is not None)
            joined.update({name: row[name] for name in nothing if name in row})
    return list(rows.values())


def lookalikes(workspace: Workspace, hashes: set[int]) -> set[str]:
    """Photographs whose perceptual hash is one of ``hashes``, or as near as duplicates are."""
    if not hashes:
        return set()
    limit = workspace.config().duplicates.max_distance_bits
    wanted = np.array(sorted(hashes), dtype=np.uint64)
    alike = set()
    for shard in workspace.shards():
        rows = [r for r in candidate_rows(workspace, shard) or [] if r["phash"] is not None]
        ours = np.array([row["phash"] for row in rows], dtype=np.uint64)
        for value in wanted:
            differing = np.unpackbits((ours ^ value).view(np.uint8).reshape(-1, 8), axis=1)
            near = np.flatnonzero(differing.sum(axis=1) <= limit)
            alike |= {rows[i]["photo_id"] for i in near.tolist()}
    return alike


def lone_photos(
    workspace: Workspace, takedowns: Takedowns, shards: Sequence[CoveredShard]
) -> frozenset[str]:
    """SHA-256 of the photographs of covered ``shards`` that no remaining row uses."""
    lone = {row["photo_id"] for shard in shards for row in shard.rows} - {None}
    for shard in workspace.shards() if lone else ():
        rows = candidate_rows(workspace, shard) or []
        lone -= {row["photo_id"] for row in rows if not covers_row(takedowns, row)}
    return frozenset(lone)


def _shards_on_disk(workspace: Workspace) -> set[str]:
    """Shards with files, which a purge that was killed may have left without identities."""
    names = [name for stage in FETCHED for name in workspace.storage.names(f"stages/{stage}")]
    return {name.rsplit(".", 1)[0] for name in names if name.endswith((".parquet", ".tar"))}


# Erasing -----------------------------------------------------------------------------------------


def erase_stages(covered: Covered) -> None:
    """Erase covered photographs from tables and tars, shard by shard."""
    workspace, of_shard = covered.workspace, covered.workspace.shards()
    for number, shard in enumerate(covered.shards):
        members = of_shard.get(shard.shard, [])
        staying = [row for row in members if row["identity_id"] not in shard.identities]
        eraser = ShardEraser(workspace, shard.shard)
        if shard.unreadable or not staying:
            workspace.storage.remove(hashes_name(shard.shard))
            eraser.erase_all()
        else:
            renewed = _renewed(workspace, shard.shard, members, staying) if shard.identities else {}
            workspace.storage.remove(hashes_name(shard.shard))
            eraser.erase(shard.rows, renewed)
        covered.on_progress(number + 1, len(covered.shards))
    touched = {shard.shard for shard in covered.shards}
    for name in sorted(_shards_on_disk(workspace) - touched):
        table = workspace.read_stage("download", name, ["reason"])
        if table is not None and "taken_down" in table["reason"].to_pylist():
            ShardEraser(workspace, name).blank(set())


STAGES = Owner("stages", ("stages/*/*.parquet", "stages/*/*.tar", hashes_name("*")), erase_stages)


class ShardEraser:
    """Erases from the tables and tars of one shard."""

    def __init__(self, workspace: Workspace, shard: str) -> None:
        self.workspace = workspace
        self.storage = workspace.storage
        self.shard = shard

    def erase(self, rows: Sequence[Row], renewed: Mapping[str, Mapping[str, Any]]) -> None:
        """Erase rows; ``renewed``: fingerprint records to put in the place of those hashes."""
        if any(row["photo_offset"] is not None for row in rows):
            self._remove(STAGE_NAMES[len(FETCHED) :])
        keys = {(row["identity_id"], row["candidate"]) for row in rows}
        self._rewrite("discover", keys, renewed)
        self.blank(keys)
        self._rewrite("download", keys, renewed)

    def erase_all(self) -> None:
        """Erase all that the shard has."""
        self._remove(STAGE_NAMES)

    def _remove(self, stages: Sequence[str]) -> None:
        """Remove stages, last first, so that a table never remains without its pixels."""
        for stage in reversed(stages):
            self.storage.remove(self.workspace.table_name(stage, self.shard))
            if stage in TAR_OF.values():
                self.storage.remove(self.workspace.tar_name(stage, self.shard))

    def _rewrite(
        self, stage: str, keys: set[tuple[str, int]], renewed: Mapping[str, Mapping[str, Any]]
    ) -> None:
        table = self.workspace.read_stage(stage, self.shard)
        record = self.workspace.committed(stage, self.shard)
        if table is None or record is None:
            return
        places = zip(table["identity_id"].to_pylist(), table["candidate"].to_pylist(), strict=True)
        left = filtered(table, [key not in keys for key in places])
        record |= renewed.get(record["hash"], {})
        self.workspace.write_stage(stage, self.shard, left, record)

    def blank(self, keys: set[tuple[str, int]]) -> None:
        """Overwrite the members of the download tar that no row uses but those of ``keys``.

        That includes members that never had a row: versions that let a crawl commit a photograph
        that was taken down since it was fetched have left some.
        """
        name = self.workspace.tar_name("download", self.shard)
        table = self.workspace.read_stage("download", self.shard)
        if table is None or not self.storage.exists(name):
            return
        members: set[tuple[int, int]] = set()
        staying: set[tuple[int, int]] = set()
        for row in table.to_pylist():
            if row["photo_offset"] is not None:
                goes = (row["identity_id"], row["candidate"]) in keys
                (members if goes else staying).add((row["photo_offset"], row["photo_bytes"]))
        try:
            with self.storage.open(name) as file, tarfile.open(fileobj=file) as tar:
                members |= {(m.offset_data, m.size) for m in tar if m.name != ERASED}
        except tarfile.TarError:  # damaged: what it holds cannot be known
            self.erase_all()
            return
        blanks = sorted(members - staying)
        if not blanks:
            return
        with self.storage.open(name) as old, self.storage.writing(name) as new:
            for offset, size in blanks:
                _copy(old, new, offset - tarfile.BLOCKSIZE - old.tell())
                new.write(blank_header(size))
                old.seek(tarfile.BLOCKSIZE + size, 1)
                new.seek(size, 1)  # a hole: reads as zeros and takes no space
            _copy(old, new, None)


def _renewed(
    workspace: Workspace, shard: str, members: Sequence[Row], staying: Sequence[Row]
) -> dict[str, dict[str, Any]]:
    """Fingerprints of a shard without the identities that go, by those it has with them.

    With these, what was up to date stays so, and nothing is fetched again.
    """
    try:
        prints = Fingerprints(Stages(workspace.config(), ModelStore(), workspace.storage))
        built = workspace.committed(STAGE_NAMES[0], shard)
        pairs = zip(prints.of(members, built), prints.of(staying), strict=True)
        return {was["hash"]: now for was, now in pairs}
    except HqvoxError:
        # A configuration that cannot be used now must not keep anybody from being taken down:
        # the shard is stale then, and the next build runs it again.
        return {}


def _copy(old: IO[bytes], new: IO[bytes], size: int | None) -> None:
    """Copy ``size`` bytes, or all that is left, piece by piece."""
    while size is None or size > 0:
        piece = old.read(_CHUNK if size is None else min(_CHUNK, size))
        if not piece:
            break
        new.write(piece)
        size = None if size is None else size - len(piece)
