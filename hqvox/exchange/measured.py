"""What the stages measured on an imported tree, per face, and what the filters would refuse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hqvox.config.build import BuildConfig
from hqvox.exchange.tree import PersonFolder, Picture
from hqvox.exchange.workspace import link_url
from hqvox.release.manifest import MEASURED
from hqvox.runner.lookup import joined_rows, shard_keys
from hqvox.workspace.layout import Workspace
from hqvox.workspace.measures import MEASURES, stage_bounds, value_of, verdict
from hqvox.workspace.tables import Row
from models.geometry import ALIGNED_LEFT_EYE, ALIGNED_RIGHT_EYE, eye_centres
from models.store import ModelStore
from pipelines.chain import COLUMNS_OF, STAGES
from pipelines.faces import landmarks_of
from pipelines.stage import Stage

_COLUMNS = {
    stage: [c for c in names if c in MEASURED or c.startswith("mask_")]
    for stage, names in COLUMNS_OF.items()
}

_NOT_JUDGED = ("download", "align")
"""Stages whose limits say nothing of a published crop."""

OFF_SQUARE = 0.02
"""How far a crop's sides may differ, as a fraction of the longer one. Many published crops are
a pixel off square; training resizes any to a square, as the released training code does."""


@dataclass
class Measured:
    """The faces of an import, by identity id: each picture with its measurements."""

    faces: dict[str, list[tuple[Picture, Row]]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    """A line for each picture that cannot be part of a release."""


def read_measured(
    workspace: Workspace, people: Sequence[tuple[Row, PersonFolder]], aligned: bool = True
) -> Measured:
    """Collect the measurements. ``people``: identities with their folders, in order.

    ``aligned``: see :class:`~hqvox.exchange.tree.Tree`.
    """
    result = Measured()
    shards: dict[str, list[tuple[Row, PersonFolder]]] = {}
    for row, folder in people:
        shards.setdefault(row["shard"], []).append((row, folder))
    for shard, members in shards.items():
        rows = _best_faces(workspace, shard)
        for identity, folder in members:
            taken = result.faces.setdefault(identity["identity_id"], [])
            for picture in folder.ordered():
                face = rows.get(link_url(folder, picture))
                problem = _problem(face, aligned)
                if face is None or problem:
                    result.problems.append(f"{picture.measured}: {problem}; left out")
                else:
                    taken.append((picture, face))
    return result


def _problem(row: Row | None, aligned: bool) -> str:
    if row is None:
        return "not looked at"
    if row["width_px"] is None or row["reason"] in ("undecodable", "too_large"):
        return str(row["reason"] or "undecodable").replace("_", " ")
    off = abs(row["width_px"] - row["height_px"])
    if aligned and off > OFF_SQUARE * max(row["width_px"], row["height_px"]):
        return f"{row['width_px']} × {row['height_px']} px, not a square crop"
    return ""


def _best_faces(workspace: Workspace, shard: str) -> dict[str, Row]:
    """By address of the photograph, everything known of the face that the crop was made for."""
    best: dict[str, Row] = {}
    for row in joined_rows(workspace, shard, shard_keys(workspace, shard), _COLUMNS):
        before = best.get(row["url"])
        if before is None or eye_distance(row) < eye_distance(before):
            best[row["url"]] = row
    return best


def eye_distance(row: Row) -> float:
    """Distance of the eyes from where HQ-VoxCeleb has them, the farther one, in crop sides."""
    if row["landmarks_xy"] is None or not row["width_px"]:
        return float("inf")
    eyes = (eye_centres(landmarks_of(row)) + 0.5) / (row["width_px"], row["height_px"])
    expected = np.array([ALIGNED_LEFT_EYE, ALIGNED_RIGHT_EYE])
    return float(np.hypot(*(eyes - expected).T).max())


def would_refuse(rows: Sequence[Row], config: BuildConfig, store: ModelStore) -> Counter[str]:
    """Faces that the filters would have refused at the configuration's limits, by reason.

    A face counts once, under the first stage that would refuse it, as in a build. The limits of
    download and align are left out: the faces are aligned already.
    """
    stages = [stage for stage in STAGES if stage.name not in _NOT_JUDGED]
    bounds = {stage.name: stage_bounds(stage.name, config, store) for stage in stages}
    reasons = (_reason(row, stages, config, bounds) for row in rows)
    return Counter(reason for reason in reasons if reason is not None)


def _reason(
    row: Row,
    stages: Sequence[type[Stage]],
    config: BuildConfig,
    bounds: Mapping[str, Mapping[str, float]],
) -> str | None:
    for stage in stages:
        values = [value_of(row, m.name) for m in MEASURES if m.stage == stage.name]
        if stage.failures and all(value is None for value in values):
            return stage.failures[-1]
        reason = verdict(getattr(config, stage.name), bounds[stage.name], row)
        if reason is not None:
            return reason
    return None
