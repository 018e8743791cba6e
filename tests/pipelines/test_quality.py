from __future__ import annotations

import cv2
import numpy as np
import pytest

from hqvox.config.build import QualityConfig
from pipelines.quality import QualityStage, composite, sharpness
from tests.helpers.stage_fakes import STORE, MemoryPixels, face_points, face_row

GOOD = {
    "sharpness": 0.6,
    "ipd_px": 120.0,
    "yaw_deg": 1.0,
    "pitch_deg": -1.0,
    "light_ratio": 1.1,
    "overexposed_fraction": 0.0,
    "underexposed_fraction": 0.0,
    "outside_fraction": 0.0,
    "compression": 0.05,
    "edge_confidence": 0.8,
}


def textured(blur_px: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    noise = cv2.GaussianBlur(rng.normal(128, 90, (400, 400, 3)), (0, 0), 1.2)
    picture = cv2.GaussianBlur(noise, (0, 0), blur_px) if blur_px else noise
    return np.clip(picture, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("column", "worse"),
    [
        ("sharpness", 0.2),
        ("ipd_px", 31.0),
        ("yaw_deg", -5.0),
        ("pitch_deg", 5.0),
        ("light_ratio", 1.6),
        ("overexposed_fraction", 0.1),
        ("underexposed_fraction", 0.2),
        ("outside_fraction", 0.15),
        ("compression", 0.9),
        ("edge_confidence", 0.4),
    ],
)
def test_each_defect_alone_lowers_the_rank(column: str, worse: float):
    assert 0 < composite(GOOD | {column: worse}) < composite(GOOD) < 1


def test_a_good_is_never_nothing():
    assert composite(GOOD | {"sharpness": 0.0, "edge_confidence": 0.0}) > 0


def test_blur_lowers_sharpness_at_any_size():
    points = face_points()
    values = [sharpness(textured(blur), points) for blur in (0, 2, 5)]
    assert values[0] > values[1] > values[2]
    assert all(0 <= value <= 1 for value in values)
    assert sharpness(textured(0), np.zeros((68, 2))) == 0


def test_contrast_alone_changes_little():
    faint = (textured(1).astype(float) * 0.5 + 60).astype(np.uint8)
    full = sharpness(textured(1), face_points())
    assert sharpness(faint, face_points()) == pytest.approx(full, rel=0.15)


def test_the_stage_ranks_and_refuses_nobody():
    pixels = MemoryPixels(textured(0))
    pixels.crops = {0: textured(0), 1: textured(6)}
    rows = [
        face_row(candidate=i) | GOOD | {"transform": [1.0, 0, 0, 0, 1, 0], "crop_side_px": 400}
        for i in range(2)
    ]
    sharp, blurred = QualityStage(QualityConfig(), STORE).process(rows, pixels)
    assert sharp["quality"] > blurred["quality"]
    assert sharp["reason"] is blurred["reason"] is None
    assert QualityStage.reasons == ()
