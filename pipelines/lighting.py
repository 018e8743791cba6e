"""Measurable proxies for "uniform, no noticeable shadow, no sharp change of illumination" (SF2F
appendix B.1).

All are measured on the skin between brows and upper lip (eyes, brows and nostrils left out; below,
beards would pass for shadow), in the face patch of :mod:`pipelines.faces`, on linear luminance.
Skin reflects a fixed share of the light, so ratios and relative slopes are the same for dark and
light skin; only the two shares at the ends look at absolute values. The dark end is L* 20 (3 % of
white). Of the skin of 820 people's faces in news and press photographs, many with dark skin, at
most 35 % lay there; so a limit of half detects poor light, not dark skin. The other
defaults: a light ratio of 2 is one photographic stop; a gradient of 14 is exceeded by the hardest
lit tenth of those photographs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from hqvox.config.build import LightingConfig
from hqvox.workspace.tables import Row
from models.protocols import Photo
from pipelines.faces import face_patch, landmarks_of, to_working
from pipelines.stage import Pixels, Stage

_SMOOTHING_PX = 3.0
_BRIGHT_END_L = 97.0
_DARK_END_L = 20.0
_MIN_SKIN_PX = 200
_FLOOR = 1e-3
"""Added to luminance before ratios: noise of black pixels must not look like structure."""


@dataclass(frozen=True)
class LightMeasures:
    """How a face is lit; see the columns of the same names in :mod:`hqvox.workspace.tables`."""

    light_ratio: float
    light_gradient: float
    overexposed_fraction: float
    underexposed_fraction: float


def linear_luminance(photo: Photo) -> NDArray[np.float32]:
    """Linear luminance, 0 to 1, of sRGB pixels (Rec. 709 weights)."""
    codes = np.arange(256) / 255.0
    table = np.where(codes <= 0.04045, codes / 12.92, ((codes + 0.055) / 1.055) ** 2.4)
    linear = table.astype(np.float32)[photo]
    return linear @ np.array([0.2126, 0.7152, 0.0722], dtype=np.float32)


def skin_mask(landmarks_xy: NDArray[np.floating], size_px: tuple[int, int]) -> NDArray[np.bool_]:
    """Skin between brows and upper lip, bool (height, width), from landmarks in patch pixels."""
    points = np.asarray(landmarks_xy, dtype=np.float64)
    width, height = size_px
    mask = np.zeros((height, width), dtype=np.uint8)

    def draw(polygon: NDArray[np.float64], value: int, grow_px: int = 0) -> None:
        hull = cv2.convexHull(np.round(polygon * 8).astype(np.int32))
        cv2.fillConvexPoly(mask, hull, value, shift=3)
        if grow_px:
            cv2.polylines(mask, [hull], True, value, 2 * grow_px, shift=3)

    draw(points[[*range(27)]], 1)
    mask[:] = cv2.erode(mask, np.ones((7, 7), np.uint8))
    for part in (slice(36, 42), slice(42, 48), slice(17, 22), slice(22, 27)):
        draw(points[part], 0, grow_px=3)
    draw(points[31:36], 0, grow_px=3)
    lip_y = points[[50, 51, 52], 1].min()
    mask[max(0, int(lip_y) - 3) :] = 0
    return mask.astype(bool)


def measure_light(photo: Photo, landmarks_xy: NDArray[np.floating]) -> LightMeasures | None:
    """Measure one face; landmarks (68, 2) in the photo's pixels. None where no skin is in view."""
    patch_and_points = face_patch(photo, landmarks_xy)
    if patch_and_points is None:
        return None
    patch, points = patch_and_points
    skin = skin_mask(points, (patch.shape[1], patch.shape[0]))
    if skin.sum() < _MIN_SKIN_PX:
        return None
    luminance = linear_luminance(patch)
    values = luminance[skin]
    lightness = 116 * np.cbrt(values) - 16  # CIE L*, its linear foot not needed above L* 8
    lightness = np.where(values > 0.008856, lightness, values * 903.3)

    grid_y, grid_x = np.indices(skin.shape)
    top, foot = points[27], points[33]
    side = (grid_x - top[0]) * (foot[1] - top[1]) - (grid_y - top[1]) * (foot[0] - top[0])
    halves = [luminance[skin & (side < 0)], luminance[skin & (side >= 0)]]
    if min(len(half) for half in halves) < _MIN_SKIN_PX // 4:
        ratio = 1.0
    else:
        medians = [float(np.median(half)) + _FLOOR for half in halves]
        ratio = max(medians) / min(medians)

    weight = skin.astype(np.float32)
    blurred = cv2.GaussianBlur(luminance * weight, (0, 0), _SMOOTHING_PX)
    smooth = blurred / np.maximum(cv2.GaussianBlur(weight, (0, 0), _SMOOTHING_PX), 1e-3)
    slope_y, slope_x = np.gradient(smooth)
    inner = cv2.erode(skin.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    slopes = np.hypot(slope_x, slope_y)[inner if inner.any() else skin]
    face_width = float(np.linalg.norm(points[16] - points[0]))
    gradient = float(np.percentile(slopes, 95)) * face_width / (float(values.mean()) + _FLOOR)
    return LightMeasures(
        light_ratio=ratio,
        light_gradient=gradient,
        overexposed_fraction=float((lightness >= _BRIGHT_END_L).mean()),
        underexposed_fraction=float((lightness <= _DARK_END_L).mean()),
    )


class LightingStage(Stage):
    """Refuses faces in uneven, too bright or too dark light."""

    name = "lighting"
    reads = ("landmarks_xy",)
    writes = (
        "light_ratio",
        "light_gradient",
        "overexposed_fraction",
        "underexposed_fraction",
    )
    reasons = ("over_exposed", "under_exposed", "uneven_light")
    failures = ("no_skin_in_view",)
    reads_photos = True
    version = 1
    config: LightingConfig

    def measure(self, rows: Sequence[Row], pixels: Pixels) -> list[Row]:
        """Measure each face at working scale."""
        for row in rows:
            photo, scale = pixels.working(row)
            light = measure_light(photo, to_working(landmarks_of(row), scale))
            if light is None:
                row.update(dict.fromkeys(self.writes), reason="no_skin_in_view")
                continue
            row.update(vars(light))
        return list(rows)
