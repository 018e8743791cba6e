"""Explaining photos and identities of a hand-made build."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hqvox.cli.explain import explain
from hqvox.config.build import BuildConfig
from hqvox.errors import HqvoxError
from hqvox.imaging.drawing import head_axes
from hqvox.imaging.views import face_view
from hqvox.report.explain import (
    ended,
    find_subject,
    identity_picture,
    identity_rows,
    photo_picture,
    photo_rows,
)
from hqvox.runner.lookup import joined_rows
from hqvox.workspace.layout import Workspace
from hqvox.workspace.measures import (
    BY_NAME,
    all_bounds,
    limit_text,
    value_of,
    value_text,
    within,
)
from models.store import ModelStore
from pipelines.chain import STAGES
from tests.helpers.synthetic_build import HEIGHT, WIDTH, make_build


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    root = tmp_path_factory.mktemp("explain")
    return make_build(root / "w", root / "photos")


def photo(build: Workspace, name: str) -> list[dict]:
    return photo_rows(build, find_subject(build, name))


def test_a_photo_is_found_by_path_file_and_hash(build: Workspace) -> None:
    wanted = find_subject(build, "Ada%20Lovelace/6.jpg")
    assert wanted.candidate == 6
    file = Path(build.config().discover.photos) / "Ada Lovelace" / "6.jpg"
    digest = photo_rows(build, wanted)[0]["photo_id"]
    for text in ("Ada Lovelace/6.jpg", str(file), digest, digest[:8].upper()):
        assert find_subject(build, text) == wanted, text


def test_a_copy_elsewhere_is_found_by_its_bytes(build: Workspace, tmp_path: Path) -> None:
    file = Path(build.config().discover.photos) / "Ada Lovelace" / "7.jpg"
    copy = tmp_path / "renamed.jpg"
    copy.write_bytes(file.read_bytes())
    assert find_subject(build, str(copy)).candidate == 7


def test_an_identity_is_found_by_id_and_name(build: Workspace) -> None:
    assert find_subject(build, "id1") == find_subject(build, "Bedřich Ω")
    assert find_subject(build, "id1").candidate is None


def test_an_ambiguous_or_unknown_name_is_one_clear_line(build: Workspace) -> None:
    with pytest.raises(HqvoxError, match=r"matches 2 photos \(Ada Lovelace/6.jpg, Bed"):
        find_subject(build, "6.jpg")
    with pytest.raises(HqvoxError, match="'nobody' is no identity"):
        find_subject(build, "nobody")


def test_every_face_of_a_photo_has_its_own_end(build: Workspace) -> None:
    rows = photo(build, "Ada Lovelace/4.jpg")
    assert [(row["face"], ended(row)) for row in rows] == [
        (0, "kept"),
        (1, "identity: someone_else"),
    ]
    # What was known of the photo before it had faces is known of both.
    assert {row["width_px"] for row in rows} == {WIDTH}


def test_all_photos_of_an_identity_say_where_they_ended(build: Workspace) -> None:
    rows = identity_rows(build, find_subject(build, "id0").identity)
    ends = {(row["candidate"], row["face"]): ended(row) for row in rows}
    assert len(ends) == 15
    assert ends[1, None] == "download: not_an_image"
    assert ends[3, None] == "landmarks: no_face"
    assert ends[6, 0] == "pose: turned_away"
    assert ends[0, 0] == "kept"


def test_rows_of_an_unfinished_build_are_kept_so_far(tmp_path: Path) -> None:
    build = make_build(tmp_path / "w", tmp_path / "photos")
    for shard in build.shards():
        build.storage.remove(build.table_name("lighting", shard))
    rows = photo(build, "Ada Lovelace/0.jpg")
    assert ended(rows[0]) == "kept so far, up to pose"
    assert rows[0]["light_ratio"] is None
    unknown = joined_rows(build, next(iter(build.shards())), [("id0", 99, None)])
    assert ended(unknown[0]) == "not built yet"


def test_values_meet_their_limits(build: Workspace) -> None:
    bounds = all_bounds(build.config(["emotion.min_neutral=0.5"]), ModelStore())
    turned = photo(build, "Ada Lovelace/6.jpg")[0]
    yaw, neutral = BY_NAME["yaw_deg"], BY_NAME["neutral"]
    assert value_of(turned, "yaw_deg") == pytest.approx(21.5)
    assert value_of(turned, "neutral") is None
    assert within(yaw, value_of(turned, "yaw_deg"), bounds["yaw_deg"]) is False
    assert within(yaw, -4.0, bounds["yaw_deg"]) is True
    assert within(yaw, 90.0, None) is None
    happy = photo(build, "Ada Lovelace/9.jpg")[0]
    assert within(neutral, value_of(happy, "neutral"), bounds["neutral"]) is False
    assert value_of(happy, "pixels") == WIDTH * HEIGHT
    assert value_text(yaw, 21.5) == "+21.5°"
    assert limit_text(yaw, 5.0) == "≤ 5.0°"
    assert limit_text(neutral, 0.5) == "≥ 0.50 (or smile)"


def test_a_test_that_does_not_decide_has_no_limit(build: Workspace) -> None:
    settings = ["emotion.min_neutral=0.5", "identity.min_similarity=0.9"]
    by_angles = all_bounds(build.config([*settings, "pose.decide_by=angles"]), ModelStore())
    by_asymmetry = all_bounds(build.config([*settings, "pose.decide_by=asymmetry"]), ModelStore())
    assert "yaw_deg" in by_angles
    assert "asymmetry" not in by_angles
    assert "yaw_deg" not in by_asymmetry
    assert "asymmetry" in by_asymmetry


def test_every_numeric_setting_of_a_filter_is_shown(build: Workspace) -> None:
    """A limit added to the configuration must be added to what people see."""
    settings = [
        "emotion.min_neutral=0.5",
        "emotion.min_neutral_lead=0.25",
        "identity.min_similarity=0.9",
        "pose.max_plane_deg=7",
    ]
    shown = all_bounds(build.config(settings), ModelStore())
    by_plane = all_bounds(build.config([*settings, "pose.decide_by=plane"]), ModelStore())
    assert "plane_deg" not in shown
    bounds = {*shown.values(), by_plane["plane_deg"]}
    config: BuildConfig = build.config(settings)
    for stage in STAGES:
        section = getattr(config, stage.name)
        for key, value in section.model_dump().items():
            if key.startswith(("min_", "max_")) and stage.name != "duplicates":
                assert value in bounds, f"{stage.name}.{key}"


def test_pictures_show_faces_crops_and_verdict(build: Workspace) -> None:
    rows = photo(build, "Ada Lovelace/4.jpg")
    picture = photo_picture(build, rows, "title")
    assert picture is not None
    plain = photo_picture(build, photo(build, "Ada Lovelace/3.jpg"), "title")
    assert plain is not None
    assert picture.width > plain.width + 250  # the crops stand beside the photo
    assert photo_picture(build, photo(build, "Ada Lovelace/1.jpg"), "title") is None
    sheet = identity_picture(build, identity_rows(build, find_subject(build, "id0").identity), "")
    assert sheet.height > 3 * 128


def test_face_view_stays_inside_the_photo(build: Workspace) -> None:
    rows = photo(build, "Ada Lovelace/4.jpg")
    for row in rows:
        view = face_view(build, row)
        assert view is not None
        assert view.shape[0] == view.shape[1]
        drawn = face_view(build, row, draw=True)
        assert drawn is not None
        assert drawn.shape == (320, 320, 3)


def test_axes_point_where_the_angles_say() -> None:
    across, up, forward = head_axes(0, 0, 0)
    np.testing.assert_allclose([across, up, forward], [(1, 0), (0, -1), (0, 0)], atol=1e-12)
    assert head_axes(30, 0, 0)[2][0] > 0.4  # turned to the image's right
    assert head_axes(0, 30, 0)[2][1] < -0.4  # looking up
    assert head_axes(0, 0, 90)[0][1] > 0.9  # rolled clockwise: across points down


@pytest.mark.parametrize("subject", ["id0", "Ada Lovelace/4.jpg"])
def test_command_writes_its_picture(build: Workspace, tmp_path: Path, subject: str) -> None:
    out = tmp_path / "picture.jpg"
    explain(build.url, subject, out)
    assert out.read_bytes()[:2] == b"\xff\xd8"


def test_command_says_what_has_no_picture(
    build: Workspace, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    explain(build.url, "Nobody", None)
    assert "no photos" in capsys.readouterr().out
    explain(build.url, "Ada Lovelace/1.jpg", tmp_path / "none.jpg")
    assert "cannot be decoded" in capsys.readouterr().out
    assert not (tmp_path / "none.jpg").exists()


def test_command_that_cannot_write_is_one_clear_line(build: Workspace, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    with pytest.raises(HqvoxError, match="a file stands where a folder is needed"):
        explain(build.url, "id0", blocked / "x.jpg")
