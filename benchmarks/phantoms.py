"""Accuracy of the stages on phantoms, whose ground truth is known.

    python benchmarks/phantoms.py                 500 phantoms within ±30°, dlib68
    python benchmarks/phantoms.py --n 100 --landmarks fan

Yaw and pitch are uniform within ±30°, roll within ±10°. Half of the phantoms face the camera within
3°, so that both error rates have enough faces; they count for the kept share only. The covariance
of landmarks was estimated on other phantoms (``hqvox/phantom/samples.py landmarks``); do not use
their seed here.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import models.landmarks
from hqvox.config.build import PoseConfig
from hqvox.phantom.faces import FaceIdentity, PhantomPhoto, Pose, Scene, render_face
from hqvox.phantom.scenery import BACKDROPS
from models.geometry import eye_centres
from models.protocols import FaceLandmarker
from models.store import ModelStore
from pipelines.pose import PoseStage, asymmetry, fit_pose

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """What was found on each phantom, n of them; points (n, 68, 2), NaN where no face was found."""

    truth_yaw_deg: Floats
    truth_pitch_deg: Floats
    truth_points: Floats
    truth_ipd_px: Floats
    points: Floats


def measure(n: int, limit_deg: float, seed: int, landmarker: FaceLandmarker) -> Measured:
    """Render ``n`` phantoms with yaw and pitch within ``limit_deg`` and find their landmarks."""
    photos: list[PhantomPhoto] = []
    points = np.full((n, 68, 2), np.nan)
    for i in range(n):
        rng = np.random.default_rng([seed, i])
        photo = render_face(FaceIdentity.sample(rng), draw_scene(limit_deg, rng), rng)
        faces = landmarker([photo.image])[0]
        if len(faces):
            centre = photo.truth.landmarks_xy.mean(axis=0)
            found = faces.landmarks_xy.mean(axis=1) - centre
            points[i] = faces.landmarks_xy[int(np.hypot(*found.T).argmin())]
        photos.append(photo)
    truth = [photo.truth for photo in photos]
    return Measured(
        np.array([t.yaw_deg for t in truth]),
        np.array([t.pitch_deg for t in truth]),
        np.array([t.landmarks_xy for t in truth]),
        np.array([t.ipd_px for t in truth]),
        points,
    )


def draw_scene(limit_deg: float, rng: np.random.Generator) -> Scene:
    """Draw a neutral phantom's scene with yaw and pitch within ``limit_deg``."""
    pose = Pose(
        yaw_deg=float(rng.uniform(-limit_deg, limit_deg)),
        pitch_deg=float(rng.uniform(-limit_deg, limit_deg)),
        roll_deg=float(rng.uniform(-10, 10)),
        ipd_px=float(rng.uniform(55, 80)),
    )
    return Scene(pose=pose, backdrop=str(rng.choice(BACKDROPS)), jpeg_quality=90)


def kept(measured: Measured) -> NDArray[np.bool_]:
    """Whether the pose stage keeps each phantom in its default configuration, (n,)."""
    stage = PoseStage(PoseConfig(), ModelStore(offline=True))
    found = np.isfinite(measured.points[:, 0, 0])
    out = np.zeros(len(found), dtype=bool)
    points = measured.points[found]
    values = np.stack([*fit_pose(points), asymmetry(points)], axis=1)
    out[found] = [
        stage.verdict(dict(zip(stage.writes, row, strict=True))) is None for row in values.tolist()
    ]
    return out


def report(wide: Measured, frontal: Measured) -> Table:
    """Lay the figures out beside what is asked of them."""
    table = Table("measure", "phantoms", "asked")
    found = np.isfinite(wide.points[:, 0, 0])
    yaw, pitch, _ = fit_pose(wide.points[found])
    yaw_error = np.abs(yaw - wide.truth_yaw_deg[found])
    pitch_error = np.abs(pitch - wide.truth_pitch_deg[found])
    eyes = eye_centres(wide.points[found])
    ipd = np.hypot(*(eyes[:, 1] - eyes[:, 0]).T)
    ipd_error = np.abs(ipd / wide.truth_ipd_px[found] - 1)
    miss = np.linalg.norm(wide.points[found] - wide.truth_points[found], axis=2)
    miss /= wide.truth_ipd_px[found][:, None]
    angle = np.maximum(np.abs(wide.truth_yaw_deg), np.abs(wide.truth_pitch_deg))
    refused = ~kept(wide)
    table.add_row("face found", f"{found.mean():.1%} of {len(found)}", "")
    table.add_row("yaw error, median", f"{np.median(yaw_error):.2f}°", "≤ 2°")
    table.add_row("pitch error, median", f"{np.median(pitch_error):.2f}°", "≤ 2°")
    off = pitch - wide.truth_pitch_deg[found]
    tilt = wide.truth_pitch_deg[found]
    for name, of in (("down", tilt < -20), ("up", tilt > 20)):
        if of.any():
            table.add_row(f"… mean, signed, more than 20° {name}", f"{off[of].mean():+.1f}°", "")
    table.add_row("pupil distance error, median", f"{np.median(ipd_error):.1%}", "≤ 3 %")
    table.add_row("landmark error / pupil distance, median", f"{np.median(miss):.1%}", "≤ 5 %")
    table.add_row("… mean", f"{miss.mean():.1%}", "")
    table.add_row("… mean without the jaw line", f"{miss[:, 17:].mean():.1%}", "")
    far = angle > 8
    share = f"{refused[far].mean():.1%} of {far.sum()}"
    table.add_row("refused, of those beyond 8°", share, "≥ 95 %")
    near = kept(frontal)
    table.add_row("kept, of those within 3°", f"{near.mean():.1%} of {len(near)}", "≥ 90 %")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=500, help="phantoms to render, at least 4")
    parser.add_argument("--landmarks", default="dlib68", help="landmark network")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    landmarker = models.landmarks.load(arguments.landmarks, ModelStore())
    half = max(2, arguments.n // 2)
    wide = measure(half, 30.0, arguments.seed, landmarker)
    frontal = measure(half, 3.0, arguments.seed + 1, landmarker)
    Console().print(report(wide, frontal))


if __name__ == "__main__":
    main()
