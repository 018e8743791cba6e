"""The packed log-mels of all utterances: one float16 array per shard, and its index.

<workspace>/speech/<shard>.f16       (frames, filters) float16, little-endian, utterances end to end
<workspace>/speech/<shard>.parquet   one row per audio file, packed or refused; commits the shard

The columns are ``hqvox.workspace.tables.UTTERANCES``. The table's schema metadata has the shard's
fingerprint, and the mean and variance of its log-mels.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hqvox.errors import HqvoxError
from hqvox.speech.statistics import MeanVariance
from hqvox.workspace.covered import Covered, Owner
from hqvox.workspace.layout import FINGERPRINT, Workspace
from hqvox.workspace.parquet import read_parquet
from hqvox.workspace.storage import PendingFile
from hqvox.workspace.tables import UTTERANCES, Row

FOLDER = "speech"
STATISTICS = b"hqvox.speech"
"""Key of a table's schema metadata: JSON with ``n_filters``, ``front_end``, ``statistics``."""
SF2F = "sf2f"
"""The front end of tables that do not name theirs."""
LITTLE_ENDIAN_F16 = np.dtype("<f2")


class SpeechPack:
    """The packed log-mels of a workspace, for reading.

    >>> pack = SpeechPack(Workspace.open("work"))
    >>> for row in pack.index().to_pylist():
    ...     log_mel = pack.read(row)  # float16 (frames, filters), natural log

    Arrays are memory-mapped where the workspace is a local folder, so reading an utterance costs
    only a view. Use one object per process. Every method raises HqvoxError where a file is damaged.
    """

    def __init__(self, workspace: Workspace | str | Path) -> None:
        opened = workspace if isinstance(workspace, Workspace) else Workspace.open(workspace)
        self.workspace = opened
        self._storage = opened.storage
        self._maps: dict[str, NDArray[np.float16]] = {}

    def shards(self) -> list[str]:
        """Names of the packed shards, sorted; empty where there is no speech."""
        names = self._storage.names(FOLDER)
        return [name.removesuffix(".parquet") for name in names if name.endswith(".parquet")]

    def index(self, shards: Iterable[str] | None = None) -> pa.Table:
        """Packed utterances (``hqvox.workspace.tables.UTTERANCES``, reason null), by shard and
        offset."""
        table = self._tables(shards)
        return table.filter(pc.is_null(table["reason"]))

    def refused(self, shards: Iterable[str] | None = None) -> pa.Table:
        """Refused audio files, each with its ``reason`` and, for some, ``detail``."""
        table = self._tables(shards)
        return table.filter(pc.is_valid(table["reason"]))

    def n_filters(self) -> int | None:
        """Mel filters of the packed log-mels; None where nothing is packed.

        Raises HqvoxError where shards differ, as after an interrupted rebuild.
        """
        return self._of_all("n_filters", "filters")

    def front_end(self) -> str | None:
        """Front end of the packed log-mels, ``sf2f`` or ``voice2face``; None where nothing is.

        Raises HqvoxError where shards differ, as after an interrupted rebuild.
        """
        return self._of_all("front_end", "as front end")

    def _of_all(self, key: str, what: str) -> Any:
        """A value that all shards share; None where there is no shard."""
        values = sorted({self._record(shard)[key] for shard in self.shards()})
        if len(values) > 1:
            raise HqvoxError(
                f"{self._storage.shown(FOLDER)}: shards have {values} {what}; "
                f"run `hqvox speech {self.workspace.url}`, which packs the rest again"
            )
        return values[0] if values else None

    def read(self, row: Mapping[str, Any]) -> NDArray[np.float16]:
        """Log-mel (frames, filters) of an index row; uses its shard, offset and frames."""
        shard, offset, frames = str(row["shard"]), int(row["offset"]), int(row["frames"])
        array = self.array(shard)
        if offset < 0 or offset + frames > len(array):
            raise self._damaged(shard, f"has {len(array)} frames, {offset + frames} are needed")
        return array[offset : offset + frames]

    def array(self, shard: str) -> NDArray[np.float16]:
        """All frames of a shard (frames, filters), read-only; mapped where the file is local."""
        if shard not in self._maps:
            record = self._record(shard)
            shape = (record["statistics"]["frames"], record["n_filters"])
            name = array_name(shard)
            path = self._storage.path(name)
            try:
                if shape[0] and self._storage.local:
                    self._maps[shard] = np.memmap(path, LITTLE_ENDIAN_F16, "r", shape=shape)
                else:
                    data = self._storage.read(name) if shape[0] else b""
                    self._maps[shard] = np.frombuffer(data, LITTLE_ENDIAN_F16).reshape(shape)
            except (OSError, ValueError) as error:
                raise self._damaged(shard, f"does not hold {shape[0]} frames: {error}") from None
        return self._maps[shard]

    def mean_variance(self, shards: Iterable[str] | None = None) -> MeanVariance:
        """Mean and variance of the packed log-mels, from the tables: no log-mel is read.

        Raises HqvoxError where nothing is packed.
        """
        n_filters = self.n_filters()
        if n_filters is None:
            raise HqvoxError(
                f"{self.workspace.url}: no speech here; pack it with "
                f"`hqvox speech {self.workspace.url} --audio DIR`"
            )
        total = MeanVariance.empty(n_filters)
        for shard in self.shards() if shards is None else shards:
            total = total.merged(MeanVariance.from_record(self._record(shard)["statistics"]))
        return total

    def fingerprint(self, shard: str) -> dict[str, Any] | None:
        """Fingerprint record of a shard, or None where it is not completely packed."""
        name = table_name(shard)
        if not (self._storage.exists(name) and self._storage.exists(array_name(shard))):
            return None
        try:
            with self._storage.open(name) as file:
                return json.loads((pq.read_schema(file).metadata or {})[FINGERPRINT])
        except (OSError, pa.ArrowException, KeyError, json.JSONDecodeError):
            return None

    def _record(self, shard: str) -> dict[str, Any]:
        try:
            with self._storage.open(table_name(shard)) as file:
                record = json.loads((pq.read_schema(file).metadata or {})[STATISTICS])
                return {"front_end": SF2F, **record}
        except (OSError, pa.ArrowException, KeyError, json.JSONDecodeError) as error:
            raise self._damaged(shard, f"cannot be read ({error})", ".parquet") from None

    def _tables(self, shards: Iterable[str] | None) -> pa.Table:
        tables = [UTTERANCES.empty_table()]
        for shard in self.shards() if shards is None else shards:
            try:
                with self._storage.open(table_name(shard)) as file:
                    tables.append(read_parquet(file).replace_schema_metadata(None))
            except (OSError, pa.ArrowException) as error:
                raise self._damaged(shard, f"cannot be read ({error})", ".parquet") from None
        return pa.concat_tables(tables).unify_dictionaries()

    def _damaged(self, shard: str, what: str, ending: str = ".f16") -> HqvoxError:
        path = self._storage.shown(f"{FOLDER}/{shard}")
        return HqvoxError(
            f"{path}{ending}: {what}; delete {path}.parquet and run "
            f"`hqvox speech {self.workspace.url}`, which packs it again"
        )


class PackWriter:
    """Packs one shard: add every file's row in order, then commit. Discard in a ``finally``."""

    def __init__(
        self, workspace: Workspace, shard: str, n_filters: int, front_end: str = SF2F
    ) -> None:
        self._storage = workspace.storage
        self.shard = shard
        self._rows: list[Row] = []
        self._statistics = MeanVariance.empty(n_filters)
        self._n_filters, self._front_end = n_filters, front_end
        self._pending: PendingFile = self._storage.begin(array_name(shard))

    def add(self, row: Row, log_mel: NDArray[np.float32] | None) -> None:
        """Append a file's row, with its log-mel (frames, filters) unless it is refused."""
        row = {**row, "shard": self.shard, "offset": None, "frames": None}
        if log_mel is not None:
            stored = log_mel.astype(LITTLE_ENDIAN_F16)
            row |= {"offset": self._statistics.frames, "frames": len(stored)}
            self._pending.file.write(stored.tobytes())
            # Of the stored float16 values, so that readers of the array get the same statistics.
            self._statistics = self._statistics.merged(MeanVariance.of(stored))
        self._rows.append(row)

    def commit(self, fingerprint: Mapping[str, Any]) -> None:
        """Commit the array, then the table, which marks the shard as done. Raises OSError."""
        # A table must not stand beside a newer array than its own.
        self._storage.remove(table_name(self.shard))
        self._pending.commit()
        record: dict[str, Any] = {"n_filters": self._n_filters}
        if self._front_end != SF2F:
            record["front_end"] = self._front_end
        record["statistics"] = self._statistics.record()
        table = pa.Table.from_pylist(self._rows, schema=UTTERANCES).replace_schema_metadata(
            {
                FINGERPRINT: json.dumps(fingerprint, sort_keys=True).encode(),
                STATISTICS: json.dumps(record).encode(),
            }
        )
        with self._storage.writing(table_name(self.shard)) as file:
            pq.write_table(table, file, compression="zstd")

    def discard(self) -> None:
        """Delete what was not committed."""
        self._pending.discard()


def remove_shard(workspace: Workspace, shard: str) -> None:
    """Remove a shard's table, then its array."""
    workspace.storage.remove(table_name(shard))
    workspace.storage.remove(array_name(shard))


def array_name(shard: str) -> str:
    """Relative name of a shard's array."""
    return f"{FOLDER}/{shard}.f16"


def table_name(shard: str) -> str:
    """Relative name of a shard's table."""
    return f"{FOLDER}/{shard}.parquet"


def erase_speech(covered: Covered) -> None:
    """Remove the packed speech of shards that lose an identity; what stays is packed again."""
    for shard in sorted({shard for shard, _ in covered.identities}):
        remove_shard(covered.workspace, shard)


SPEECH = Owner("packed speech", (f"{FOLDER}/*.parquet", f"{FOLDER}/*.f16"), erase_speech)
