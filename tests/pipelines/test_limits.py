"""The limits that the stages' sections declare, and the verdicts that the base class gives."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hqvox.config.build import (
    DownloadConfig,
    EmotionConfig,
    LightingConfig,
    PoseConfig,
    SegmentConfig,
)
from hqvox.config.section import Limit, StageSection
from hqvox.errors import HqvoxError
from hqvox.workspace.measures import BY_NAME, MEASURES, RESTS_ON
from pipelines.chain import STAGES, check
from pipelines.download import DownloadStage
from pipelines.emotion import EmotionStage
from pipelines.lighting import LightingStage
from pipelines.pose import PoseStage
from pipelines.segment import SegmentStage
from tests.helpers.stage_fakes import STORE
from tests.helpers.stage_rules import emotion_verdict, light_verdict, pose_verdict

_share = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0]) | st.floats(0, 1)
_angle = st.sampled_from([-9.0, -5.0, 0.0, 5.0, 9.0]) | st.floats(-30, 30)
_bound = st.sampled_from([0.0, 5.0, 9.0]) | st.floats(0, 30)


@settings(max_examples=300, deadline=None)
@given(
    st.tuples(_angle, _angle, _share),
    st.tuples(_bound, _bound, _share),
    st.sampled_from(["both", "angles", "asymmetry"]),
)
def test_pose_gives_the_reason_of_the_first_limit_that_is_broken(face, bounds, decide_by) -> None:
    names = ("max_yaw_deg", "max_pitch_deg", "max_asymmetry")
    config = PoseConfig(**dict(zip(names, bounds, strict=True)), decide_by=decide_by)
    row = dict(zip(("yaw_deg", "pitch_deg", "asymmetry"), face, strict=True))
    assert PoseStage(config, STORE).verdict(row) == pose_verdict(*face, config)


@settings(max_examples=300, deadline=None)
@given(
    st.tuples(st.floats(1, 5), st.floats(0, 30), _share, _share),
    st.tuples(st.floats(1, 5), st.floats(0, 30), _share, _share),
)
def test_lighting_looks_at_exposure_before_evenness(light, bounds) -> None:
    names = ("light_ratio", "light_gradient", "overexposed_fraction", "underexposed_fraction")
    config = LightingConfig(**{f"max_{n}": b for n, b in zip(names, bounds, strict=True)})
    row = dict(zip(names, light, strict=True))
    assert LightingStage(config, STORE).verdict(row) == light_verdict(*light, config)


@settings(max_examples=300, deadline=None)
@given(
    st.tuples(_share, _share, _share, st.floats(0, 2)),
    st.tuples(_share, _share, _share, _share, st.floats(0, 2)),
)
def test_emotion_takes_a_neutral_face_or_a_slight_smile(face, bounds) -> None:
    keys = ("min_neutral", "min_neutral_or_smile", "max_smile_happiness", "max_smile_opening")
    config = EmotionConfig(**dict(zip((*keys, "max_smile_width"), bounds, strict=True)))
    neutral, happiness, opening, width = face
    row = {
        "emotion_probabilities": [("neutral", neutral), ("happiness", happiness)],
        "mouth_opening": opening,
        "mouth_width": width,
    }
    expected = emotion_verdict(neutral, happiness, opening, width, bounds[0], config)
    assert EmotionStage(config, STORE).verdict(row) == expected


@settings(max_examples=200, deadline=None)
@given(st.tuples(_share, _share), st.tuples(_share, _share))
def test_segment_needs_the_face_covered_and_a_certain_outline(face, bounds) -> None:
    config = SegmentConfig(min_face_coverage=bounds[0], min_edge_confidence=bounds[1])
    row = {"face_coverage": face[0], "edge_confidence": face[1]}
    expected = "not_segmented" if face[0] < bounds[0] or face[1] < bounds[1] else None
    assert SegmentStage(config, STORE).verdict(row) == expected


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"photo_bytes": 5000}, None),
        ({"photo_bytes": 5001}, "too_large"),
        ({"photo_bytes": 10, "width_px": 200, "height_px": 100}, None),
        ({"photo_bytes": 10, "width_px": 201, "height_px": 100}, "too_large"),
    ],
)
def test_a_photo_is_judged_by_what_is_known_of_it_so_far(row: dict, reason: str | None) -> None:
    config = DownloadConfig(max_bytes=5000, max_pixels=20_000)
    assert DownloadStage(config, STORE).verdict(row) == reason


def test_every_limit_names_a_setting_of_its_section_and_one_direction() -> None:
    for measure in MEASURES:
        limit = measure.limit
        if limit is None:
            continue
        assert (limit.at_least is None) != (limit.at_most is None), measure.name
        section = next(s for s in STAGES if s.name == measure.stage)
        if limit.setting is not None:
            assert limit.setting.startswith("max_" if limit.upper else "min_"), measure.name
        assert limit.reason in (*section.reasons, *section.failures)
    assert BY_NAME["faces_in_photo"].setting is None
    assert RESTS_ON["no_majority"] == ("core_similarity",)


def test_a_limit_s_reason_must_be_declared_by_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = (Limit("yaw_deg", "upside_down", at_most="max_yaw_deg"),)
    monkeypatch.setattr(PoseConfig, "limits", wrong)
    with pytest.raises(HqvoxError, match="pose has a limit, but not its reason upside_down"):
        check(STAGES)


def test_a_section_without_limits_refuses_nobody() -> None:
    assert PoseStage(StageSection(), STORE).verdict({"yaw_deg": 90.0}) is None
