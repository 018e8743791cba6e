"""Where a build's time went, from the records of its runs."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field

from hqvox.workspace.layout import Workspace


@dataclass
class Timing:
    """Sums over all recorded runs, in seconds of one worker's time."""

    runs: int = 0
    wall_seconds: float = 0.0
    photos: int = 0
    stages: Counter[str] = field(default_factory=Counter)
    pixels: Counter[str] = field(default_factory=Counter)
    """Reading, decoding, encoding, writing pictures."""


def read_timing(workspace: Workspace) -> Timing:
    """Add up ``runs/*/timings.json``; a run that was killed left none."""
    timing = Timing()
    for run in workspace.storage.names("runs"):
        name = f"runs/{run}/timings.json"
        if not workspace.storage.exists(name):
            continue
        record = json.loads(workspace.storage.read(name))
        timing.runs += 1
        timing.wall_seconds += record["wall_seconds"]
        timing.photos += record["photos"]
        timing.stages.update(record["stages"])
        timing.pixels.update(record["pixels"])
    return timing
