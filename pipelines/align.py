"""The crop of the released dataset: both eye centres where HQ-VoxCeleb has them.

A similarity transform (turn, shift, scale) puts the eye centres at fixed fractions of a square
crop whose side is pupil distance / 0.243 (:mod:`models.geometry`). The side is rounded down, so
the photo is never enlarged. Outside the photo its border is repeated: the mask network then sees no
false edge, and the mask is background there.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from hqvox.config.build import AlignConfig
from hqvox.imaging.codec import UndecodableError
from hqvox.workspace.tables import Row
from models.geometry import IPD_PER_SIDE, aligned_transform, apply_transform, eye_centres, warp
from models.protocols import Photo
from pipelines.faces import landmarks_of
from pipelines.stage import Pixels, Stage

MIN_SIDE_PX = 16
"""Smallest crop that is made, px; below, nothing can be seen on it."""
MAX_SIDE_PX = 8192
"""Largest crop that is made, px: its eyes would be 2,000 px apart."""
_BLOCK_EXCESS_FULL = 1.0
"""Mean step across block edges over that elsewhere, minus one, that counts as compression 1."""


def crop_side(landmarks_xy: NDArray[np.floating]) -> int:
    """Side of the crop in px, rounded down, of landmarks (68, 2) in photo pixels."""
    left, right = eye_centres(landmarks_xy)
    return int(np.floor(np.hypot(*(right - left)) / IPD_PER_SIDE + 1e-6))


def outside_fraction(transform: NDArray[np.floating], side_px: int, photo: Photo) -> float:
    """Share of the crop's area that lies outside of the photo, 0 to 1."""
    inverse = np.asarray(cv2.invertAffineTransform(np.asarray(transform, dtype=np.float64)))
    low, high = -0.5, side_px - 0.5
    square = apply_transform(
        inverse.astype(np.float64), np.array([[low, low], [high, low], [high, high], [low, high]])
    )
    height, width = photo.shape[:2]
    right, bottom = width - 0.5, height - 0.5
    frame = np.array([[-0.5, -0.5], [right, -0.5], [right, bottom], [-0.5, bottom]])
    # Near the crop's own origin, so that float32 keeps the precision on large photos.
    origin = square.mean(axis=0)
    inside = cv2.intersectConvexConvex(
        (square - origin).astype(np.float32), (frame - origin).astype(np.float32)
    )[0]
    area = abs(np.linalg.det(inverse[:, :2])) * side_px**2
    return float(np.clip(1.0 - inside / area, 0.0, 1.0))


def block_edges(photo: Photo, landmarks_xy: NDArray[np.floating]) -> float:
    """Visibility of JPEG's 8 × 8 block edges around the face, 0 none to 1 strong.

    Steps between neighbouring pixels are averaged for each of the 8 positions of the grid; on an
    uncompressed picture all are alike, on a coarsely compressed one the step at the block edge
    stands out. Measured on the photo itself: the aligned crop is rotated, so its grid is lost.
    """
    low = np.maximum(np.floor(landmarks_xy.min(axis=0)).astype(int), 0)
    high = np.ceil(landmarks_xy.max(axis=0)).astype(int) + 1
    part = photo[low[1] : high[1], low[0] : high[0]]
    if min(part.shape[:2]) < 24:
        return 0.0
    grey = cv2.cvtColor(part, cv2.COLOR_RGB2GRAY).astype(np.float32)
    excess = []
    for picture in (grey, grey.T):
        steps = np.abs(np.diff(picture, axis=1)).mean(axis=0)
        steps = steps[: len(steps) // 8 * 8].reshape(-1, 8).mean(axis=0)
        excess.append(float(steps.max()) / (float(np.median(steps)) + 0.5) - 1.0)
    return float(np.clip(min(excess) / _BLOCK_EXCESS_FULL, 0.0, 1.0))


class AlignStage(Stage):
    """Cuts the aligned crop out of the photo in full resolution."""

    name = "align"
    reads = ("landmarks_xy",)
    writes = (
        "transform",
        "crop_side_px",
        "outside_fraction",
        "compression",
        "aligned_offset",
        "aligned_bytes",
    )
    reasons = ("out_of_frame",)
    failures = ("undecodable", "eyes_coincide", "crop_too_large")
    reads_photos = True
    version = 1
    config: AlignConfig

    def measure(self, rows: Sequence[Row], pixels: Pixels) -> list[Row]:
        """Cut one crop per face, and measure how much of it lies outside the photo."""
        for row in rows:
            row.update(dict.fromkeys(self.writes))
            row["reason"] = self._cut(row, pixels)
        return list(rows)

    def _cut(self, row: Row, pixels: Pixels) -> str | None:
        points = landmarks_of(row)
        side = crop_side(points)
        if side < MIN_SIDE_PX:
            return "eyes_coincide"
        if side > MAX_SIDE_PX:
            return "crop_too_large"
        try:
            photo = pixels.native(row)
        except UndecodableError:
            return "undecodable"
        transform, _ = aligned_transform(eye_centres(points), side)
        outside = outside_fraction(transform, side, photo)
        row["transform"] = transform.ravel().tolist()
        row["crop_side_px"] = side
        row["outside_fraction"] = outside
        row["compression"] = block_edges(photo, points)
        crop = warp(photo, transform, (side, side), cv2.INTER_LANCZOS4)
        pixels.keep_aligned(row, crop)
        return None
