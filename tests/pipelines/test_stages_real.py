"""The stages with their default networks on a few real photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hqvox.config.build import (
    AlignConfig,
    IdentityConfig,
    LandmarksConfig,
    LightingConfig,
    PoseConfig,
)
from hqvox.imaging.codec import decode
from models.geometry import ALIGNED_LEFT_EYE, ALIGNED_RIGHT_EYE, eye_centres
from pipelines.align import AlignStage
from pipelines.identity import IdentityStage
from pipelines.landmarks import LandmarksStage
from pipelines.lighting import LightingStage
from pipelines.pose import PoseStage
from tests.helpers.stage_fakes import STORE, MemoryPixels

PHOTOS = (
    "Angelina_Jolie/02.jpg",
    "Angelina_Jolie/05.jpg",
    "Angelina_Jolie/10.jpg",
    "Katy_Perry/45.jpg",
)


@pytest.fixture(scope="module")
def found(real_data_dir: Path) -> tuple[list[dict], MemoryPixels, LandmarksStage]:
    photos = [decode((real_data_dir / "celebrities" / name).read_bytes(), 800) for name in PHOTOS]
    rows = [
        {
            "identity_id": "id1",
            "candidate": i,
            "face": None,
            "photo_id": str(i),
            "width_px": photo.shape[1],
            "height_px": photo.shape[0],
            "reason": None,
        }
        for i, photo in enumerate(photos)
    ]
    pixels = MemoryPixels(dict(enumerate(photos)))
    stage = LandmarksStage(LandmarksConfig(), STORE)
    stage.load()
    return stage.process(rows, pixels), pixels, stage


@pytest.mark.real_data
def test_eyes_found_anew_on_the_crop_are_where_they_belong(found, real_data_dir: Path):
    rows, pixels, stage = found
    assert [row["face"] for row in rows] == [0] * len(PHOTOS)
    rows = AlignStage(AlignConfig(), STORE).process([dict(row) for row in rows], pixels)
    target = np.array([ALIGNED_LEFT_EYE, ALIGNED_RIGHT_EYE])
    for row in rows:
        crop = pixels.crops[row["candidate"]]
        (faces,) = stage.landmarker([crop])
        eyes = (eye_centres(faces.landmarks_xy[0]) + 0.5) / len(crop)
        assert np.linalg.norm(eyes - target, axis=1).max() < 0.015


@pytest.mark.real_data
def test_the_stranger_is_refused(found, real_data_dir: Path):
    rows, pixels, _ = found
    stage = IdentityStage(IdentityConfig(), STORE)
    stage.load()
    rows = stage.process([dict(row) for row in rows], pixels)
    stage.compare(rows)
    assert [row["reason"] for row in rows] == [None, None, None, "someone_else"]


@pytest.mark.real_data
def test_studio_light_is_even_and_people_who_look_into_the_camera_are_not_turned(
    found, real_data_dir: Path
):
    rows, pixels, _ = found
    rows = LightingStage(LightingConfig(), STORE).process([dict(row) for row in rows], pixels)
    rows = PoseStage(PoseConfig(), STORE).process(rows, pixels)
    for row in rows:
        assert row["light_ratio"] < 2
        assert row["underexposed_fraction"] < 0.2
        assert abs(row["yaw_deg"]) < 10
        assert abs(row["pitch_deg"]) < 10
