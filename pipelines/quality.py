"""The composite that ranks an identity's faces for the reviewer, 0 to 1; refuses nobody.

It is the geometric mean of seven factors, each 0 to 1, so that the others cannot make up for one
bad factor:

=============  ==========================================================================
factor         is
=============  ==========================================================================
sharpness      column ``sharpness``
size           ipd / (ipd + 40 px): 0.5 at 40 px, 0.75 at 120 px
frontality     exp(-(yaw² + pitch²) / (2 · 8°²))
light          1 / light_ratio · (1 - overexposed) · (1 - underexposed)
whole          1 - outside_fraction
compression    1 - compression / 2
mask           edge_confidence
=============  ==========================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from hqvox.config.build import QualityConfig
from hqvox.workspace.tables import Row
from models.geometry import apply_transform
from models.protocols import Photo
from pipelines.faces import face_patch, landmarks_of
from pipelines.stage import Pixels, Stage

_FLOOR = 0.01
"""Lowest value of a factor, so that one alone cannot decide the rank."""
_HALF_DETAIL = 0.35


def sharpness(photo: Photo, landmarks_xy: NDArray[np.floating]) -> float:
    """Detail of the face at a fixed scale, 0 to 1.

    In the face patch (eye distance 40 px), detail is the spread of the finest band (picture minus
    its blur by 1 px) over eyes, brows, nose and mouth against that of the next coarser band
    (1 to 3 px); a ratio, so contrast and exposure drop out. ``ratio / (ratio + 0.35)``.
    """
    patch_and_points = face_patch(photo, landmarks_xy)
    if patch_and_points is None:
        return 0.0
    patch, points = patch_and_points
    grey = cv2.cvtColor(patch, cv2.COLOR_RGB2GRAY).astype(np.float32)
    region = np.zeros(grey.shape, dtype=np.uint8)
    cv2.fillConvexPoly(region, cv2.convexHull(np.round(points[17:]).astype(np.int32)), 1)
    inside = region.astype(bool)
    fine = cv2.GaussianBlur(grey, (0, 0), 1.0)
    coarse = cv2.GaussianBlur(grey, (0, 0), 3.0)
    if not inside.any():
        return 0.0
    detail, structure = float((grey - fine)[inside].std()), float((fine - coarse)[inside].std())
    ratio = detail / (structure + 1.0)
    return ratio / (ratio + _HALF_DETAIL)


def composite(measured: Mapping[str, float]) -> float:
    """Geometric mean of the factors in the table above, 0 to 1; keys are columns."""
    factors = [
        measured["sharpness"],
        measured["ipd_px"] / (measured["ipd_px"] + 40.0),
        float(np.exp(-(measured["yaw_deg"] ** 2 + measured["pitch_deg"] ** 2) / (2 * 8.0**2))),
        (1 - measured["overexposed_fraction"])
        * (1 - measured["underexposed_fraction"])
        / measured["light_ratio"],
        1 - measured["outside_fraction"],
        1 - measured["compression"] / 2,
        measured["edge_confidence"],
    ]
    return float(np.exp(np.log(np.clip(factors, _FLOOR, 1.0)).mean()))


class QualityStage(Stage):
    """Ranks; refuses nobody."""

    name = "quality"
    reads = (
        "landmarks_xy",
        "transform",
        "crop_side_px",
        "aligned_offset",
        "aligned_bytes",
        "ipd_px",
        "yaw_deg",
        "pitch_deg",
        "light_ratio",
        "overexposed_fraction",
        "underexposed_fraction",
        "outside_fraction",
        "compression",
        "edge_confidence",
    )
    writes = ("sharpness", "quality")
    reasons = ()
    version = 1
    config: QualityConfig

    def measure(self, rows: Sequence[Row], pixels: Pixels) -> list[Row]:
        """Measure sharpness on the aligned crop and put everything together."""
        for row in rows:
            transform = np.asarray(row["transform"], dtype=np.float64).reshape(2, 3)
            points = apply_transform(transform, landmarks_of(row))
            row["sharpness"] = sharpness(pixels.aligned(row), points)
            row["quality"] = composite(row)
        return list(rows)
