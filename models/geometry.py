"""Face geometry that networks and stages share: eye centres and the aligned crop.

Pure array code. Coordinates are pixels, (x, y), origin at the centre of the top-left pixel.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEFT_EYE = slice(36, 42)
"""iBUG 68 indices of the eye on the left side of the picture (the person's right eye)."""
RIGHT_EYE = slice(42, 48)
"""iBUG 68 indices of the eye on the right side of the picture."""

ALIGNED_LEFT_EYE = (0.380, 0.487)
"""Eye centre, left in the image, as a fraction of the crop's width and height: the mean over
released HQ-VoxCeleb images."""
ALIGNED_RIGHT_EYE = (0.623, 0.487)
"""Eye centre, right in the image, as a fraction of the crop's width and height."""
IPD_PER_SIDE = ALIGNED_RIGHT_EYE[0] - ALIGNED_LEFT_EYE[0]
"""Interpupillary distance as a fraction of the crop's side, 0.243."""


def eye_centres(landmarks_xy: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return eye centres (..., 2, 2), left in the image first, of landmarks (..., 68, 2)."""
    points = np.asarray(landmarks_xy, dtype=np.float64)
    return np.stack(
        [points[..., LEFT_EYE, :].mean(axis=-2), points[..., RIGHT_EYE, :].mean(axis=-2)], axis=-2
    )


def aligned_transform(
    eyes_xy: NDArray[np.floating], side_px: float | None = None
) -> tuple[NDArray[np.float64], float]:
    """Similarity transform from photo pixels to the aligned crop of HQ-VoxCeleb's geometry.

    ``eyes_xy``: (2, 2), eye centres, left in the image first. ``side_px``: the crop's side;
    by default interpupillary distance / 0.243, which keeps the photo's own resolution.
    Returns the 2 × 3 matrix that maps photo (x, y, 1) to crop (x, y), and the side in pixels.
    Raises ValueError where the eyes coincide.
    """
    left, right = np.asarray(eyes_xy, dtype=np.float64)
    dx, dy = right - left
    ipd = float(np.hypot(dx, dy))
    if not ipd > 0:
        raise ValueError("the two eye centres coincide")
    side = ipd / IPD_PER_SIDE if side_px is None else float(side_px)
    # Pixel centres are at integer coordinates, so fraction f of a side lies at f * side - 0.5.
    target_left = np.array(ALIGNED_LEFT_EYE) * side - 0.5
    scale = side * IPD_PER_SIDE / ipd
    cos, sin = dx / ipd * scale, dy / ipd * scale
    rotation = np.array([[cos, sin], [-sin, cos]])
    return np.column_stack([rotation, target_left - rotation @ left]), side
