"""The examples in a report: a sample of what each stage kept and refused."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from hqvox.runner.lookup import ALL_COLUMNS, Key, joined_rows, table_keys
from hqvox.workspace.layout import Workspace
from hqvox.workspace.tables import Row
from pipelines.chain import STAGE_NAMES


@dataclass
class ExampleSample:
    """Examples of one verdict of one stage."""

    stage: str
    reason: str | None
    """None: kept."""
    count: int = 0
    rows: list[Row] = field(default_factory=list)
    """Joined rows, see :func:`hqvox.runner.lookup.joined_rows`, in the order of identities."""


def choose_examples(
    workspace: Workspace, per_group: int = 8, stages: Sequence[str] = STAGE_NAMES
) -> list[ExampleSample]:
    """Up to ``per_group`` examples of every verdict of every stage, the same ones every time.

    Stage by stage, kept first, then reasons by name. The sample is from all shards and from as
    many identities as possible, so that the first identities of a large build do not dominate.
    """
    groups: dict[tuple[str, str | None], ExampleSample] = {}
    pools: dict[tuple[str, str | None], list[tuple[str, Key]]] = {}
    for shard in workspace.shards():
        for stage in stages:
            table = workspace.read_stage(stage, shard, ["reason"])
            if table is None:
                break
            for reason, indices in _by_reason(table).items():
                group = groups.setdefault((stage, reason), ExampleSample(stage, reason))
                group.count += len(indices)
                rng = np.random.default_rng(zlib.crc32(f"{shard} {stage} {reason}".encode()))
                sample = np.sort(rng.permutation(indices)[: 2 * per_group])
                keys = table_keys(table.take(pa.array(sample, pa.int64())))
                pools.setdefault((stage, reason), []).extend((shard, key) for key in keys)
    chosen: dict[tuple[str, str | None], list[tuple[str, Key]]] = {
        name: _spread(pool, per_group, zlib.crc32(repr(name).encode()))
        for name, pool in pools.items()
    }
    joined: dict[tuple[str, Key], Row] = {}
    wanted: dict[str, list[Key]] = {}
    for keys_of_group in chosen.values():
        for shard, key in keys_of_group:
            wanted.setdefault(shard, []).append(key)
    for shard, keys in wanted.items():
        unique = list(dict.fromkeys(keys))
        rows = joined_rows(workspace, shard, unique, ALL_COLUMNS)
        joined.update(((shard, key), row) for key, row in zip(unique, rows, strict=True))
    for name, picked in chosen.items():
        groups[name].rows = [joined[place] for place in sorted(picked, key=_order)]
    return sorted(groups.values(), key=lambda g: (STAGE_NAMES.index(g.stage), g.reason or ""))


def _by_reason(table: pa.Table) -> dict[str | None, np.ndarray]:
    reasons = np.array(table["reason"].to_pylist(), dtype=object)
    if not len(reasons):
        return {}
    named = sorted({r for r in reasons if r is not None})
    indices: dict[str | None, np.ndarray] = {r: np.flatnonzero(reasons == r) for r in named}
    kept = np.flatnonzero(np.asarray(table["reason"].is_null()))
    if len(kept):
        indices[None] = kept
    return indices


def _spread(pool: list[tuple[str, Key]], count: int, seed: int) -> list[tuple[str, Key]]:
    """A random sample: a second example of an identity only after one of every identity."""
    shuffled = [pool[i] for i in np.random.default_rng(seed).permutation(len(pool))]
    turns: dict[str, int] = {}
    ranked = []
    for position, (shard, key) in enumerate(shuffled):
        turns[key[0]] = turns.get(key[0], 0) + 1
        ranked.append((turns[key[0]], position, (shard, key)))
    return [place for _, _, place in sorted(ranked, key=lambda r: r[:2])[:count]]


def _order(place: tuple[str, Key]) -> tuple[str, str, int, int]:
    shard, (identity_id, candidate, face) = place
    return shard, identity_id, candidate, -1 if face is None else face
