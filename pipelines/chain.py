"""The stages in order, and running consecutive ones fused: each photo read and decoded once.

Fused or one by one, the tables and pixels are byte-identical, for two reasons. A photo's batch
depends on its position within its identity, never on how many rows were kept so far. Every value
is converted to its Arrow type before the next stage sees it, as if it had been read back.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from itertools import groupby
from typing import cast

import pyarrow as pa

from hqvox.config.build import STAGE_SECTIONS, BuildConfig
from hqvox.errors import HqvoxError
from hqvox.workspace.storage import Storage
from hqvox.workspace.tables import COLUMNS, KEYS, REASON, TABLES, Column, Row, stage_schema
from models.store import ModelStore
from pipelines.discover.stage import DiscoverStage
from pipelines.download import DownloadStage
from pipelines.pixels import ChainPixels
from pipelines.stage import Stage

STAGE_NAMES = tuple(STAGE_SECTIONS)
"""Every stage, in the order a photo meets them: the order of their sections in hqvox.yaml."""


def _stage_class(name: str) -> type[Stage]:
    """``PoseStage`` of :mod:`pipelines.pose`, and so on by the name of the section."""
    module = import_module(f"pipelines.{name}")
    stage: type[Stage] = getattr(module, f"{name.capitalize()}Stage")
    return stage


STAGES = tuple(_stage_class(name) for name in STAGE_NAMES)

COLUMNS_OF: dict[str, tuple[str, ...]] = {stage.name: stage.writes for stage in STAGES}
"""The columns that each stage's table adds."""

BATCH_PHOTOS = 16
"""Photos per batch. Not configurable: networks may round differently in batches of other sizes."""


class Stages:
    """All stages of a build, configured, without any network loaded."""

    def __init__(
        self, config: BuildConfig, store: ModelStore, storage: Storage | None = None
    ) -> None:
        """``storage``: the workspace's. Remote sources cache their answers there and need it."""
        self.config = config
        self.store = store
        self.all = tuple(stage.of_build(config, store, storage) for stage in STAGES)
        check(self.all)
        by_name = {stage.name: stage for stage in self.all}
        self.discover = cast(DiscoverStage, by_name[DiscoverStage.name])
        self.download = cast(DownloadStage, by_name[DownloadStage.name])

    def __iter__(self) -> Iterator[Stage]:
        return iter(self.all)

    def networks(self, names: Container[str] = STAGE_NAMES) -> list[str]:
        """Registry names of the weights that the named stages load, each once."""
        used = (network for stage in self if stage.name in names for network in stage.networks)
        return list(dict.fromkeys(used))


def check(stages: Sequence[Stage | type[Stage]]) -> None:
    """Check that every column that a stage reads is written before it, and what it declares.

    Raises HqvoxError naming the stage that reads a column and, where there is one, the later stage
    that writes it; or the stage that writes a column, or has a limit's reason, without declaring
    it.
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
        table = TABLES.get(stage.name, {})
        unknown = [column for column in stage.writes if not isinstance(table.get(column), Column)]
        if unknown:
            raise HqvoxError(
                f"stage {stage.name} writes {unknown[0]}, which is not a column of its table"
            )
        undeclared = [
            reason
            for limit in STAGE_SECTIONS[stage.name].limits
            for reason in (limit.reason, *limit.also)
            if reason not in (*stage.reasons, *stage.failures)
        ]
        if undeclared:
            raise HqvoxError(f"stage {stage.name} has a limit, but not its reason {undeclared[0]}")
        written.update(stage.writes)


@dataclass
class Tally:
    """What happened to rows at one stage, and the time it took.

    The stage that finds faces takes photos and keeps faces; every other one keeps what it takes.
    """

    entered: int = 0
    kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


@dataclass
class Tallies:
    """Of all stages run, and the time in reading, decoding and encoding pixels, seconds."""

    stages: dict[str, Tally] = field(default_factory=dict)
    pixel_seconds: dict[str, float] = field(default_factory=dict)
    wall_seconds: float = 0.0
    photos: int = 0
    faces: int = 0


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

        ``on_identity`` is called with each finished identity and the tallies of its rows.
        """
        self.load()
        done: dict[str, list[Row]] = {stage.name: [] for stage in self.stages}
        for identity_id, rows in identities:
            started = time.perf_counter()
            tallies = Tallies({stage.name: Tally() for stage in self.stages})
            before = {name: len(rows_done) for name, rows_done in done.items()}
            pixels.begin_identity()
            for group in self.groups:
                rows = self._run_group(group, rows, pixels, done, tallies)
            tallies.pixel_seconds = pixels.take_seconds()
            keys = {
                (row["candidate"], row["face"])
                for name, count in before.items()
                for row in done[name][count:]
            }
            tallies.photos = len({candidate for candidate, _ in keys})
            tallies.faces = sum(face is not None for _, face in keys)
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
        """Run stages batch by batch; the last may compare all rows of the identity at the end."""
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
        if not last.compares:
            return through
        tally = tallies.stages[last.name]
        started = time.perf_counter()
        alive = [row for row in through if row["reason"] is None]
        last.compare(alive)
        tally.seconds += time.perf_counter() - started
        return _settle(last, through, len(through), done[last.name], tally)

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
        if stage.compares:
            _canonical(stage, measured)
            return measured
        return _settle(stage, measured, len(rows), done[stage.name], tally)


def _settle(
    stage: Stage, rows: list[Row], entered: int, done: list[Row], tally: Tally
) -> list[Row]:
    """Add a stage's verdicts to ``done`` and ``tally``; return the rows that it kept.

    ``entered``: how many rows it was given, of which it may have made more.
    """
    if not stage.config.enabled:
        for row in rows:
            if row["reason"] in stage.reasons:
                row["reason"] = None
    _canonical(stage, rows)
    columns = (*KEYS, *stage.writes, "reason")
    kept = []
    for row in rows:
        done.append({name: row[name] for name in columns})
        reason = row["reason"]
        if reason is None:
            kept.append(row)
        else:
            assert reason in stage.reasons + stage.failures, (stage.name, reason)
            tally.rejected[reason] += 1
    tally.entered += entered
    tally.kept += len(kept)
    return kept


def _canonical(stage: Stage, rows: Sequence[Row]) -> None:
    """Pass a stage's values through their Arrow types, as writing and reading a table would."""
    columns = {name: COLUMNS[name].type for name in stage.writes} | {"reason": REASON.type}
    for name, kind in columns.items():
        values = pa.array([row.get(name) for row in rows], type=kind).to_pylist()
        for row, value in zip(rows, values, strict=True):
            row[name] = value


def _groups(stages: Sequence[Stage]) -> Iterator[list[Stage]]:
    """Stages that hand batches on, in groups that end with a stage that compares an identity."""
    group: list[Stage] = []
    for stage in stages:
        group.append(stage)
        if stage.compares:
            yield group
            group = []
    if group:
        yield group
