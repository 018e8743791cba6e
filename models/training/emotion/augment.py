"""Augmentation of aligned faces, for training ``hqvox_neutral``.

The variations keep the expression: framing, light, sharpness, noise, compression, occlusion,
mirroring, and small errors of the landmarks.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from models.emotion.neutral_net import INPUT_PX, OVERSAMPLING, normalise_light
from models.geometry import MIRRORED

MARGIN = 0.2
"""Margin of the stored training crops, as a fraction of the crop's side; shifts stay within it."""


def _framing(grey: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.float32]:
    """Rotate, scale, stretch and shift a crop with margin, and cut the margin off."""
    side = INPUT_PX * OVERSAMPLING
    angle = rng.normal(0, np.deg2rad(4))
    scale = np.exp(rng.normal(0, 0.06))
    stretch = np.exp(rng.normal(0, 0.04))
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    linear = np.array([[cos * stretch, sin], [-sin * stretch, cos]])
    shift = rng.normal(0, 0.03 * side, 2)
    centre_in, centre_out = (grey.shape[0] - 1) / 2, (side - 1) / 2
    offset = centre_out + shift - linear @ np.full(2, centre_in)
    moved = cv2.warpAffine(
        grey.astype(np.float32),
        np.column_stack([linear, offset]),
        (side, side),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return moved.astype(np.float32, copy=False)


def _light(grey: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Change gamma, contrast and brightness, and light the face from a side."""
    light = 255 * (np.clip(grey, 0, 255) / 255) ** float(np.exp(rng.normal(0, 0.25)))
    if rng.random() < 0.5:
        angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.6)
        ramp = np.linspace(-1, 1, grey.shape[0], dtype=np.float32)
        across, down = strength * float(np.cos(angle)), strength * float(np.sin(angle))
        light = light * (1 + across * ramp + down * ramp[:, None])
    return np.clip(light * rng.uniform(0.6, 1.2) + rng.uniform(-20, 20), 0, 255)


def _capture(grey: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Reduce resolution, blur, add noise and compress as JPEG, each with some probability."""
    side = grey.shape[0]
    seen: NDArray[Any] = grey
    if rng.random() < 0.3:
        small = int(rng.uniform(0.25, 0.8) * side)
        seen = cv2.resize(seen, (small, small), interpolation=cv2.INTER_AREA)
        seen = cv2.resize(seen, (side, side), interpolation=cv2.INTER_LINEAR)
    if rng.random() < 0.2:
        seen = cv2.GaussianBlur(seen, (0, 0), rng.uniform(0.6, 2.5))
    if rng.random() < 0.3:
        seen = seen + rng.uniform(2, 12) * rng.standard_normal(seen.shape, np.float32)
    levels = np.clip(seen, 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        quality = int(rng.integers(25, 90))
        _, coded = cv2.imencode(".jpg", levels, [cv2.IMWRITE_JPEG_QUALITY, quality])
        decoded: Any = cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE)
        return decoded
    return levels


def _erase(pixels: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Cover a rectangle of up to 15 % of the face with its mean, 0."""
    area = rng.uniform(0.02, 0.15) * INPUT_PX**2
    aspect = np.exp(rng.uniform(-0.8, 0.8))
    height = min(int(np.sqrt(area * aspect)) + 1, INPUT_PX)
    width = min(int(np.sqrt(area / aspect)) + 1, INPUT_PX)
    y, x = rng.integers(0, INPUT_PX - height + 1), rng.integers(0, INPUT_PX - width + 1)
    pixels[y : y + height, x : x + width] = 0
    return pixels


def _points(points: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Shift, rotate and stretch all landmarks a little, and shift each of them."""
    angle = rng.normal(0, np.deg2rad(2))
    cos, sin = np.cos(angle), np.sin(angle)
    linear = np.array([[cos, sin], [-sin, cos]]) * np.exp(rng.normal(0, 0.04, 2))
    moved = points @ linear + rng.normal(0, 0.01, 2) + rng.normal(0, 0.006, points.shape)
    return moved.astype(np.float32)


def augment(
    grey: NDArray[np.uint8], points: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return one random variation of a face as network input, float32 (4232,).

    ``grey``: ``aligned_grey(…, margin=MARGIN)``; ``points``: ``normalised_landmarks``, (68, 2).
    """
    pixels = normalise_light(_capture(_light(_framing(grey, rng), rng), rng))
    if rng.random() < 0.3:
        pixels = _erase(pixels, rng)
    points = _points(points, rng)
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
        points = points[MIRRORED] * np.array([-1, 1], np.float32)
    return np.concatenate([pixels.ravel(), points.ravel()])
