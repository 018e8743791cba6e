"""The funnel: what entered each stage, what it kept, and what it refused for which reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow.compute as pc

from hqvox.runner.plan import LEFT_OUT
from hqvox.workspace.layout import Workspace
from hqvox.workspace.measures import counted
from pipelines.chain import STAGE_NAMES
from pipelines.landmarks import LandmarksStage


@dataclass
class FunnelStep:
    """One stage of the funnel.

    ``entered`` counts photos up to and including the stage that finds faces, faces after it;
    ``kept`` counts faces from that stage on. ``refused`` maps reasons to counts of what entered.
    """

    stage: str
    entered: int = 0
    kept: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    identities: int = 0
    """Identities of which at least one photo or face was kept."""
    shards: int = 0
    """Shards of which this stage is committed."""

    @property
    def unit_in(self) -> str:
        """What ``entered`` counts: ``photo`` or ``face``."""
        return "photo" if _position(self.stage) <= _FACES_FROM else "face"

    @property
    def unit_out(self) -> str:
        """What ``kept`` counts: ``photo`` or ``face``."""
        return "photo" if _position(self.stage) < _FACES_FROM else "face"

    @property
    def kept_share(self) -> float:
        """Share of what entered that was not refused, 0 to 1; 1 where nothing entered."""
        return 1 - self.refused.total() / self.entered if self.entered else 1.0


def funnel(workspace: Workspace, shards: Sequence[str] = ()) -> list[FunnelStep]:
    """One step per stage, in order, over all shards (or the named ones).

    Only the columns that count are read, so a build of millions of photos takes seconds.
    """
    steps = [FunnelStep(name) for name in STAGE_NAMES]
    for shard in shards or list(workspace.shards()):
        for step in steps:
            table = workspace.read_stage(step.stage, shard, ["reason"])
            if table is None:
                break
            reasons = table["reason"].cast("string")
            kept = reasons.is_null()
            step.shards += 1
            step.kept += pc.sum(kept).as_py() or 0
            step.identities += len(pc.unique(table["identity_id"].filter(kept)))
            for entry in reasons.drop_null().value_counts().to_pylist():
                step.refused[entry["values"]] += entry["counts"]
            if step.stage == LandmarksStage.name:
                # A photo of two people is one photo that entered and two faces that go on.
                photos = table.select(["identity_id", "candidate"])
                step.entered += len(
                    photos.group_by(["identity_id", "candidate"], use_threads=False).aggregate([])
                )
            else:
                step.entered += table.num_rows
    return steps


def count_left_out(workspace: Workspace) -> int:
    """How many photographs of one's own folder and list ``discover.limit`` left out."""
    records = (workspace.committed(STAGE_NAMES[0], shard) for shard in workspace.shards())
    return sum(record.get(LEFT_OUT, 0) for record in records if record)


def left_out(workspace: Workspace) -> str:
    """What ``discover.limit`` left out, in words; empty where it left out nothing."""
    count = count_left_out(workspace)
    if not count:
        return ""
    return (
        f"discover.limit left out {counted(count, 'photograph')} of your own; "
        "raise it in hqvox.yaml to have them all"
    )


def _position(stage: str) -> int:
    return STAGE_NAMES.index(stage)


_FACES_FROM = _position(LandmarksStage.name)
