"""A build of phantoms compared with the truth: rendered defects beside the build's verdicts."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

import numpy as np

from hqvox.phantom.website import world_file
from hqvox.runner.lookup import joined_rows, shard_keys
from hqvox.workspace.layout import Workspace
from hqvox.workspace.tables import Row
from models.geometry import eye_centres

GOOD = "good"
SAME = {"turned_away": {"tilted"}, "not_an_image": {"undecodable", "empty_file"}}
"""Other reasons that are right too, for a defect of the truth."""


@dataclass
class TruthRow:
    """Verdicts on all faces (or files without one) that were rendered with one defect."""

    defect: str
    """The reason that a build should give, or ``good``."""
    count: int = 0
    kept: int = 0
    named: int = 0
    """Refused for the right reason."""
    otherwise: Counter[str] = field(default_factory=Counter)
    """Refused for another reason."""

    def add(self, outcome: str | None) -> None:
        """Count a face, or a file without one. ``outcome``: the reason of refusal; None: kept."""
        self.count += 1
        if outcome is None:
            self.kept += 1
        elif outcome == self.defect or outcome in SAME.get(self.defect, ()):
            self.named += 1
        else:
            self.otherwise[outcome] += 1


def compare_with_truth(
    workspace: Workspace, truth: Path, decoys: Mapping[str, str] | None = None
) -> list[TruthRow]:
    """One row per defect, good faces first, from the ``truth.csv`` of a phantom world.

    A rendered face is matched with the detected face nearest to its pupils, up to one eye distance
    away. ``decoys``: pictures that only the web site has: file below it to the right reason.
    """
    rows_of = _rows_by_file(workspace)
    table: dict[str, TruthRow] = {}
    with truth.open(encoding="utf-8", newline="") as file:
        records = list(csv.DictReader(file))
    outcomes = [_outcome(record, rows_of) for record in records]
    _settle_duplicates(records, outcomes)
    for record, outcome in zip(records, outcomes, strict=True):
        defect = record["reason"] or GOOD
        table.setdefault(defect, TruthRow(defect)).add(outcome)
    for path, reason in (decoys or {}).items():
        outcome = rows_of[path][0]["reason"] if path in rows_of else "not_found"
        table.setdefault(reason, TruthRow(reason)).add(outcome)
    return sorted(table.values(), key=lambda row: (row.defect != GOOD, row.defect))


def _rows_by_file(workspace: Workspace) -> dict[str, list[Row]]:
    """Each photo's rows, by its path below the world's folder."""
    columns = {"discover": ("url",), "landmarks": ("landmarks_xy",)}
    rows_of: dict[str, list[Row]] = {}
    for shard in workspace.shards():
        for row in joined_rows(workspace, shard, shard_keys(workspace, shard), columns):
            url = row["url"]
            file = world_file(url) if "://" in url else f"photos/{unquote(url)}"
            rows_of.setdefault(file, []).append(row)
    return rows_of


def _outcome(record: dict[str, str], rows_of: dict[str, list[Row]]) -> str | None:
    rows = rows_of.get(record["file"], [])
    if not record["left_pupil_x"]:
        return rows[0]["reason"] if rows else "not_found"
    pupils = np.array(
        [
            [float(record["left_pupil_x"]), float(record["left_pupil_y"])],
            [float(record["right_pupil_x"]), float(record["right_pupil_y"])],
        ]
    )
    nearest, reach = None, float(record["ipd_px"])
    for row in rows:
        if row["landmarks_xy"] is None:
            return str(row["reason"])  # no face in the whole photo
        eyes = eye_centres(np.array(row["landmarks_xy"]).reshape(68, 2))
        distance = float(np.linalg.norm(eyes.mean(axis=0) - pupils.mean(axis=0)))
        if distance < reach:
            nearest, reach = row, distance
    return "no_face" if nearest is None else nearest["reason"]


def _settle_duplicates(records: list[dict[str, str]], outcomes: list[str | None]) -> None:
    """Either of two copies may be kept: if it was the other one, swap their outcomes."""
    place = {record["file"]: number for number, record in reversed(list(enumerate(records)))}
    for number, record in enumerate(records):
        if record["reason"] == "duplicate" and outcomes[number] != "duplicate":
            twin = place[record["duplicate_of"]]
            if outcomes[twin] == "duplicate":
                outcomes[number], outcomes[twin] = outcomes[twin], outcomes[number]
