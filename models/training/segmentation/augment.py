"""Augmentation of aligned crops with masks: placement, backgrounds, light, colour, camera faults.

All randomness comes from one NumPy generator, so the seed determines a sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Sample:
    """One training sample: ``image`` float32 RGB (side, side, 3) in 0 to 1; ``mask`` float32
    (side, side) in 0 to 1; ``weight`` float32 (side, side), 0 where the truth is unknown."""

    image: Floats
    mask: Floats
    weight: Floats


def sample(
    rng: np.random.Generator,
    image: NDArray[np.uint8],
    mask: NDArray[np.uint8],
    inside: NDArray[np.uint8],
    backgrounds: NDArray[np.uint8],
    side: int,
    margin: float,
    known_outside: bool,
    other: tuple[NDArray[np.uint8], NDArray[np.uint8]] | None = None,
) -> Sample:
    """Return one random sample of a crop that was cut ``margin`` times too wide.

    ``image`` (canvas, canvas, 3), ``mask`` and ``inside`` (canvas, canvas), all uint8;
    ``backgrounds`` (n, canvas, canvas, 3), without people. ``known_outside``: whether the mask is
    valid where the photo's edge was repeated. ``other``: image and mask of a second person to add
    beside or behind the first, partly out of the picture.
    """
    matrix = placement(rng, image.shape[0], side, margin)

    def warp(pixels: NDArray[np.uint8], matrix: NDArray[np.float64] = matrix) -> Floats:
        warped = cv2.warpAffine(
            pixels, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        return np.asarray(warped, np.float32) / np.float32(255)

    picture, person = warp(image), warp(mask)
    if rng.random() < 0.5:
        picture = recolour(rng, picture)
    if rng.random() < 0.65:
        picture = composite(rng, picture, person, background(rng, backgrounds, side))
    weight = np.ones_like(person)
    if other is not None:
        aside = placement(rng, image.shape[0], side, margin)
        aside[0, 2] += side * rng.uniform(0.4, 0.85) * (1 if rng.random() < 0.5 else -1)
        aside[1, 2] += side * rng.normal(0, 0.15)
        beside, theirs = warp(other[0], aside), warp(other[1], aside)
        picture = composite(rng, recolour(rng, beside), theirs * (1 - person), picture)
        person = np.maximum(person, theirs)
    if not known_outside:
        weight = (warp(inside) > 0.99).astype(np.float32)
    return Sample(spoil(rng, picture), person, weight)


def placement(
    rng: np.random.Generator, canvas: int, side: int, margin: float
) -> NDArray[np.float64]:
    """Return a random affine map (2, 3) from canvas to sample: rotation, scale, shift and flip."""
    scale = side / canvas * margin * float(np.exp(rng.normal(0, 0.12)))
    angle = float(np.radians(rng.normal(0, 6)))
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    flip = -1.0 if rng.random() < 0.5 else 1.0
    linear = np.array([[cos * flip, -sin], [sin * flip, cos]])
    centre = np.full(2, (canvas - 1) / 2)
    target = np.full(2, (side - 1) / 2) + rng.normal(0, 0.035 * side, 2)
    return np.column_stack([linear, target - linear @ centre])


def background(rng: np.random.Generator, photographs: NDArray[np.uint8], side: int) -> Floats:
    """Return a background (side, side, 3): a photograph, plain colour, gradient or noise."""
    kind = rng.random()
    if kind < 0.6 and len(photographs):
        whole = photographs[rng.integers(len(photographs))]
        part = int(whole.shape[0] * rng.uniform(0.4, 1))
        y, x = rng.integers(whole.shape[0] - part + 1, size=2)
        window = whole[y : y + part, x : x + part]
        if rng.random() < 0.5:
            window = window[:, ::-1]
        pixels = cv2.resize(np.ascontiguousarray(window), (side, side))
        picture = np.asarray(pixels, np.float32) / np.float32(255)
        if rng.random() < 0.5:
            blur = rng.uniform(0.003, 0.03) * side
            picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), blur), np.float32)
        return recolour(rng, picture)
    ends = rng.random((2, 3)).astype(np.float32)
    if rng.random() < 0.5:
        ends = np.clip(ends[:, :1] + rng.normal(0, 0.06, (2, 3)), 0, 1).astype(np.float32)
    if kind < 0.7:
        return np.broadcast_to(ends[0], (side, side, 3)).copy()
    ys, xs = np.mgrid[0:side, 0:side].astype(np.float32) / side
    turn = rng.uniform(0, 2 * np.pi)
    ramp = np.clip((xs - 0.5) * np.cos(turn) + (ys - 0.5) * np.sin(turn) + 0.5, 0, 1)
    if kind > 0.8:
        for cells in (3, 7, 17, 41):
            grain = rng.random((cells, cells)).astype(np.float32)
            flags = cv2.INTER_CUBIC if rng.random() < 0.7 else cv2.INTER_NEAREST
            ramp = ramp + (cv2.resize(grain, (side, side), interpolation=flags) - 0.5) * (
                rng.uniform(0, 0.8)
            )
        ramp = np.clip(ramp, 0, 1)
    return np.asarray(ends[0] * (1 - ramp[..., None]) + ends[1] * ramp[..., None], np.float32)


def composite(rng: np.random.Generator, picture: Floats, person: Floats, behind: Floats) -> Floats:
    """Composite the person over ``behind``, the mask softened and shrunk to hide the old one."""
    soft = cv2.GaussianBlur(person, (0, 0), len(person) * rng.uniform(0.003, 0.008))
    alpha = np.clip((np.asarray(soft, np.float32) - 0.35) / 0.6, 0, 1)[..., None]
    return np.asarray(picture * alpha + behind * (1 - alpha), np.float32)


def recolour(rng: np.random.Generator, picture: Floats) -> Floats:
    """Change saturation, and tint dark and light tones."""
    grey = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.float32)
    saturation = rng.uniform(0, 1.8)
    picture = grey[..., None] + (picture - grey[..., None]) * saturation
    dark, light = rng.normal(0, 0.10, (2, 3)).astype(np.float32)
    return np.clip(picture + dark * (1 - grey[..., None]) + light * grey[..., None], 0, 1)


def spoil(rng: np.random.Generator, picture: Floats) -> Floats:
    """Apply uneven light, contrast, grey, blur, noise and JPEG, each with some probability."""
    side = picture.shape[0]
    if rng.random() < 0.4:
        coarse = rng.uniform(-0.35, 0.35, (2, 2)).astype(np.float32)
        light = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_LINEAR)
        picture = picture * (1 + np.asarray(light, np.float32)[..., None])
    picture = (picture - 0.5) * float(np.exp(rng.normal(0, 0.25))) + 0.5 + rng.normal(0, 0.10)
    picture = np.clip(picture, 0, 1) ** float(np.exp(rng.normal(0, 0.25)))
    if rng.random() < 0.3:
        grey = np.asarray(cv2.cvtColor(picture.astype(np.float32), cv2.COLOR_RGB2GRAY), np.float32)
        picture = np.repeat(grey[..., None], 3, axis=2)
    if rng.random() < 0.3:
        blurred = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.4, side / 100))
        picture = np.asarray(blurred, np.float32)
    if rng.random() < 0.3:
        picture = picture + rng.uniform(0.005, 0.05) * rng.standard_normal(
            picture.shape, dtype=np.float32
        )
    pixels = (np.clip(picture, 0, 1) * 255).astype(np.uint8)
    if rng.random() < 0.3:
        quality = int(rng.integers(25, 90))
        ok, coded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
        assert ok
        pixels = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
    return pixels.astype(np.float32) / np.float32(255)
