"""The candidates of a whole build in one file that opens at once: ``review/candidates.arrow``.

One row per face that every stage kept, person by person in the workspace's order, best first. Rows
say where the face's pixels lie and what was measured; landmarks stay in the stage's own tables.
The file is memory-mapped where it is local. It is a cache: each shard in it carries a token of the
files it was made from (names, sizes, times or ETags of the stages' tables and tars), and a shard
whose token differs is read again when the file is opened.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hqvox.config.build import STAGE_SECTIONS
from hqvox.errors import HqvoxError
from hqvox.workspace.covered import Covered, Owner
from hqvox.workspace.layout import TAR_OF, Workspace
from hqvox.workspace.measures import MEASURES
from hqvox.workspace.storage import Storage
from hqvox.workspace.tables import COLUMNS, KEYS, Row

INDEX = "review/candidates.arrow"
FORMAT = 1
_META = b"hqvox.index"

PIXELS: Mapping[str, tuple[str, ...]] = {
    "download": ("photo_id", "photo_offset", "photo_bytes", "width_px", "height_px"),
    "landmarks": ("box_xyxy",),
    "align": ("aligned_offset", "aligned_bytes"),
    "segment": ("mask_offset", "mask_bytes"),
}
"""The columns that lead to pixels, by the stage that writes them."""

STAGE_COLUMNS: Mapping[str, tuple[str, ...]] = {
    stage: tuple(
        dict.fromkeys(
            [
                *PIXELS.get(stage, ()),
                *(column for m in MEASURES if m.stage == stage for column in m.columns),
            ]
        )
    )
    for stage in STAGE_SECTIONS
    if stage in {measure.stage for measure in MEASURES}
}
"""What is taken from each stage's table; the last stage says which faces there are."""

EXPRESSIONS = ("neutral", "happiness")
"""Of the expression's probabilities, those that are kept."""

PLACE = ("candidate", "photo_id", "face", "box_xyxy", "quality")
"""The columns that identify a candidate, in this build and the next, and its quality."""

OnProgress = Callable[[int, int], None]
"""Called with the number of shards read, and of all shards."""

_ORDER = tuple(STAGE_SECTIONS)
_LAST = _ORDER[-1]
_building = threading.Lock()


@dataclass(frozen=True)
class Index:
    """All candidates of a build."""

    table: pa.Table
    """Columns: the keys, ``shard``, and those of :data:`STAGE_COLUMNS`, with
    ``emotion_probabilities`` replaced by :data:`EXPRESSIONS`."""
    starts: dict[str, tuple[int, int]]
    """First row and row after the last, by identity id."""
    fingerprints: dict[str, str]
    """Of every shard that is built, the fingerprint of its last stage."""
    tokens: dict[str, str]
    """Of every shard that is built, what its files were when it was read."""

    def rows(self, identity_id: str, columns: Sequence[str] | None = None) -> list[Row]:
        """An identity's rows, best first; none where it has no candidates."""
        first, last = self.starts.get(identity_id, (0, 0))
        table = self.table if columns is None else self.table.select(list(columns))
        return table.slice(first, last - first).to_pylist()

    def column(self, name: str) -> NDArray[Any]:
        """A column of numbers as an array; nulls are NaN."""
        return np.asarray(self.table[name].to_numpy())


def open_index(workspace: Workspace, on_progress: OnProgress = lambda done, total: None) -> Index:
    """The index of a workspace, updated where its file is missing or older than the build.

    Raises HqvoxError where a stage's table is damaged.
    """
    shards = workspace.shards()
    tokens = shard_tokens(workspace, shards)
    with _building:
        stored = _load(workspace.storage)
        if stored is not None and stored.tokens == tokens:
            return stored
        index = _build(workspace, shards, tokens, stored, on_progress)
        try:
            _save(workspace.storage, index)
        except HqvoxError:
            return index  # a workspace that cannot be written can still be looked at
        return _load(workspace.storage) or index


def shard_tokens(workspace: Workspace, shards: Mapping[str, Sequence[Row]]) -> dict[str, str]:
    """Of every shard that is built to the end, what its files are now."""
    stages = tuple(STAGE_COLUMNS)
    files = {stage: listing(workspace.storage, f"stages/{stage}") for stage in stages}
    tars = set(TAR_OF.values())
    tokens = {}
    for shard, identities in shards.items():
        parts: list[Any] = [[row["identity_id"] for row in identities]]
        for stage in stages:
            parts.append(files[stage].get(f"{shard}.parquet"))
            if stage in tars:
                parts.append(files[stage].get(f"{shard}.tar"))
        if None not in parts:
            tokens[shard] = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
    return tokens


def listing(storage: Storage, folder: str) -> dict[str, list[str]]:
    """Size and time (or ETag) of every file of a folder, by name."""
    try:
        entries = storage.fs.ls(storage.path(folder), detail=True, refresh=True)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    files = {}
    for entry in entries:
        marks = (entry.get(key) for key in ("ETag", "etag", "mtime", "LastModified", "created"))
        mark = next((str(value) for value in marks if value is not None), "")
        files[str(entry["name"]).rsplit("/", 1)[-1]] = [str(entry["size"]), mark]
    return files


def _load(storage: Storage) -> Index | None:
    """The stored index; None where there is none that this version can read."""
    try:
        if storage.local:
            source = pa.memory_map(storage.path(INDEX))
        else:
            source = pa.BufferReader(storage.read(INDEX))
        table = pa.ipc.open_file(source).read_all()
        header = json.loads((table.schema.metadata or {})[_META])
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return None
    if header["format"] != FORMAT or table.schema.names != index_schema().names:
        return None
    return _indexed(table, header["fingerprints"], header["tokens"])


def _save(storage: Storage, index: Index) -> None:
    header = {"format": FORMAT, "fingerprints": index.fingerprints, "tokens": index.tokens}
    table = index.table.replace_schema_metadata({_META: json.dumps(header).encode()})
    with storage.writing(INDEX) as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table.combine_chunks())


def _indexed(table: pa.Table, fingerprints: dict[str, str], tokens: dict[str, str]) -> Index:
    starts: dict[str, tuple[int, int]] = {}
    if table.num_rows:
        runs = pc.run_end_encode(table["identity_id"].combine_chunks())
        first = 0
        for identity_id, last in zip(
            runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True
        ):
            starts[identity_id] = (first, last)
            first = last
    return Index(table, starts, fingerprints, tokens)


def _build(
    workspace: Workspace,
    shards: Mapping[str, Sequence[Row]],
    tokens: Mapping[str, str],
    before: Index | None,
    on_progress: OnProgress,
) -> Index:
    """Read the shards that changed; take the others from the index before."""
    known = {} if before is None else _by_shard(before, tokens)
    parts: list[pa.Table] = []
    fingerprints, read = {}, {}
    for done, (shard, token) in enumerate(tokens.items()):
        on_progress(done, len(tokens))
        part = known.get(shard)
        if part is None:
            record = workspace.committed(_LAST, shard)
            part = read_shard(workspace, shard, [row["identity_id"] for row in shards[shard]])
            if record is None or part is None:
                continue  # being built at this moment
            fingerprints[shard] = record["hash"]
        else:
            assert before is not None
            fingerprints[shard] = before.fingerprints[shard]
        read[shard] = token
        parts.append(part)
    on_progress(len(tokens), len(tokens))
    table = pa.concat_tables([index_schema().empty_table(), *parts]).combine_chunks()
    return _indexed(table, fingerprints, read)


def _by_shard(before: Index, tokens: Mapping[str, str]) -> dict[str, pa.Table]:
    """The parts of an index whose shards did not change."""
    same = {shard for shard, token in before.tokens.items() if tokens.get(shard) == token}
    empty = before.table.slice(0, 0)
    parts = dict.fromkeys(same, empty.replace_schema_metadata(None))
    if before.table.num_rows:
        runs = pc.run_end_encode(before.table["shard"].combine_chunks())
        first = 0
        for shard, last in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
            if shard in same:
                part = before.table.slice(first, last - first)
                parts[shard] = part.replace_schema_metadata(None)
            first = last
    return parts


def index_schema() -> pa.Schema:
    """Columns of the index."""
    fields = [pa.field(name, column.type) for name, column in KEYS.items()]
    fields.append(pa.field("shard", pa.string()))
    for names in STAGE_COLUMNS.values():
        for name in names:
            if name == "emotion_probabilities":
                fields += [pa.field(kind, pa.float32()) for kind in EXPRESSIONS]
            else:
                fields.append(pa.field(name, COLUMNS[name].type))
    return pa.schema(fields)


def read_shard(workspace: Workspace, shard: str, identity_ids: Sequence[str]) -> pa.Table | None:
    """A shard's candidates, in the order of ``identity_ids`` and best first.

    None where a stage's table is missing or does not know a face that a later one kept: the shard
    is being built.
    """
    last = workspace.read_stage(_LAST, shard, [*STAGE_COLUMNS[_LAST], "reason"])
    if last is None:
        return None
    last = last.filter(last["reason"].is_null())
    wanted = _keys(last, identity_ids)
    quality = last["quality"].to_numpy().astype(np.float64)
    order = np.lexsort((wanted, -np.where(np.isnan(quality), -1.0, quality), wanted >> _WHO))
    last, wanted = last.take(pa.array(order)), wanted[order]
    columns = {name: last[name] for name in KEYS}
    columns["shard"] = pa.array([shard] * last.num_rows, pa.string())
    for stage, names in STAGE_COLUMNS.items():
        rows: pa.Table | None = last
        if stage != _LAST:
            rows = _matching(workspace, stage, shard, names, wanted, identity_ids)
        if rows is None:
            return None
        for name in names:
            if name == "emotion_probabilities":
                for kind in EXPRESSIONS:
                    columns[kind] = pc.map_lookup(rows[name], kind, "first")
            else:
                columns[name] = rows[name]
    schema = index_schema()
    return pa.table({field.name: columns[field.name].cast(field.type) for field in schema}, schema)


def _matching(
    workspace: Workspace,
    stage: str,
    shard: str,
    names: Sequence[str],
    wanted: NDArray[np.int64],
    identity_ids: Sequence[str],
) -> pa.Table | None:
    """Of a stage's table the rows of the wanted faces, in their order."""
    table = workspace.read_stage(stage, shard, list(names))
    if table is None:
        return None
    keys = _keys(table, identity_ids)
    if _ORDER.index(stage) < _ORDER.index("landmarks"):  # its rows are photographs
        keys, wanted = keys >> _FACE, wanted >> _FACE
    order = np.argsort(keys, kind="stable")
    at = np.minimum(np.searchsorted(keys[order], wanted), max(0, len(keys) - 1))
    if len(wanted) and (not len(keys) or (keys[order][at] != wanted).any()):
        return None
    return table.take(pa.array(order[at] if len(keys) else at[:0]))


_FACE, _WHO = 16, 48


def _keys(table: pa.Table, identity_ids: Sequence[str]) -> NDArray[np.int64]:
    """The keys of every row as one number that sorts as they do."""
    who = pc.index_in(table["identity_id"], value_set=pa.array(identity_ids, pa.string()))
    number = pc.fill_null(who, len(identity_ids)).to_numpy().astype(np.int64)
    candidate = table["candidate"].to_numpy().astype(np.int64)
    face = pc.fill_null(table["face"], 0).to_numpy().astype(np.int64)
    return np.asarray((number << _WHO) | (candidate << _FACE) | face, np.int64)


def erase_index(covered: Covered) -> None:
    """Remove the index: it is made again when needed."""
    covered.workspace.storage.remove(INDEX)


CANDIDATES_INDEX = Owner("index of candidates", (INDEX,), erase_index)
