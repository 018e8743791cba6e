"""Faces of phantoms in the released dataset's form: aligned, square, on white."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from hqvox.phantom.faces import Light, Pose, Scene, render_face
from hqvox.phantom.identity import FaceIdentity

EYES_XY = ((0.380, 0.487), (0.623, 0.487))
"""Centres of the eyes in the released dataset, as fractions of the crop's side, left in image
first; measured on its images."""
_DETAIL = 2
"""Pixels rendered per pixel returned, in each direction."""


def portrait(
    identity: FaceIdentity, side_px: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return one photograph as a release holds it: on white, and with its background.

    uint8 RGB (side_px, side_px, 3) each. The person faces the camera within 4°, neutral or with a
    slight smile, in soft light. The centres of the eyes (means of the 6 landmarks around each) lie
    at ``EYES_XY``. Raises ValueError below 32 pixels.
    """
    if not side_px >= 32:
        raise ValueError(f"a portrait has at least 32 pixels a side, not {side_px}")
    drawn = _DETAIL * side_px
    photo = render_face(identity, _scene(drawn, rng), rng)
    marks = photo.truth.landmarks_xy
    eyes = np.array([marks[36:42].mean(axis=0), marks[42:48].mean(axis=0)])
    turn = _similarity((eyes + 0.5) / _DETAIL, side_px * np.array(EYES_XY))
    # averaged down first, so that the warp below does not alias
    half = cv2.resize(photo.image, (side_px, side_px), interpolation=cv2.INTER_AREA)
    person = cv2.resize(photo.mask.astype(np.float32), (side_px, side_px),
                        interpolation=cv2.INTER_AREA)  # fmt: skip
    size = (side_px, side_px)
    image = cv2.warpAffine(half, turn, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    alpha = cv2.warpAffine(
        person, turn, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    white = 255 + alpha[..., None] * (image.astype(np.float32) - 255)
    return np.rint(white).astype(np.uint8), np.asarray(image, dtype=np.uint8)


def _scene(side_px: int, rng: np.random.Generator) -> Scene:
    (left, height), (right, _) = EYES_XY
    pose = Pose(
        yaw_deg=float(np.clip(rng.normal(0, 1.8), -4, 4)),
        pitch_deg=float(np.clip(rng.normal(0, 1.8), -4, 4)),
        roll_deg=float(np.clip(rng.normal(0, 1.5), -4, 4)),
        eyes_xy=((left + right) / 2, height),
        ipd_px=(right - left) * side_px,
        expression=str(rng.choice(("neutral", "slight_smile"), p=(0.7, 0.3))),
        strength=float(rng.uniform(0.3, 0.9)),
    )
    light = Light(
        azimuth_deg=float(rng.uniform(-14, 14)),
        elevation_deg=float(rng.uniform(24, 36)),
        key=float(rng.uniform(0.64, 0.76)),
        ambient=float(rng.uniform(0.44, 0.52)),
        warmth=float(rng.uniform(-0.4, 0.5)),
    )
    return Scene(pose, side_px, side_px, light, backdrop="wall", noise_sd=1.0)


def _similarity(points: NDArray[np.float64], targets: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the 2 × 3 map of pixel indices that takes two points (edges at 0) to two others."""
    a, b = points[:, 0] + 1j * points[:, 1], targets[:, 0] + 1j * targets[:, 1]
    turn = (b[1] - b[0]) / (a[1] - a[0])
    shift = b[0] - turn * a[0] + 0.5 * (turn - 1 + 1j * (turn - 1))
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])
