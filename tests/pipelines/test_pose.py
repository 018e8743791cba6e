from __future__ import annotations

import runpy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from hqvox.config.build import PoseConfig
from hqvox.phantom.samples import write_samples
from models.geometry import MIRRORED
from models.protocols import Faces, Photo
from models.training.phantoms import read_phantoms
from pipelines.face_model.face_shape import MEAN_FACE
from pipelines.face_model.fit_face_shape import factorise, level, main, poses, refine, symmetric
from pipelines.face_model.fit_landmark_errors import (
    covariance,
    of_people,
    of_phantoms,
    write_errors,
)
from pipelines.face_model.mirror import from_triangles
from pipelines.pose import COVARIANCE_UNIT, PoseStage, angles_of, asymmetry, fit_pose
from tests.helpers.stage_fakes import STORE, MemoryPixels, face_points, face_row, plain_photo

POSES = [(0, 0, 0), (20, 0, 0), (0, 20, 0), (0, 0, 30), (-15, 10, -20), (25, -20, 40)]


@pytest.mark.parametrize("pose", POSES)
def test_angles_of_a_known_pose_are_found(pose: tuple[float, float, float]):
    yaw, pitch, roll = pose
    points = face_points(yaw_deg=yaw, pitch_deg=pitch, roll_deg=roll)
    found = np.array(fit_pose(points[None]))[:, 0]
    np.testing.assert_allclose(found, pose, atol=0.05)


def test_signs_are_those_of_the_tables():
    """Turned to the image's right the nose moves right; looking up it moves up."""
    nose, eyes = 30, slice(36, 48)
    right = face_points(yaw_deg=20)
    assert right[nose, 0] > right[eyes, 0].mean()
    assert fit_pose(right[None])[0][0] > 0
    up, down = face_points(pitch_deg=20), face_points(pitch_deg=-20)
    assert up[nose, 1] < down[nose, 1]
    clockwise = face_points(roll_deg=20)
    assert clockwise[45, 1] > clockwise[36, 1]  # the eye on the right sinks


def test_a_batch_gives_what_single_faces_give_and_noise_moves_it_little():
    rng = np.random.default_rng(0)
    points = np.array([face_points(yaw_deg=y, pitch_deg=p, roll_deg=r) for y, p, r in POSES])
    points += rng.normal(0, 0.8, points.shape)  # 1 % of the eye distance
    together = np.array(fit_pose(points)).T
    alone = np.array([np.array(fit_pose(face[None]))[:, 0] for face in points])
    np.testing.assert_allclose(together, alone, atol=1e-9)
    np.testing.assert_allclose(together, POSES, atol=2)


def test_asymmetry_sees_turns_but_not_tilt_or_roll():
    def of(**pose: float) -> float:
        return float(asymmetry(face_points(**pose)[None])[0])

    assert of() < 1e-3
    assert of(pitch_deg=20) < 1e-3
    assert of(roll_deg=25) < 1e-3
    assert of(yaw_deg=4) < of(yaw_deg=8) < of(yaw_deg=16)
    assert of(yaw_deg=-8) == pytest.approx(of(yaw_deg=8), rel=0.01)
    assert of(yaw_deg=8, ipd_px=40) == pytest.approx(of(yaw_deg=8, ipd_px=160))


@pytest.mark.parametrize(
    ("pose", "decide_by", "reason"),
    [
        ({}, "both", None),
        ({"yaw_deg": 4.5}, "both", None),
        ({"yaw_deg": 6}, "angles", "turned_away"),
        ({"yaw_deg": -6}, "angles", "turned_away"),
        ({"yaw_deg": 15}, "asymmetry", "turned_away"),
        ({"pitch_deg": 4.5}, "both", None),
        ({"pitch_deg": 6}, "both", "tilted"),
        ({"pitch_deg": -6}, "both", "tilted"),
        ({"pitch_deg": 20}, "asymmetry", None),
        ({"roll_deg": 40}, "both", None),
    ],
)
def test_reasons(pose: dict[str, float], decide_by: str, reason: str | None):
    stage = PoseStage(PoseConfig(decide_by=decide_by), STORE)
    (row,) = stage.process([face_row(face_points(**pose))], MemoryPixels(plain_photo()))
    assert row["reason"] == reason


def test_asymmetry_alone_refuses_where_both_must_pass():
    stage = PoseStage(PoseConfig(max_asymmetry=0.01), STORE)
    (row,) = stage.process([face_row(face_points(yaw_deg=3))], MemoryPixels(plain_photo()))
    assert abs(row["yaw_deg"]) < 5
    assert row["reason"] == "turned_away"


def test_coinciding_eyes_are_a_failure_and_leave_the_others_alone():
    flat = np.full((68, 2), 7.0)
    stage = PoseStage(PoseConfig(), STORE)
    rows = stage.process([face_row(flat), face_row(candidate=1)], MemoryPixels(plain_photo()))
    assert [row["reason"] for row in rows] == ["eyes_coincide", None]
    assert rows[0]["yaw_deg"] is None
    assert "eyes_coincide" in stage.failures
    assert stage.process([], MemoryPixels(plain_photo())) == []


def test_mean_face_is_a_face():
    np.testing.assert_allclose(MEAN_FACE[MIRRORED] * [-1, 1, 1], MEAN_FACE, atol=2e-4)
    assert MEAN_FACE[30, 2] > MEAN_FACE[27, 2] > MEAN_FACE[36, 2] > MEAN_FACE[0, 2]
    assert MEAN_FACE[8, 1] > MEAN_FACE[57, 1] > MEAN_FACE[33, 1] > MEAN_FACE[19, 1]


def test_the_shape_is_recovered_from_its_pictures():
    """Structure from motion gives back the face that made the points, pitch zero at the median."""
    rng = np.random.default_rng(1)
    angles = rng.normal(0, [15, 8, 6], (300, 3))
    points = np.array(
        [face_points(0, 0, 1, yaw_deg=y, pitch_deg=p, roll_deg=r) for y, p, r in angles]
    )
    points += rng.normal(0, 0.005, points.shape)
    points[:100, 6:11] = np.nan  # the chin is not in view
    shape = refine(points, symmetric(factorise(points)))
    np.testing.assert_allclose(level(shape, poses(points, shape)), MEAN_FACE, atol=0.06)


def test_what_moves_by_itself_counts_little():
    """The covariance learned from samples is what tells a moving jaw from a nodding head."""
    rng = np.random.default_rng(2)
    jaw = list(range(4, 13)) + list(range(55, 60)) + list(range(65, 68))
    points = np.array([face_points(0, 0, 1, pitch_deg=p) for p in rng.normal(0, 8, 200)])
    points[:, jaw, 1] += rng.normal(0, 0.1, (200, 1))
    points += rng.normal(0, 0.005, points.shape)
    points[:100, 6:11] = np.nan  # the chin is not in view
    errors = of_people(points, MEAN_FACE) + 0.005**2 * np.eye(136)
    assert errors[2 * 57 + 1, 2 * 57 + 1] == pytest.approx(0.01, rel=0.3)
    assert errors[2 * 57 + 1, 2 * 66 + 1] == pytest.approx(0.01, rel=0.3)
    assert errors[2 * 30 + 1, 2 * 30 + 1] < 0.001
    down = face_points(0, 0, 1, pitch_deg=-10)
    down[jaw, 1] += 0.15
    both = np.array([down, down])
    both[1, :17] = np.nan
    alike = angles_of(poses(both, MEAN_FACE, np.eye(136)))[1]
    learned = angles_of(poses(both, MEAN_FACE, errors))[1]
    assert abs(alike[0] + 10) > 1
    np.testing.assert_allclose(learned, -10, atol=0.5)


def test_errors_are_written_as_they_are_read(tmp_path: Path):
    rng = np.random.default_rng(3)
    faces = rng.normal(0, 0.1, (200, 68, 2))
    total = covariance(faces, np.ones((200, 68), dtype=bool))
    mirrored = covariance(faces[:, MIRRORED] * [-1, 1], np.ones((200, 68), dtype=bool))
    np.testing.assert_allclose(total, mirrored, atol=1e-12)
    write_errors(tmp_path / "errors.py", total, 200, 6)
    module = runpy.run_path(str(tmp_path / "errors.py"))
    again = COVARIANCE_UNIT * from_triangles(module["SAME"], module["OPPOSITE"])
    np.testing.assert_allclose(again, total, atol=COVARIANCE_UNIT)


def test_errors_of_phantoms_are_what_misses_their_true_angles(tmp_path: Path):
    """A landmarker that knows the answers errs less than one that gives the average face."""
    write_samples("landmarks", tmp_path, 6, 7001)
    phantoms = list(read_phantoms(tmp_path, "landmarks"))

    class Oracle:
        name = "oracle"

        def __init__(self, lazy: bool) -> None:
            self.lazy = lazy
            self.truths = iter(sample.landmarks_xy for sample in phantoms)

        def __call__(self, photos: Sequence[Photo]) -> list[Faces]:
            points = (face_points() if self.lazy else next(self.truths))[None].astype(np.float32)
            return [Faces(np.zeros((1, 4), np.float32), np.ones(1, np.float32), points)]

    exact, lazy = (of_phantoms(Oracle(lazy), MEAN_FACE, phantoms) for lazy in (False, True))
    assert exact.shape == (136, 136)
    assert np.trace(exact[34:, 34:]) < 0.5 * np.trace(lazy[34:, 34:])


def test_fitting_needs_enough_faces(tmp_path: Path, capsys, monkeypatch):
    photos, phantoms = tmp_path / "photos", tmp_path / "phantoms"
    photos.mkdir()
    monkeypatch.setattr("sys.argv", ["fit_face_shape", str(photos), "--phantoms", str(phantoms)])
    with pytest.raises(SystemExit):
        main()
    assert "python -m hqvox.phantom.samples landmarks" in capsys.readouterr().err
    write_samples("landmarks", phantoms, 1, 0)
    with pytest.raises(SystemExit):
        main()
    assert "0 faces found" in capsys.readouterr().err
