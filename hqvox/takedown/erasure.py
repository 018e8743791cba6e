"""Erasing photographs from the files of a workspace, so that a kill leaves nothing half done.

The rows of an erased photograph vanish from the tables of discover and download; its bytes in the
download tar are overwritten with zeros where they lie, so every other photograph keeps its offset,
and tables and tar agree whichever of them is written first. What is made from photographs (crops,
masks, measurements) goes for the whole shard, and the next build makes it again.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Mapping, Sequence
from typing import IO, Any

import pyarrow as pa

from hqvox.release.layout import FOLDER
from hqvox.release.read import release_names
from hqvox.release.target import remove_leftovers
from hqvox.speech.build import LISTING
from hqvox.speech.pack import array_name as speech_array_name
from hqvox.speech.pack import table_name as speech_table_name
from hqvox.workspace.layout import TAR_OF, Workspace
from hqvox.workspace.storage import Storage
from hqvox.workspace.tables import Row
from hqvox.workspace.tombstones import Tombstones
from pipelines.chain import STAGE_NAMES

FETCHED = ("discover", "download")
"""Stages whose tables are kept but for the rows that go: their content costs requests to others."""
_CHUNK = 1 << 22


class ShardEraser:
    """Erases from the tables and tars of one shard."""

    def __init__(self, workspace: Workspace, shard: str, stones: Tombstones) -> None:
        self.workspace = workspace
        self.storage = workspace.storage
        self.shard = shard
        self.stones = stones

    def erase(self, rows: Sequence[Row], renewed: Mapping[str, Mapping[str, Any]]) -> None:
        """Erase rows; ``renewed``: fingerprint records to put in the place of those hashes."""
        if any(row["photo_offset"] is not None for row in rows):
            self._remove(STAGE_NAMES[len(FETCHED) :])
        keys = {(row["identity_id"], row["candidate"]) for row in rows}
        self._rewrite("discover", keys, renewed)
        self._blank(keys)
        self._rewrite("download", keys, renewed)

    def erase_all(self) -> None:
        """Erase all that the shard has."""
        self._remove(STAGE_NAMES)

    def _remove(self, stages: Sequence[str]) -> None:
        """Remove stages, last first, so that a table never stands without what it points into."""
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
        keep = pa.array([key not in keys for key in places], pa.bool_())
        self.workspace.write_stage(
            stage, self.shard, table.filter(keep), renewed.get(record["hash"], record)
        )

    def _blank(self, keys: set[tuple[str, int]]) -> None:
        """Overwrite members of the download tar that no row is left to use."""
        name = self.workspace.tar_name("download", self.shard)
        table = self.workspace.read_stage("download", self.shard)
        if table is None or not self.storage.exists(name):
            return
        going: set[tuple[int, int]] = set()
        staying: set[tuple[int, int]] = set()
        for row in table.to_pylist():
            if row["photo_offset"] is not None:
                place = (row["photo_offset"], row["photo_bytes"])
                doomed = (row["identity_id"], row["candidate"]) in keys
                (going if doomed else staying).add(place)
        blanks = sorted(going - staying)
        if not blanks:
            return
        with self.storage.open(name) as old, self.storage.writing(name) as new:
            for offset, size in blanks:
                _copy(old, new, offset - tarfile.BLOCKSIZE - old.tell())
                new.write(blank_header(size))
                old.seek(tarfile.BLOCKSIZE + size, 1)
                new.seek(size, 1)  # a hole: reads as zeros and takes no space
            _copy(old, new, None)


def blank_header(size: int) -> bytes:
    """Tar header of an erased member; the one it replaces named the photo by its hash."""
    header = tarfile.TarInfo("taken-down")
    header.size = size
    return header.tobuf(tarfile.USTAR_FORMAT)


def erase_around(
    workspace: Workspace, stones: Tombstones, shards: set[str], voices: set[str]
) -> None:
    """Erase what lies beside the stages: speech, failures, logs, reports, leftovers.

    ``shards``: those of which something goes; ``voices``: those of which an identity does. Whatever
    else a workspace comes to keep about people is to be erased here.
    """
    storage = workspace.storage
    for shard in sorted(shards):
        workspace.clear_failed(shard)
    for shard in sorted(voices):
        storage.remove(speech_table_name(shard))
        storage.remove(speech_array_name(shard))
    if voices:
        storage.remove(LISTING)  # of audio folders, which bear names; made again when needed
    runs = [f"runs/{run}" for run in storage.names("runs")]
    for folder in (
        "",
        "failed",
        "speech",
        "attempts",
        *(f"stages/{stage}" for stage in STAGE_NAMES),
        *runs,
    ):
        storage.remove_leftovers(folder)
    _erase_logs(storage, stones, shards)
    for name in storage.names("") if shards else ():
        if name.endswith(".html"):  # a report: it holds pictures
            storage.remove(name)
    finished = release_names(workspace)
    unfinished = [name for name in storage.names(FOLDER) if name not in finished]
    for name in unfinished or [""]:
        remove_leftovers(storage, f"{FOLDER}/{name}")


def _erase_logs(storage: Storage, stones: Tombstones, shards: set[str]) -> None:
    """Take identities, and what failures quote, out of the logs of runs."""
    for run in storage.names("runs"):
        name = f"runs/{run}/log.jsonl"
        if not storage.exists(name):
            continue
        lines = storage.read(name).decode().splitlines()
        kept = []
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:
                continue  # damaged: what it names cannot be known
            if stones.covers_identity(str(record.get("identity"))):
                continue
            if record.get("shard") in shards:
                record = {k: v for k, v in record.items() if k not in ("error", "trace")}
            kept.append(json.dumps(record))
        if kept != lines:
            storage.write(name, "\n".join([*kept, ""]).encode())


def _copy(old: IO[bytes], new: IO[bytes], size: int | None) -> None:
    """Copy ``size`` bytes, or all that is left, piece by piece."""
    while size is None or size > 0:
        piece = old.read(_CHUNK if size is None else min(_CHUNK, size))
        if not piece:
            break
        new.write(piece)
        size = None if size is None else size - len(piece)
