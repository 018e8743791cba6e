"""Covariance of landmarks about a fitted face, for :mod:`pipelines.face_model.landmark_errors`.

Part of ``python -m pipelines.face_model.fit_face_shape``. The covariances of two samples are added:

- Photographs of people: the residuals after fitting the mean face. They hold the shapes of the
  faces, their expressions and the landmarker's errors, less what the fit explains as rotation.
- Rendered phantoms of known pose: the residuals of the mean face turned by the true angles. They
  show in full that the landmarker places the points of a tilted face too near the average face. On
  photographs the fitted angles hide that error.

Phantoms contribute their covariance alone, not their mean shape. Faces are rotated so that the eyes
are level. Points are in units of the eye distance. The mirror image of every face counts too.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.geometry import MIRRORED
from models.protocols import FaceLandmarker
from models.training.phantoms import PhantomSample
from pipelines.face_model.mirror import triangles
from pipelines.pose import COVARIANCE_UNIT, angles_of, fit_rotation, level_frame

Floats = NDArray[np.float64]
Seen = NDArray[np.bool_]

LEAST_SD = 0.02
"""Standard deviation added to every coordinate, in eye distances: a lower bound in every
direction."""
_MAX_TURN_DEG = 35.0
_KEPT_SHARE = 0.97


def first_weights() -> Floats:
    """Weights (68, 2) of squared errors for a fit while the covariance is still unknown."""
    weights = np.ones((68, 2))
    # The jaw line runs down the sides of the face. Landmarkers space its points along it as on the
    # average face, so their height says little; at the ears it is a little more reliable.
    weights[:17, 1] = 0.0
    weights[[0, 1, 2, 14, 15, 16], 1] = 0.1
    # The lower lip goes down with the jaw.
    weights[[55, 56, 57, 58, 59, 65, 66, 67], 1] = 0.0
    return weights


def of_people(points: Floats, shape: Floats) -> Floats:
    """Covariance (136, 136) of the residuals of ``shape`` (68, 3) fitted to landmarks (n, 68, 2).

    NaN marks a point that is not in view. Each pair of points is estimated from the faces that show
    both. Faces turned by more than 35° and the worst 3 % of the fits are left out.
    """
    seen: Seen = np.asarray(np.isfinite(points).all(axis=2))
    target, *_ = level_frame(np.where(seen[..., None], points, 0.0))
    scale, turn, shift = fit_rotation(target, shape, first_weights() * seen[..., None])
    left = target - scale[:, None, None] * (shape @ turn[:, :2].transpose(0, 2, 1)) - shift[:, None]
    size = np.sqrt((np.where(seen[..., None], left, 0.0)[:, 17:] ** 2).mean(axis=(1, 2)))
    yaw, pitch, _ = angles_of(turn)
    used = np.maximum(np.abs(yaw), np.abs(pitch)) < _MAX_TURN_DEG
    used &= size <= np.quantile(size, _KEPT_SHARE)
    return covariance(left[used], seen[used])


def of_phantoms(
    landmarker: FaceLandmarker, shape: Floats, samples: Iterable[PhantomSample]
) -> Floats:
    """Covariance (136, 136) of the landmarks' errors about ``shape`` at phantoms' true angles.

    Samples on which the landmarker finds no face are left out.
    """
    landmarks, rotations = [], []
    for sample in samples:
        faces = landmarker([sample.picture])[0]
        if len(faces):
            away = faces.landmarks_xy.mean(axis=1) - sample.landmarks_xy.mean(axis=0)
            nearest = faces.landmarks_xy[int(np.hypot(*away.T).argmin())]
            landmarks.append(nearest.astype(np.float64))
            rotations.append(rotation(sample.yaw_deg, sample.pitch_deg))
    expected = shape @ np.array(rotations)[:, :2].transpose(0, 2, 1)
    errors = eyes_at_zero(np.array(landmarks)) - eyes_at_zero(expected)
    return covariance(errors, np.ones(errors.shape[:2], dtype=bool))


def rotation(yaw_deg: float, pitch_deg: float) -> Floats:
    """Rotation (3, 3) of a head that is pitched, then turned; signs as in PhantomSample."""
    yaw, pitch = np.radians([yaw_deg, pitch_deg])
    cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    turn = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    nod = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    return np.asarray(turn @ nod)


def eyes_at_zero(points: Floats) -> Floats:
    """Return points (n, 68, 2) with level eyes, in eye distances from midway between the eyes."""
    level, *_ = level_frame(points)
    return np.asarray(level - level[:, 36:48].mean(axis=1, keepdims=True))


def covariance(left: Floats, seen: Seen) -> Floats:
    """Covariance (136, 136) of errors (n, 68, 2) and their mirror images, positive semi-definite.

    ``seen``: bool (n, 68), the points that count.
    """
    both = np.concatenate([left, left[:, MIRRORED] * [-1, 1]]).reshape(-1, 136)
    counted = np.concatenate([seen, seen[:, MIRRORED]]).repeat(2, axis=1).astype(np.float64)
    mean = (both * counted).sum(axis=0) / np.maximum(counted.sum(axis=0), 1)
    centred = (both - mean) * counted
    pairs = centred.T @ centred / np.maximum(counted.T @ counted, 1)
    # Pairs are estimated from different faces, so the matrix may have small negative eigenvalues.
    values, vectors = np.linalg.eigh(pairs)
    return np.asarray((vectors * np.maximum(values, 0)) @ vectors.T)


def weights_of(total: Floats, seen: Seen) -> Floats:
    """Inverse covariance (136, 136) for faces that show only the points ``seen``, bool (68,)."""
    index = np.flatnonzero(seen.repeat(2))
    weights = np.zeros((136, 136))
    weights[np.ix_(index, index)] = np.linalg.inv(total[np.ix_(index, index)])
    return weights


_MODULE = '''"""Covariance of landmarks about a fitted face.

Written by ``python -m pipelines.face_model.fit_face_shape``, not by hand, from {people} photographs
and {phantoms} phantoms; see :mod:`pipelines.face_model.fit_landmark_errors`. Covariances of x and y
of the 68 points as :func:`pipelines.face_model.mirror.triangles` gives them, of faces with level
eyes, in units of {unit} squared eye distances.
"""

# fmt: off
SAME = (
{same}
)
OPPOSITE = (
{opposite}
)
'''


def write_errors(path: Path, total: Floats, people: int, phantoms: int) -> None:
    """Write the module ``landmark_errors.py`` from a covariance (136, 136)."""
    same, opposite = (
        _wrapped([str(value) for value in np.rint(part / COVARIANCE_UNIT).astype(int)])
        for part in triangles(total)
    )
    text = _MODULE.format(
        people=people, phantoms=phantoms, same=same, opposite=opposite, unit=COVARIANCE_UNIT
    )
    path.write_text(text, encoding="utf-8")


def _wrapped(numbers: list[str]) -> str:
    lines, line = [], "   "
    for number in numbers:
        if len(line) + len(number) + 2 > 100:
            lines.append(line)
            line = "   "
        line += f" {number},"
    return "\n".join([*lines, line])
