"""Brows and eyes of a phantom, painted over the face's grid."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from hqvox.phantom.canvas import F32, Canvas, soft
from hqvox.phantom.identity import FaceIdentity


def paint_brow(
    identity: FaceIdentity,
    p: NDArray[np.float64],
    c: Canvas,
    side: int,
    rng: np.random.Generator,
) -> None:
    """Paint the brow of one side (−1 left, 1 right in the picture) along the sheet\'s points."""
    points = p[22:27] if side > 0 else p[17:22][::-1]
    xs, ys = np.abs(points[:, 0]), points[:, 1]
    x0, x1 = float(xs[0]), float(xs[-1])
    box = sorted((side * (x0 - 4), side * (x1 + 4)))
    where = c.window(box[0], box[1], float(ys.min()) - 7, float(ys.max()) + 9)
    x, y = c.x[where] * side, c.y[where]
    along = np.clip((x - x0) / (x1 - x0), 0, 1)
    centre = PchipInterpolator(xs, ys)(np.clip(x, x0, x1)) + 0.32 * identity.brow_thickness_mm
    half = (
        0.5 * identity.brow_thickness_mm * np.interp(along, [0, 0.2, 0.6, 1], [0.85, 1.2, 1, 0.3])
    )
    d = np.maximum(np.abs(y - centre) - half, np.maximum(x0 - 1 - x, x - x1 - 0.5))
    raw = rng.standard_normal(x.shape, dtype=np.float32)
    # hairs lean outwards: shear the noise by sampling it along the brow
    hairs = cv2.GaussianBlur(raw, (0, 0), 1.5, sigmaY=0.6)
    hairs = hairs / (hairs.std() + 1e-6)
    mask = soft(d + 0.45 * hairs, 1.3) * identity.brow_density * (0.88 + 0.12 * hairs)
    hair = np.array(identity.hair_rgb, np.float32)
    brow = np.minimum(hair, hair * 0.55 + 0.10) * 0.9
    c.blend(where, mask, brow)
    c.shine[where] *= 1 - 0.8 * np.clip(mask, 0, 1)


def paint_eye(
    identity: FaceIdentity,
    p: NDArray[np.float64],
    c: Canvas,
    side: int,
    rng: np.random.Generator,
) -> None:
    """Paint one side\'s lids, lashes and eyeball between the sheet\'s points."""
    index = [42, 43, 44, 45, 46, 47] if side > 0 else [39, 38, 37, 36, 41, 40]
    e = p[index] * (side, 1)
    # the lashes carry the eye a little past the corner that an annotator marks
    e[[1, 2, 4, 5], 0] += 0.5
    e[3, 0] += 1.8
    inner, outer = e[0], e[3]
    box = sorted((side * (inner[0] - 8), side * (outer[0] + 10)))
    where = c.window(box[0], box[1], float(e[:, 1].min()) - 10, float(e[:, 1].max()) + 9)
    x, y = c.x[where] * side, c.y[where]
    q = np.clip((x - inner[0]) / (outer[0] - inner[0]), 0, 1)
    base = inner[1] + (outer[1] - inner[1]) * q
    upper = _lid(e, (1, 2), q, base, inner, outer)
    lower = _lid(e, (5, 4), q, base, inner, outer)
    skin = np.array(identity.skin_rgb, np.float32)
    lash = np.minimum(np.array(identity.hair_rgb, np.float32) * 0.35 + 0.02, 0.13)
    beyond = np.maximum(inner[0] - x, x - outer[0])
    opening = np.maximum(np.maximum(upper - y, y - lower), beyond)
    # lid crease and the shaded lid below it
    crease = upper - identity.lid_crease_mm - 0.8 * np.sin(np.pi * q)
    span = np.clip((x - inner[0] + 2) / 5, 0, 1) * np.clip((outer[0] + 4 - x) / 5, 0, 1)
    c.blend(where, 0.45 * span * np.exp(-0.5 * ((y - crease) / 0.7) ** 2),
            skin * np.array((0.52, 0.42, 0.38), np.float32))  # fmt: skip
    lid = soft(np.maximum(crease - y, y - upper), 0.8) * span
    c.blend(where, 0.28 * lid, skin * np.array((0.80, 0.70, 0.67), np.float32))
    # the eyeball
    inside = soft(opening, 0.4)
    cx, cy = identity.ipd_mm / 2, float(e[:, 1].mean()) - 0.7
    r = np.hypot(x - cx, y - cy)
    white = np.array((0.86, 0.84, 0.82), np.float32) * (0.72 + 0.28 * skin[0])
    ball = np.clip(1.0 - 0.30 * ((x - cx) / 13) ** 2, 0.5, 1)
    ball = ball * np.clip(0.60 + 0.14 * (y - upper), 0.55, 1)
    ball_rgb = white * ball[..., None]
    corner = np.clip(1 - (x - inner[0]) / 3.2, 0, 1)[..., None]
    ball_rgb = ball_rgb * (1 - 0.65 * corner) + 0.65 * corner * np.array((0.74, 0.42, 0.38))
    iris_r = 5.9
    angle = np.arctan2(y - cy, x - cx)
    fibres = np.interp(angle, np.linspace(-np.pi, np.pi, 64), rng.normal(0, 1, 64))
    iris = (
        np.array(identity.iris_rgb, np.float32)
        * (1 + 0.10 * fibres + 0.25 * np.clip(1 - r / iris_r, 0, 1) + 0.02 * (y - cy))[..., None]
    )
    rim = np.clip((r - iris_r + 1.3) / 1.3, 0, 1)[..., None]
    iris = iris * (1 - 0.62 * rim)
    disc = soft(r - iris_r, 0.5)[..., None]
    ball_rgb = ball_rgb * (1 - disc) + iris * np.clip(ball, 0.7, 1)[..., None] * disc
    pupil = soft(r - 2.1, 0.45)[..., None]
    ball_rgb = ball_rgb * (1 - pupil) + 0.02 * pupil
    glint = soft(np.hypot(x - cx + 1.7 * side, y - cy + 2.0) - 0.95, 0.4)[..., None]
    ball_rgb = ball_rgb * (1 - glint) + 0.95 * glint
    c.blend(where, inside, ball_rgb.astype(np.float32))
    c.shine[where] = np.where(inside > 0.5, 0.25, c.shine[where])
    # lash lines
    reach = np.clip((x - inner[0] + 0.5) / 4, 0.25, 1) * np.clip((outer[0] + 2.2 - x) / 1.8, 0, 1)
    width = (0.85 + 0.35 * (1 - identity.masculinity)) * (0.6 + 0.6 * q)
    top = np.exp(-0.5 * ((y - upper + 0.25) / width) ** 2) * reach * (x > inner[0] - 1)
    c.blend(where, 0.92 * top, lash)
    low = np.exp(-0.5 * ((y - lower - 0.3) / 0.6) ** 2) * np.clip(q * 2, 0, 1) * (beyond < 0)
    c.blend(where, 0.38 * low, lash + 0.06)


def _lid(
    e: NDArray[np.float64],
    lids: tuple[int, int],
    q: F32,
    base: F32,
    inner: NDArray[np.float64],
    outer: NDArray[np.float64],
) -> F32:
    """Return a lid's edge: a smooth arc from corner to corner through its two points."""
    qs = (e[list(lids), 0] - inner[0]) / (outer[0] - inner[0])
    rise = e[list(lids), 1] - (inner[1] + (outer[1] - inner[1]) * qs)
    # arc(q) = q (1 − q) (a + b q): two unknowns for two points
    a_b = np.linalg.solve(np.stack([qs * (1 - qs), qs * (1 - qs) * qs], axis=1), rise)
    return np.asarray(base + q * (1 - q) * (a_b[0] + a_b[1] * q), dtype=np.float32)
