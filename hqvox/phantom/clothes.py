"""What a phantom wears: a painted torso."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hqvox.phantom.canvas import noise, soft
from hqvox.phantom.head import Grid
from hqvox.phantom.identity import FaceIdentity

F32 = NDArray[Any]  # float32, which OpenCV's type stubs cannot promise
GARMENTS = ("tee", "vneck", "shirt", "suit")
_TEXELS = 4


def dress(identity: FaceIdentity, torso: Grid, rng: np.random.Generator) -> tuple[F32, int]:
    """Return the torso's texture and its texels per grid cell.

    The texture is float32 (h, w, 4): reflectance in gamma-2 space, 0 to 1, and shine.
    """
    rows, columns = torso.points.shape[:2]
    size = (columns * _TEXELS, rows * _TEXELS)
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

    # depth of the opening below the throat, by distance from the middle
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
    return np.dstack([np.clip(rgb, 0.01, 1), shine]).astype(np.float32), _TEXELS
