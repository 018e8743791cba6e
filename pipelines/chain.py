"""The stages in order, and running consecutive ones fused: each photo read and decoded once.

Fused or one by one, the tables and pixels are byte-identical. Two rules make that so. Batches are
fixed by a photo's position within its identity, never by how many rows survived so far; and every
value passes through its Arrow type before the next stage sees it, as if it had been read back.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import pyarrow as pa

from hqvox.config.build import BuildConfig
from hqvox.errors import HqvoxError
from hqvox.workspace.storage import Storage
from hqvox.workspace.tables import COLUMNS, KEYS, REASON, Row, stage_schema
from models.store import ModelStore
from pipelines.align import AlignStage
from pipelines.discover.stage import DiscoverStage
from pipelines.download import DownloadStage
from pipelines.duplicates import DuplicatesStage
from pipelines.emotion import EmotionStage
from pipelines.identity import IdentityStage
from pipelines.landmarks import LandmarksStage
from pipelines.lighting import LightingStage
from pipelines.pixels import ChainPixels
from pipelines.pose import PoseStage
from pipelines.pupils import PupilsStage
from pipelines.quality import QualityStage
from pipelines.segment import SegmentStage
from pipelines.stage import Scope, Stage

STAGES: tuple[type[Stage], ...] = (
    DiscoverStage,
    DownloadStage,
    DuplicatesStage,
    LandmarksStage,
    PupilsStage,
    PoseStage,
    LightingStage,
    EmotionStage,
    IdentityStage,
    AlignStage,
    SegmentStage,
    QualityStage,
)
"""Every stage, in the order a photo meets them."""

STAGE_NAMES = tuple(stage.name for stage in STAGES)

COLUMNS_OF: dict[str, tuple[str, ...]] = {stage.name: stage.writes for stage in STAGES}
"""The columns that each stage's table adds."""

BATCH_PHOTOS = 16
"""Photos per batch. Not configurable: networks may round differently in batches of other sizes."""


def make_stages(
    config: BuildConfig, store: ModelStore, storage: Storage | None = None
) -> list[Stage]:
    """All stages of a build, configured, without loading any network.

    ``storage``: the workspace's; remote sources keep their answers there and cannot be asked, or
    planned for, without it.
    """
    stages: list[Stage] = []
    discover = DiscoverStage(config.discover, store, storage, config.download.contact)
    for kind in STAGES:
        section = getattr(config, kind.name)
        if kind is DiscoverStage:
            stages.append(discover)
        elif kind is DownloadStage:
            stages.append(
                DownloadStage(section, store, config.discover.photos, remote=discover.remote)
            )
        else:
            stages.append(kind(section, store))
    check(stages)
    return stages


def check(stages: Sequence[Stage | type[Stage]]) -> None:
    """Check that every column a stage reads is written upstream.

    Raises HqvoxError naming the stage that reads it and, where there is one, the later stage that
    writes it.
    """
    written = set(KEYS)
    for stage in stages:
        for column in stage.reads:
            if column not in written:
                later = [s.name for s in stages if column in s.writes]
                where = f"stage {later[0]} writes it, but runs later" if later else "nothing does"
                raise HqvoxError(
                    f"stage {stage.name} reads column {column}, which no stage before it writes "
                    f"({where})"
                )
        unknown = [column for column in stage.writes if column not in COLUMNS]
        if unknown:
            raise HqvoxError(f"stage {stage.name} writes {unknown[0]}, which is not in the tables")
        written.update(stage.writes)


@dataclass
class Tally:
    """What happened to rows at one stage, and the time it took."""

    entered: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


@dataclass
class Tallies:
    """Of all stages run, and the time in reading, decoding and encoding pixels, seconds."""

    stages: dict[str, Tally] = field(default_factory=dict)
    pixel_seconds: dict[str, float] = field(default_factory=dict)
    wall_seconds: float = 0.0
    photos: int = 0


class Chain:
    """Consecutive stages, run identity by identity over the rows of one shard."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.stages = list(stages)
        self.groups = list(_groups(self.stages))
        self._loaded = False

    def load(self) -> None:
        """Load every stage's networks, once."""
        if not self._loaded:
            for stage in self.stages:
                stage.load()
            self._loaded = True

    def run(
        self,
        identities: Sequence[tuple[str, Sequence[Row]]],
        pixels: ChainPixels,
        on_identity: Callable[[str, Tallies], None] = lambda identity_id, tallies: None,
    ) -> dict[str, pa.Table]:
        """Run all stages over (identity, its input rows) pairs; return each stage's table.

        ``on_identity`` is told of each identity as it is done, with what happened to its rows.
        """
        self.load()
        done: dict[str, list[Row]] = {stage.name: [] for stage in self.stages}
        for identity_id, rows in identities:
            started = time.perf_counter()
            tallies = Tallies({stage.name: Tally() for stage in self.stages})
            pixels.begin_identity()
            for group in self.groups:
                rows = self._run_group(group, rows, pixels, done, tallies)
            tallies.pixel_seconds = pixels.take_seconds()
            tallies.photos = max((t.entered for t in tallies.stages.values()), default=0)
            tallies.wall_seconds = time.perf_counter() - started
            on_identity(identity_id, tallies)
        return {
            stage.name: pa.Table.from_pylist(done[stage.name], stage_schema(stage.writes))
            for stage in self.stages
        }

    def _run_group(
        self,
        group: Sequence[Stage],
        rows: Sequence[Row],
        pixels: ChainPixels,
        done: Mapping[str, list[Row]],
        tallies: Tallies,
    ) -> list[Row]:
        """Run stages batch by batch; the last may judge when the whole identity is through."""
        through: list[Row] = []
        for _, batch in groupby(rows, key=lambda row: (row.get("candidate") or 0) // BATCH_PHOTOS):
            alive = list(batch)
            for stage in group:
                if not alive:
                    break
                alive = self._process(stage, alive, pixels, done, tallies.stages[stage.name])
            through += alive
            pixels.end_batch()
        last = group[-1]
        if last.scope is not Scope.IDENTITY:
            return through
        tally = tallies.stages[last.name]
        started = time.perf_counter()
        alive = [row for row in through if row["reason"] is None]
        last.judge(alive)
        tally.seconds += time.perf_counter() - started
        return _settle(last, through, done[last.name], tally)

    def _process(
        self,
        stage: Stage,
        rows: list[Row],
        pixels: ChainPixels,
        done: Mapping[str, list[Row]],
        tally: Tally,
    ) -> list[Row]:
        for row in rows:
            row["reason"] = None
        before = pixels.total_seconds
        started = time.perf_counter()
        measured = stage.process(rows, pixels)
        tally.seconds += time.perf_counter() - started - (pixels.total_seconds - before)
        if stage.scope is Scope.IDENTITY:
            _canonical(stage, measured)
            return measured
        return _settle(stage, measured, done[stage.name], tally)


def _settle(stage: Stage, rows: list[Row], done: list[Row], tally: Tally) -> list[Row]:
    """Write down what a stage decided; return the rows that go on."""
    if not stage.config.enabled:
        for row in rows:
            if row["reason"] in stage.reasons:
                row["reason"] = None
    _canonical(stage, rows)
    own = (*KEYS, *stage.writes, "reason")
    kept = []
    for row in rows:
        done.append({name: row[name] for name in own})
        reason = row["reason"]
        if reason is None:
            kept.append(row)
        else:
            assert reason in stage.reasons + stage.failures, (stage.name, reason)
            tally.rejected[reason] += 1
    tally.entered += len(rows)
    return kept


def _canonical(stage: Stage, rows: Sequence[Row]) -> None:
    """Pass a stage's values through their Arrow types, as writing and reading a table would."""
    columns = {name: COLUMNS[name].type for name in stage.writes} | {"reason": REASON.type}
    for name, kind in columns.items():
        values = pa.array([row.get(name) for row in rows], type=kind).to_pylist()
        for row, value in zip(rows, values, strict=True):
            row[name] = value


def _groups(stages: Sequence[Stage]) -> Iterator[list[Stage]]:
    """Runs of stages that pass batches on; each ends where a whole identity must be through."""
    group: list[Stage] = []
    for stage in stages:
        group.append(stage)
        if stage.scope is Scope.IDENTITY:
            yield group
            group = []
    if group:
        yield group
