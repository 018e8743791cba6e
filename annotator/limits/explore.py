"""The verdicts of a stage on every row that entered it, with its numbers, column by column.

Only the columns that a question needs are read; 300,000 faces are a few megabytes. The rule that
limits make is in :mod:`annotator.limits.what_if`, pictures are in
:mod:`annotator.limits.verdict_pictures`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from annotator.candidates.index import listing
from hqvox.config.build import STAGE_SECTIONS
from hqvox.workspace.layout import Workspace
from hqvox.workspace.measures import MEASURES, Measure, values_of

STAGES = tuple(STAGE_SECTIONS)
"""Every stage, in the order a photo meets them."""
FACES_FROM = STAGES.index("landmarks")
"""From this stage on a row is a face, before it a photo."""
BINS = 60
KEPT = -1
"""In place of a reason."""

_FACE_BITS, _CANDIDATE_BITS = 10, 28

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Verdicts:
    """All rows that entered a stage, as parallel arrays of n.

    ``identity``: index into ``identity_ids``; ``candidate``, ``face`` (-1: none) as in the tables;
    ``reason``: index into ``reasons``, or ``KEPT``; ``values``: by measurement, NaN where there is
    none. ``built_with``: the stage's section as the tables were made with, the most frequent one
    where shards differ; ``sections``: how many different ones there are; ``shards_read``: how many
    shards the stage is through with.
    """

    stage: str
    identity_ids: tuple[str, ...]
    names: tuple[str, ...]
    shards: tuple[str, ...]
    identity: NDArray[np.int32]
    candidate: NDArray[np.int32]
    face: NDArray[np.int16]
    reasons: tuple[str, ...]
    reason: NDArray[np.int16]
    values: dict[str, Floats]
    built_with: dict[str, Any]
    sections: int
    shards_read: int

    def __len__(self) -> int:
        return len(self.identity)

    @property
    def unit(self) -> str:
        """What a row is: ``photographs`` or ``faces``."""
        return "photographs" if STAGES.index(self.stage) <= FACES_FROM else "faces"

    def with_reason(self, reason: str | None) -> Rows:
        """Rows that ended here for ``reason``; None: rows that were kept."""
        code = KEPT if reason is None else self.reasons.index(reason)
        return np.flatnonzero(self.reason == code)

    def counts(self) -> dict[str | None, int]:
        """Rows of each verdict: kept (None) first, then reasons, the most frequent first."""
        counts = np.bincount(self.reason + 1, minlength=len(self.reasons) + 1).tolist()
        order = sorted(range(len(self.reasons)), key=lambda i: (-counts[i + 1], self.reasons[i]))
        return {None: counts[0]} | {self.reasons[i]: counts[i + 1] for i in order}

    def face_keys(self) -> NDArray[np.int64]:
        """One number per face (or photo, before faces are known), alike in every stage."""
        return keys_of(self.identity, self.candidate, self.face)

    def photo_keys(self) -> NDArray[np.int64]:
        """One number per photo, alike in every stage."""
        return keys_of(self.identity, self.candidate, np.full(len(self), -1, np.int16))


def keys_of(
    identity: NDArray[np.int32], candidate: NDArray[np.int32], face: NDArray[np.int16]
) -> NDArray[np.int64]:
    """Identity, candidate and face packed into one number each."""
    above = identity.astype(np.int64) << (_CANDIDATE_BITS + _FACE_BITS)
    return above | (candidate.astype(np.int64) << _FACE_BITS) | (face.astype(np.int64) + 1)


def measures_of(stage: str) -> list[Measure]:
    """The measurements that a stage adds."""
    return [measure for measure in MEASURES if measure.stage == stage]


def stamp(workspace: Workspace, stage: str) -> tuple[tuple[str, ...], ...]:
    """What changes when a stage's tables do: their names, sizes and times, from one listing."""
    files = listing(workspace.storage, f"stages/{stage}")
    return tuple(
        sorted((name, *marks) for name, marks in files.items() if name.endswith(".parquet"))
    )


def built_stages(workspace: Workspace) -> list[str]:
    """Stages of which there is a table, in order."""
    return [stage for stage in STAGES if stamp(workspace, stage)]


def read_verdicts(workspace: Workspace, stage: str) -> Verdicts:
    """The rows of all shards. Raises HqvoxError where a table is damaged."""
    people = workspace.identities()
    ids = people["identity_id"].combine_chunks()
    measures = measures_of(stage)
    wanted = [measure.name for measure in measures]
    columns = dict.fromkeys(column for measure in measures for column in measure.columns)
    tables, sections = [], Counter[str]()
    for shard in dict.fromkeys(people["shard"].to_pylist()):
        table = workspace.read_stage(stage, shard, [*columns, "reason"])
        if table is None:
            continue
        record = workspace.committed(stage, shard)
        section = {} if record is None else record["parts"].get("config", {})
        sections[json.dumps(section, sort_keys=True)] += 1
        tables.append(_slim(table, ids, wanted))
    rows = pa.concat_tables(tables).combine_chunks() if tables else _empty(wanted)
    reason = pc.dictionary_encode(rows["reason"].combine_chunks())
    return Verdicts(
        stage=stage,
        identity_ids=tuple(ids.to_pylist()),
        names=tuple(people["name"].to_pylist()),
        shards=tuple(people["shard"].to_pylist()),
        identity=_numbers(rows, "identity", np.int32),
        candidate=_numbers(rows, "candidate", np.int32),
        face=_numbers(rows, "face", np.int16),
        reasons=tuple(reason.dictionary.to_pylist()),
        reason=pc.fill_null(reason.indices, KEPT).to_numpy(zero_copy_only=False).astype(np.int16),
        values={name: _numbers(rows, name, np.float64) for name in wanted},
        built_with=json.loads(sections.most_common(1)[0][0]) if sections else {},
        sections=len(sections),
        shards_read=len(tables),
    )


def _slim(table: pa.Table, ids: pa.Array, names: Sequence[str]) -> pa.Table:
    columns = {
        "identity": pc.index_in(table["identity_id"], value_set=ids),
        "candidate": table["candidate"],
        "face": pc.fill_null(table["face"], -1),
        "reason": table["reason"].cast(pa.string()),
    }
    return pa.table(columns | {name: values_of(table, name) for name in names})


def _numbers(rows: pa.Table, name: str, kind: type) -> NDArray[Any]:
    return np.asarray(rows[name].to_numpy(), dtype=kind)


def _empty(names: Sequence[str]) -> pa.Table:
    kinds = {"identity": pa.int32(), "candidate": pa.int32(), "face": pa.int16()}
    kinds |= {"reason": pa.string()} | dict.fromkeys(names, pa.float64())
    return pa.table({name: pa.array([], kind) for name, kind in kinds.items()})


# Histogram, range, pages ---------------------------------------------------------------------


@dataclass(frozen=True)
class Histogram:
    """Counts per bin: ``edges`` (bins + 1,); each part (bins,), what is beyond in the outermost."""

    edges: Floats
    kept: NDArray[np.int64]
    refused_by_this: NDArray[np.int64]
    refused_otherwise: NDArray[np.int64]


def histogram(verdicts: Verdicts, name: str, resting: Sequence[str], edges: Floats) -> Histogram:
    """A measurement's values by verdict. ``resting``: the reasons that rest on it."""
    values = verdicts.values[name]
    known = ~np.isnan(values)
    codes = [i for i, reason in enumerate(verdicts.reasons) if reason in resting]
    by_this = np.isin(verdicts.reason, codes)
    kept = verdicts.reason == KEPT
    count = (
        np.histogram(np.clip(values[known & part], edges[0], edges[-1]), edges)[0].astype(np.int64)
        for part in (kept, by_this, ~kept & ~by_this)
    )
    return Histogram(edges, *count)


def span(values: Floats, including: Sequence[float] = ()) -> tuple[float, float]:
    """Lowest and highest of all but the outer half per cent, and of the bounds to be shown."""
    known = values[~np.isnan(values)]
    ends = [*np.percentile(known, [0.5, 99.5]).tolist()] if len(known) else []
    ends += including
    if not ends:
        return 0.0, 1.0
    low, high = min(ends), max(ends)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def in_range(verdicts: Verdicts, name: str, rows: Rows, low: float, high: float) -> Rows:
    """The rows whose measurement lies within, lowest first; those without one are left out."""
    values = verdicts.values[name][rows]
    within = (values >= low) & (values <= high)
    return rows[within][np.argsort(values[within], kind="stable")]


def page_of(rows: Rows, number: int, size: int) -> Rows:
    """The rows of a page, from 0; a number beyond the last page gives the last."""
    last = max(0, -(-len(rows) // size) - 1)
    start = min(max(number, 0), last) * size
    return rows[start : start + size]
