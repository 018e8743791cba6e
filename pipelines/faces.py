"""What the face stages share: coordinates between scales, a row's landmarks, the face's patch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from hqvox.workspace.tables import Row
from models.geometry import eye_centres
from models.protocols import Photo
from pipelines.stage import Pixels

PATCH_IPD_PX = 40.0
"""Eye distance of a face patch, px."""
PATCH_SIZE_PX = (112, 128)
"""Width and height of a face patch, px: the face from brows to chin at :data:`PATCH_IPD_PX`."""
_PATCH_LEFT_EYE = (36.0, 40.0)


def compute_device() -> str:
    """Device that networks run on: ``cuda`` where there is one, else ``cpu``."""
    import torch  # Here, so that commands that run no network do not wait for it.

    return "cuda" if torch.cuda.is_available() else "cpu"


def to_working(xy: NDArray[np.floating], scale: float) -> NDArray[np.float64]:
    """Coordinates of the upright photo to those of the working picture (``scale`` at most 1).

    Integer coordinates are pixel centres in both, so the corner of the picture is at -0.5.
    """
    return (np.asarray(xy, dtype=np.float64) + 0.5) * scale - 0.5


def to_photo(xy: NDArray[np.floating], scale: float) -> NDArray[np.float64]:
    """Coordinates of the working picture to those of the upright photo."""
    return (np.asarray(xy, dtype=np.float64) + 0.5) / scale - 0.5


def landmarks_of(row: Row) -> NDArray[np.float64]:
    """Landmarks of a row, (68, 2), px of the upright photo."""
    return np.asarray(row["landmarks_xy"], dtype=np.float64).reshape(68, 2)


def working_faces(
    rows: Sequence[Row], pixels: Pixels
) -> Iterator[tuple[Photo, float, NDArray[np.float32]]]:
    """Each row's working picture, its scale, and the landmarks (68, 2) in its pixels."""
    for row in rows:
        photo, scale = pixels.working(row)
        yield photo, scale, to_working(landmarks_of(row), scale).astype(np.float32)


def apply_transform(
    transform: NDArray[np.floating], xy: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Apply a 2 × 3 transform to points (..., 2)."""
    matrix = np.asarray(transform, dtype=np.float64)
    return np.asarray(xy, dtype=np.float64) @ matrix[:, :2].T + matrix[:, 2]


def face_patch(
    photo: Photo, landmarks_xy: NDArray[np.floating]
) -> tuple[Photo, NDArray[np.float64]] | None:
    """The face at a fixed scale with the eyes level: the patch and the landmarks in its pixels.

    ``landmarks_xy``: (68, 2) in pixels of ``photo``. The patch is :data:`PATCH_SIZE_PX` large with
    an eye distance of :data:`PATCH_IPD_PX`; beyond the photo its border is repeated. None where
    the eyes coincide.
    """
    left, right = eye_centres(landmarks_xy)
    dx, dy = right - left
    ipd = float(np.hypot(dx, dy))
    if not ipd > 0:
        return None
    scale = PATCH_IPD_PX / ipd
    cos, sin = dx / ipd * scale, dy / ipd * scale
    rotation = np.array([[cos, sin], [-sin, cos]])
    matrix = np.column_stack([rotation, np.array(_PATCH_LEFT_EYE) - rotation @ left])
    return warp(photo, matrix, PATCH_SIZE_PX), apply_transform(matrix, landmarks_xy)


def warp(
    photo: Photo,
    transform: NDArray[np.floating],
    size_px: tuple[int, int],
    interpolation: int = cv2.INTER_LINEAR,
) -> Photo:
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
        shrunk = (max(1, part.shape[1] // factor), max(1, part.shape[0] // factor))
        grow = np.array([part.shape[1] / shrunk[0], part.shape[0] / shrunk[1]])
        part = np.asarray(cv2.resize(part, shrunk, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        linear = matrix[:, :2] * grow
        # Pixel centres: x_part = (x_shrunk + 0.5) * grow - 0.5
        matrix = np.column_stack([linear, matrix[:, 2] + matrix[:, :2] @ (0.5 * grow - 0.5)])
    out = cv2.warpAffine(
        part, matrix, (width, height), flags=interpolation, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(out, dtype=np.uint8)
