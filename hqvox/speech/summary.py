"""What a workspace's speech comes to, and how it meets the faces."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pyarrow.compute as pc

from hqvox.speech.pack import SpeechPack
from hqvox.workspace.layout import Workspace
from pipelines.chain import STAGE_NAMES


@dataclass
class SpeechSummary:
    """Counts over a workspace."""

    utterances: int = 0
    seconds: float = 0.0
    """Speech, after VAD."""
    source_seconds: float = 0.0
    """The same utterances before VAD."""
    clipped: int = 0
    """Packed utterances with more than 1 % of their samples at full scale."""
    refused: Counter[str] = field(default_factory=Counter)
    with_speech: set[str] = field(default_factory=set)
    """Ids of identities with a packed utterance."""
    with_faces: set[str] | None = None
    """Ids of identities with a face that every stage kept; None: faces are not built yet."""


CLIPPED_FRACTION = 0.01


def summarise(workspace: Workspace) -> SpeechSummary:
    """Read the indexes of all shards. Raises HqvoxError where one is damaged."""
    pack = SpeechPack(workspace)
    kept, refused = pack.index(), pack.refused()
    summary = SpeechSummary(
        utterances=kept.num_rows,
        seconds=pc.sum(kept["seconds"]).as_py() or 0.0,
        source_seconds=pc.sum(kept["source_seconds"]).as_py() or 0.0,
        clipped=pc.sum(pc.greater(kept["clipped_fraction"], CLIPPED_FRACTION)).as_py() or 0,
        refused=Counter(refused["reason"].to_pylist()),
        with_speech=set(kept["identity_id"].to_pylist()),
    )
    for shard in workspace.shards():
        faces = workspace.read_stage(STAGE_NAMES[-1], shard, ["reason"])
        if faces is not None:
            found = faces.filter(pc.is_null(faces["reason"]))["identity_id"].to_pylist()
            summary.with_faces = (summary.with_faces or set()) | set(found)
    return summary
