"""Finding rows of a build and joining what the stages wrote about them; reads nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa

from hqvox.workspace.layout import Workspace
from hqvox.workspace.tables import COLUMNS, KEYS, Row
from pipelines.chain import COLUMNS_OF, STAGE_NAMES

Key = tuple[str, int, int | None]
"""Identity, candidate, face; face is None for a photo without faces."""

ALL_COLUMNS: Mapping[str, Sequence[str]] = COLUMNS_OF
"""Of every stage, all its columns."""


def joined_rows(
    workspace: Workspace,
    shard: str,
    keys: Iterable[Key],
    columns: Mapping[str, Sequence[str]] = ALL_COLUMNS,
) -> list[Row]:
    """What the stages wrote about the given photos or faces of a shard, in the order of ``keys``.

    One row per key: the keys, the named columns of each stage (null where the row did not get so
    far), ``shard``, ``stage`` (the last one it entered, "" if none) and ``reason`` (null: kept
    there). Only rows asked for are turned into Python values.
    """
    wanted = list(dict.fromkeys(keys))
    nothing: Row = {name: None for names in columns.values() for name in names}
    rows: dict[Key, Row] = {
        key: nothing
        | dict(zip(KEYS, key, strict=True))
        | {"shard": shard, "stage": "", "reason": None}
        for key in wanted
    }
    by_key: dict[Key, list[Key]] = {}
    for key in wanted:
        # A face's row is found under its photo's key in the stages before faces were known.
        for lookup in {key, (key[0], key[1], None)}:
            by_key.setdefault(lookup, []).append(key)
    for stage in STAGE_NAMES:
        names = [name for name in columns.get(stage, ()) if name in COLUMNS]
        table = workspace.read_stage(stage, shard, [*names, "reason"])
        if table is None:
            break
        indices = [i for i, key in enumerate(table_keys(table)) if key in by_key]
        for row in table.take(pa.array(indices, pa.int64())).to_pylist():
            measured = {name: row[name] for name in (*names, "reason")} | {"stage": stage}
            for key in by_key[row["identity_id"], row["candidate"], row["face"]]:
                rows[key].update(measured)
    return list(rows.values())


def shard_keys(workspace: Workspace, shard: str) -> list[Key]:
    """The key of every photo of a shard that has no face, and of every face of the others.

    Photos in the order they were found in, the faces of each by number.
    """
    keys: dict[tuple[str, int], list[Key]] = {}
    for stage in ("discover", "landmarks"):
        table = workspace.read_stage(stage, shard, [])
        of_photo: dict[tuple[str, int], list[Key]] = {}
        for key in table_keys(table) if table is not None else []:
            of_photo.setdefault(key[:2], []).append(key)
        keys |= of_photo  # a photo's faces take its place
    return [key for of_photo in keys.values() for key in of_photo]


def table_keys(table: pa.Table) -> list[Key]:
    """The key of every row of a stage table."""
    return list(zip(*(table[name].to_pylist() for name in KEYS), strict=True))
