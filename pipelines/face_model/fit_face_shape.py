"""Estimate the mean 3-D face, and the covariance of landmarks about it, from photographs.

    python -m hqvox.phantom.samples landmarks --out PHANTOMS
    python -m pipelines.face_model.fit_face_shape PHOTOS --phantoms PHANTOMS

finds the 68 points of the largest face of every photograph, estimates their mean shape by structure
from motion, and rewrites ``face_shape.py``. :mod:`pipelines.face_model.fit_landmark_errors` then
estimates the covariance, which rewrites ``landmark_errors.py``.

Method: under scaled orthographic projection the points of one rigid shape in many poses form a
matrix of rank 3. Its factorisation (Tomasi and Kanade: Shape and Motion from Image Streams under
Orthography, 1992) with the metric constraint gives shape and poses up to a rotation and a mirror
image. Symmetry fixes yaw and roll. The nose lies in front of the eyes, which fixes the mirror
image. Alternating fits of pose and shape refine the result, without the tenth of the faces that fit
worst. Pitch has no natural zero: here it is the median over the frontal faces, that is, the way
people hold their heads when photographed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hqvox.imaging.codec import UndecodableError, decode
from models.errors import ModelError
from models.geometry import MIRRORED, eye_centres
from models.landmarks import load
from models.protocols import FaceLandmarker
from models.store import ModelStore
from models.training.phantoms import read_phantoms
from pipelines.face_model.fit_landmark_errors import (
    LEAST_SD,
    first_weights,
    of_people,
    of_phantoms,
    weights_of,
    write_errors,
)
from pipelines.pose import angles_of, fit_rotation

_ROUNDS = 60
"""Depth converges slowly: a flatter face that turns more looks much the same."""
_KEPT_SHARE = 0.9
_FRONTAL_DEG = 10.0
_INNER = slice(17, 68)
_BORDER = 0.02
"""Share of a photograph's side; points nearer to its edge are ignored, as tight crops end there."""

Floats = NDArray[np.float64]


def find_landmarks(landmarker: FaceLandmarker, folder: Path, max_side_px: int = 1280) -> Floats:
    """Landmarks (n, 68, 2), pixels, of the largest face of each photograph below a folder.

    Files that are no pictures are skipped. Points at the photograph's border or beyond it are
    guesses and become NaN.
    """
    landmarks = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        try:
            photo = decode(path.read_bytes(), max_side_px)
        except UndecodableError:
            continue
        faces = landmarker([photo])[0]
        if len(faces):
            sizes = faces.boxes_xyxy[:, 2] - faces.boxes_xyxy[:, 0]
            points = faces.landmarks_xy[int(sizes.argmax())].astype(np.float64)
            size = np.array(photo.shape[1::-1])
            inside = (points >= _BORDER * size) & (points <= (1 - _BORDER) * size)
            landmarks.append(np.where(inside.all(axis=1, keepdims=True), points, np.nan))
    return np.array(landmarks).reshape(-1, 68, 2)


def symmetric(shape: Floats) -> Floats:
    """Return a shape (68, 3) made symmetric, eye distance 1, origin midway between the eyes."""
    shape = (shape + shape[MIRRORED] * [-1, 1, 1]) / 2
    left, right = (shape[36:42].mean(axis=0), shape[42:48].mean(axis=0))
    return np.asarray((shape - (left + right) / 2) / np.linalg.norm(right - left))


def factorise(points: Floats) -> Floats:
    """Return the shape (68, 3), zero for the jaw, of landmarks (n, 68, 2) with eye distance 1."""
    mirror = points[:, MIRRORED] * [-1, 1]
    both = np.concatenate([points, mirror])[:, _INNER]
    centred = both - both.mean(axis=1, keepdims=True)
    matrix = centred.transpose(0, 2, 1).reshape(-1, both.shape[1])
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    motion = (left[:, :3] * values[:3]).reshape(-1, 2, 3)
    across, down = motion[:, 0], motion[:, 1]

    def terms(a: Floats, b: Floats) -> Floats:
        """Coefficients of a · Q · b in the six entries of a symmetric Q."""
        pairs = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
        columns = [a[:, i] * b[:, j] + (a[:, j] * b[:, i] if i != j else 0) for i, j in pairs]
        return np.stack(columns, axis=1)

    # Metric constraint: the two rows of a scaled rotation have one length and are orthogonal.
    constraints = np.concatenate([terms(across, across) - terms(down, down), terms(across, down)])
    q = np.linalg.svd(constraints, full_matrices=False)[2][-1]
    metric = np.array([[q[0], q[1], q[2]], [q[1], q[3], q[4]], [q[2], q[4], q[5]]])
    spread, basis = np.linalg.eigh(metric * np.sign(np.trace(metric)))
    gauge = basis * np.sqrt(np.maximum(spread, 1e-9))
    shape = np.zeros((68, 3))
    shape[_INNER] = right[:3].T @ np.linalg.inv(gauge).T
    return _axes(shape)


def _axes(shape: Floats) -> Floats:
    """Rotate a shape so that x runs across the eyes, y down to the mouth, z from eyes to nose."""
    across = shape[42:48].mean(axis=0) - shape[36:42].mean(axis=0)
    x = across / np.linalg.norm(across)
    down = shape[48:68].mean(axis=0) - shape[36:48].mean(axis=0)
    down = down - (down @ x) * x
    y = down / np.linalg.norm(down)
    z = np.cross(x, y)
    turned = shape @ np.stack([x, y, z], axis=1)
    if turned[30, 2] < turned[36:48, 2].mean():  # the mirror image: nose behind the eyes
        turned[:, 2] *= -1
    return turned


def refine(points: Floats, shape: Floats) -> Floats:
    """Alternate between poses and shape; return the shape (68, 3).

    ``points`` (n, 68, 2): eye distance about 1, NaN where a point is not in view.
    """
    seen: NDArray[np.bool_] = np.asarray(np.isfinite(points).all(axis=2))
    points = np.where(seen[..., None], points, 0.0)
    # All points, equally weighted: the jaw, far behind the nose, separates depth from yaw.
    everything = np.repeat(seen[..., None], 2, axis=2).astype(np.float64)
    weights = everything.copy()
    weights[:, :17] = 0  # the jaw has no shape in the first round
    for _ in range(_ROUNDS):
        scale, rotation, shift = fit_rotation(points, shape, weights)
        motion = scale[:, None, None] * rotation[:, :2]
        error = points - np.einsum("nij,pj->npi", motion, shape) - shift[:, None]
        worst = np.sqrt((error**2 * weights).sum(axis=(1, 2))) / scale
        used = seen & (worst <= np.quantile(worst, _KEPT_SHARE))[:, None]
        normal = np.einsum("np,nij,nik->pjk", used, motion, motion)
        right = np.einsum("np,nij,npi->pj", used, motion, points - shift[:, None])
        shape = symmetric(np.linalg.solve(normal, right[..., None])[..., 0])
        weights = everything
    return shape


def poses(points: Floats, shape: Floats, errors: Floats | None = None) -> Floats:
    """Rotation (n, 3, 3) of each face of ``points`` (n, 68, 2); NaN points are left out.

    ``errors``: covariance (136, 136) of the landmarks, or None while it is unknown.
    """
    seen = np.asarray(np.isfinite(points).all(axis=2))
    points = np.where(seen[..., None], points, 0.0)
    if errors is None:
        return fit_rotation(points, shape, first_weights() * seen[..., None])[1]
    rotation = np.full((len(points), 3, 3), np.nan)
    patterns, which = np.unique(seen, axis=0, return_inverse=True)
    for i, pattern in enumerate(patterns):
        alike = which.ravel() == i
        rotation[alike] = fit_rotation(points[alike], shape, weights_of(errors, pattern))[1]
    return rotation


def level(shape: Floats, rotation: Floats) -> Floats:
    """Rotate a shape about the axis of the eyes so that the faces' median pitch becomes zero.

    ``rotation`` (n, 3, 3): of the faces; those within 10° of yaw count.
    """
    yaw, pitch, _ = angles_of(rotation)
    angle = np.radians(np.median(pitch[np.abs(yaw) <= _FRONTAL_DEG]))
    cos, sin = np.cos(angle), np.sin(angle)
    # A face looks up where its forward axis points to smaller y.
    return np.asarray(shape @ np.array([[1, 0, 0], [0, cos, sin], [0, -sin, cos]]))


_MODULE = '''"""The mean 3-D face.

Written by ``python -m pipelines.face_model.fit_face_shape``, not by hand: structure from motion
over {n} faces. See there for the method and its source.
"""

from __future__ import annotations

import numpy as np

MEAN_FACE = np.array(
    [
{rows}
    ]
)
"""iBUG's 68 points, (68, 3): x to the image's right, y down, z towards the camera; origin midway
between the eye centres, unit their distance; looking straight ahead, which is the median pitch of
the photographs it was estimated from."""
'''


def write_module(path: Path, shape: Floats, n: int) -> None:
    """Write the module ``face_shape.py`` from a shape (68, 3) estimated from ``n`` faces."""
    rows = "\n".join(
        "        [" + ", ".join(f"{value + 0.0:.4f}" for value in row) + "]," for row in shape
    )
    path.write_text(_MODULE.format(n=n, rows=rows), encoding="utf-8")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Fit the mean 3-D face to photographs.")
    parser.add_argument("photos", type=Path, help="folder of photographs")
    parser.add_argument(
        "--phantoms",
        type=Path,
        required=True,
        help="folder of rendered people: python -m hqvox.phantom.samples landmarks --out FOLDER",
    )
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent, help="folder of the two modules"
    )
    args = parser.parse_args()
    try:
        phantoms = list(read_phantoms(args.phantoms, "landmarks"))
    except ModelError as error:
        parser.error(str(error))
    landmarker = load("dlib68", ModelStore())
    points = find_landmarks(landmarker, args.photos)
    points = points[np.isfinite(points[:, _INNER]).all(axis=(1, 2))]
    if len(points) < 100:
        parser.error(f"{args.photos}: {len(points)} faces found, at least 100 are needed")
    eyes = eye_centres(points)
    points = points / np.linalg.norm(eyes[:, 1] - eyes[:, 0], axis=-1)[:, None, None]
    shape = refine(points, symmetric(factorise(points)))
    shape = level(shape, poses(points, shape))
    errors = of_people(points, shape) + of_phantoms(landmarker, shape, phantoms)
    errors += LEAST_SD**2 * np.eye(136)
    # The zero of pitch is that of the fit that measures it.
    shape = level(shape, poses(points, shape, errors))
    write_module(args.out / "face_shape.py", shape, len(points))
    write_errors(args.out / "landmark_errors.py", errors, len(points), len(phantoms))
    yaw, pitch, _ = angles_of(poses(points, shape, errors))
    print(f"{len(points)} faces; yaw {yaw.mean():.1f} ± {yaw.std():.1f}°,", end=" ")
    print(f"pitch {pitch.mean():.1f} ± {pitch.std():.1f}°; wrote two modules in {args.out}")


if __name__ == "__main__":
    main()
