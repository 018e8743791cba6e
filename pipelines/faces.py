"""What the face stages share: coordinates between scales, a row's landmarks, the face's patch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from hqvox.workspace.tables import Row
from models.geometry import apply_transform, eye_centres, warp
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
