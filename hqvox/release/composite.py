"""A person on white, fast: what ``pipelines.segment.composite_on_white`` does, for thousands.

The colours of person and background are spread at a quarter of the resolution, where a blur costs
a sixty-fourth, and only the soft pixels of the outline are mixed anew. Everything else is the
crop, or white, to the bit.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from models.protocols import Photo

Map = NDArray[np.float32]

STEP = 4
"""Pixels of the crop to one of the map that colours are spread on."""


def composite_on_white_fast(aligned: Photo, alpha: NDArray[np.uint8]) -> Photo:
    """Blend a crop onto white: uint8 RGB (h, w, 3) and mask (h, w), 255 = person, to uint8 RGB.

    Differs from the reference at soft pixels only: by 0.7 of 255 levels in the mean, and by 5 or
    less at 99 % of them (34 press photographs).
    """
    out = np.where((alpha == 0)[..., None], np.uint8(255), aligned)
    rows, columns = np.nonzero((alpha > 0) & (alpha < 255))
    if not len(rows):
        return out
    person, behind = _colours(aligned, alpha)
    size = (alpha.shape[1], alpha.shape[0])
    person, behind = (
        np.asarray(cv2.resize(c, size, interpolation=cv2.INTER_LINEAR), np.float32)[rows, columns]
        for c in (person, behind)
    )
    pixel = aligned[rows, columns].astype(np.float32)
    weight = alpha[rows, columns].astype(np.float32)[:, None] / np.float32(255)
    for _ in range(2):
        person, behind = _corrected(pixel, weight, person, behind)
    blended = weight * person + (1 - weight) * 255
    out[rows, columns] = np.clip(np.rint(blended), 0, 255).astype(np.uint8)
    return out


def _colours(aligned: Photo, alpha: NDArray[np.uint8]) -> tuple[Map, Map]:
    """Colour of person and of background everywhere, float32 (h / 4, w / 4, 3)."""
    height, width = alpha.shape
    small = (max(1, round(width / STEP)), max(1, round(height / STEP)))
    picture = cv2.resize(aligned, small, interpolation=cv2.INTER_AREA).astype(np.float32)
    weight = cv2.resize(alpha, small, interpolation=cv2.INTER_AREA).astype(np.float32)
    weight = weight[..., None] / np.float32(255)
    side = max(height, width)
    radius = max(3.0, side / 50) / STEP
    person = _spread(picture, _eighth_power(weight), radius)
    behind = _spread(picture, _eighth_power(1 - weight), radius)
    person, behind = _corrected(picture, weight, person, behind)
    radius = max(2.0, side / 100) / STEP
    return _spread(person, weight, radius), _spread(behind, 1 - weight, radius)


def _corrected(pixel: Map, weight: Map, person: Map, behind: Map) -> tuple[Map, Map]:
    """Both colours moved so that together they give what the pixel shows."""
    rest = pixel - weight * person - (1 - weight) * behind
    return (
        np.clip(person + weight * rest, 0, 255),
        np.clip(behind + (1 - weight) * rest, 0, 255),
    )


def _eighth_power(weight: Map) -> Map:
    return np.asarray(np.square(np.square(np.square(weight))), dtype=np.float32)


def _spread(colour: Map, weight: Map, radius_px: float) -> Map:
    """Weighted mean colour (h, w, 3) around each pixel, by weights (h, w, 1)."""
    total = cv2.GaussianBlur(weight, (0, 0), radius_px)[..., None]
    spread = cv2.GaussianBlur(colour * weight, (0, 0), radius_px)
    return np.asarray((spread + 1e-6 * colour) / (total + 1e-6), dtype=np.float32)
