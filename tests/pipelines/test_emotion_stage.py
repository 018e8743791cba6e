from __future__ import annotations

import numpy as np
import pytest

from hqvox.config.build import EmotionConfig
from pipelines.emotion import EmotionStage, mouth_opening, mouth_width
from tests.helpers.stage_fakes import (
    STORE,
    FakeClassifier,
    MemoryPixels,
    face_points,
    face_row,
    plain_photo,
)


def with_mouth(opening: float, wide: float) -> np.ndarray:
    points = face_points()
    points[48, 0], points[54, 0] = 200 - 40 * wide, 200 + 40 * wide  # the eyes are 80 px apart
    points[[48, 54], 1] = 270
    width = np.linalg.norm(points[54] - points[48])
    points[[61, 62, 63], 1] = 260.0
    points[[67, 66, 65], 1] = 260.0 + opening * width
    points[[67, 66, 65], 0] = points[[61, 62, 63], 0]
    return points


def run(
    probabilities: tuple[float, float, float],
    opening: float = 0.0,
    wide: float = 0.85,
    **config: float,
):
    stage = EmotionStage(EmotionConfig(**config), STORE)
    stage.classifier = FakeClassifier(probabilities)
    return stage.process([face_row(with_mouth(opening, wide))], MemoryPixels(plain_photo()))[0]


@pytest.mark.parametrize(
    ("probabilities", "opening", "wide", "reason"),
    [
        ((0.60, 0.10, 0.30), 0.0, 0.85, None),  # the network's own threshold
        ((0.60, 0.40, 0.00), 0.3, 1.1, None),  # neutral to the network: the mouth may be as it is
        ((0.59, 0.10, 0.31), 0.0, 0.85, "not_neutral"),
        ((0.15, 0.80, 0.05), 0.0, 0.85, None),  # a slight smile
        ((0.15, 0.80, 0.05), 0.2, 0.85, "not_neutral"),  # with teeth
        ((0.15, 0.80, 0.05), 0.0, 1.0, "not_neutral"),  # drawn wide
        ((0.01, 0.98, 0.01), 0.0, 0.85, "not_neutral"),  # nothing but happiness
        ((0.40, 0.40, 0.20), 0.0, 0.85, "not_neutral"),  # and something else besides
    ],
)
def test_neutral_and_slight_smiles_pass(probabilities, opening, wide, reason):
    row = run(probabilities, opening, wide)
    assert row["reason"] == reason
    assert row["mouth_opening"] == pytest.approx(opening, abs=1e-9)
    assert row["mouth_width"] == pytest.approx(wide, rel=1e-3)


def test_the_configured_threshold_goes_before_the_networks():
    assert run((0.59, 0.1, 0.31), min_neutral=0.5)["reason"] is None
    assert run((0.60, 0.1, 0.30), min_neutral=0.7)["reason"] == "not_neutral"


def test_all_probabilities_are_kept_and_the_largest_is_named():
    row = run((0.2, 0.7, 0.1))
    assert row["emotion"] == "happiness"
    assert dict(row["emotion_probabilities"]) == pytest.approx(
        {"neutral": 0.2, "happiness": 0.7, "other": 0.1}
    )


def test_the_network_is_shown_working_pixels_and_the_whole_batch():
    stage = EmotionStage(EmotionConfig(), STORE)
    stage.classifier = FakeClassifier((1, 0, 0), (0, 0, 1))
    rows = [face_row(), face_row(candidate=1)]
    rows = stage.process(rows, MemoryPixels(plain_photo(), scale=0.5))
    assert [row["reason"] for row in rows] == [None, "not_neutral"]
    expected = (face_points() + 0.5) * 0.5 - 0.5
    np.testing.assert_allclose(stage.classifier.cropped[0], expected, atol=1e-3)
    assert stage.process([], MemoryPixels(plain_photo())) == []


def test_networks_follow_the_configuration():
    stage = EmotionStage(EmotionConfig(network="mini_xception_fer2013"), STORE)
    assert stage.networks == ("mini_xception_fer2013",)


def test_a_mouth_without_width_is_closed():
    assert mouth_opening(np.zeros((68, 2))) == 0
    assert mouth_width(np.zeros((68, 2))) == 0
