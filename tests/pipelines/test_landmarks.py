from __future__ import annotations

import numpy as np
import pytest

from hqvox.config.build import LandmarksConfig
from pipelines.landmarks import LandmarksStage
from tests.helpers.stage_fakes import (
    STORE,
    FakeLandmarker,
    MemoryPixels,
    face_points,
    face_row,
    plain_photo,
)


def stage_with(*faces: np.ndarray) -> LandmarksStage:
    stage = LandmarksStage(LandmarksConfig(), STORE)
    stage.landmarker = FakeLandmarker(*faces)
    return stage


def photo_row(candidate: int) -> dict:
    row = face_row(candidate=candidate)
    return {k: row[k] for k in ("identity_id", "candidate", "photo_id")} | {
        "face": None,
        "reason": None,
    }


def test_every_face_becomes_a_row_and_photos_go_to_the_network_at_once():
    stage = stage_with(face_points(100), face_points(300))
    pixels = MemoryPixels({0: plain_photo(), 1: None, 2: plain_photo()})
    rows = stage.process([photo_row(i) for i in range(3)], pixels)
    assert [(r["candidate"], r["face"], r["reason"]) for r in rows] == [
        (0, 0, None),
        (0, 1, None),
        (1, None, "undecodable"),
        (2, 0, None),
        (2, 1, None),
    ]
    assert stage.landmarker.calls == [2]
    assert rows[0]["faces_in_photo"] == 2
    assert rows[0]["other_boxes_xyxy"] == pytest.approx(rows[1]["box_xyxy"])
    assert all(name in row for row in rows for name in stage.writes)


def test_a_photo_without_a_face_keeps_its_row():
    (row,) = stage_with().process([photo_row(7)], MemoryPixels(plain_photo()))
    assert (row["face"], row["reason"], row["faces_in_photo"]) == (None, "no_face", 0)
    assert row["landmarks_xy"] is None


def test_coordinates_come_back_to_the_upright_photo():
    """A pixel centre at 0 in a picture of half the size lies at 0.5 in the photo."""
    stage = stage_with(np.zeros((68, 2)))
    (row,) = stage.process([photo_row(0)], MemoryPixels(plain_photo(), scale=0.5))
    assert row["landmarks_xy"] == pytest.approx([0.5] * 136)
    assert row["box_xyxy"] == pytest.approx([0.5] * 4)


def test_networks_follow_the_configuration():
    assert LandmarksStage(LandmarksConfig(), STORE).networks == ("dlib_68",)
    fan = LandmarksConfig(network="fan", detector="blazeface")
    assert "blazeface" in LandmarksStage(fan, STORE).networks
    assert "s3fd" in LandmarksStage(LandmarksConfig(network="fan"), STORE).networks
