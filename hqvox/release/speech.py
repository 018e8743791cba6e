"""The voices of a release: the released identities' log-mels, packed, and their statistics."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hqvox.errors import HqvoxError
from hqvox.release.layout import SPEECH_INDEX, SPEECH_STATS, speech_file
from hqvox.release.pool import in_order
from hqvox.release.target import Sink, Target
from hqvox.speech.pack import SpeechPack
from hqvox.speech.statistics import MeanVariance
from hqvox.workspace.layout import Workspace
from hqvox.workspace.parquet import parquet_bytes
from hqvox.workspace.tables import Row

SPEECH = pa.schema(
    [
        pa.field("identity_id", pa.string()),
        pa.field("split", pa.string()),
        pa.field("video", pa.string()),
        pa.field("utterance", pa.string()),
        pa.field("file", pa.string()),  # below the release, speech/….f16
        pa.field("offset", pa.int64()),  # frames before this utterance in the file
        pa.field("frames", pa.int32()),  # 100 a second
        pa.field("seconds", pa.float64()),
        pa.field("sha256", pa.string()),  # of the audio file it was made from
    ]
)
"""``speech/index.parquet``: one row per utterance, in the order of identities and their files.

Each ``speech/….f16`` is a plain array of little-endian float16, (frames of all its utterances,
filters), natural log of the mel filters' energies; ``speech/stats.json`` holds their number.
"""

DTYPE = np.dtype("<f2")
"""Of the packed log-mels."""
FRAMES_PER_SECOND = 100
_NEEDED = [
    "identity_id", "video", "utterance", "shard", "offset", "frames", "seconds", "sha256"
]  # fmt: skip


@dataclass(frozen=True)
class SpeechTask:
    """A piece of work: the voices of one shard's released identities."""

    workspace: str
    sink: Sink
    file: str
    rows: pa.Table
    """Of the workspace's index, with ``split``, in order."""
    filters: int
    front_end: str


@dataclass(frozen=True)
class SpeechPart:
    """A file of voices that was written."""

    rows: pa.Table
    """Of ``speech/index.parquet``, :data:`SPEECH`."""
    sha256: str
    moments: MeanVariance
    """Over train."""
    front_end: str


@dataclass(frozen=True)
class Voices:
    """The speech of a workspace that a release can hold."""

    index: pa.Table | None
    """One row per utterance that was kept; None: the release holds faces alone."""
    of_identity: dict[str, tuple[int, float]]
    """Utterances and seconds of every identity that has any."""
    missing: str = ""
    """Why there are none; empty where there are some."""


def read_voices(workspace: Workspace, wanted: bool) -> Voices:
    """The workspace's utterances; none where there are none, or they are not ``wanted``."""
    if not wanted:
        return Voices(None, {}, "asked for without speech")
    pack = SpeechPack(workspace)
    index = pack.index() if pack.shards() else None
    if index is None or not index.num_rows:
        return Voices(None, {}, "the workspace has no speech")
    # On one thread: the order of a sum of floats decides its last bits.
    grouped = index.group_by("identity_id", use_threads=False).aggregate(
        [("seconds", "count"), ("seconds", "sum")]
    )
    columns = (
        grouped[name].to_pylist() for name in ("identity_id", "seconds_count", "seconds_sum")
    )
    return Voices(
        index, {i: (int(count), float(seconds)) for i, count, seconds in zip(*columns, strict=True)}
    )


def speech_tasks(
    workspace: Workspace, sink: Sink, index: pa.Table, identities: Sequence[Row]
) -> list[SpeechTask]:
    """The released identities' utterances, shard by shard, in the identities' order."""
    ids = pa.array([row["identity_id"] for row in identities], pa.string())
    parts = pa.array([row["split"] for row in identities], pa.string())
    position = pc.index_in(index["identity_id"], ids)
    rows = index.select(_NEEDED).append_column("position", position)
    rows = rows.append_column("number", pa.array(np.arange(index.num_rows)))
    rows = rows.filter(pc.is_valid(rows["position"]))
    rows = rows.append_column("split", parts.take(rows["position"].combine_chunks()))
    rows = rows.sort_by([(name, "ascending") for name in ("shard", "position", "number")])
    pack = SpeechPack(workspace)
    filters, front_end = pack.n_filters(), pack.front_end()
    assert filters is not None, workspace.url  # there are utterances
    assert front_end is not None
    return [
        SpeechTask(
            workspace.url,
            sink,
            speech_file(shard),
            rows.filter(pc.equal(rows["shard"], shard)).combine_chunks(),
            filters,
            front_end,
        )
        for shard in sorted(pc.unique(rows["shard"]).to_pylist())
    ]


def pack_speech(task: SpeechTask) -> SpeechPart:
    """Write one file of voices. Raises HqvoxError where the disk refuses or a pack is damaged."""
    pack = SpeechPack(Workspace(task.workspace))
    moments = MeanVariance.empty(task.filters)
    rows: list[Row] = []
    offset = 0
    with task.sink.writing(task.file) as file:
        for row in task.rows.to_pylist():
            log_mel = pack.read(row)
            if not np.isfinite(log_mel).all():
                raise HqvoxError(
                    f"{task.workspace}: {row['identity_id']}, {row['video']}/{row['utterance']}: "
                    f"its log-mel is damaged; delete speech/{row['shard']}.parquet and run "
                    "`hqvox speech` again"
                )
            file.write(np.ascontiguousarray(log_mel, DTYPE).tobytes())
            if row["split"] == "train":
                moments = moments.merged(MeanVariance.of(log_mel))
            rows.append(
                {name: row[name] for name in SPEECH.names if name in row}
                | {"file": task.file, "offset": offset, "frames": len(log_mel)}
            )
            offset += len(log_mel)
    return SpeechPart(pa.Table.from_pylist(rows, SPEECH), file.sha256, moments, task.front_end)


def write_speech(
    workspace: Workspace,
    index: pa.Table,
    identities: Sequence[Row],
    target: Target,
    workers: int,
    on_progress: Callable[[str, int, int], None],
) -> pa.Table:
    """Write the released identities' voices, their index and statistics; return the index.

    ``identities``: rows with ``split``, in order. ``on_progress``: what, how many, of how many.
    """
    tasks = speech_tasks(workspace, target.sink, index, identities)
    total, done = sum(task.rows.num_rows for task in tasks), 0
    parts = []
    on_progress("utterances", 0, total)
    for task, part in zip(tasks, in_order(pack_speech, tasks, workers), strict=True):
        target.written({task.file: part.sha256})
        parts.append(part)
        done += part.rows.num_rows
        on_progress("utterances", done, total)
    rows = pa.concat_tables([part.rows for part in parts])
    target.write(SPEECH_INDEX, parquet_bytes(rows))
    target.write(SPEECH_STATS, to_json(stats_json(parts)))
    return rows


def stats_json(parts: Sequence[SpeechPart]) -> dict[str, Any]:
    """``speech/stats.json``: what normalising needs, over train."""
    total = parts[0].moments
    for part in parts[1:]:
        total = total.merged(part.moments)
    return {
        "filters": len(total.mean),
        "front_end": parts[0].front_end,
        "frames_per_second": FRAMES_PER_SECOND,
        "dtype": "float16, little-endian",
        "scale": "natural log",
        "over": "train",
        **figures(total),
    }


def figures(moments: MeanVariance) -> dict[str, Any]:
    """Mean and variance over everything and of each filter; null where there was no frame."""
    some = moments.frames > 0
    return {
        "frames": moments.frames,
        "mean": moments.overall_mean if some else None,
        "variance": moments.overall_std**2 if some else None,
        "mean_of_filters": moments.mean.tolist() if some else None,
        "variance_of_filters": moments.variance.tolist() if some else None,
    }


def summary(rows: pa.Table) -> dict[str, Any]:
    """Counts for ``release.json``. ``rows``: :data:`SPEECH`."""
    return {
        "utterances": rows.num_rows,
        "hours": round(float(np.sum(rows["seconds"].to_numpy())) / 3600, 3),
        "identities": len(pc.unique(rows["identity_id"])),
    }


def to_json(value: Any) -> bytes:
    """JSON as a release has it: readable, letters of any script, one trailing newline."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
