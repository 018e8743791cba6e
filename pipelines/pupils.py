"""Distance of the pupils, in pixels of the original photo (SF2F §3: at least 30)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hqvox.config.build import PupilsConfig
from hqvox.workspace.tables import Row
from models.geometry import eye_centres
from pipelines.stage import Pixels, Stage


def pupil_distance(landmarks_xy: NDArray[np.floating]) -> NDArray[np.float64]:
    """Distance of the eye centres of landmarks (..., 68, 2), in their unit.

    The centre of an eye is the mean of its six lid points: the pupil of a face that looks at the
    camera, and unlike the pupil it does not move with the gaze.
    """
    centres = eye_centres(landmarks_xy)
    return np.asarray(np.linalg.norm(centres[..., 1, :] - centres[..., 0, :], axis=-1))


class PupilsStage(Stage):
    """Refuses faces whose pupils are too close together in the original photo."""

    name = "pupils"
    reads = ("landmarks_xy",)
    writes = ("ipd_px",)
    reasons = ("pupils_too_close",)
    version = 1
    config: PupilsConfig

    def measure(self, rows: Sequence[Row], pixels: Pixels) -> list[Row]:
        """Measure ``ipd_px``."""
        if not rows:
            return []
        points = np.array([row["landmarks_xy"] for row in rows], dtype=np.float64)
        for row, ipd_px in zip(rows, pupil_distance(points.reshape(-1, 68, 2)), strict=True):
            row["ipd_px"] = float(ipd_px)
        return list(rows)
