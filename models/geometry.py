"""Face geometry that networks and stages share: eye centres, mirror image, crops and resampling.

Pure array code. Coordinates are pixels, (x, y), origin at the centre of the top-left pixel.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

LEFT_EYE = slice(36, 42)
"""iBUG 68 indices of the eye on the left side of the picture (the person's right eye)."""
RIGHT_EYE = slice(42, 48)
"""iBUG 68 indices of the eye on the right side of the picture."""

MIRRORED = np.array(
    [
        *range(16, -1, -1),  # jaw
        *range(26, 16, -1),  # brows
        *range(27, 31),  # bridge of the nose
        *range(35, 30, -1),  # its base
        *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),  # eyes
        *range(54, 47, -1),  # lips outside: upper, lower
        *range(59, 54, -1),
        *range(64, 59, -1),  # lips inside: upper, lower
        *range(67, 64, -1),
    ]
)
"""For each of the 68 iBUG points, the index of the point that it becomes in the mirror image."""

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


def apply_transform(
    transform: NDArray[np.floating], xy: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Apply a 2 × 3 transform to points (..., 2)."""
    matrix = np.asarray(transform, dtype=np.float64)
    return np.asarray(xy, dtype=np.float64) @ matrix[:, :2].T + matrix[:, 2]


def reduced(
    picture: NDArray[np.uint8], transform: NDArray[np.floating], size_px: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Average a picture by area down to ``size_px`` (width, height), and adapt its transform.

    Interpolation alone skips pixels, and so aliases, where it shrinks a picture by two or more.
    ``transform``: 2 × 3, from pixels of ``picture`` to the output; the one that is returned maps
    pixels of the reduced picture to the same output.
    """
    matrix = np.asarray(transform, dtype=np.float64)
    width, height = size_px
    grow = np.array([picture.shape[1] / width, picture.shape[0] / height])
    small = cv2.resize(picture, size_px, interpolation=cv2.INTER_AREA)
    # Pixel centres are at integers: x in the picture = (x in the reduced one + 0.5) * grow - 0.5.
    offset = matrix[:, 2] + matrix[:, :2] @ (0.5 * grow - 0.5)
    return np.asarray(small, dtype=np.uint8), np.column_stack([matrix[:, :2] * grow, offset])


def warp(
    photo: NDArray[np.uint8],
    transform: NDArray[np.floating],
    size_px: tuple[int, int],
    interpolation: int = cv2.INTER_LINEAR,
) -> NDArray[np.uint8]:
    """Resample a photo by a similarity (2 × 3, photo to output); its border is repeated outside.

    Only the part of the photo that is needed is touched, and it is averaged down first where the
    output is smaller by two or more, as interpolation alone would alias.
    """
    matrix = np.asarray(transform, dtype=np.float64)
    width, height = size_px
    inverse = np.asarray(cv2.invertAffineTransform(matrix), dtype=np.float64)
    corners = np.array([[-0.5, -0.5], [width, -0.5], [width, height], [-0.5, height]])
    reach = apply_transform(inverse, corners)
    margin = 8  # Lanczos reads 4 px to each side, averaging up to one cell more
    photo_height, photo_width = photo.shape[:2]
    limit = np.array([photo_width, photo_height])
    # At least one pixel of the photo stays even where the output lies wholly outside of it.
    low = np.clip(np.floor(reach.min(axis=0)) - margin, 0, limit - 1).astype(int)
    high = np.clip(np.ceil(reach.max(axis=0)) + margin, low + 1, limit).astype(int)
    part = photo[low[1] : high[1], low[0] : high[0]]
    matrix = np.column_stack([matrix[:, :2], matrix[:, 2] + matrix[:, :2] @ low])
    factor = int(1.0 / np.hypot(matrix[0, 0], matrix[1, 0]) + 1e-6)
    if factor >= 2:
        size = (max(1, part.shape[1] // factor), max(1, part.shape[0] // factor))
        part, matrix = reduced(part, matrix, size)
    out = cv2.warpAffine(
        part, matrix, (width, height), flags=interpolation, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(out, dtype=np.uint8)


def iou(
    one: Sequence[float] | NDArray[np.floating], other: Sequence[float] | NDArray[np.floating]
) -> float:
    """Intersection over union of two boxes (left, top, right, bottom), 0 to 1; 0 for empty ones."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    inner = width * height
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return inner / (areas[0] + areas[1] - inner)
