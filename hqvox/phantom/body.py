"""A person ready to render: surface grids with normals, textures, clothes and 3-D landmarks.

What does not depend on the photograph is computed once per person and expression and cached.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hqvox.phantom.canvas import TEXELS, Canvas, noise, soft
from hqvox.phantom.features import sheet
from hqvox.phantom.hair import Hair, make_hair
from hqvox.phantom.head import (
    ROWS,
    Grid,
    column_angles,
    ear_grid,
    face_grid,
    neck_grid,
    skull_grid,
    torso_grid,
)
from hqvox.phantom.identity import FaceIdentity
from hqvox.phantom.texture import paint_face

F32 = NDArray[Any]  # float32, which OpenCV's type stubs cannot promise
GARMENTS = ("tee", "vneck", "shirt", "suit")
JAW_ROW = ROWS[0] + ROWS[1]
"""Row of the face's grid that follows the jaw line."""


@dataclass(frozen=True)
class Part:
    """One surface: ``points`` (r, c, 3) mm; ``geometry`` (r, c, 4) normals and openness;
    ``surface`` (h, w, 4) reflectance in gamma-2 space and shine, ``texels`` per grid cell."""

    points: F32
    geometry: F32
    surface: F32
    texels: int


@dataclass(frozen=True)
class Body:
    """A person with one expression, in head coordinates.

    ``landmarks``: float64 (68, 3), mm; ``pupils``: float64 (2, 3), left in the picture first.
    """

    face: Part
    ears: tuple[Part, ...]
    neck: Part
    torso: Grid
    hair: Hair
    landmarks: NDArray[np.float64]
    pupils: NDArray[np.float64]


@lru_cache(maxsize=48)
def make_body(identity: FaceIdentity, expression: str, strength: float) -> Body:
    """Return a person with an expression at ``strength`` 0 to 1."""
    points = sheet(identity, expression, strength)
    smile = {"happiness": 1.0, "slight_smile": 0.35}.get(expression, 0.0) * strength
    grid = face_grid(identity, points, smile)
    skull = skull_grid(identity, points)
    gap = float(points[66, 1] - points[62, 1])
    teeth = {"happiness": 1.0, "surprise": 0.35}.get(expression, 0.0) * (gap > 2.0)
    hair = _hair(identity)
    face = _face_part(identity, points, grid, skull, hair, float(teeth), smile)
    ears = () if hair.hangs else (_ear(identity, -1), _ear(identity, 1))
    landmarks = _landmarks(points, grid, skull)
    half = identity.ipd_mm / 2
    sheet_pupils = np.array(
        [(-half, points[36:42, 1].mean() - 0.7), (half, points[42:48, 1].mean() - 0.7)]
    )
    pupils = _lift(sheet_pupils, grid, skull)
    neck_source = neck_grid(identity)
    rows = np.linspace(40, 168, neck_source.points.shape[0])
    shade = np.interp(rows, [70, 100, 125, 150, 168], [0.10, 0.20, 0.52, 0.70, 0.74])
    neck = _skin_part(identity, neck_source, shade[:, None])
    return Body(face, ears, neck, torso_grid(identity), hair, landmarks, pupils)


@lru_cache(maxsize=48)
def _hair(identity: FaceIdentity) -> Hair:
    return make_hair(identity)


def _face_part(
    identity: FaceIdentity,
    points: NDArray[np.float64],
    grid: Grid,
    skull: F32,
    hair: Hair,
    teeth: float,
    smile: float,
) -> Part:
    h, w = grid.points.shape[:2]
    size = (w * TEXELS, h * TEXELS)
    fine: F32 = cv2.resize(skull, size, interpolation=cv2.INTER_LINEAR)
    x, y, z = fine[..., 0].copy(), fine[..., 1].copy(), fine[..., 2]
    rgb = np.empty((size[1], size[0], 3), np.float32)
    rgb[:] = identity.skin_rgb
    canvas = Canvas(x, y, z > 28, rgb)
    paint_face(identity, points, canvas, teeth, smile)
    surface = np.dstack([np.clip(canvas.rgb, 0.01, 1), canvas.shine])
    geometry = np.dstack([grid.normals(), _openness(identity, grid, hair)])
    return Part(grid.points, geometry.astype(np.float32), surface, TEXELS)


def _openness(identity: FaceIdentity, grid: Grid, hair: Hair) -> F32:
    """Return how much of the sky each point of the face sees, float32 (rows, columns), 0 to 1."""
    depth = grid.points[..., 2]
    low = cv2.GaussianBlur(depth, (0, 0), 7)
    tight = cv2.GaussianBlur(depth, (0, 0), 2.5)
    front = np.clip((depth - 35) / 25, 0, 1)
    hollow = front * (np.clip(low - depth, -2, 12) * 0.085 + np.clip(tight - depth, -1, 6) * 0.08)
    out = 1 - np.clip(hollow, -0.06, 0.6)
    out[JAW_ROW + 2 :] *= np.linspace(0.85, 0.3, len(out) - JAW_ROW - 2)[:, None]
    # the hair shades brow and temples
    u = column_angles()
    shell_y = hair.grid.points[..., 1]
    cover = cv2.resize(hair.rgba[..., 3], (shell_y.shape[1], shell_y.shape[0]),
                       interpolation=cv2.INTER_AREA)  # fmt: skip
    column = np.clip((u + np.pi) / (2 * np.pi) * (cover.shape[1] - 1), 0, cover.shape[1] - 1)
    blurred = cv2.GaussianBlur(cover, (0, 0), 2.2)
    y = grid.points[..., 1]
    row = np.empty_like(y)
    centre = shell_y.shape[1] // 2
    profile = hair.grid.points[:, centre, 1]
    row[:] = np.interp(y, profile, np.arange(len(profile)))
    column_map = np.repeat(column[None, :].astype(np.float32), len(y), axis=0)
    shade = cv2.remap(blurred, column_map, row.astype(np.float32), cv2.INTER_LINEAR)
    return np.asarray(out * (1 - 0.45 * shade), dtype=np.float32)


def _skin_part(identity: FaceIdentity, grid: Grid, openness: NDArray[np.float64]) -> Part:
    h, w = grid.points.shape[:2]
    rng = np.random.default_rng(identity.texture_seed + 2)
    tone = 1 + 0.02 * noise(rng, (h, w), (9, 9))
    rgb = np.asarray(identity.skin_rgb, np.float32) * tone[..., None] * np.float32(0.97)
    shine = np.full((h, w, 1), 0.2, np.float32)
    geometry = np.dstack([grid.normals(), np.broadcast_to(openness, (h, w))])
    return Part(
        grid.points,
        geometry.astype(np.float32),
        np.concatenate([rgb, shine], axis=2).astype(np.float32),
        1,
    )


def _ear(identity: FaceIdentity, side: int) -> Part:
    grid = ear_grid(identity, side)
    n = grid.points.shape[0]
    radius = np.linspace(0, 1, n)
    openness = np.interp(radius, [0, 0.3, 0.6, 0.85, 1], [0.35, 0.42, 0.6, 0.9, 0.7])
    part = _skin_part(identity, grid, openness[:, None])
    part.surface[..., :3] *= np.array((0.95, 0.86, 0.84), np.float32)
    return part


def _lift(flat: NDArray[np.float64], grid: Grid, skull: F32) -> NDArray[np.float64]:
    """Return the points (n, 3) on the face at sheet positions (n, 2), mm."""
    front = skull[: JAW_ROW + 1, 40:-40].astype(np.float64)
    surface = grid.points[: JAW_ROW + 1, 40:-40].astype(np.float64)
    out = np.empty((len(flat), 3))
    x, y = front[..., 0], front[..., 1]
    hidden = 1e4 * (front[..., 2] < 20)
    for i, target in enumerate(flat):
        distance = (x - target[0]) ** 2 + (y - target[1]) ** 2 + hidden
        r, c = divmod(int(distance.argmin()), distance.shape[1])
        r, c = min(max(r, 1), front.shape[0] - 2), min(max(c, 1), front.shape[1] - 2)
        across = (front[r, c + 1, :2] - front[r, c - 1, :2]) / 2
        down = (front[r + 1, c, :2] - front[r - 1, c, :2]) / 2
        step = np.linalg.solve(np.stack([across, down], axis=1), target - front[r, c, :2])
        step = np.clip(step, -1, 1)
        out[i] = surface[r, c]
        out[i] += step[0] * (surface[r, c + 1] - surface[r, c - 1]) / 2
        out[i] += step[1] * (surface[r + 1, c] - surface[r - 1, c]) / 2
    return out


def _landmarks(points: NDArray[np.float64], grid: Grid, skull: F32) -> NDArray[np.float64]:
    out = np.empty((68, 3))
    out[17:] = _lift(points[17:], grid, skull)
    # the contour is the outline of the face seen from the front, where the ray from the middle
    # through each point of the sheet meets it
    face = grid.points[: JAW_ROW + 8, 30:-30].reshape(-1, 3).astype(np.float64)
    face = face[face[:, 1] > -25]
    middle = np.array([0.0, 40.0])
    angle = np.arctan2(face[:, 0], face[:, 1] - middle[1])
    radius = np.hypot(face[:, 0], face[:, 1] - middle[1])
    for k in range(17):
        direction = np.arctan2(points[k, 0], points[k, 1] - middle[1])
        near = np.flatnonzero(np.abs(angle - direction) < 0.03)
        out[k] = face[near[radius[near].argmax()]]
        out[k, :2] = middle + radius[near].max() * np.array([np.sin(direction), np.cos(direction)])
    return out


def dress(identity: FaceIdentity, torso: Grid, rng: np.random.Generator) -> tuple[F32, int]:
    """Return the torso's texture and its texels per grid cell.

    The texture is float32 (h, w, 4): RGB reflectance in gamma-2 space, 0 to 1, and shine. ``rng``
    chooses one of ``GARMENTS``, its colours and its pattern.
    """
    rows, columns = torso.points.shape[:2]
    size = (columns * TEXELS, rows * TEXELS)
    sheet: F32 = cv2.resize(torso.points, size, interpolation=cv2.INTER_LINEAR)
    x, y, z = sheet[..., 0], sheet[..., 1], sheet[..., 2]
    shape = (size[1], size[0])
    garment = str(rng.choice(GARMENTS))
    hsv = np.array([[[rng.uniform(0, 360), rng.uniform(0.05, 0.65), rng.uniform(0.12, 0.85)]]])
    cloth = cv2.cvtColor(hsv.astype(np.float32), cv2.COLOR_HSV2RGB)[0, 0]
    weave = cv2.GaussianBlur(rng.standard_normal(shape, dtype=np.float32), (0, 0), 0.8)
    folds = 1 + 0.05 * noise(rng, shape, (30, 24)) + 0.05 * weave
    rgb = np.ones((*shape, 3), np.float32) * cloth
    front = z > -22
    ax = np.abs(x)
    pattern = rng.random()
    if garment != "suit" and pattern < 0.25:
        stripe = soft(np.abs((y / 14.0) % 1.0 - 0.5) - 0.22, 0.04)
        rgb *= (1 - 0.45 * stripe)[..., None]
    elif garment == "shirt" and pattern < 0.55:
        check = soft(np.abs((y / 12.0) % 1.0 - 0.5) - 0.2, 0.04)
        check = check + soft(np.abs((ax / 12.0) % 1.0 - 0.5) - 0.2, 0.04)
        rgb *= (1 - 0.22 * check)[..., None]
    skin = np.asarray(identity.skin_rgb, np.float32) * 0.97

    def paint(mask: F32, colour: F32 | float) -> None:
        nonlocal rgb
        rgb = rgb + np.clip(mask, 0, 1)[..., None].astype(np.float32) * (colour - rgb)

    # height y of the neckline, by distance from the middle
    if garment == "tee":
        opening = np.where(front, 188 - (ax / 11) ** 2 * 0.5, 148)
        paint(soft(np.abs(y - opening - 3) - 3, 0.8), cloth * 0.8)
    elif garment == "vneck":
        opening = np.where(front, 232 - 1.15 * ax, 150)
        paint(soft(np.abs(y - opening - 3) - 3, 0.8), cloth * 0.78)
    else:
        opening = np.where(front, (206 if garment == "shirt" else 176) - 1.0 * ax, 150)
    if garment == "suit":
        rgb[:] = np.clip(cloth * 0.35 + 0.03, 0, 0.4)
        white = np.asarray(cv2.cvtColor(
            np.array([[[rng.uniform(0, 360), rng.uniform(0, 0.2), 0.92]]], np.float32),
            cv2.COLOR_HSV2RGB)[0, 0])  # fmt: skip
        chest = soft(ax - np.clip((400 - y) * 0.26, 0, 60), 1.0) * front
        paint(chest, white)
        lapel = soft(np.abs(ax - np.clip((400 - y) * 0.26, 0, 60) - 13) - 13, 1.0) * front
        paint(lapel * 0.45, rgb * 0.75)
        if rng.random() < 0.7:
            tie = np.asarray(cv2.cvtColor(
                np.array([[[rng.uniform(0, 360), 0.7, rng.uniform(0.2, 0.6)]]], np.float32),
                cv2.COLOR_HSV2RGB)[0, 0])  # fmt: skip
            wide = np.interp(y, [172, 186, 192, 300], [9, 6.5, 6.5, 17])
            stripe = 0.85 + 0.3 * ((((x + y) / 15) % 1.0) < 0.3)
            paint(soft(ax - wide, 0.8) * front * (y > 170), tie * stripe[..., None])
    paint(soft(y - opening, 0.9), skin)
    if garment in ("shirt", "suit"):
        collar = rgb * 0 + (0.92 * cloth + 0.05 if garment == "shirt" else 0.93 * white)
        edge = np.maximum(np.abs(y - opening - 9 + 0.25 * ax) - 10 - 0.04 * ax, 0)
        flap = soft(np.maximum(edge, np.maximum(5 - ax, ax - 58)), 1.0) * front
        paint(flap, collar.astype(np.float32))
        rim = np.exp(-0.5 * ((y - opening - 20 + 0.2 * ax) / 1.6) ** 2) * (ax < 58) * (ax > 5)
        paint(0.35 * rim * front, rgb * 0.55)
    covered = (y > opening)[..., None]
    rgb = np.where(covered, rgb * folds[..., None], rgb)
    shine = np.where(y > opening, 0.05, 0.2)
    return np.dstack([np.clip(rgb, 0.01, 1), shine]).astype(np.float32), TEXELS
