"""A row's pictures as the build stored them: the photo, the face in it, the crops."""

from __future__ import annotations

import cv2
import numpy as np

from hqvox.imaging.codec import UndecodableError, decode, decode_png
from hqvox.imaging.composite import composite_on_white
from hqvox.imaging.drawing import draw_landmarks, draw_pose
from hqvox.imaging.pictures import fitted
from hqvox.workspace.layout import Workspace
from hqvox.workspace.tables import Row
from models.protocols import Photo


def upright_photo(workspace: Workspace, row: Row, max_side_px: int | None = None) -> Photo | None:
    """The photo's pixels, RGB, or None where there are none or they cannot be decoded."""
    if row.get("photo_offset") is None:
        return None
    try:
        return decode(workspace.pixels("photo", row), max_side_px)
    except UndecodableError:
        return None


def aligned_crop(workspace: Workspace, row: Row) -> Photo | None:
    """The aligned crop, RGB, or None where the row was refused before."""
    if row.get("aligned_offset") is None:
        return None
    return decode_png(workspace.pixels("aligned", row))


def mask_of(workspace: Workspace, row: Row) -> Photo | None:
    """The alpha mask (side, side), or None where the row was refused before."""
    if row.get("mask_offset") is None:
        return None
    return decode_png(workspace.pixels("mask", row), cv2.IMREAD_GRAYSCALE)


def masked_crop(workspace: Workspace, row: Row) -> Photo | None:
    """The aligned crop on white, or None where the row was refused before."""
    crop, alpha = aligned_crop(workspace, row), mask_of(workspace, row)
    return None if crop is None or alpha is None else composite_on_white(crop, alpha)


def face_view(workspace: Workspace, row: Row, draw: bool = False) -> Photo | None:
    """The photo around a row's face, square, ``draw``: with landmarks; or the whole photo."""
    photo = upright_photo(workspace, row)
    if photo is None or row["box_xyxy"] is None:
        return photo
    left, top, right, bottom = row["box_xyxy"]
    side = max(32, round(max(right - left, bottom - top) * 1.7))
    x, y = round((left + right - side) / 2), round((top + bottom - side) / 2)
    # Towards the photo's middle where the square would leave it.
    height, width = photo.shape[:2]
    x, y = max(0, min(x, width - side)), max(0, min(y, height - side))
    view = photo[y : y + side, x : x + side]
    if not draw:
        return view
    shown = fitted(view, 320, 320)
    moved = row | {
        "landmarks_xy": (np.array(row["landmarks_xy"]).reshape(-1, 2) - (x, y)).reshape(-1)
    }
    scale = shown.shape[1] / view.shape[1]
    draw_landmarks(shown, moved, scale)
    if row["yaw_deg"] is not None:
        draw_pose(shown, moved, scale, width=3)
    return shown
