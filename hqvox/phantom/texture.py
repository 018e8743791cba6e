"""The face's texture: complexion, wrinkles, beard, nostrils, lips, brows and eyes.

Colours are RGB reflectances in gamma-2 space (the square is linear), 0 to 1. Every line runs
through the points of the feature sheet, in millimetres, with an edge about one texel wide.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from hqvox.phantom.canvas import F32, Canvas, noise, soft
from hqvox.phantom.identity import FaceIdentity


def paint_face(
    identity: FaceIdentity,
    points: NDArray[np.float64],
    canvas: Canvas,
    teeth: float,
    smile: float,
) -> None:
    """Paint a whole face on ``canvas`` for the sheet ``points`` (68, 2).

    ``teeth`` 0 to 1: how much of an open mouth shows teeth; ``smile`` 0 to 1.
    """
    rng = np.random.default_rng(identity.texture_seed)
    _complexion(identity, points, canvas, rng)
    _wrinkles(identity, points, canvas, smile)
    _beard(identity, points, canvas, rng)
    _nostrils(points, canvas)
    _mouth(identity, points, canvas, teeth, rng)
    for side in (-1, 1):
        paint_brow(identity, points, canvas, side, rng)
        paint_eye(identity, points, canvas, side, rng)


def _complexion(
    identity: FaceIdentity, p: NDArray[np.float64], c: Canvas, rng: np.random.Generator
) -> None:
    """Blotches, pores, blush, shade round the eyes, freckles and moles."""
    shape = (c.x.shape[0], c.x.shape[1])
    # all of it but the pores is smooth enough for half the resolution
    x, y = c.x[::2, ::2], c.y[::2, ::2]
    front = c.front[::2, ::2].astype(np.float32)
    half_shape = (x.shape[0], x.shape[1])
    ax = np.abs(x)
    half = identity.ipd_mm / 2

    def spot(cx: float, cy: float, wx: float, wy: float) -> F32:
        return np.exp(-0.5 * ((ax - cx) / np.float32(wx)) ** 2 - 0.5 * ((y - cy) / wy) ** 2)

    tone = 0.020 * noise(rng, half_shape, (30, 30)) + 0.012 * noise(rng, half_shape, (7, 7))
    gain = np.repeat((1 + tone)[..., None], 3, axis=2)
    red = 0.6 * spot(42, 36, 15, 14) + 0.55 * spot(0, 38, 11, 9) + 0.25 * spot(0, 103, 14, 9)
    red *= np.float32(identity.blush) * front * (1 + 0.25 * noise(rng, half_shape, (15, 15)))
    gain *= 1 + red[..., None] * np.array((0.02, -0.075, -0.06), np.float32)
    # darker, browner round the eyes
    ring = spot(half, 3.5, 15, 9) * front * np.float32(0.55 + 0.45 * identity.wrinkles)
    gain *= 1 + ring[..., None] * np.array((-0.10, -0.13, -0.11), np.float32)
    if identity.freckles > 0.05:
        spots = noise(rng, half_shape, (2.5, 2.5)) + 0.6 * noise(rng, half_shape, (2, 2))
        mask = np.clip((spots - 1.1) * 1.2, 0, 1) * spot(22, 28, 22, 16) * front
        mask *= np.float32(min(1.0, identity.freckles))
        gain *= 1 - mask[..., None] * np.array((0.22, 0.34, 0.40), np.float32)
    pores = cv2.GaussianBlur(rng.standard_normal(shape, dtype=np.float32), (0, 0), 0.7)
    c.rgb *= cv2.resize(gain, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
    c.rgb *= (1 + np.float32(0.022) * pores)[..., None]
    for _ in range(int(rng.integers(0, 3))):
        x0, y0 = rng.uniform(-55, 55), rng.uniform(-50, 100)
        radius = rng.uniform(0.7, 1.5)
        where = c.window(x0 - 2, x0 + 2, y0 - 2, y0 + 2)
        d = np.hypot(c.x[where] - x0, c.y[where] - y0) - radius
        c.blend(where, 0.55 * soft(d, 0.8), np.array(identity.skin_rgb, np.float32) * 0.5)


def _curve(xs: NDArray[np.float64], ys: NDArray[np.float64]) -> PchipInterpolator:
    order = np.argsort(xs)
    return PchipInterpolator(xs[order], ys[order], extrapolate=True)


def _wrinkles(identity: FaceIdentity, p: NDArray[np.float64], c: Canvas, smile: float) -> None:
    w = identity.wrinkles
    skin_dark = np.array(identity.skin_rgb, np.float32) * np.array((0.70, 0.60, 0.56), np.float32)
    ax = np.abs(c.x)
    # from the nostril's wing to beside the mouth
    where = c.window(-48, 48, 36, 92)
    x, y = ax[where], c.y[where]
    wing, corner = p[35], p[54]
    t = np.clip((y - wing[1] + 4) / (corner[1] - wing[1] + 8), 0, 1)
    line = wing[0] + 3.5 + (corner[0] + 6 - wing[0] - 3.5) * t**1.3
    fade = np.clip(t * 5, 0, 1) * np.clip((1 - t) * 3, 0, 1)
    depth = 0.10 + 0.45 * w + 0.45 * smile
    c.blend(where, 0.6 * depth * fade * np.exp(-0.5 * ((x - line) / 1.3) ** 2), skin_dark)
    if w > 0.15:
        where = c.window(-46, 46, -66, -28)
        x, y = c.x[where], c.y[where]
        for row, y0 in enumerate((-58, -48, -38)):
            bend = y0 + 2.2 * np.cos(x / 14 + row) - 0.0016 * x**2
            mask = np.exp(-0.5 * ((y - bend) / 0.8) ** 2) * np.clip(1.3 - np.abs(x) / 34, 0, 1)
            c.blend(where, 0.40 * (w - 0.15) * mask, skin_dark)
        where = c.window(-14, 14, -32, -8)
        x, y = ax[where], c.y[where]
        frown = np.exp(-0.5 * ((x - 5.5) / 0.9) ** 2 - 0.5 * ((y + 19) / 5) ** 2)
        c.blend(where, 0.45 * (w - 0.15) * frown, skin_dark)
    crow = 0.6 * w + 0.6 * smile
    if crow > 0.2:
        outer = p[45]
        where = c.window(-66, 66, -16, 18)
        x, y = ax[where] - outer[0], c.y[where] - outer[1]
        for slope in (-0.55, 0.02, 0.5):
            mask = np.exp(-0.5 * ((y - slope * x) / 0.75) ** 2)
            mask *= np.clip((x - 3) / 3, 0, 1) * np.clip((13 - x) / 6, 0, 1)
            c.blend(where, 0.33 * crow * mask, skin_dark)
    # bags under the eyes
    where = c.window(-50, 50, 2, 20)
    x, y = ax[where], c.y[where]
    bag = p[46, 1] + 5.5 + 2.0 * (1 - ((x - identity.ipd_mm / 2) / 14) ** 2)
    mask = np.exp(-0.5 * ((y - bag) / 1.3) ** 2)
    mask *= np.clip(1.4 - np.abs(x - identity.ipd_mm / 2 + 2) / 11, 0, 1)
    c.blend(where, (0.10 + 0.35 * w + 0.2 * smile) * mask, skin_dark)


def _beard(
    identity: FaceIdentity, p: NDArray[np.float64], c: Canvas, rng: np.random.Generator
) -> None:
    where = c.window(-80, 80, float(p[51, 1]) - 48, float(p[8, 1]) + 28)
    ax, y = np.abs(c.x[where]), c.y[where]
    shape = (ax.shape[0], ax.shape[1])
    corner, lip, low = p[54], p[51, 1], p[57, 1]
    jaw = np.interp(ax, p[8:17, 0], p[8:17, 1])
    cheek = np.interp(ax, [0, 22, 40, 62, 74], [lip - 11, lip - 8, lip + 8, lip - 28, 5])
    full = soft(cheek - y, 3.0) * (np.hypot(ax / 9, (y - low - 4) / 3) > 1)
    moustache = soft(
        np.maximum(np.abs(y - (lip - 5.5 + 0.010 * ax**2)) - 5.0, ax - corner[0] - 2), 1.6
    )
    # round the mouth and over the chin
    oval = np.hypot(ax / (corner[0] + 8), (y - low - 4) / (p[8, 1] - low - 1)) - 1
    ring = soft(oval, 0.12) * (y > lip - 2) + 0 * ax
    kind = identity.beard
    area = {
        "none": np.clip(full + moustache, 0, 1) * 0.30 * max(0.0, identity.masculinity - 0.45),
        "stubble": np.clip(full + moustache, 0, 1) * 0.38,
        "moustache": moustache * 0.95 + np.clip(full, 0, 1) * 0.10,
        "goatee": np.clip(moustache + ring, 0, 1) * 0.9,
        "full": np.clip(full + moustache, 0, 1) * 0.95,
    }[kind]
    centre, tall = 0.5 * (lip + low), 0.5 * (low - lip) + 1
    lips = soft(np.hypot(ax / (corner[0] + 1), (y - centre) / tall) - 1, 0.15)
    area = area * (1 - lips) * c.front[where] * (y < jaw + 25)
    strand = cv2.GaussianBlur(rng.standard_normal(shape, dtype=np.float32), (0, 0), 0.6, sigmaY=1.9)
    strand = strand / (strand.std() + 1e-6)
    hairy = np.clip(area * (1.0 + 0.35 * strand), 0, 1)
    hair = np.array(identity.hair_rgb, np.float32) * 0.9 + 0.01
    c.blend(where, hairy, hair * (1 + 0.18 * strand[..., None]))
    c.shine[where] *= 1 - 0.8 * hairy


def _nostrils(p: NDArray[np.float64], c: Canvas) -> None:
    where = c.window(-24, 24, 34, 58)
    ax, y = np.abs(c.x[where]), c.y[where]
    cx, cy = 0.5 * (p[34, 0] + p[35, 0]) - 1.6, p[34, 1] - 2.4
    lean = (ax - cx) * 0.25
    d = np.hypot((ax - cx) / 4.2, (y - cy + lean) / 1.9) - 1
    c.blend(where, 0.85 * soft(d, 0.35), (0.10, 0.045, 0.035))
    # the shade where wing meets cheek and lip
    wing = np.abs(np.hypot((ax - p[35, 0] + 4.5) / 6.2, (y - p[35, 1] + 4.5) / 6.6) - 1)
    mask = np.exp(-0.5 * (wing / 0.12) ** 2) * (ax > p[35, 0] - 4)
    c.blend(where, 0.30 * mask, (0.30, 0.16, 0.12))


def _mouth(
    identity: FaceIdentity,
    p: NDArray[np.float64],
    c: Canvas,
    teeth: float,
    rng: np.random.Generator,
) -> None:
    x0, x1 = float(p[48, 0]), float(p[54, 0])
    where = c.window(x0 - 4, x1 + 4, float(p[48:68, 1].min()) - 6, float(p[48:68, 1].max()) + 8)
    x, y = c.x[where], c.y[where]
    xs = np.clip(x, x0, x1)

    def through(index: list[int]) -> F32:
        return _curve(p[index, 0], p[index, 1])(xs).astype(np.float32)

    top, bottom = through([48, 49, 50, 51, 52, 53, 54]), through([48, 59, 58, 57, 56, 55, 54])
    inner_top = through([48, 60, 61, 62, 63, 64, 54])
    inner_bottom = through([48, 60, 67, 66, 65, 64, 54])
    beyond = np.maximum(x0 - x, x - x1)
    outside = np.maximum(np.maximum(top - y, y - bottom), beyond)
    skin = np.array(identity.skin_rgb, np.float32)
    red = np.array((0.74, 0.30, 0.29), np.float32) * (0.45 + 0.55 * skin[0])
    mix = 0.35 + 0.5 * identity.lip_redness
    lip = skin * (1 - mix) * 0.88 + red * mix
    crease = cv2.GaussianBlur(rng.standard_normal(x.shape, dtype=np.float32), (0, 0), 0.7,
                              sigmaY=5)  # fmt: skip
    crease = crease / (crease.std() + 1e-6)
    upper = (y < 0.5 * (inner_top + inner_bottom))[..., None]
    shade = np.where(upper, 0.86, 1.02) * (1 + 0.035 * crease[..., None])
    c.blend(where, 0.92 * soft(outside, 0.8), lip * shade)
    c.shine[where] += 0.9 * soft(outside, 0.6)
    # a light rim above the upper lip and shade below the lower one
    c.blend(where, 0.25 * np.exp(-0.5 * ((y - top + 1.3) / 0.8) ** 2) * (beyond < 0), skin * 1.08)
    under = np.exp(-0.5 * ((y - bottom - 2.0) / 1.8) ** 2) * np.clip(
        1 - np.abs(x) / (0.7 * x1), 0, 1
    )
    c.blend(where, 0.38 * under, skin * np.array((0.66, 0.58, 0.55), np.float32))
    # the line between the lips, or what lies behind them
    line = 0.5 * (inner_top + inner_bottom)
    gap = np.maximum(inner_bottom - inner_top, 0)
    thin = np.exp(-0.5 * ((y - line) / 0.75) ** 2) * np.clip(1.2 - gap / 2.5, 0, 1)
    ends = np.clip((x1 + 0.5 - np.abs(x)) / 3.0, 0, 1)
    c.blend(where, 0.85 * thin * ends, lip * 0.30)
    hole = np.maximum(np.maximum(inner_top - y, y - inner_bottom), beyond)
    mask = soft(hole, 0.5) * np.clip(gap / 1.5 - 0.3, 0, 1)
    c.blend(where, mask, (0.16, 0.05, 0.05))
    c.shine[where] *= 1 - mask
    if teeth > 0:
        reach = inner_top + np.minimum(0.78 * gap, 9.0 - 0.004 * x**2)
        row = np.maximum(np.maximum(inner_top - 0.5 - y, y - reach), np.abs(x) - 0.84 * x1)
        width = 8.2 * np.cos(np.clip(np.abs(x) / 46, 0, 1.2))
        phase = np.abs((np.abs(x) / width) % 1.0 - 0.5)
        gapline = np.exp(-0.5 * ((0.5 - phase) * width / 0.35) ** 2)
        scallop = 0.9 * (2 * (0.5 - phase)) ** 4
        ivory = np.array((0.90, 0.87, 0.79), np.float32)
        light = np.clip(1.05 - (np.abs(x) / 34) ** 2, 0.35, 1)[..., None]
        c.blend(where, teeth * mask * soft(row + scallop, 0.4), ivory * light)
        c.blend(where, 0.35 * teeth * mask * soft(row, 0.4) * gapline, (0.45, 0.36, 0.30))
        tongue = np.hypot(x / 15, (y - inner_bottom - 1) / 5.5) - 1
        c.blend(where, 0.7 * mask * soft(tongue, 0.25) * (y > reach), (0.55, 0.25, 0.24))


def paint_brow(
    identity: FaceIdentity,
    p: NDArray[np.float64],
    c: Canvas,
    side: int,
    rng: np.random.Generator,
) -> None:
    """Paint the brow of one side (−1 left, 1 right in the picture) along the sheet's points."""
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
    """Paint the lids, lashes and eyeball of one side between the sheet's points."""
    index = [42, 43, 44, 45, 46, 47] if side > 0 else [39, 38, 37, 36, 41, 40]
    e = p[index] * (side, 1)
    # lashes extend the eye a little past the corner that annotators mark
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
