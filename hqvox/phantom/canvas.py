"""A texture to paint on, masks with soft edges, and smooth noise."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

F32 = NDArray[Any]  # float32, which OpenCV's type stubs cannot promise
TEXELS = 4
"""Texture pixels per grid cell."""
_EDGE_MM = 0.45


class Canvas:
    """A texture, and the position of each texel on the feature sheet.

    ``rgb``: float32 (h, w, 3), gamma-2 reflectance, 0 to 1; ``x``, ``y``: float32 (h, w), mm;
    ``front``: bool (h, w), texels on the front of the head; ``shine``: float32 (h, w), strength of
    the highlight.
    """

    def __init__(self, x: F32, y: F32, front: NDArray[np.bool_], rgb: F32) -> None:
        self.x, self.y, self.front, self.rgb = x, y, front, rgb
        self.shine = np.full(x.shape, 0.35, np.float32)

    def window(self, x0: float, x1: float, y0: float, y1: float) -> tuple[slice, slice]:
        """Return slices that hold every front texel with a sheet position in a box, mm."""
        coarse = np.s_[::4, ::4]
        x, y = self.x[coarse], self.y[coarse]
        inside = self.front[coarse] & (x > x0 - 3) & (x < x1 + 3) & (y > y0 - 3) & (y < y1 + 3)
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        if len(rows) == 0:
            return np.s_[0:0], np.s_[0:0]
        return (
            slice(4 * rows[0], 4 * rows[-1] + 4),
            slice(4 * columns[0], 4 * columns[-1] + 4),
        )

    def blend(
        self, where: tuple[slice, slice], mask: F32, colour: F32 | tuple[float, float, float]
    ) -> None:
        """Blend ``colour`` (RGB, 0 to 1) into a window by ``mask``, clipped to 0 to 1, in place."""
        m = np.clip(mask, 0, 1)[..., None].astype(np.float32)
        part = self.rgb[where]
        part += m * (np.asarray(colour, np.float32) - part)


def soft(distance: F32, edge: float = _EDGE_MM) -> F32:
    """Return float32 1 inside (negative signed distance, mm), 0 outside, with a soft edge."""
    return np.clip(0.5 - distance / (2 * edge), 0, 1).astype(np.float32)


def noise(rng: np.random.Generator, shape: tuple[int, int], cell: tuple[float, float]) -> F32:
    """Return smooth noise of unit variance, float32 ``shape``, with cells of (rows, columns)."""
    small = (max(2, int(shape[0] / cell[0]) + 2), max(2, int(shape[1] / cell[1]) + 2))
    grid = rng.standard_normal(small, dtype=np.float32)
    out = cv2.resize(grid, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    return np.asarray(out, dtype=np.float32)
