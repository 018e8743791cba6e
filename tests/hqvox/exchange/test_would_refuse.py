"""The reason for which a build would have refused an imported face."""

from __future__ import annotations

from typing import Any

import pytest

from hqvox.config.file import load_config
from hqvox.exchange.measured import would_refuse
from models.store import ModelStore

GOOD: dict[str, Any] = {
    "photo_bytes": 10**9,  # of the original: no limit here
    "faces_in_photo": 1,
    "face_score": 1.0,
    "landmarks_xy": [0.0] * 136,
    "ipd_px": 100.0,
    "yaw_deg": 1.0,
    "pitch_deg": 1.0,
    "roll_deg": 0.0,
    "asymmetry": 0.01,
    "light_ratio": 1.1,
    "light_gradient": 1.0,
    "overexposed_fraction": 0.0,
    "underexposed_fraction": 0.0,
    "emotion_probabilities": [("neutral", 0.9), ("happiness", 0.1)],
    "mouth_opening": 0.0,
    "mouth_width": 0.8,
    "core_similarity": 0.97,
    "outside_fraction": 0.9,  # aligned already
    "face_coverage": 1.0,
    "edge_confidence": 0.9,
}
_POSE = dict.fromkeys(("yaw_deg", "pitch_deg", "roll_deg", "asymmetry"))
_LIGHT = dict.fromkeys(
    ("light_ratio", "light_gradient", "overexposed_fraction", "underexposed_fraction")
)
_FACE = dict.fromkeys(GOOD) | {"faces_in_photo": 0}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        (_FACE, "no_face"),
        (_FACE | {"faces_in_photo": None}, "no_face"),
        ({"ipd_px": 29.0, "yaw_deg": 40.0}, "pupils_too_close"),
        (_POSE, "eyes_coincide"),
        ({"yaw_deg": -6.0}, "turned_away"),
        ({"asymmetry": 0.07, "pitch_deg": 9.0}, "turned_away"),
        ({"pitch_deg": 18.0}, "tilted"),
        ({"pitch_deg": -12.2, "light_ratio": 2.75}, None),  # as published faces have them
        (_LIGHT, "no_skin_in_view"),
        ({"light_gradient": 15.0, "overexposed_fraction": 0.2}, "over_exposed"),
        ({"light_gradient": 15.0}, "uneven_light"),
        ({"emotion_probabilities": [("neutral", 0.1), ("happiness", 0.1)]}, "not_neutral"),
        ({"core_similarity": 0.2}, "someone_else"),
        ({"core_similarity": None}, None),  # the only face of its person
        ({"face_coverage": 0.9}, "not_segmented"),
        ({"edge_confidence": 0.4}, "not_segmented"),
    ],
)
def test_the_first_stage_that_would_refuse_gives_the_reason(
    change: dict[str, Any], reason: str | None
) -> None:
    config = load_config("emotion: {min_neutral: 0.5}\nidentity: {min_similarity: 0.5}")
    counts = would_refuse([GOOD | change], config, ModelStore())
    assert dict(counts) == ({} if reason is None else {reason: 1})
