"""The files of a workspace: their layout, reading and writing.

<workspace>/hqvox.yaml  identities.parquet
  stages/<stage>/<shard>.parquet   rows, verdicts, measurements; metadata carries the fingerprint
  stages/{download,align,segment}/<shard>.tar   pixels
  tombstones.jsonl      what was taken down, see hqvox.workspace.takedowns
  failed/<shard>.json   a shard that could not be finished, with its trace
  runs/<time>-<id>/     config, versions, log.jsonl, timings
  releases/<name>/
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hqvox.config.build import BuildConfig
from hqvox.config.file import load_config
from hqvox.errors import HqvoxError
from hqvox.workspace.covered import Covered, Owner
from hqvox.workspace.locks import file_lock, lease
from hqvox.workspace.parquet import filtered, read_parquet
from hqvox.workspace.storage import Storage
from hqvox.workspace.tables import ADDED, IDENTITIES, KEYS, Row

CONFIG = "hqvox.yaml"
IDENTITIES_FILE = "identities.parquet"
FINGERPRINT = b"hqvox.fingerprint"
"""Key of a stage table's schema metadata: JSON, see ``hqvox.runner.plan``."""
PURGING = ".purging"
"""Present while photographs are being taken down; see :mod:`hqvox.takedown.purge`."""
LOCK = ".lock"
"""Held by the one command that may change the workspace."""
_SWEPT_BY_OTHERS = ("releases", "import")
"""Folders with very many files. A release is written to a folder that is removed as a whole."""
TAR_OF = {"photo": "download", "aligned": "align", "mask": "segment"}
"""Which stage's tar holds which pixels."""


class Workspace:
    """One build: its configuration, identities, stage tables, pixels and releases."""

    def __init__(self, root: str | Path) -> None:
        self.storage = Storage(root)

    @classmethod
    def open(cls, root: str | Path) -> Workspace:
        """An existing workspace. Raises HqvoxError where there is none."""
        workspace = cls(root)
        if not workspace.storage.exists(CONFIG):
            raise HqvoxError(
                f"{root}: no workspace here ({CONFIG} is missing); make one with "
                f"`hqvox init {root} --photos FOLDER`"
            )
        return workspace

    @classmethod
    def create(cls, root: str | Path, config_text: str, identities: pa.Table) -> Workspace:
        """A new workspace. Raises HqvoxError where one is already."""
        workspace = cls(root)
        if workspace.storage.exists(CONFIG):
            raise HqvoxError(f"{root}: a workspace is already here; choose another folder")
        load_config(config_text)
        sink = io.BytesIO()
        pq.write_table(identities.cast(IDENTITIES), sink, compression="zstd")
        workspace.storage.write(IDENTITIES_FILE, sink.getvalue())
        workspace.storage.write(CONFIG, config_text.encode())
        return workspace

    @property
    def url(self) -> str:
        """The root as the user gave it."""
        return self.storage.url

    def config(self, settings: Sequence[str] = (), recipe: str | None = None) -> BuildConfig:
        """The configuration: hqvox.yaml and ``--set`` values. Raises HqvoxError with the line."""
        text = self.storage.read(CONFIG).decode()
        return load_config(text, self.storage.shown(CONFIG), settings, recipe)

    def identities(self) -> pa.Table:
        """The identities table. Raises HqvoxError where the file is damaged."""
        try:
            return read_parquet(self.storage.read(IDENTITIES_FILE))
        except (OSError, pa.ArrowException) as error:  # Arrow reports some damage as OSError
            path = self.storage.shown(IDENTITIES_FILE)
            raise HqvoxError(
                f"{path}: cannot be read ({error}); make a workspace in another folder "
                "with hqvox init"
            ) from None

    def shards(self) -> dict[str, list[Row]]:
        """Identity rows of each shard, in order."""
        shards: dict[str, list[Row]] = {}
        for row in self.identities().to_pylist():
            shards.setdefault(row["shard"], []).append(row)
        return shards

    # Stage tables ------------------------------------------------------------------------------

    def table_name(self, stage: str, shard: str) -> str:
        """Relative name of a stage's table."""
        return f"stages/{stage}/{shard}.parquet"

    def tar_name(self, stage: str, shard: str) -> str:
        """Relative name of a stage's pixel shard."""
        return f"stages/{stage}/{shard}.tar"

    def committed(self, stage: str, shard: str) -> dict[str, Any] | None:
        """The fingerprint record of a committed shard, or None where there is none (or damaged).

        None also where the pixels that the table points into are gone.
        """
        name = self.table_name(stage, shard)
        if not self.storage.exists(name):
            return None
        if stage in TAR_OF.values() and not self.storage.exists(self.tar_name(stage, shard)):
            return None
        try:
            with self.storage.open(name) as file:
                metadata = pq.read_schema(file).metadata or {}
            return json.loads(metadata[FINGERPRINT])
        except (OSError, pa.ArrowException, KeyError, json.JSONDecodeError):
            return None

    def read_stage(
        self, stage: str, shard: str, columns: Sequence[str] | None = None
    ) -> pa.Table | None:
        """A stage's table (keys always included), or None where it is not there.

        Raises HqvoxError where the file is damaged.
        """
        name = self.table_name(stage, shard)
        if not self.storage.exists(name):
            return None
        wanted = None if columns is None else [*KEYS, *columns]
        try:
            with self.storage.open(name) as file:
                return read_parquet(file, wanted, ADDED)
        except (OSError, pa.ArrowException) as error:  # Arrow reports some damage as OSError
            raise HqvoxError(
                f"{self.storage.shown(name)}: cannot be read ({error}); delete it and run "
                f"`hqvox build {self.url}`, which makes it again"
            ) from None

    def write_stage(
        self, stage: str, shard: str, table: pa.Table, fingerprint: Mapping[str, Any]
    ) -> None:
        """Commit a stage's table: the marker that the shard's stage is done."""
        table = table.replace_schema_metadata(
            {FINGERPRINT: json.dumps(fingerprint, sort_keys=True).encode()}
        )
        with self.storage.writing(self.table_name(stage, shard)) as file:
            pq.write_table(table, file, compression="zstd")

    def kept_rows(
        self, shard: str, stages: Sequence[str], columns: Mapping[str, Sequence[str]]
    ) -> list[Row]:
        """Rows that every one of ``stages`` kept, joined: the input of the stage that follows.

        ``stages``: names in order. ``columns``: of each stage, the columns wanted.
        """
        rows: dict[tuple[str, int, int | None], Row] = {}
        for number, stage in enumerate(stages):
            table = self.read_stage(shard=shard, stage=stage, columns=[*columns[stage], "reason"])
            if table is None:
                raise HqvoxError(f"{self.storage.shown(self.table_name(stage, shard))}: missing")
            joined: dict[tuple[str, int, int | None], Row] = {}
            for row in table.to_pylist():
                if row.pop("reason") is not None:
                    continue
                key = (row["identity_id"], row["candidate"], row["face"])
                before = rows.get(key) or rows.get((key[0], key[1], None))
                if number and before is None:
                    continue
                joined[key] = {**(before or {}), **row}
            rows = joined
        return list(rows.values())

    def pixels(self, kind: str, row: Mapping[str, Any]) -> bytes:
        """Encoded bytes of a row's ``photo``, ``aligned`` or ``mask``; the row names its shard."""
        name = self.tar_name(TAR_OF[kind], row["shard"])
        return self.storage.read(name, int(row[f"{kind}_offset"]), int(row[f"{kind}_bytes"]))

    # Failed shards -----------------------------------------------------------------------------

    def failures(self) -> dict[str, dict[str, Any]]:
        """Shards that could not be finished: name to what happened."""
        return {
            name.removesuffix(".json"): json.loads(self.storage.read(f"failed/{name}"))
            for name in self.storage.names("failed")
        }

    def mark_failed(self, shard: str, record: Mapping[str, Any]) -> None:
        """Record that a shard could not be finished."""
        self.storage.write(f"failed/{shard}.json", json.dumps(record, indent=1).encode())

    def clear_failed(self, shard: str) -> None:
        """Forget a shard's failure."""
        self.storage.remove(f"failed/{shard}.json")

    # One build at a time -----------------------------------------------------------------------

    @contextmanager
    def lock(self, purging: bool = False) -> Iterator[None]:
        """Hold the workspace for one build. Raises HqvoxError where another holds it.

        The lock is the kernel's and goes with the process, however it ends; on object storage it
        is a lease. Temporary files of processes that are gone are removed first. Only ``purging``
        may hold a workspace in which a purge was cut short: anything else could work on photographs
        that were taken down.
        """
        if not purging and self.storage.exists(PURGING):
            raise HqvoxError(
                f"{self.url}: photographs are being taken down here, or a purge was cut short; "
                f"finish it with `hqvox purge {self.url}`"
            )

        def busy(holder: str) -> HqvoxError:
            return HqvoxError(
                f"{self.url}: another build is running here ({holder}); wait for it, or stop it"
            )

        def busy_file(handle: int) -> HqvoxError:
            pid = os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
            return busy(f"process {pid}")

        if not self.storage.local:
            with lease(self.storage, LOCK, busy):
                self.storage.sweep()
                yield
            return
        with file_lock(self.storage.path(LOCK), busy_file) as handle:
            os.ftruncate(handle, 0)
            os.pwrite(handle, str(os.getpid()).encode(), 0)
            self.storage.sweep(leave=_SWEPT_BY_OTHERS)
            yield


# Takedowns ---------------------------------------------------------------------------------------


def erase_failures(covered: Covered) -> None:
    """Forget the failures of covered shards: their traces may quote names of files."""
    for shard in covered.shards:
        covered.workspace.clear_failed(shard.shard)


def erase_identities(covered: Covered) -> None:
    """Erase covered identities from the identities table.

    Must come last: until then the table says which shards a purge that was killed has to finish.
    """
    gone = {identity_id for _, identity_id in covered.identities}
    if not gone:
        return
    table = covered.workspace.identities()
    keep = [identity_id not in gone for identity_id in table["identity_id"].to_pylist()]
    with covered.workspace.storage.writing(IDENTITIES_FILE) as file:
        pq.write_table(filtered(table, keep), file, compression="zstd")


FAILURES = Owner("failed shards", ("failed/*.json",), erase_failures)
IDENTITIES_TABLE = Owner("identities", (IDENTITIES_FILE,), erase_identities)
SETTINGS = Owner("configuration and lock", (CONFIG, "hosts.yaml", LOCK, PURGING), None)
