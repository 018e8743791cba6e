"""Edge-aware refinement: a coarse mask follows the edges of the picture under it.

The guided filter of He, Sun and Tang (ECCV 2010) with a colour guide: within every window the
mask is taken as a linear function of the colours, so its steps fall where the picture's do.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def guided_filter(guide: Floats, mask: Floats, radius_px: int, epsilon: float) -> Floats:
    """Return ``mask`` (height, width), 0 to 1, filtered along ``guide`` RGB (…, 3), 0 to 1.

    ``radius_px``: half a window's side. ``epsilon``: the colour variance below which a window
    counts as flat and the mask is only smoothed.
    """
    height, width = mask.shape
    mean_guide = _box(guide, radius_px)
    mean_mask = _box(mask, radius_px)
    cross = _box(guide * mask[..., None], radius_px) - mean_guide * mean_mask[..., None]
    products = (guide[..., :, None] * guide[..., None, :]).reshape(height, width, 9)
    spread = _box(products, radius_px).reshape(height, width, 3, 3)
    spread = spread - mean_guide[..., :, None] * mean_guide[..., None, :]
    spread += epsilon * np.eye(3, dtype=np.float32)
    slope = np.linalg.solve(spread, cross[..., None])[..., 0].astype(np.float32)
    level = mean_mask - (slope * mean_guide).sum(axis=-1)
    filtered = (_box(slope, radius_px) * guide).sum(axis=-1) + _box(level, radius_px)
    return np.asarray(np.clip(filtered, 0, 1), np.float32)


def _box(pixels: Floats, radius_px: int) -> Floats:
    """Mean over a window; cv2 takes at most 4 channels a call, hence the pieces."""
    size = (2 * radius_px + 1, 2 * radius_px + 1)
    if pixels.ndim == 2:
        return np.asarray(cv2.blur(pixels, size), np.float32)
    parts = [cv2.blur(np.ascontiguousarray(pixels[..., i]), size) for i in range(pixels.shape[-1])]
    return np.asarray(np.stack(parts, axis=-1), np.float32)
