"""Backdrops of phantoms: out-of-focus walls, gardens, windows, lights, shelves and stages."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

BACKDROPS = ("studio", "wall", "garden", "window", "lights", "shelves", "stage")
F32 = NDArray[Any]  # float32, which OpenCV's type stubs cannot promise


def backdrop(kind: str, shape: tuple[int, int], rng: np.random.Generator) -> F32:
    """Return a background, float32 RGB (height, width, 3), linear light, about 0 to 1.

    ``kind``: one of ``BACKDROPS``; ``shape``: (height, width) in pixels.
    """
    height, width = shape
    # the scenery is out of focus, so a third of the resolution carries it
    h, w = max(8, height // 3), max(8, width // 3)
    image = _PAINTERS[kind](h, w, rng)
    image = cv2.GaussianBlur(image, (0, 0), max(0.6, 0.006 * max(h, w)))
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.clip(image, 0.001, 1.4).astype(np.float32)


def _ramp(h: int, w: int, rng: np.random.Generator) -> F32:
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    t = (x / w - 0.5) * np.cos(angle) + (y / h - 0.5) * np.sin(angle)
    return np.asarray(t, dtype=np.float32)


def _hue(rng: np.random.Generator, saturation: float, value: float) -> F32:
    hsv = np.array([[[rng.uniform(0, 360), saturation, value]]], np.float32)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0], dtype=np.float32)


def _cloud(h: int, w: int, rng: np.random.Generator, cells: int) -> F32:
    grid = rng.standard_normal((cells, cells), dtype=np.float32)
    return np.asarray(cv2.resize(grid, (w, h), interpolation=cv2.INTER_CUBIC), dtype=np.float32)


def _studio(h: int, w: int, rng: np.random.Generator) -> F32:
    colour = _hue(rng, float(rng.uniform(0, 0.35)), float(rng.uniform(0.2, 0.75))) ** 2
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    spot = np.exp(-(((x / w - rng.uniform(0.3, 0.7)) / 0.5) ** 2) - ((y / h - 0.45) / 0.6) ** 2)
    level = 0.55 + 0.6 * spot + 0.04 * _cloud(h, w, rng, 6)
    return np.asarray(level[..., None] * colour, dtype=np.float32)


def _wall(h: int, w: int, rng: np.random.Generator) -> F32:
    colour = _hue(rng, float(rng.uniform(0.02, 0.3)), float(rng.uniform(0.45, 0.9))) ** 2
    level = 1 + 0.5 * _ramp(h, w, rng) + 0.03 * _cloud(h, w, rng, 24)
    image = level[..., None] * colour
    edge = int(rng.uniform(0.1, 0.9) * w)
    image[:, edge:] *= float(rng.uniform(0.55, 0.9))
    if rng.random() < 0.6:
        x0, y0 = int(rng.uniform(-0.1, 0.7) * w), int(rng.uniform(-0.1, 0.3) * h)
        x1, y1 = x0 + int(0.35 * w), y0 + int(0.3 * h)
        cv2.rectangle(image, (x0, y0), (x1, y1), (0.08, 0.06, 0.05), -1)
        picture = tuple(float(v) for v in _hue(rng, 0.4, 0.6) ** 2)
        cv2.rectangle(image, (x0 + 4, y0 + 4), (x1 - 4, y1 - 4), picture, -1)
    return np.asarray(image, dtype=np.float32)


def _garden(h: int, w: int, rng: np.random.Generator) -> F32:
    green = np.array([0.10, 0.20, 0.05], np.float32) * float(rng.uniform(0.6, 1.5))
    leaf = _cloud(h, w, rng, 26) * 0.5 + _cloud(h, w, rng, 11) * 0.5
    image = np.clip(1 + 0.75 * leaf, 0.1, 3)[..., None] * green
    sky = np.array([0.55, 0.68, 0.85], np.float32)
    level = np.mgrid[0:h, 0:w][0].astype(np.float32) / h + 0.12 * _cloud(h, w, rng, 9)
    mask = np.clip((float(rng.uniform(0.1, 0.45)) - level) * 8, 0, 1)[..., None]
    image = image * (1 - mask) + sky * mask
    gaps = np.clip(_cloud(h, w, rng, 30) - 1.7, 0, 0.6)[..., None]
    return np.asarray(image + gaps * sky, dtype=np.float32)


def _window(h: int, w: int, rng: np.random.Generator) -> F32:
    image = _wall(h, w, rng) * 0.45
    x0, top = int(rng.uniform(-0.1, 0.6) * w), int(0.05 * h)
    pane = int(0.2 * w)
    outside = _garden(int(0.62 * h), 2 * pane + 4, rng) * 0.6 + 0.45
    for column in range(2):
        left = x0 + column * (pane + 4)
        a, b = max(0, left), min(w, left + pane)
        if b > a:
            part = outside[:, column * pane : column * pane + (b - a)]
            image[top : top + len(part), a:b] = part[: h - top]
    return image


def _lights(h: int, w: int, rng: np.random.Generator) -> F32:
    image = np.ones((h, w, 3), np.float32) * _hue(rng, 0.5, 0.22) ** 2
    image *= (1 + 0.5 * _ramp(h, w, rng))[..., None]
    for _ in range(int(rng.integers(12, 34))):
        centre = (int(rng.uniform(0, w)), int(rng.uniform(0, 0.8 * h)))
        spot = np.zeros((h, w), np.float32)
        cv2.circle(spot, centre, int(rng.uniform(0.012, 0.05) * w) + 1, 1.0, -1, cv2.LINE_AA)
        glow = np.array([1, rng.uniform(0.5, 0.95), rng.uniform(0.2, 0.8)], np.float32)
        image += spot[..., None] * glow * float(rng.uniform(0.05, 0.35))
    return image


def _shelves(h: int, w: int, rng: np.random.Generator) -> F32:
    image = np.full((h, w, 3), 0.06, np.float32)
    shelf = max(6, int(h * rng.uniform(0.2, 0.3)))
    for y in range(int(-rng.uniform(0, shelf)), h, shelf):
        x = 0
        while x < w:
            wide = int(rng.uniform(0.015, 0.05) * w) + 1
            tall = int(shelf * rng.uniform(0.55, 0.88))
            colour = _hue(rng, float(rng.uniform(0.1, 0.6)), float(rng.uniform(0.2, 0.75))) ** 2
            y0, y1 = max(0, y + shelf - tall - 3), max(0, y + shelf - 3)
            image[y0:y1, x : x + wide] = colour
            x += wide
        image[max(0, y + shelf - 3) : max(0, y + shelf)] = (0.22, 0.13, 0.07)
    return image * (1 + 0.5 * _ramp(h, w, rng))[..., None]


def _stage(h: int, w: int, rng: np.random.Generator) -> F32:
    image = np.ones((h, w, 3), np.float32) * _hue(rng, 0.6, 0.15) ** 2
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    for _ in range(int(rng.integers(2, 5))):
        foot, lean = rng.uniform(0, 1), rng.uniform(-0.5, 0.5)
        d = np.abs(x / w - foot - lean * y / h) / (0.04 + 0.12 * y / h)
        image += np.exp(-(d**2))[..., None] * _hue(rng, 0.7, 0.6) ** 2 * 0.5
    return image


_PAINTERS = {
    "studio": _studio,
    "wall": _wall,
    "garden": _garden,
    "window": _window,
    "lights": _lights,
    "shelves": _shelves,
    "stage": _stage,
}
