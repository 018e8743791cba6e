"""Shading of skin, hair and cloth: wrapped diffuse light, a soft highlight, shaded hollows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[Any]  # float32, which OpenCV's type stubs cannot promise

SKIN_WRAP = (0.42, 0.26, 0.20)
"""How far diffuse light wraps past the terminator in red, green and blue: in skin, red furthest."""
CLOTH_WRAP = (0.2, 0.2, 0.2)


@dataclass(frozen=True)
class Light:
    """One key light and ambient light.

    ``azimuth_deg``: −90 from the picture's left, 0 from the camera, 90 from the right;
    ``elevation_deg``: above the camera; ``key`` and ``ambient``: strengths; a sum of about 1
    exposes skin well; ``warmth``: −1 blue to 1 yellow.
    """

    azimuth_deg: float = 18.0
    elevation_deg: float = 32.0
    key: float = 0.82
    ambient: float = 0.36
    warmth: float = 0.0

    def direction(self) -> NDArray[np.float64]:
        """Return the unit vector towards the light, camera frame (x right, y down, z here)."""
        a, e = np.radians(self.azimuth_deg), np.radians(self.elevation_deg)
        return np.array([np.sin(a) * np.cos(e), -np.sin(e), np.cos(a) * np.cos(e)])

    def colour(self) -> F32:
        """Return the light's colour, float32 (3,), near 1."""
        w = self.warmth
        return np.array([1 + 0.08 * w, 1.0, 1 - 0.14 * w], dtype=np.float32)


def shade(
    albedo: F32,
    normal: F32,
    hollow: F32,
    shine: F32,
    light: Light,
    wrap: tuple[float, float, float],
) -> F32:
    """Return linear light, float32 (n, 3), of surface points.

    ``albedo``: linear reflectance (n, 3); ``normal``: (n, 3), camera frame; ``hollow``: (n,),
    ambient occlusion from 0 (closed in) to 1 (open); ``shine``: (n,), strength of the highlight;
    ``wrap``: ``SKIN_WRAP`` or ``CLOTH_WRAP``.
    """
    to_light = light.direction().astype(np.float32)
    normal = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)
    facing = normal @ to_light
    w = np.asarray(wrap, np.float32)
    diffuse = np.clip((facing[:, None] + w) / (1 + w), 0, None)
    sky = 0.78 - 0.22 * normal[:, 1] + 0.10 * normal[:, 2]
    half = to_light + np.array([0, 0, 1], np.float32)
    half /= np.linalg.norm(half)
    glance = np.clip(normal @ half, 0, 1)
    sharp = glance**8
    sharp = sharp * sharp * sharp
    sheen = 0.16 * sharp + 0.05 * glance**6
    key = light.key * light.colour()
    open_ = hollow[:, None]
    out = albedo * (light.ambient * sky[:, None] * open_ + key * diffuse * (0.35 + 0.65 * open_))
    out = out + (shine * sheen * np.clip(facing + 0.2, 0, 1))[:, None] * key * open_ * 0.7
    return out.astype(np.float32)


def shade_strands(albedo: F32, normal: F32, along: F32, light: Light, hollow: F32) -> F32:
    """Return linear light, float32 (n, 3), of hair whose strands run ``along`` (n, 3)."""
    to_light = light.direction().astype(np.float32)
    along = along / np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-6)
    normal = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)
    facing = np.clip((normal @ to_light + 0.3) / 1.3, 0, None)
    half = to_light + np.array([0, 0, 1], np.float32)
    half /= np.linalg.norm(half)
    lean = along @ half
    gloss = np.clip(1 - lean * lean, 0, 1) ** 14 * facing
    sky = 0.75 - 0.25 * normal[:, 1]
    key = light.key * light.colour()
    out = albedo * (light.ambient * sky[:, None] * hollow[:, None] + key * facing[:, None])
    out = out + (gloss * 0.55)[:, None] * key * (0.25 * np.sqrt(albedo) + 0.02)
    return out.astype(np.float32)
