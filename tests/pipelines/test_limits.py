"""The limits that the stages' sections declare, and the verdicts that the base class gives."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from hqvox.config.build import (
    STAGE_SECTIONS,
    DownloadConfig,
    EmotionConfig,
    LightingConfig,
    PoseConfig,
    SegmentConfig,
)
from hqvox.config.file import load_config
from hqvox.config.section import Limit, StageSection
from hqvox.errors import HqvoxError
from hqvox.workspace.measures import (
    BY_NAME,
    MEASURES,
    RESTS_ON,
    section_bounds,
    value_of,
    values_of,
)
from hqvox.workspace.tables import TABLES
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
@given(_angle, _angle, st.sampled_from([0.0, 5.0, 9.0]) | st.floats(0, 40))
def test_the_paper_s_angle_is_between_the_planes(yaw_deg, pitch_deg, bound) -> None:
    """Of the normal of a face turned by yaw and pitch, to the camera's axis."""
    normal = Rotation.from_euler("yx", [yaw_deg, pitch_deg], degrees=True).apply([0, 0, 1])
    angle = np.degrees(np.arctan2(np.hypot(normal[0], normal[1]), normal[2]))
    config = PoseConfig(decide_by="plane", max_plane_deg=bound, max_yaw_deg=0, max_pitch_deg=0)
    row = {"yaw_deg": yaw_deg, "pitch_deg": pitch_deg, "asymmetry": 1.0}
    assert value_of(row, "plane_deg") == pytest.approx(angle, abs=1e-5)
    if abs(angle - bound) > 1e-4:
        expected = "turned_away" if angle > bound else None
        assert PoseStage(config, STORE).verdict(row) == expected


def test_5_degrees_each_way_are_more_than_5_between_the_planes() -> None:
    row = {"yaw_deg": 4.0, "pitch_deg": -4.0, "asymmetry": 0.0}
    assert PoseStage(PoseConfig(), STORE).verdict(row) is None
    assert PoseStage(PoseConfig(decide_by="plane"), STORE).verdict(row) == "turned_away"


_EXPRESSIONS = ("angry", "happiness", "neutral", "sadness")


@settings(max_examples=200, deadline=None)
@given(st.tuples(*[st.integers(0, 20)] * 4).filter(any))
def test_the_exact_recipe_takes_whose_most_probable_expression_is_neutral(weights) -> None:
    config = load_config("recipe: paper-exact").emotion
    shares = [weight / sum(weights) for weight in weights]
    row = {
        "emotion_probabilities": list(zip(_EXPRESSIONS, shares, strict=True)),
        "mouth_opening": 0.0,
        "mouth_width": 0.5,
    }
    neutral = weights[_EXPRESSIONS.index("neutral")] == max(weights)
    assert EmotionStage(config, STORE).verdict(row) == (None if neutral else "not_neutral")


def test_measures_of_a_table_are_those_of_its_rows() -> None:
    rows = [
        {
            "yaw_deg": 3.0,
            "pitch_deg": -4.0,
            "emotion_probabilities": [("neutral", 0.5), ("happiness", 0.375), ("sadness", 0.125)],
        },
        {
            "yaw_deg": 0.0,
            "pitch_deg": 0.0,
            "emotion_probabilities": [("neutral", 0.25), ("happiness", 0.25), ("anger", 0.5)],
        },
        {"yaw_deg": None, "pitch_deg": None, "emotion_probabilities": None},
    ]
    for stage, name in (("pose", "plane_deg"), ("emotion", "neutral_lead")):
        columns = {c: v.type for c, v in TABLES[stage].items() if c in rows[0]}
        schema = pa.schema(list(columns.items()))
        table = pa.Table.from_pylist([{c: row[c] for c in columns} for row in rows], schema)
        values = values_of(table, name).to_pylist()
        assert values == [
            None if (value := value_of(row, name)) is None else pytest.approx(value) for row in rows
        ]
        assert len(values_of(table[:0], name)) == 0
    assert value_of(rows[0], "neutral_lead") == 0.125
    assert value_of(rows[1], "neutral_lead") == -0.25


def test_a_bound_that_does_not_apply_is_no_part_of_a_fingerprint() -> None:
    """So that what was built before the setting was there is not stale."""
    assert "max_plane_deg" not in PoseStage(PoseConfig(), STORE).settings()
    planes = PoseStage(PoseConfig(decide_by="plane"), STORE).settings()
    assert planes["max_plane_deg"] == 5.0
    assert "max_yaw_deg" not in planes
    assert "min_neutral_lead" not in EmotionStage(EmotionConfig(), STORE).settings()
    lead = EmotionStage(EmotionConfig(min_neutral_lead=0.0), STORE).settings()
    assert lead["min_neutral_lead"] == 0.0


def test_the_exact_recipe_refuses_only_what_the_paper_refuses() -> None:
    config = load_config("recipe: paper-exact")
    sections = {name: getattr(config, name) for name in STAGE_SECTIONS}
    refusing = {name for name, section in sections.items() if section.enabled and section.limits}
    # `download`: files and pictures too large to open. `landmarks`: no face.
    assert refusing == {"download", "landmarks", "pupils", "pose", "emotion"}
    assert not any(sections[name].enabled for name in ("duplicates", "identity", "segment"))
    assert config.release.min_mask_certainty == 0, "nor does an automatic release"
    assert section_bounds(config.pupils, lambda _: None) == {"ipd_px": 30}
    assert section_bounds(config.pose, lambda _: None) == {"plane_deg": 5}
    named = load_config("recipe: paper")
    for stage in ("landmarks", "emotion", "segment"):
        assert getattr(config, stage).network == getattr(named, stage).network


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
