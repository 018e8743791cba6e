"""Layout of a face: the 68 iBUG points on a flat, frontal feature sheet, per expression.

The sheet is in millimetres, x to the picture's right, y down, origin midway between the eyes. It is
projected onto the front of the head. Lids, lips and brows are painted through the same points, so
the landmarks of a render lie on its features. The average face was measured on frontal photographs
of people.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hqvox.phantom.identity import FaceIdentity

EXPRESSIONS = ("neutral", "slight_smile", "happiness", "surprise", "anger", "sadness")

# One side of the average face, (x, y) in mm; the other is its mirror image.
_JAW = (
    (0, 110.4), (19.3, 108.6), (36.1, 100.6), (50.4, 89), (60.7, 73.3), (66.8, 55.5), (70, 36.6),
    (72, 17.3), (73, -2),
)  # fmt: skip
_BROW = ((10.7, -16.6), (23.1, -21.3), (36.3, -23), (49.3, -20.6), (58.3, -12.4))
_NOSE_RIDGE = ((0, -2.2), (0, 11), (0, 24), (0, 37.4))
_NOSE_BASE = ((0, 49.9), (7.7, 47.5), (14.5, 44.6))
_EYE_TOP = ((18.7, 1.3), (26.9, -3.8), (36, -3.9), (43.7, 0))
_EYE_BOTTOM = ((36.3, 3.2), (27.4, 3.1))
_LIPS_TOP = ((25.5, 70.6), (16.3, 65.8), (7.3, 63.5), (0, 65.4))
_LIPS_BOTTOM = ((16.7, 77.9), (7.7, 81.2), (0, 82))
_INNER_TOP = ((21.4, 70.6), (7.3, 69.9), (0, 70.4))
_INNER_BOTTOM = ((7.3, 70.9), (0, 71.4))


def average_sheet() -> NDArray[np.float64]:
    """Return the average neutral face's 68 points, float64 (68, 2), mm."""
    right = np.zeros((68, 2))
    jaw = np.array(_JAW)
    points = {16 - i: jaw[8 - i] for i in range(9)}
    points |= dict(zip(range(22, 27), _BROW, strict=True))
    points |= dict(zip(range(27, 31), _NOSE_RIDGE, strict=True))
    points |= dict(zip(range(33, 36), _NOSE_BASE, strict=True))
    points |= dict(zip((42, 43, 44, 45, 46, 47), _EYE_TOP + _EYE_BOTTOM, strict=True))
    points |= dict(zip((54, 53, 52, 51), _LIPS_TOP, strict=True))
    points |= dict(zip((55, 56, 57), _LIPS_BOTTOM, strict=True))
    points |= dict(zip((64, 63, 62), _INNER_TOP, strict=True))
    points |= dict(zip((65, 66), _INNER_BOTTOM, strict=True))
    for index, point in points.items():
        right[index] = point
        right[MIRROR[index]] = (-point[0], point[1])
    return right


def _mirror() -> NDArray[np.int64]:
    other = np.arange(68)
    pairs = [(i, 16 - i) for i in range(8)] + [(17 + i, 26 - i) for i in range(5)]
    pairs += [(31, 35), (32, 34), (36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)]
    pairs += [(48, 54), (49, 53), (50, 52), (59, 55), (58, 56), (60, 64), (61, 63), (67, 65)]
    for a, b in pairs:
        other[a], other[b] = b, a
    return other


MIRROR = _mirror()
"""Index of each iBUG point's mirror image, int64 (68,)."""


def sheet(identity: FaceIdentity, expression: str, strength: float) -> NDArray[np.float64]:
    """Return a person's 68 points on the frontal sheet, float64 (68, 2), mm.

    ``expression`` is one of ``EXPRESSIONS``; ``strength`` 0 (neutral) to 1 (full).
    """
    p = average_sheet()
    side = np.sign(p[:, 0])
    _shape_jaw(p, identity)
    eyes, brows = slice(36, 48), slice(17, 27)
    # eyes: apart, then wider, opener, tilted about their own centres
    shift = side * (identity.ipd_mm - 62.6) / 2
    p[eyes, 0] += shift[eyes]
    centre_x = side[eyes] * identity.ipd_mm / 2
    across = (p[eyes, 0] - centre_x) * side[eyes]
    p[eyes, 0] = centre_x + across * side[eyes] * identity.eye_width
    p[eyes, 1] = p[eyes, 1] * identity.eye_opening - identity.eye_tilt_mm * across / 12.5
    # brows
    along = (np.abs(p[brows, 0]) - 10) / 48
    p[brows, 0] = p[brows, 0] * (0.5 + 0.5 * identity.face_width) + 0.7 * shift[brows]
    p[brows, 1] += identity.brow_height_mm - identity.brow_tilt_mm * (along - 0.5)
    p[brows, 1] -= identity.brow_arch_mm * np.sin(np.pi * np.clip(along, 0, 1))
    # nose
    p[31:36, 0] *= identity.nose_width
    p[28:36, 1] += identity.nose_length_mm * np.array([0.3, 0.6, 1, 1, 1, 1, 1, 1])
    # mouth: the lip line at y = 70.6, lips growing away from it
    lips = slice(48, 68)
    line = 70.6
    p[lips, 0] *= identity.mouth_width
    up = p[lips, 1] < line
    grow = np.where(up, identity.upper_lip, identity.lower_lip)
    outer = np.arange(48, 68) < 60
    p[lips, 1] = line + (p[lips, 1] - line) * np.where(outer, grow, 1.0)
    p[lips, 1] += identity.mouth_height_mm
    p[:, 1] *= identity.face_height
    _express(p, expression, strength)
    return p


def _shape_jaw(p: NDArray[np.float64], identity: FaceIdentity) -> None:
    """Widen, narrow and lengthen the contour (points 0 to 16) in place."""
    y = p[:17, 1].copy()
    low = np.clip((y - 20) / 70, 0, 1)
    chin = np.clip((y - 85) / 25, 0, 1)
    width = identity.face_width * (1 + (identity.jaw_width - 1) * low)
    p[:17, 0] *= width * (1 + (identity.chin_width - 1) * chin)
    p[:17, 0] += np.sign(p[:17, 0]) * identity.fullness_mm * np.sin(np.pi * np.clip(y / 110, 0, 1))
    p[:17, 1] += identity.chin_mm * np.clip((y - 50) / 60, 0, 1)


def _express(p: NDArray[np.float64], expression: str, k: float) -> None:
    """Move the points of ``p`` in place by ``k`` times the expression's full movement."""
    side = np.sign(p[:, 0])

    def move(points: tuple[int, ...], outward: float, down: float) -> None:
        index = list(points)
        p[index, 0] += k * outward * side[index]
        p[index, 1] += k * down

    corners, half = (48, 54), (49, 53, 55, 59)
    upper_lid, lower_lid = (37, 38, 43, 44), (40, 41, 46, 47)
    if expression == "slight_smile":
        move((*corners, 60, 64), 2.2, -1.8)
        move(half, 1.3, -0.7)
        move((50, 51, 52, 56, 57, 58), 0.3, 0.2)
        move(lower_lid, 0, -0.3)
    elif expression == "happiness":
        move(corners, 7.0, -6.0)
        move((60, 64), 6.8, -5.2)
        move((49, 53), 5.0, -4.5)
        move((50, 52), 2.0, -3.0)
        move((51,), 0, -2.2)
        move((61, 63), 3.5, -3.4)
        move((62,), 0, -2.6)
        move((55, 59), 4.2, 2.0)
        move((56, 58), 2.0, 6.0)
        move((57,), 0, 7.0)
        move((65, 67), 3.5, 7.0)
        move((66,), 0, 8.2)
        move(lower_lid, 0, -1.3)
        move(upper_lid, 0, 0.5)
        move((45, 36), 0.3, 0.2)
        move(tuple(range(4, 13)), 0, 4.0)
        move((31, 35), 1.8, -0.8)
    elif expression == "surprise":
        move(tuple(range(17, 27)), 0, -6.5)
        move(upper_lid, 0, -2.4)
        move(lower_lid, 0, 0.8)
        move(corners, -3.5, 6.0)
        move((60, 64), -2.8, 6.0)
        move((50, 51, 52, 61, 62, 63), 0, -1.5)
        move((49, 53), -1.5, 0)
        move((55, 59), -2.5, 16.0)
        move((56, 57, 58), 0, 19.0)
        move((65, 66, 67), 1.0, 19.0)
        move(tuple(range(4, 13)), 0, 13.0)
    elif expression == "anger":
        move((21, 22), -2.5, 6.0)
        move((20, 23), -2.0, 4.5)
        move((19, 24), 0, 1.5)
        move((17, 26), 0, -1.0)
        move(upper_lid, 0, 1.0)
        move(lower_lid, 0, -0.8)
        move((*corners, 60, 64), -1.0, 1.8)
        move((50, 51, 52), 0, 1.6)
        move((56, 57, 58), 0, -2.0)
        move((31, 35), 1.2, -1.0)
    elif expression == "sadness":
        move((21, 22), -1.5, -5.0)
        move((20, 23), 0, -2.0)
        move((17, 18, 25, 26), 0, 2.5)
        move(upper_lid, 0, 1.2)
        move((*corners, 60, 64), -0.5, 4.5)
        move(half, 0, 1.8)
        move((56, 57, 58), 0, -1.0)
