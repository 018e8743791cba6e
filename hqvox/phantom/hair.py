"""Hair: a shell over the skull whose edge frays into strands, and its texture.

The grid of the shell runs from the crown down past the ears. Where the style has no hair, its
coverage is 0 and the head below is visible.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hqvox.phantom.canvas import TEXELS, noise
from hqvox.phantom.head import Grid, cranium
from hqvox.phantom.identity import FaceIdentity

F32 = NDArray[Any]  # float32, which OpenCV's type stubs cannot promise
_COLUMNS, _UPPER, _LOWER = 144, 52, 56
_LONG = ("bob", "long")


@dataclass(frozen=True)
class Hair:
    """A person's hair.

    ``grid``: the shell; ``rgba``: float32 (h, w, 4), reflectance in gamma-2 space and coverage,
    at ``TEXELS`` per grid cell; ``geometry``: float32 (rows, columns, 7), normal, direction of the
    strands and height y, mm; ``near``, ``body``: float32 (rows, columns), 1 where there may be a
    strand, and where hair is dense; ``hangs``: whether it falls below the ears.
    """

    grid: Grid
    rgba: F32
    geometry: F32
    near: F32
    body: F32
    hangs: bool


def make_hair(identity: FaceIdentity) -> Hair:
    """Return a person's hair, in head coordinates."""
    rng = np.random.default_rng(identity.texture_seed + 1)
    u = np.linspace(-np.pi, np.pi, _COLUMNS)
    at = np.abs(np.degrees(u))
    style = identity.hair_style
    upper = cranium(identity, np.linspace(1, 0, _UPPER, endpoint=False)[:, None], u)
    drop = identity.hair_length_mm if style in _LONG else 78.0
    if style == "bob":
        drop = 70 + 0.35 * identity.hair_length_mm
    t = np.linspace(0, 1, _LOWER)[:, None]
    eye_level = cranium(identity, np.zeros((1, 1)), u)[0]
    lower = np.stack(
        [
            eye_level[:, 0] * (1 + 0.05 * np.sin(np.pi * t)) + 0 * t,
            drop * t + 0 * u,
            eye_level[:, 2] * (1 - 0.25 * t) - 8 * t,
        ],
        axis=2,
    )
    points = np.concatenate([upper, lower])
    y = points[..., 1]
    edge = _hairline(identity, at, drop)
    inside = edge - y  # mm into the hair, positive where hair grows
    thick = _thickness(identity, points, at, inside, rng)
    shell = Grid(points.astype(np.float32))
    normal = shell.normals()
    normal[0] = (0, -1, 0)
    points = points + thick[..., None] * normal
    grid = Grid(points.astype(np.float32))
    rgba = _paint(identity, inside, rng)
    size = (_COLUMNS, len(points))
    coverage = cv2.resize(rgba[..., 3], size, interpolation=cv2.INTER_AREA)
    near = cv2.dilate((coverage > 0.02).astype(np.float32), np.ones((3, 3), np.uint8))
    strands = np.gradient(grid.points, axis=0)
    geometry = np.dstack([grid.normals(), strands, grid.points[..., 1]]).astype(np.float32)
    return Hair(grid, rgba, geometry, near, (coverage > 0.5).astype(np.float32), style in _LONG)


def _hairline(identity: FaceIdentity, at: NDArray[np.float64], drop: float) -> NDArray[np.float64]:
    """Return the height y at which hair ends, per column angle (degrees, absolute)."""
    top = identity.hairline_mm * identity.face_height
    style = identity.hair_style
    recede = 9 * identity.masculinity * np.clip((identity.age_years - 25) / 40, 0, 1)
    knots = [0, 22, 42, 54, 63, 70, 76, 81, 85, 100, 114, 128, 180]
    side = 6 + 14 * identity.masculinity
    line = [top, top - 0.6 * recede, top + 2 - recede, top + 16, -34, -8, side, side, -14, -10,
            24, 56, 62]  # fmt: skip
    if style == "fringe":
        line[0:5] = [-33, -32, -30, -26, -18]
    if style in _LONG:
        low = drop
        line[3:] = [-34, 6, low, low, low, low, low, low, low, low]
        line[2] = min(line[2], -44)
        if style == "bob":
            line[0:4] = [-38, -36, -33, -28]
            if identity.hair_part > 0:
                line[0:4] = [top, top + 3, top + 10, top + 24]
    if style == "tied":
        line[5:9] = [-20, -8, -12, -14]
    if style == "bald":
        line = [-300, -300, -300, -300, -300, -260, 6, side, -14, -10, 24, 56, 62]
    return np.interp(at, knots, line)


def _thickness(
    identity: FaceIdentity,
    points: NDArray[np.float64],
    at: NDArray[np.float64],
    inside: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Return the distance from the skull to the shell, (rows, columns), mm."""
    style, y = identity.hair_style, points[..., 1]
    volume = {"cropped": 2.5, "tied": 5.0, "bald": 2.0, "curly": identity.hair_volume_mm + 8}.get(
        style, identity.hair_volume_mm
    )
    height = np.clip((-y - 20) / 60, 0, 1)
    sides = {"long": 11.0, "bob": 14.0, "curly": 0.7 * volume, "fringe": 7.0}.get(style, 4.0)
    sides = min(sides, volume)
    thick = sides + (volume - sides) * height
    ramp = 9.0 if style in ("cropped", "bald", "tied") else 16.0
    edge = np.clip(inside / ramp, 0, 1)
    if style in _LONG:
        # long hair stays thick at its inner and lower edges
        edge = np.where(at[None, :] > 54, np.clip(0.45 + inside / 40, 0, 1), edge)
        thick = thick + 8 * np.clip(y / 110, 0, 1)
    thick = thick * (0.25 + 0.75 * edge**0.6)
    if style in ("swept", "short"):
        lean = np.sin(np.radians(at)) * np.sign(points[..., 0]) * np.sign(identity.hair_part)
        thick = thick * (1 + 0.35 * abs(identity.hair_part) * lean * height)
    if style == "curly":
        thick = thick * (1 + 0.16 * noise(rng, y.shape, (5, 5)))
    else:
        thick = thick * (1 + 0.05 * noise(rng, y.shape, (14, 7)))
    return thick


def _paint(
    identity: FaceIdentity,
    inside: NDArray[np.float64],
    rng: np.random.Generator,
) -> F32:
    size = (inside.shape[1] * TEXELS, inside.shape[0] * TEXELS)
    depth: F32 = cv2.resize(np.clip(inside, -80, 400).astype(np.float32), size)
    shape = (size[1], size[0])
    raw = rng.standard_normal(shape, dtype=np.float32)
    strands: F32
    fine: F32
    if identity.hair_style == "curly":
        strands = noise(rng, shape, (7, 7)) + 0.6 * noise(rng, shape, (13, 13))
        fine = cv2.GaussianBlur(raw, (0, 0), 1.0)
    elif identity.hair_style in ("cropped", "bald"):
        strands = cv2.GaussianBlur(raw, (0, 0), 0.8, sigmaY=2.0)
        fine = cv2.GaussianBlur(raw, (0, 0), 0.6)
    else:
        wave = 1.5 * np.cumsum(noise(rng, (shape[0], 1), (40, 1)), axis=0) / 40
        strands = cv2.GaussianBlur(raw, (0, 0), 1.6, sigmaY=26) * 6
        fine = cv2.GaussianBlur(raw, (0, 0), 0.8, sigmaY=12)
        rolls = np.arange(shape[1], dtype=np.float32)[None, :] + wave * 14
        rows = np.repeat(np.arange(shape[0], dtype=np.float32)[:, None], shape[1], axis=1)
        strands = cv2.remap(strands, rolls.astype(np.float32), rows, cv2.INTER_LINEAR,
                            borderMode=cv2.BORDER_REFLECT)  # fmt: skip
    strands = strands / (strands.std() + 1e-6)
    fine = fine / (fine.std() + 1e-6)
    fray = 3.0 if identity.hair_style in ("cropped", "bald", "tied") else 5.0
    cover = np.clip((depth + fray * 0.5 * (strands + 0.8 * fine)) / fray, 0, 1)
    if identity.hair_style in ("cropped", "bald"):
        cover *= np.clip(0.80 + 0.12 * fine + depth / 260, 0, 0.97)
    base = np.array(identity.hair_rgb, np.float32)
    tone = 1 + 0.16 * strands + 0.13 * fine
    root = 0.80 + 0.20 * np.clip(depth / 30, 0, 1)
    rgb = base * np.clip(tone * root, 0.3, 1.7)[..., None]
    rgb = rgb + 0.012 * np.clip(strands, 0, 2)[..., None]
    return np.concatenate([rgb, cover[..., None]], axis=2).astype(np.float32)
