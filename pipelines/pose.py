"""How far a face is turned away: yaw, pitch, roll, and the paper's left/right test.

Angles come from fitting the mean 3-D face of :mod:`pipelines.face_model.face_shape` to the 68
points under scaled orthographic projection, by generalised least squares:
:mod:`pipelines.face_model.landmark_errors` says how landmarks vary about that fit, and which of
them together. The paper (SF2F appendix B.1) asks for "angle between facial plane and image plane"
of at most 5° and tests it by mirroring landmarks; :func:`asymmetry` is that test.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from hqvox.config.build import PoseConfig
from hqvox.workspace.tables import Row
from models.geometry import MIRRORED, eye_centres
from pipelines.face_model.face_shape import MEAN_FACE
from pipelines.face_model.landmark_errors import OPPOSITE, SAME
from pipelines.face_model.mirror import from_triangles
from pipelines.stage import Pixels, Stage

Floats = NDArray[np.float64]

COVARIANCE_UNIT = 1e-5
"""Of :mod:`pipelines.face_model.landmark_errors`, in squared eye distances."""
POINT_WEIGHTS: Floats = np.asarray(
    np.linalg.inv(COVARIANCE_UNIT * from_triangles(SAME, OPPOSITE)), np.float64
)
"""Inverse covariance (136, 136) of what landmarks are off: the weights of the fit of angles. What
moves together for other reasons than a turn counts little, such as a mouth that opens, or a jaw
line that a landmarker draws towards the average one."""
_ROUNDS = 12
_MAX_STEP_RAD = 0.4


def fit_pose(landmarks_xy: NDArray[np.floating]) -> tuple[Floats, Floats, Floats]:
    """Yaw, pitch and roll in degrees, each (n,), of landmarks (n, 68, 2) in any unit.

    Yaw is positive where the face is turned to the image's right, pitch where it looks up, roll
    where the head is turned clockwise in the image. Faces whose eyes coincide give NaN.
    """
    points = np.asarray(landmarks_xy, dtype=np.float64).reshape(-1, 68, 2)
    rotations = fit_rotation(points, MEAN_FACE, POINT_WEIGHTS)[1]
    return angles_of(rotations)


def angles_of(rotations: Floats) -> tuple[Floats, Floats, Floats]:
    """Yaw, pitch and roll in degrees of rotations (n, 3, 3) from head to camera.

    Axes: x to the image's right, y down, z towards the camera. The head is pitched first, then
    turned about the camera's vertical, then rolled in the picture plane, which is the roll that
    levelling the eyes undoes.
    """
    across = rotations[:, :, 0]
    roll = np.arctan2(across[:, 1], across[:, 0])
    yaw = np.arctan2(-across[:, 2], np.hypot(across[:, 0], across[:, 1]))
    forward = rotations[:, :, 2]
    sine = forward[:, 1] * np.cos(roll) - forward[:, 0] * np.sin(roll)
    pitch = np.arcsin(np.clip(-sine, -1.0, 1.0))
    return np.degrees(yaw), np.degrees(pitch), np.degrees(roll)


def level_frame(points_xy: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Points (n, 68, 2) turned so that the eyes are level, in eye distances from their mean.

    Also returns the tilt undone, in radians clockwise in the image (n,), the eye distances (n,)
    and the means (n, 2). Faces whose eyes coincide or that are not finite give distance NaN, and
    zeros for points.
    """
    eyes = eye_centres(points_xy)
    span = eyes[:, 1] - eyes[:, 0]
    ipd = np.linalg.norm(span, axis=-1)
    usable = np.isfinite(points_xy).all(axis=(1, 2)) & (ipd > 0)
    ipd = np.where(usable, ipd, np.nan)
    tilt = np.where(usable, np.arctan2(span[:, 1], span[:, 0]), 0.0)
    origin = np.where(usable[:, None], points_xy.mean(axis=1), 0.0)
    centred = (points_xy - origin[:, None]) / ipd[:, None, None]
    level = np.einsum("npj,njk->npk", np.where(usable[:, None, None], centred, 0.0), turns(tilt))
    return level, tilt, ipd, origin


def turns(angles_rad: Floats) -> Floats:
    """Matrices (n, 2, 2) that turn (x, y) columns clockwise in the image."""
    cos, sin = np.cos(angles_rad), np.sin(angles_rad)
    return np.stack([np.stack([cos, -sin], axis=1), np.stack([sin, cos], axis=1)], axis=1)


def fit_rotation(
    points_xy: Floats, shape_xyz: Floats, weights: Floats, rounds: int = _ROUNDS
) -> tuple[Floats, Floats, Floats]:
    """Scaled orthographic fit of a shape to each of n point sets, all at once.

    ``points_xy`` (n, 68, 2); ``shape_xyz`` (68, 3), y down, z towards the camera, eye distance 1;
    ``weights`` of the errors across and down a face whose eyes are level: (68, 2) or (n, 68, 2) of
    their squares, or (136, 136) or (n, 136, 136) of their products. Gauss–Newton from the rotation
    that levels the eyes. Returns scale (n,), rotation (n, 3, 3), translation (n, 2).
    """
    n = len(points_xy)
    target, tilt, ipd, origin = level_frame(points_xy)
    rotation = np.tile(np.eye(3), (n, 1, 1))
    scale = np.ones(n)
    shift = -np.tile(shape_xyz[:, :2].mean(axis=0), (n, 1))
    for _ in range(rounds):
        turned = np.einsum("nij,pj->npi", rotation, shape_xyz)
        x, y, z = turned[..., 0], turned[..., 1], turned[..., 2]
        factor = scale[:, None]
        error = target - (factor[..., None] * turned[..., :2] + shift[:, None])
        per_point = np.zeros((n, 68, 2, 7))
        per_point[..., 1, 0] = -factor * z
        per_point[..., 0, 1] = factor * z
        per_point[..., 0, 2] = -factor * y
        per_point[..., 1, 2] = factor * x
        per_point[..., 0, 3] = x
        per_point[..., 1, 3] = y
        per_point[..., 0, 4] = 1.0
        per_point[..., 1, 5] = 1.0
        per_point[..., 6] = error
        columns = per_point.reshape(n, 136, 7)
        if weights.shape[-1] == 2:
            weighted = columns * weights.reshape(-1, 136, 1)
        else:
            weighted = weights @ columns
        products = columns[..., :6].transpose(0, 2, 1) @ weighted
        normal, right = products[..., :6], products[..., 6:]
        step = np.linalg.solve(normal + 1e-9 * np.eye(6), right)[..., 0]
        turn = np.clip(step[:, :3], -_MAX_STEP_RAD, _MAX_STEP_RAD)
        rotation = Rotation.from_rotvec(turn).as_matrix() @ rotation
        scale = np.maximum(scale + step[:, 3], 0.05)
        shift = shift + step[:, 4:]
    back = turns(tilt)
    rotation[:, :2] = back @ rotation[:, :2]
    rotation = np.where(np.isfinite(ipd)[:, None, None], rotation, np.nan)
    shift = np.einsum("nij,nj->ni", back, shift) * ipd[:, None] + origin
    return scale * ipd, rotation, shift


def asymmetry(landmarks_xy: NDArray[np.floating]) -> Floats:
    """How far mirrored landmarks fall from the ones they should meet, (n,), of (n, 68, 2).

    Each face is mirrored, left and right points exchanged, and laid over itself by the best
    rotation and shift, which is a reflection about its best axis; the root mean square distance
    over the points within the face (jaw line left out: its points slide), as a fraction of the
    eye distance. Looking up or down moves both sides alike and leaves it as it was; a turn of the
    head moves the nose against the eyes. Faces whose eyes coincide give NaN.
    """
    points = np.asarray(landmarks_xy, dtype=np.float64).reshape(-1, 68, 2)
    eyes = eye_centres(points)
    ipd = np.linalg.norm(eyes[:, 1] - eyes[:, 0], axis=-1)
    mirrored = points[:, MIRRORED] * np.array([-1.0, 1.0])
    inner = slice(17, 68)
    inner_points = points[:, inner] - points[:, inner].mean(axis=1, keepdims=True)
    inner_mirrored = mirrored[:, inner] - mirrored[:, inner].mean(axis=1, keepdims=True)
    # Best rotation in the plane, as complex numbers: the phase of the inner product.
    a = inner_points[..., 0] + 1j * inner_points[..., 1]
    b = inner_mirrored[..., 0] + 1j * inner_mirrored[..., 1]
    product = (a * b.conj()).sum(axis=1)
    phase = product / np.maximum(np.abs(product), 1e-12)
    distance = np.sqrt((np.abs(a - phase[:, None] * b) ** 2).mean(axis=1))
    return np.asarray(np.divide(distance, ipd, out=np.full(len(ipd), np.nan), where=ipd > 0))


class PoseStage(Stage):
    """Refuses faces that are turned away or tilted; roll is undone by alignment."""

    name = "pose"
    reads = ("landmarks_xy",)
    writes = ("yaw_deg", "pitch_deg", "roll_deg", "asymmetry")
    reasons = ("turned_away", "tilted")
    failures = ("eyes_coincide",)
    version = 2
    config: PoseConfig

    def measure(self, rows: Sequence[Row], pixels: Pixels) -> list[Row]:
        """Measure angles and asymmetry; ``decide_by`` says which of them have limits."""
        if not rows:
            return []
        points = np.array([row["landmarks_xy"] for row in rows], dtype=np.float64)
        points = points.reshape(-1, 68, 2)
        measured = np.stack([*fit_pose(points), asymmetry(points)], axis=1)
        for row, values in zip(rows, measured.tolist(), strict=True):
            if not np.isfinite(values).all():
                row.update(dict.fromkeys(self.writes), reason="eyes_coincide")
                continue
            row.update(zip(self.writes, values, strict=True))
        return list(rows)
