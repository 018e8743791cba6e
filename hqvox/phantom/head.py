"""The shape of a phantom: head, ears, neck and torso as grids of points.

Head coordinates are millimetres: x to the picture's right, y down, z towards the camera; x = y = 0
lies midway between the eyes and z = 0 on the axis of the ears. The face's grid runs over angle
``u`` (columns, 0 in front, ±180° at the back) and height ``v`` (rows, crown to under the jaw): a
skull whose lower rows bend into the jaw line, plus smooth bumps for brows, sockets, nose, lips,
cheeks and chin. All of them follow the feature sheet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from hqvox.phantom.identity import FaceIdentity

N_U = 192
"""Columns of the face's grid."""
ROWS = (58, 92, 22)
"""Rows of the face's grid: crown to eye level, eye level to jaw line, jaw line to throat."""
EYE_PLANE_Z = 78.0
"""Depth of the eyes in head coordinates, mm."""
_EAR_Z = 24.0

F32 = NDArray[Any]  # float32, which OpenCV's type stubs cannot promise


@dataclass(frozen=True)
class Grid:
    """A surface: ``points`` float32 (rows, columns, 3), mm."""

    points: F32

    def normals(self) -> F32:
        """Return unit normals, float32 (rows, columns, 3), outwards."""
        across = np.gradient(self.points, axis=1)
        down = np.gradient(self.points, axis=0)
        normal = np.cross(across, down)
        length = np.linalg.norm(normal, axis=2, keepdims=True)
        return np.asarray(normal / np.maximum(length, 1e-6), dtype=np.float32)


def column_angles(n: int = N_U) -> NDArray[np.float64]:
    """Return the angle u of each column in radians, −π to π, closer together in front."""
    q = np.linspace(-1, 1, n)
    return np.pi * (0.55 * q + 0.45 * q**3)


def face_grid(identity: FaceIdentity, points: NDArray[np.float64], strength: float) -> Grid:
    """Return the skin of the head for a person's sheet of 68 ``points`` (68, 2).

    ``strength``: 0 to 1, how far the cheeks are raised by a smile.
    """
    skull = skull_grid(identity, points)
    lifted = skull.copy()
    lifted[..., 2] += _relief(identity, points, skull, strength)
    front = cv2.GaussianBlur(lifted, (0, 0), 0.8)
    return Grid(front.astype(np.float32))


def skull_grid(identity: FaceIdentity, points: NDArray[np.float64]) -> F32:
    """Return the head without features, float32 (rows, columns, 3), mm."""
    u = column_angles()
    sx, cz = _ellipse(u)
    a = 73.0 * identity.face_width
    top, mid, under = ROWS
    upper = cranium(identity, np.linspace(1, 0, top, endpoint=False)[:, None], u)

    # the jaw line, and the rows between eye level and it
    jaw = _jaw_curve(points, u)
    eye_z = np.where(cz > 0, _EAR_Z + (87 - _EAR_Z) * cz, _EAR_Z + (_EAR_Z + 98) * cz)
    eye = np.stack([a * sx, np.zeros_like(sx), eye_z], axis=1)
    t = np.linspace(0, 1, mid, endpoint=False)[:, None, None]
    middle = eye * (1 - t) + jaw * t

    # under the jaw to the throat
    throat = np.stack([46 * sx, jaw[:, 1] * 0.25 + 76, -14 + 48 * np.cos(u)], axis=1)
    t = np.linspace(0, 1, under)[:, None, None]
    below = jaw * (1 - t) + throat * t
    joined = np.concatenate([upper, middle, below]).astype(np.float32)
    smooth = cv2.GaussianBlur(joined, (0, 0), 0.6, sigmaY=3.5)
    smooth[:6] = joined[:6]
    return np.asarray(smooth, dtype=np.float32)


def _ellipse(u: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return sine and cosine of a slightly squared ellipse at the angles ``u``."""
    e = 2 / 2.3
    sx = np.sign(np.sin(u)) * np.abs(np.sin(u)) ** e
    cz = np.sign(np.cos(u)) * np.abs(np.cos(u)) ** e
    return sx, cz


def cranium(
    identity: FaceIdentity, t: NDArray[np.float64], u: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the skull's upper half, (rows, columns, 3), mm.

    ``t``: (rows, 1), 1 at the crown to 0 at eye level; ``u``: (columns,), angle, 0 in front.
    """
    sx, cz = _ellipse(u)
    phi = t * np.pi / 2
    x = 73.0 * identity.face_width * (1 + 0.03 * np.sin(phi * 2)) * np.cos(phi) ** 0.62 * sx
    y = -118.0 * identity.cranium_height * np.sin(phi) * np.ones_like(sx)
    axis = _EAR_Z * (1 - t) + (-6) * t
    front = (87 - axis) * np.cos(phi) ** 0.5
    back = (axis + 98) * np.cos(phi) ** 0.5
    z = axis + np.where(cz > 0, front, back) * cz
    return np.stack([x, y, z], axis=2)


def _jaw_curve(points: NDArray[np.float64], u: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the jaw line at each column angle, (columns, 3): chin at 0, ear at ±90°."""
    x, y = points[8:17, 0], points[8:17, 1]
    z = EYE_PLANE_Z + np.array([-2, -6, -19, -33, -44, -50, -52, -53, -55])
    s = np.linspace(0, 90, 9)
    at = np.abs(np.degrees(u))
    near = np.minimum(at, 90)
    curve = np.stack([PchipInterpolator(s, v)(near) for v in (x, y, z)], axis=1)
    behind = np.clip((at - 90) / 90, 0, 1)[:, None]
    nape = np.array([30.0, 40.0, -88.0])
    curve = curve * (1 - behind) + nape * behind
    curve[:, 0] *= np.sign(u)
    return curve


def _relief(
    identity: FaceIdentity, p: NDArray[np.float64], skull: F32, smile: float
) -> NDArray[np.float32]:
    """Return the relief of the face along z over the skull, (rows, columns), mm."""
    x, y = skull[..., 0], skull[..., 1]
    ax = np.abs(x)
    front = np.clip((skull[..., 2] - 25) / 25, 0, 1)

    def bump(cx: float, cy: float, wx: float, wy: float, power: float = 2.0) -> F32:
        across = ax if cx > 0 else x
        return np.exp(
            -0.5 * np.abs((across - cx) / wx) ** power - 0.5 * np.abs((y - cy) / wy) ** power
        )

    half = identity.ipd_mm / 2
    mouth_y = float(p[[48, 54], 1].mean()) * 0.5 + float(p[[62, 66], 1].mean()) * 0.5
    up_y = float(p[[50, 52, 61, 63], 1].mean())
    low_y = float(p[[56, 57, 58, 65, 66, 67], 1].mean())
    chin_y = float(p[8, 1])
    mouth_w = float(p[54, 0])
    relief = np.zeros_like(x)
    relief += (6.6 + identity.brow_ridge_mm) * bump(24, -21, 22, 8.5)
    relief += 8.5 * bump(0, -19, 14, 11)
    relief -= (4.0 + identity.eye_depth_mm) * bump(half + 1, -2, 15, 9)
    relief -= 5.0 * bump(half - 14, 1, 5, 6)
    relief += 3.6 * bump(half + 0.5, -0.3, 9.5, 6.5, 2.5)
    relief += (3.5 + identity.cheekbone_mm + 3.0 * smile) * bump(46, 31 - 3 * smile, 15, 13)
    relief += identity.fullness_mm * 0.8 * bump(44, 60, 16, 20)
    # the muzzle, on which the lips sit
    relief += 13.5 * bump(0, 62 * identity.face_height, 24, 17, 2.4)
    relief += 6.0 * bump(0, up_y + 0.5, 0.66 * mouth_w, 4.2)
    relief += 8.5 * bump(0, low_y - 0.5, 0.58 * mouth_w, 4.6)
    relief -= 3.0 * bump(0, mouth_y, 0.8 * mouth_w, 1.6) * (ax < 1.3 * mouth_w)
    relief -= 1.6 * bump(mouth_w + 2, mouth_y, 4, 4)
    relief -= 1.0 * bump(0, 57 * identity.face_height, 2.4, 5)
    relief -= 2.6 * bump(0, low_y + 12, 15, 4.5)
    relief += (10 + 0.4 * identity.chin_mm) * bump(0, chin_y - 11, 17 * identity.chin_width, 10)
    # the crease from nose to mouth corner
    relief -= (0.8 + 1.2 * smile + 0.8 * identity.wrinkles) * np.exp(
        -0.5 * ((ax - (17 + 0.55 * (y - 46))) / 2.4) ** 2 - 0.5 * ((y - 56) / 11) ** 2
    )
    relief += _nose(identity, p, x, y)
    return (relief * front).astype(np.float32)


def _nose(identity: FaceIdentity, p: NDArray[np.float64], x: F32, y: F32) -> NDArray[np.float64]:
    """Return the nose's height over the face, (rows, columns), mm."""
    root, tip, base = float(p[27, 1]), float(p[30, 1]), float(p[33, 1])
    span = tip - root
    ys = [root - 16, root, root + 0.33 * span, root + 0.67 * span, tip, tip + 0.5 * (base - tip),
          base - 2.0, base + 5]  # fmt: skip
    k = identity.nose_projection
    hs = [
        0,
        12.5,
        22.5 + identity.nose_hump_mm,
        31.5 * k + 0.5 * identity.nose_hump_mm,
        38 * k,
        34.5 * k,
        20,
        0,
    ]  # fmt: skip
    height = PchipInterpolator(ys, hs)(np.clip(y, ys[0], ys[-1]))
    widths = np.array([9, 8.2 * identity.nose_bridge, 7.8 * identity.nose_bridge,
                       8.2 * (0.5 + 0.5 * identity.nose_bridge), 10.0 * identity.nose_width,
                       10.5 * identity.nose_width, 9, 9])  # fmt: skip
    width = PchipInterpolator(ys, widths)(np.clip(y, ys[0], ys[-1]))
    ridge = height * np.exp(-0.5 * np.abs(x / width) ** 2.3 * 1.25)
    wing_x, wing_y = float(p[35, 0]) - 1.2, float(p[35, 1]) - 4.0
    wings = 10.5 * np.exp(
        -0.5 * ((np.abs(x) - wing_x) / 4.4) ** 2 - 0.5 * np.abs((y - wing_y) / 4.8) ** 2.4
    )
    return ridge + wings


def ear_grid(identity: FaceIdentity, side: int, n: int = 28) -> Grid:
    """Return one ear (side −1 left, 1 right in the picture) as a dented disc."""
    r = np.linspace(0, 1, n)[:, None]
    theta = np.linspace(0, 2 * np.pi + 0.25, 2 * n)[None, :]
    shape = 1 - 0.16 * np.sin(theta) * (np.sin(theta) > 0)
    across = r * np.cos(theta) * 14 * shape
    down = r * np.sin(theta) * 29 + 0 * across
    rim = 5 * np.exp(-0.5 * ((r - 0.86) / 0.12) ** 2) - 3.5 * np.exp(-0.5 * (r / 0.45) ** 2)
    rim = rim * (1 - 0.6 * np.exp(-0.5 * ((theta - np.pi) / 0.5) ** 2))
    flare = np.radians(25)
    out = np.cos(flare) * rim + np.sin(flare) * (across + 12)
    back = -np.cos(flare) * (across + 12) + np.sin(flare) * rim
    x = side * (69.5 * identity.face_width + out)
    y = 15 * identity.face_height + down - 0.12 * back
    points = np.stack([x, y, 24 + back + 0 * r], axis=2)
    if side > 0:
        points = points[:, ::-1]
    return Grid(points.astype(np.float32))


def neck_grid(identity: FaceIdentity, rows: int = 50, columns: int = 64) -> Grid:
    """Return the neck, from inside the jaw to inside the collar."""
    u = np.radians(np.linspace(-118, 118, columns))[None, :]
    y = np.linspace(40, 168, rows)[:, None]
    t = (y - 40) / 128
    girth = (47 + 11 * identity.masculinity) * (1 - 0.08 * np.sin(np.pi * t) + 0.22 * t**4)
    x = girth * np.sin(u)
    z = -18 + girth * (0.98 * np.cos(u)) + 6 * t - 16 * np.clip((t - 0.7) / 0.3, 0, 1) ** 2
    # the two tendons that run to the notch, and the Adam's apple
    angle = np.radians(38 - 26 * t)
    z += 2.2 * np.exp(-0.5 * ((np.abs(u) - angle) / 0.12) ** 2) * np.clip(t * 2 - 0.4, 0, 1)
    z += 3 * identity.masculinity * np.exp(-0.5 * (u / 0.12) ** 2 - 0.5 * ((t - 0.52) / 0.07) ** 2)
    return Grid(np.stack([x, y + 0 * x, z], axis=2).astype(np.float32))


def torso_grid(identity: FaceIdentity, rows: int = 72, columns: int = 88) -> Grid:
    """Return shoulders and chest, from the neck's base to the picture's lower edge."""
    # spaced so that the squared ellipse is sampled evenly in front
    q = np.linspace(-1, 1, columns)[None, :]
    u = np.radians(118) * np.sign(q) * np.abs(q) ** 1.25
    t = np.linspace(0, 1, rows)[:, None]
    wide = (185 + 30 * identity.masculinity) * (0.6 + 0.4 * identity.face_width)
    knots = [0, 0.16, 0.32, 0.46, 0.62, 0.8, 1.0]
    drop = PchipInterpolator(knots, [138, 160, 178, 205, 260, 460, 1400])(t)
    half = PchipInterpolator(knots, [56, 86, 0.72 * wide, wide, 1.04 * wide, 0.99 * wide, wide])(t)
    deep = PchipInterpolator(knots, [56, 66, 78, 92, 108, 118, 118])(t)
    e = 0.8
    x = half * np.sign(np.sin(u)) * np.abs(np.sin(u)) ** e
    z = -22 + deep * np.sign(np.cos(u)) * np.abs(np.cos(u)) ** e
    # the collar lies lower in front than behind
    y = drop + 26 * np.clip(np.cos(u), 0, 1) * np.exp(-t * 4.0) + 0 * x
    return Grid(np.stack([x, y, z], axis=2).astype(np.float32))
