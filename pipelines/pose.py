"""How far a face is turned away: yaw, pitch, roll, and the paper's left/right test.

Angles come from fitting the mean 3-D face of :mod:`pipelines.face_shape` to the 68 points under
scaled orthographic projection. The paper (SF2F appendix B.1) asks for "angle between facial plane
and image plane" of at most 5° and tests it by mirroring landmarks; :func:`asymmetry` is that test.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from hqvox.config import PoseConfig
from hqvox.tables import Row
from models.geometry import eye_centres
from pipelines.face_shape import MEAN_FACE, MIRRORED
from pipelines.stage import Needs, Pixels, Scope, Stage


def _point_weights() -> NDArray[np.float64]:
    weights = np.ones((68, 2))
    # The jaw line runs down the sides of the face: landmarkers place its points along it as on
    # the average face, so how high they lie says little; the ears' ends are held a little better.
    weights[:17, 1] = 0.0
    weights[[0, 1, 2, 14, 15, 16], 1] = 0.1
    # The lower lip goes down with the jaw.
    weights[[55, 56, 57, 58, 59, 65, 66, 67], 1] = 0.0
    return weights


POINT_WEIGHTS = _point_weights()
"""Weights (68, 2) of squared errors across and down, for the fit of angles."""
_ROUNDS = 12
_MAX_STEP_RAD = 0.4

Floats = NDArray[np.float64]


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


def fit_rotation(
    points_xy: Floats, shape_xyz: Floats, weights: Floats, rounds: int = _ROUNDS
) -> tuple[Floats, Floats, Floats]:
    """Scaled orthographic fit of a shape to each of n point sets, all at once.

    ``points_xy`` (n, 68, 2); ``shape_xyz`` (68, 3), y down, z towards the camera, eye distance 1;
    ``weights`` (68, 2) or (n, 68, 2) of the squared errors across and down. Gauss–Newton from the
    rotation that levels the eyes. Returns scale (n,), rotation (n, 3, 3), translation (n, 2).
    """
    n = len(points_xy)
    eyes = eye_centres(points_xy)
    span = eyes[:, 1] - eyes[:, 0]
    ipd = np.linalg.norm(span, axis=-1)
    usable = np.isfinite(points_xy).all(axis=(1, 2)) & (ipd > 0)
    unit = np.where(usable, ipd, 1.0)
    target = np.where(usable[:, None, None], points_xy / unit[:, None, None], 0.0)
    origin = target.mean(axis=1, keepdims=True)
    target = target - origin
    rotation = Rotation.from_rotvec(
        np.stack([np.zeros(n), np.zeros(n), np.arctan2(span[:, 1], span[:, 0])], axis=1)
    ).as_matrix()
    scale = np.ones(n)
    shift = -np.einsum("nij,j->ni", rotation[:, :2], shape_xyz.mean(axis=0))
    for _ in range(rounds):
        turned = np.einsum("nij,pj->npi", rotation, shape_xyz)
        x, y, z = turned[..., 0], turned[..., 1], turned[..., 2]
        factor = scale[:, None]
        error = target - (factor[..., None] * turned[..., :2] + shift[:, None])
        jacobian = np.zeros((n, 68, 2, 6))
        jacobian[..., 1, 0] = -factor * z
        jacobian[..., 0, 1] = factor * z
        jacobian[..., 0, 2] = -factor * y
        jacobian[..., 1, 2] = factor * x
        jacobian[..., 0, 3] = x
        jacobian[..., 1, 3] = y
        jacobian[..., 0, 4] = 1.0
        jacobian[..., 1, 5] = 1.0
        weighted = (jacobian * weights[..., None]).reshape(n, 136, 6)
        normal = weighted.transpose(0, 2, 1) @ jacobian.reshape(n, 136, 6)
        right = weighted.transpose(0, 2, 1) @ error.reshape(n, 136, 1)
        step = np.linalg.solve(normal + 1e-9 * np.eye(6), right)[..., 0]
        turn = np.clip(step[:, :3], -_MAX_STEP_RAD, _MAX_STEP_RAD)
        rotation = Rotation.from_rotvec(turn).as_matrix() @ rotation
        scale = np.maximum(scale + step[:, 3], 0.05)
        shift = shift + step[:, 4:]
    rotation = np.where(usable[:, None, None], rotation, np.nan)
    return scale * unit, rotation, (shift + origin[:, 0]) * unit[:, None]


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
    here = points[:, inner] - points[:, inner].mean(axis=1, keepdims=True)
    there = mirrored[:, inner] - mirrored[:, inner].mean(axis=1, keepdims=True)
    # Best rotation in the plane, as complex numbers: the phase of the inner product.
    a, b = here[..., 0] + 1j * here[..., 1], there[..., 0] + 1j * there[..., 1]
    product = (a * b.conj()).sum(axis=1)
    phase = product / np.maximum(np.abs(product), 1e-12)
    distance = np.sqrt((np.abs(a - phase[:, None] * b) ** 2).mean(axis=1))
    return np.asarray(np.divide(distance, ipd, out=np.full(len(ipd), np.nan), where=ipd > 0))


class PoseStage(Stage):
    """Refuses faces that are turned away or tilted; roll is undone by alignment."""

    name: ClassVar[str] = "pose"
    reads: ClassVar[tuple[str, ...]] = ("landmarks_xy",)
    writes: ClassVar[tuple[str, ...]] = ("yaw_deg", "pitch_deg", "roll_deg", "asymmetry")
    reasons: ClassVar[tuple[str, ...]] = ("turned_away", "tilted")
    failures: ClassVar[tuple[str, ...]] = ("eyes_coincide",)
    needs: ClassVar[Needs] = Needs.NONE
    scope: ClassVar[Scope] = Scope.FACE
    version: ClassVar[int] = 1
    config: PoseConfig

    def process(self, rows: Sequence[Row], pixels: Pixels) -> list[Row]:
        """Measure both; the configuration's ``decide_by`` says which must pass."""
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
            row["reason"] = self.verdict(*values)
        return list(rows)

    def verdict(
        self, yaw_deg: float, pitch_deg: float, roll_deg: float, asymmetry: float
    ) -> str | None:
        """Reason for which a face with these measurements is refused, or None."""
        by_angles = self.config.decide_by in ("both", "angles")
        by_asymmetry = self.config.decide_by in ("both", "asymmetry")
        if by_angles and abs(yaw_deg) > self.config.max_yaw_deg:
            return "turned_away"
        if by_asymmetry and asymmetry > self.config.max_asymmetry:
            return "turned_away"
        if by_angles and abs(pitch_deg) > self.config.max_pitch_deg:
            return "tilted"
        return None
