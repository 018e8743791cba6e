"""Drawing what was measured onto pictures: boxes, landmarks, pose axes, mask outlines.

Pictures are RGB arrays; coordinates are pixels of the upright photo times ``scale``.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from hqvox.workspace.tables import Row
from models.geometry import eye_centres
from models.protocols import Photo

_SHIFT = 4
AXES = ((214, 69, 65), (46, 160, 87), (52, 108, 214))
"""Colours of the head's axes: across, up, forward."""
POINT = (255, 214, 64)
OUTLINE = (240, 60, 160)
DOUBT = (250, 200, 0)
_CERTAIN = 13
"""Alpha up to it is background, and from 255 less it person (0.05 and 0.95)."""

Colour = tuple[int, int, int]


def draw_box(picture: Photo, row: Row, scale: float, colour: Colour, width: int = 2) -> None:
    """Draw the face's box, in place."""
    corners = _fixed(np.array(row["box_xyxy"]).reshape(2, 2), scale)
    left, top, right, bottom = corners.reshape(4).tolist()
    cv2.rectangle(picture, (left, top), (right, bottom), colour, width, cv2.LINE_AA, _SHIFT)


def draw_landmarks(picture: Photo, row: Row, scale: float, radius: float = 1.6) -> None:
    """Draw the 68 points and the eye centres, in place."""
    points = np.array(row["landmarks_xy"], dtype=np.float64).reshape(68, 2)
    for x, y in _fixed(points, scale).tolist():
        _dot(picture, (x, y), radius, POINT)
    for x, y in _fixed(eye_centres(points), scale).tolist():
        _dot(picture, (x, y), radius * 1.7, (255, 255, 255))


def head_axes(yaw_deg: float, pitch_deg: float, roll_deg: float) -> NDArray[np.float64]:
    """The head's axes across, up and forward as they appear in the image: (3, 2), x right, y down.

    Angles as in the columns: yaw positive to the image's right, pitch positive upwards, roll
    positive clockwise.
    """
    yaw, pitch, roll = np.radians([yaw_deg, pitch_deg, roll_deg])
    across = (np.cos(yaw), 0.0)
    up = (-np.sin(yaw) * np.sin(pitch), -np.cos(pitch))
    forward = (np.sin(yaw) * np.cos(pitch), -np.sin(pitch))
    turn = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
    return np.array([across, up, forward]) @ turn.T


def draw_pose(picture: Photo, row: Row, scale: float, width: int = 2) -> None:
    """Draw the head's axes from between the eyes, as long as the eyes are apart, in place.

    The forward axis is drawn twice as long: at the angles that pass it is hardly more than a dot.
    """
    eyes = eye_centres(np.array(row["landmarks_xy"], dtype=np.float64).reshape(68, 2))
    origin, length = eyes.mean(axis=0), float(np.linalg.norm(eyes[1] - eyes[0]))
    axes = head_axes(row["yaw_deg"], row["pitch_deg"], row["roll_deg"])
    start = tuple(_fixed(origin[None], scale)[0].tolist())
    for axis, stretch, colour in zip(axes, (1.0, 1.0, 2.0), AXES, strict=True):
        end = tuple(_fixed((origin + axis * length * stretch)[None], scale)[0].tolist())
        cv2.line(picture, start, end, colour, width, cv2.LINE_AA, _SHIFT)


def draw_outline(picture: Photo, alpha: NDArray[np.uint8], width: int = 2) -> None:
    """Draw the outline of a mask (height, width; 255 = person) of the picture's size, in place."""
    contours, _ = cv2.findContours(
        (alpha > 127).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE
    )
    cv2.drawContours(picture, contours, -1, OUTLINE, width, cv2.LINE_AA)


def draw_doubt(picture: Photo, alpha: NDArray[np.uint8]) -> None:
    """Tint the pixels that are neither person nor background, in place.

    ``alpha``: a mask of the picture's size, 255 = person; its certain pixels stay as they are.
    """
    doubt = (alpha > _CERTAIN) & (alpha < 255 - _CERTAIN)
    picture[doubt] = (0.4 * picture[doubt] + 0.6 * np.array(DOUBT)).astype(np.uint8)


def _fixed(points_xy: NDArray, scale: float) -> NDArray[np.int32]:
    """Pixel centres are at integers, so scaling keeps the corner at -0.5; then fixed point."""
    scaled = (np.asarray(points_xy, dtype=np.float64) + 0.5) * scale - 0.5
    return np.round(scaled * (1 << _SHIFT)).astype(np.int32)


def _dot(picture: Photo, place: tuple[int, int], radius: float, colour: Colour) -> None:
    size = round(radius * (1 << _SHIFT))
    edge = (20, 20, 20)
    cv2.circle(picture, place, size + (1 << _SHIFT) // 2, edge, -1, cv2.LINE_AA, _SHIFT)
    cv2.circle(picture, place, size, colour, -1, cv2.LINE_AA, _SHIFT)
