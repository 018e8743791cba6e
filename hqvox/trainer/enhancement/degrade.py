"""Making sharp faces bad, as GFPGAN does: blur, shrink, noise, JPEG, enlarge."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from hqvox.imaging.codec import decode
from hqvox.imaging.pictures import encode_jpeg
from hqvox.trainer.enhancement.config import DegradationConfig

F32 = NDArray[np.float32]
KERNEL_PX = 41
"""Side of the blur's kernel (gfpgan)."""
PUBLISHED_SIDE_PX = 512
"""Side of the pictures for which the blur is given."""


def degrade(picture: F32, config: DegradationConfig, rng: np.random.Generator) -> F32:
    """A bad copy of a square picture: RGB float32 (px, px, 3), 0 to 1, of the same shape.

    Half of the kernels are isotropic, the others elliptic, turned at random.
    """
    px = len(picture)
    per_px = px / PUBLISHED_SIDE_PX
    first = rng.uniform(*config.blur_sigma) * per_px
    isotropic = rng.random() < 0.5
    second = first if isotropic else rng.uniform(*config.blur_sigma) * per_px
    kernel = gaussian(first, second, 0.0 if isotropic else rng.uniform(-math.pi, math.pi))
    bad = cv2.filter2D(picture, -1, kernel, borderType=cv2.BORDER_REPLICATE)
    small = max(1, int(px / rng.uniform(*config.downscale)))
    bad = cv2.resize(bad, (small, small), interpolation=cv2.INTER_LINEAR)
    bad = bad + rng.normal(0, rng.uniform(*config.noise) / 255, bad.shape)
    pixels = (bad.clip(0, 1) * 255).round().astype(np.uint8)
    quality = round(rng.uniform(*config.jpeg_quality))
    decoded = decode(encode_jpeg(pixels, quality))
    bad = decoded.astype(np.float32) / 255
    return np.asarray(cv2.resize(bad, (px, px), interpolation=cv2.INTER_LINEAR), np.float32)


def gaussian(sigma_x: float, sigma_y: float, angle: float) -> F32:
    """A Gaussian kernel (41, 41) of sum 1: deviations in px along its axes, turned by radians."""
    at = np.arange(KERNEL_PX) - KERNEL_PX // 2
    x, y = np.meshgrid(at, at)
    along = x * math.cos(angle) + y * math.sin(angle)
    across = -x * math.sin(angle) + y * math.cos(angle)
    weights = np.exp(-0.5 * ((along / sigma_x) ** 2 + (across / sigma_y) ** 2))
    return (weights / weights.sum()).astype(np.float32)
