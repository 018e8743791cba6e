"""How landmarks vary about a fitted face, for :mod:`pipelines.face_model.landmark_errors`.

Part of ``python -m pipelines.face_model.fit_face_shape``. Two samples, whose covariances add:

- photographs of people: what the fit of the mean face leaves over, which is the shapes of their
  faces, their expressions and the landmarker's errors, less what the fit takes for a turn;
- phantoms of known pose (none that a benchmark draws): what the mean face turned by their true
  angles leaves over. Here the landmarker's habit of drawing tilted faces towards the average one
  shows in full, which on photographs hides in the fitted angles.

Only how landmarks vary is taken from phantoms: their mean shape is left out, and the level is set
by people. Faces are level, points in eye distances; the mirror image of every face counts too.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hqvox.phantom.faces import FaceIdentity, Pose, Scene, render_face, rotation
from hqvox.phantom.scenery import BACKDROPS
from models.protocols import FaceLandmarker
from pipelines.face_model.face_shape import MIRRORED
from pipelines.face_model.mirror import triangles
from pipelines.pose import COVARIANCE_UNIT, angles_of, fit_rotation, level_frame

Floats = NDArray[np.float64]
Seen = NDArray[np.bool_]

PHANTOMS = 400
PHANTOM_SEED = 7001
PHANTOM_RANGE_DEG = 30.0
LEAST_SD = 0.02
"""Added to every coordinate, in eye distances: no direction is trusted further than that."""
_MAX_TURN_DEG = 35.0
_KEPT_SHARE = 0.97


def first_weights() -> Floats:
    """Weights (68, 2) of squared errors for a fit before anything is known about errors."""
    weights = np.ones((68, 2))
    # The jaw line runs down the sides of the face: landmarkers place its points along it as on
    # the average face, so how high they lie says little; the ears' ends are held a little better.
    weights[:17, 1] = 0.0
    weights[[0, 1, 2, 14, 15, 16], 1] = 0.1
    # The lower lip goes down with the jaw.
    weights[[55, 56, 57, 58, 59, 65, 66, 67], 1] = 0.0
    return weights


def of_people(points: Floats, shape: Floats) -> Floats:
    """Covariance (136, 136) of what fits to people's landmarks (n, 68, 2) leave over.

    NaN where a point is not in view: every pair of points is judged by the faces that show both.
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


def of_phantoms(landmarker: FaceLandmarker, shape: Floats) -> Floats:
    """Covariance (136, 136) of what the shape at phantoms' true angles leaves over."""
    found, turn = [], []
    for i in range(PHANTOMS):
        rng = np.random.default_rng([PHANTOM_SEED, i])
        pose = Pose(
            yaw_deg=float(rng.uniform(-PHANTOM_RANGE_DEG, PHANTOM_RANGE_DEG)),
            pitch_deg=float(rng.uniform(-PHANTOM_RANGE_DEG, PHANTOM_RANGE_DEG)),
            roll_deg=float(rng.uniform(-10, 10)),
            ipd_px=float(rng.uniform(55, 80)),
        )
        scene = Scene(pose=pose, backdrop=str(rng.choice(BACKDROPS)), jpeg_quality=90)
        photo = render_face(FaceIdentity.sample(rng), scene, rng)
        faces = landmarker([photo.image])[0]
        if len(faces):
            away = faces.landmarks_xy.mean(axis=1) - photo.truth.landmarks_xy.mean(axis=0)
            found.append(faces.landmarks_xy[int(np.hypot(*away.T).argmin())].astype(np.float64))
            turn.append(rotation(pose.yaw_deg, pose.pitch_deg, 0.0))
    expected = shape @ np.array(turn)[:, :2].transpose(0, 2, 1)
    left = eyes_at_zero(np.array(found)) - eyes_at_zero(expected)
    return covariance(left, np.ones(left.shape[:2], dtype=bool))


def eyes_at_zero(points: Floats) -> Floats:
    """Points (n, 68, 2) level, in eye distances, from midway between the eyes."""
    level, *_ = level_frame(points)
    return np.asarray(level - level[:, 36:48].mean(axis=1, keepdims=True))


def covariance(left: Floats, seen: Seen) -> Floats:
    """Covariance (136, 136) over faces (n, 68, 2) and their mirror images, never negative."""
    both = np.concatenate([left, left[:, MIRRORED] * [-1, 1]]).reshape(-1, 136)
    counted = np.concatenate([seen, seen[:, MIRRORED]]).repeat(2, axis=1).astype(np.float64)
    mean = (both * counted).sum(axis=0) / np.maximum(counted.sum(axis=0), 1)
    centred = (both - mean) * counted
    pairs = centred.T @ centred / np.maximum(counted.T @ counted, 1)
    # Pairs judged by different faces may contradict each other a little.
    values, vectors = np.linalg.eigh(pairs)
    return np.asarray((vectors * np.maximum(values, 0)) @ vectors.T)


def weights_of(total: Floats, seen: Seen) -> Floats:
    """Inverse covariance (136, 136) for faces that show only some of the points, (68,)."""
    index = np.flatnonzero(seen.repeat(2))
    weights = np.zeros((136, 136))
    weights[np.ix_(index, index)] = np.linalg.inv(total[np.ix_(index, index)])
    return weights


_MODULE = '''"""How landmarks vary about a fitted face.

Made by ``python -m pipelines.face_model.fit_face_shape``, not by hand, from {people} photographs
and {phantoms} phantoms; see :mod:`pipelines.face_model.fit_landmark_errors`. Covariances of x and y
of the 68 points as :func:`pipelines.face_model.mirror.triangles` gives them, of faces that are
level, in units of {unit} squared eye distances.
"""

# fmt: off
SAME = (
{same}
)
OPPOSITE = (
{opposite}
)
'''


def write_errors(path: Path, total: Floats, people: int) -> None:
    """Write ``landmark_errors.py``."""
    same, opposite = (
        _wrapped([str(value) for value in np.rint(part / COVARIANCE_UNIT).astype(int)])
        for part in triangles(total)
    )
    text = _MODULE.format(
        people=people, phantoms=PHANTOMS, same=same, opposite=opposite, unit=COVARIANCE_UNIT
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
