"""Limits looked over: who changes sides, what it does to the candidates, and the line to write."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from annotator.limits import what_if
from annotator.limits.explore import (
    STAGES,
    Verdicts,
    built_stages,
    histogram,
    in_range,
    page_of,
    read_verdicts,
    span,
    stamp,
)
from annotator.limits.verdict_pictures import (
    Pictures,
    Place,
    VerdictPicture,
    gallery_html,
    place_of,
)
from hqvox.config.build import BuildConfig
from hqvox.config.file import load_config, parse_settings
from hqvox.errors import HqvoxError
from hqvox.workspace.identities import to_table
from hqvox.workspace.layout import Workspace
from hqvox.workspace.measures import BY_NAME, MEASURES, all_bounds, value_of
from models.store import ModelStore
from pipelines.chain import COLUMNS_OF, STAGE_NAMES
from pipelines.face_model.face_shape import MEAN_FACE
from pipelines.pose import PoseStage
from tests.helpers.stage_rules import emotion_verdict, light_verdict, pose_verdict
from tests.helpers.synthetic_build import FATES, KEPT, make_build

SETTINGS = {m.name: m.setting for m in MEASURES if m.setting is not None}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    folder = tmp_path_factory.mktemp("explore")
    return make_build(folder / "work", folder / "photos")


def test_stages_are_the_pipeline_s() -> None:
    assert STAGES == STAGE_NAMES


def _with_limit(name: str) -> BuildConfig:
    """A configuration with which the limit of a measure applies and is known."""
    given = {
        "emotion": {"min_neutral": 0.5, "min_neutral_lead": 0.25},
        "identity": {"min_similarity": 0.5},
        "pose": {"decide_by": "plane"} if name == "plane_deg" else {},
    }
    return load_config(yaml.safe_dump(given))


def test_every_setting_is_a_limit_of_the_configuration() -> None:
    for name, setting in SETTINGS.items():
        config = _with_limit(name)
        found = all_bounds(config, ModelStore())
        section, key = setting.split(".")
        assert section == BY_NAME[name].stage
        assert found[name] == getattr(getattr(config, section), key), name


def test_verdicts_are_the_tables(workspace: Workspace) -> None:
    assert built_stages(workspace) == list(STAGES)
    counted: Counter[str | None] = Counter()
    for stage in STAGES:
        verdicts = read_verdicts(workspace, stage)
        table = [
            row
            for shard in workspace.shards()
            for row in workspace.read_stage(
                stage, shard, [*COLUMNS_OF[stage], "reason"]
            ).to_pylist()
        ]
        assert len(verdicts) == len(table)
        assert verdicts.shards_read == len(workspace.shards())
        expected = Counter(row["reason"] for row in table)
        assert {k: n for k, n in verdicts.counts().items() if n} == dict(expected)
        counted += verdicts.counts()
        for i, row in enumerate(table):
            place = place_of(verdicts, i)
            face = -1 if row["face"] is None else row["face"]
            assert place == Place(place.shard, row["identity_id"], row["candidate"], face)
            for name, values in verdicts.values.items():
                stored = value_of(row, name)
                assert (
                    stored == pytest.approx(values[i])
                    if stored is not None
                    else (np.isnan(values[i]))
                )
        assert list(verdicts.values) == [m.name for m in MEASURES if m.stage == stage]
    assert counted["turned_away"] == 2  # two of the four identities have 14 photos


def test_a_stage_that_was_not_built_has_no_rows(tmp_path: Path) -> None:
    workspace = Workspace.create(tmp_path, "{}", to_table([_person()]))
    verdicts = read_verdicts(workspace, "pose")
    assert (len(verdicts), verdicts.counts(), verdicts.shards_read) == (0, {None: 0}, 0)
    assert (built_stages(workspace), stamp(workspace, "pose")) == ([], ())


def test_the_stamp_changes_with_a_table(workspace: Workspace, tmp_path: Path) -> None:
    other = make_build(tmp_path / "work", tmp_path / "photos", names=["One"])
    before = stamp(other, "pose")
    (shard,) = other.shards()
    table = other.read_stage("pose", shard)
    assert stamp(other, "pose") == before
    other.write_stage("pose", shard, table.slice(1), {"parts": {}})
    assert stamp(other, "pose") != before


# The rules -----------------------------------------------------------------------------------


def _verdicts(stage: str, **columns: list[float]) -> Verdicts:
    count = len(next(iter(columns.values())))
    return Verdicts(
        stage=stage,
        identity_ids=("a",),
        names=("A",),
        shards=("00000",),
        identity=np.zeros(count, np.int32),
        candidate=np.arange(count, dtype=np.int32),
        face=np.zeros(count, np.int16),
        reasons=(),
        reason=np.full(count, -1, np.int16),
        values={name: np.asarray(values, np.float64) for name, values in columns.items()},
        built_with={},
        sections=1,
        shards_read=1,
    )


_angle = st.floats(-30, 30)
_share = st.floats(0, 1)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(_angle, _angle, st.floats(0, 0.3)), min_size=1, max_size=8),
    st.tuples(st.floats(0, 30), st.floats(0, 30), st.floats(0, 0.3)),
    st.sampled_from(["both", "angles", "asymmetry"]),
)
def test_pose_s_rule_is_the_stage_s(rows, bounds, decide_by) -> None:
    yaw, pitch, asymmetry = bounds
    config = BuildConfig.model_validate(
        {
            "pose": {
                "max_yaw_deg": yaw,
                "max_pitch_deg": pitch,
                "max_asymmetry": asymmetry,
                "decide_by": decide_by,
            }
        }
    )
    columns = dict(zip(("yaw_deg", "pitch_deg", "asymmetry"), zip(*rows, strict=True), strict=True))
    found = what_if.keeps(_verdicts("pose", **columns), _limits("pose", config))
    assert found.tolist() == [pose_verdict(*row, config.pose) is None for row in rows]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.floats(1, 5), st.floats(0, 30), _share, _share), min_size=1, max_size=8),
    st.tuples(st.floats(1, 5), st.floats(0, 30), _share, _share),
)
def test_lighting_s_rule_is_the_stage_s(rows, bounds) -> None:
    names = ("light_ratio", "light_gradient", "overexposed_fraction", "underexposed_fraction")
    config = BuildConfig.model_validate(
        {"lighting": {f"max_{name}": bound for name, bound in zip(names, bounds, strict=True)}}
    )
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    found = what_if.keeps(_verdicts("lighting", **columns), _limits("lighting", config))
    expected = [light_verdict(*row, config.lighting) is None for row in rows]
    assert found.tolist() == expected


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(_share, _share, _share, st.floats(0, 2)), min_size=1, max_size=8),
    st.tuples(_share, _share, _share, _share, st.floats(0, 2)),
)
def test_emotion_s_rule_is_the_stage_s(rows, bounds) -> None:
    keys = ("min_neutral", "min_neutral_or_smile", "max_smile_happiness", "max_smile_opening")
    config = BuildConfig.model_validate(
        {"emotion": dict(zip((*keys, "max_smile_width"), bounds, strict=True))}
    )
    neutral, happiness, opening, width = zip(*rows, strict=True)
    verdicts = _verdicts(
        "emotion",
        neutral=neutral,
        happiness=happiness,
        neutral_or_happy=[n + h for n, h in zip(neutral, happiness, strict=True)],
        mouth_opening=opening,
        mouth_width=width,
    )
    expected = [emotion_verdict(*row, bounds[0], config.emotion) is None for row in rows]
    assert what_if.keeps(verdicts, _limits("emotion", config)).tolist() == expected


def test_without_the_network_its_own_threshold_gives_no_limits(tmp_path: Path) -> None:
    empty = ModelStore(tmp_path / "cache", mirror=str(tmp_path), offline=True)
    config = load_config("emotion: {network: mini_xception_fer2013}")
    assert what_if.settable_bounds("emotion", config, empty) == {}
    named = load_config("emotion: {network: mini_xception_fer2013, min_neutral: 0.4}")
    assert what_if.settable_bounds("emotion", named, empty)["neutral"] == 0.4


def test_the_stage_run_again_agrees_with_what_was_foreseen() -> None:
    """Heads turned every way, through the stage itself with one limit and with another."""
    turn = Rotation.from_euler("yx", np.random.default_rng(0).normal(0, 8, (400, 2)), degrees=True)
    points = np.einsum("nij,pj->npi", turn.as_matrix(), MEAN_FACE)[..., :2] * 60 + 200

    def run(config: BuildConfig) -> Verdicts:
        rows = [{"landmarks_xy": face.ravel(), "reason": None} for face in points]
        PoseStage(config.pose, ModelStore()).process(rows, None)
        found = _verdicts(
            "pose",
            # As the tables hold them.
            **{n: [float(np.float32(row[n])) for row in rows] for n in PoseStage.writes},
        )
        codes = {None: -1, "turned_away": 0, "tilted": 1}
        found.reason[:] = [codes[row["reason"]] for row in rows]
        return replace(found, reasons=("turned_away", "tilted"))

    config = load_config("")
    before, old = run(config), _limits("pose", config)
    for name, bound in (("yaw_deg", 9.0), ("pitch_deg", 2.0), ("asymmetry", 0.02)):
        new = {**old, name: bound}
        foreseen = what_if.change(before, old, new, name)
        after = run(load_config(what_if.yaml_line(SETTINGS[name], bound)))
        came = np.flatnonzero((before.reason != -1) & (after.reason == -1))
        went = np.flatnonzero((before.reason == -1) & (after.reason != -1))
        assert sorted(foreseen.let_in) == came.tolist()
        assert sorted(foreseen.shut_out) == went.tolist()
        assert len(came) + len(went) > 10, name


# Consequences --------------------------------------------------------------------------------


def test_the_present_limit_changes_nothing(workspace: Workspace) -> None:
    # Given here, so that no network has to be loaded for its own.
    config = workspace.config(["emotion.min_neutral=0.5", "identity.min_similarity=0.5"])
    for stage in STAGES:
        verdicts = read_verdicts(workspace, stage)
        old = _limits(stage, config)
        assert bool(old) == (stage in {setting.split(".")[0] for setting in SETTINGS.values()})
        for name in old:
            changed = what_if.change(verdicts, old, old, name)
            assert len(changed.let_in) + len(changed.shut_out) == 0


def test_a_looser_limit_lets_in_only_whom_no_other_limit_holds_back(workspace: Workspace) -> None:
    verdicts = read_verdicts(workspace, "pose")
    old = _limits("pose", workspace.config())
    # Turned by 21.5° and asymmetric by 0.3: yaw alone frees nobody.
    looser = {**old, "yaw_deg": 30.0}
    assert len(what_if.change(verdicts, old, looser, "yaw_deg").let_in) == 0
    both = {**looser, "asymmetry": 0.4}
    freed = what_if.change(verdicts, looser, both, "asymmetry").let_in
    assert [verdicts.reasons[verdicts.reason[row]] for row in freed] == ["turned_away"] * 2


def test_effect_counts_candidates_and_people(workspace: Workspace) -> None:
    verdicts, final = (read_verdicts(workspace, stage) for stage in ("pupils", "quality"))
    old = _limits("pupils", workspace.config())
    kept = FATES.count(KEPT)  # of each of two people; a third has two, a fourth none

    stricter = {**old, "ipd_px": 45.0}  # candidates 0 and 4 have 36 and 40 px
    changed = what_if.change(verdicts, old, stricter, "ipd_px")
    effect = what_if.effect(verdicts, final, changed, "ipd_px", old["ipd_px"], min_faces=3)
    assert (effect.candidates, effect.lost) == (2 * kept + 2, 2 * 2 + 2)
    assert (effect.ready, effect.ready_at_least, effect.ready_at_most) == (2, 0, 0)
    assert effect.pass_rate == pytest.approx(10 / 24)  # all that were kept here are near

    looser = {**old, "ipd_px": 10.0}
    changed = what_if.change(verdicts, old, looser, "ipd_px")
    effect = what_if.effect(verdicts, final, changed, "ipd_px", old["ipd_px"], min_faces=5)
    assert (len(changed.let_in), effect.lost) == (2, 0)
    assert (effect.ready, effect.ready_at_least, effect.ready_at_most) == (0, 0, 2)


def test_photographs_count_once_however_many_faces_they_have(workspace: Workspace) -> None:
    verdicts, final = (read_verdicts(workspace, stage) for stage in ("download", "quality"))
    old = _limits("download", workspace.config())
    small = {**old, "pixels": 10_000.0}
    changed = what_if.change(verdicts, old, small, "pixels")
    effect = what_if.effect(verdicts, final, changed, "pixels", old["pixels"], min_faces=3)
    assert effect.lost == effect.candidates == (final.reason == -1).sum()
    assert effect.ready_at_least == 0


def test_faces_near_the_limit_say_how_many_pass_what_follows() -> None:
    yaw = np.linspace(0, 20, 401)
    verdicts = _verdicts("pose", yaw_deg=yaw.tolist())
    verdicts.reason[yaw > 10] = 0
    verdicts = replace(verdicts, reasons=("turned_away",))
    near = np.flatnonzero((yaw > 5) & (yaw <= 10))
    final = _verdicts("quality", quality=[0.5] * len(near))
    final = replace(final, candidate=near.astype(np.int32))
    old = {"yaw_deg": 10.0}
    changed = what_if.change(verdicts, old, {"yaw_deg": 12.0}, "yaw_deg")
    assert [round(float(yaw[row]), 2) for row in changed.let_in[:2]] == [10.05, 10.1]
    effect = what_if.effect(verdicts, final, changed, "yaw_deg", old["yaw_deg"], min_faces=1)
    assert effect.pass_rate == pytest.approx(len(near) / 201)  # all 201 that were kept are near


def test_nothing_is_let_in_where_the_identity_has_no_majority() -> None:
    verdicts = _verdicts("identity", core_similarity=[0.2, 0.2])
    verdicts.reason[:] = [0, 1]
    verdicts = replace(verdicts, reasons=("no_majority", "someone_else"))
    old = {"core_similarity": 0.5}
    new = {"core_similarity": 0.1}
    assert what_if.change(verdicts, old, new, "core_similarity").let_in.tolist() == [1]


def test_a_stage_that_was_off_shuts_out_all_beyond_the_limit() -> None:
    verdicts = _verdicts("pose", yaw_deg=[1.0, -9.0, float("nan")])
    old = {"yaw_deg": 5.0}
    changed = what_if.change(verdicts, old, old, "yaw_deg", enabled=False)
    assert (changed.let_in.tolist(), changed.shut_out.tolist()) == ([], [1])


def test_limits_are_those_that_the_tables_were_made_with(workspace: Workspace) -> None:
    verdicts = read_verdicts(workspace, "pose")
    later = workspace.config(["pose.max_yaw_deg=9"])
    assert what_if.as_built(later, verdicts).pose == workspace.config().pose


# Slider, lines, pictures ---------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(sorted(SETTINGS)),
    st.floats(-100, 3000),
    st.floats(0, 1e6),
    st.floats(0, 1),
)
def test_every_stop_of_a_slider_is_a_value_that_the_setting_takes(name, low, width, where) -> None:
    section, key = SETTINGS[name].split(".")
    bound = all_bounds(_with_limit(name), ModelStore())[name]
    slide = what_if.slide(name, bound, low, low + width)
    steps = round((slide.high - slide.low) / slide.step)
    assert 0 < steps <= 2002
    assert slide.low <= slide.bound <= slide.high
    assert slide.bound == pytest.approx(bound)
    value = slide.low + round(where * steps) * slide.step
    line = what_if.yaml_line(SETTINGS[name], value)
    resolved = getattr(getattr(load_config(line), section), key)
    assert resolved == what_if.value_for(SETTINGS[name], value)
    setting = f"{SETTINGS[name]}={what_if.value_for(SETTINGS[name], value)!r}"
    assert parse_settings([setting]) == yaml.safe_load(line)


def test_the_lines_to_copy(workspace: Workspace, tmp_path: Path) -> None:
    assert what_if.yaml_line("pose.max_yaw_deg", 8.0) == "pose: {max_yaw_deg: 8.0}"
    assert what_if.yaml_line("download.max_bytes", 2e7) == "download: {max_bytes: 20000000}"
    spaced = Workspace.create(tmp_path / "my work", "pose: {max_yaw_deg: 7}", to_table([_person()]))
    line = what_if.command(spaced, "pose.max_yaw_deg", 8.5)
    quoted = f"'{tmp_path}/my work'"
    assert line == f"hqvox build {quoted} --set pose.max_yaw_deg=8.5 --dry-run"
    assert what_if.written_in(spaced, "pose.max_yaw_deg") == (True, 7)
    assert what_if.written_in(workspace, "pose.max_yaw_deg") == (False, None)


def test_a_setting_with_one_value_only_has_no_slider() -> None:
    with pytest.raises(HqvoxError, match="the only value that it can have"):
        what_if.slide("ipd_px", 0.0, 0.0, 0.0)


def test_the_histogram_counts_every_value_once(workspace: Workspace) -> None:
    verdicts = read_verdicts(workspace, "pose")
    low, high = span(verdicts.values["yaw_deg"], [-5.0, 5.0])
    assert low <= -5.0
    edges = np.linspace(0.0, 10.0, 21)  # 21.5° lies beyond: it is counted in the last
    bars = histogram(verdicts, "yaw_deg", ["turned_away"], edges)
    assert bars.refused_by_this.tolist() == [0] * 19 + [2]
    assert bars.refused_otherwise.sum() == 2  # tilted
    assert bars.kept.sum() == (verdicts.reason == -1).sum()
    assert high > low
    assert span(np.array([np.nan])) == (0.0, 1.0)


def test_pages_and_ranges(workspace: Workspace) -> None:
    verdicts = read_verdicts(workspace, "quality")
    rows = in_range(verdicts, "quality", verdicts.with_reason(None), 0.5, 2.0)
    found = verdicts.values["quality"][rows]
    assert len(found) == 2 * 2 + 2
    assert (np.diff(found) >= 0).all()
    assert [len(page_of(rows, number, 4)) for number in (0, 1, 2, 99)] == [4, 2, 2, 2]
    assert len(page_of(rows[:0], 0, 4)) == 0


@pytest.mark.parametrize(
    ("stage", "reason"),
    [
        ("duplicates", "duplicate"),
        ("landmarks", "no_face"),
        ("pose", "tilted"),
        ("align", "out_of_frame"),
        ("segment", "not_segmented"),
        ("quality", None),
    ],
)
def test_every_verdict_has_a_picture(workspace: Workspace, stage: str, reason: str | None) -> None:
    verdicts = read_verdicts(workspace, stage)
    pictures = Pictures(workspace)
    place = place_of(verdicts, int(verdicts.with_reason(reason)[0]))
    data = pictures.tile(place, stage, 120)
    assert data is not None
    assert pictures.tile(place, stage, 120) is data
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert max(decoded.shape[:2]) == 120
    on_white = (decoded[:2] > 245).all()
    assert on_white == (stage in ("segment", "quality"))


def test_what_is_no_picture_has_none(workspace: Workspace) -> None:
    verdicts = read_verdicts(workspace, "download")
    place = place_of(verdicts, int(verdicts.with_reason("not_an_image")[0]))
    assert Pictures(workspace).tile(place, "download", 120) is None


def test_the_gallery_shows_names_as_text() -> None:
    page = gallery_html(
        [
            VerdictPicture(b"\xff", ['<script>alert(1)</script> "x"'], "kept"),
            VerdictPicture(None, []),
        ]
    )
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &quot;x&quot;" in page
    assert "no picture" in page


def _limits(stage: str, config: BuildConfig):
    return what_if.settable_bounds(stage, config, ModelStore())


def _person() -> dict:
    return {
        "identity_id": "a",
        "name": "A",
        "subset": "custom",
        "gender": None,
        "nationality": None,
        "row": 0,
        "folder": "A",
    }
