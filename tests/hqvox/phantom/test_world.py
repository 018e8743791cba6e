"""Phantom worlds: deterministic, complete, and their truth table tells what is in each file."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from hqvox.phantom.sheet import COLUMNS as SHEET_COLUMNS
from hqvox.phantom.sheet import SIDE_PX
from hqvox.phantom.world import COLUMNS, NAMES, cast, make_world, unlike

PEOPLE, SHOTS = 2, 19


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    make_world(folder, seed=11, identities=PEOPLE, photos_per_identity=SHOTS)
    return folder


@pytest.fixture(scope="module")
def truth(world: Path) -> list[dict[str, str]]:
    with (world / "truth.csv").open(encoding="utf-8", newline="") as table:
        return list(csv.DictReader(table))


def first_of(truth: list[dict[str, str]], kind: str) -> dict[str, str]:
    return next(row for row in truth if row["kind"] == kind)


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    for name in ("a", "b"):
        make_world(tmp_path / name, 5, 1, 5, lambda done, total: seen.append((done, total)))
    files = {
        name: {
            p.relative_to(tmp_path / name): p.read_bytes()
            for p in sorted((tmp_path / name).rglob("*"))
            if p.is_file()
        }
        for name in ("a", "b")
    }
    assert files["a"] == files["b"]
    assert len(files["a"]) == 6
    assert seen[-1] == (5, 5)


def test_every_file_is_in_the_table(world: Path, truth: list[dict[str, str]]) -> None:
    files = {p.relative_to(world).as_posix() for p in (world / "photos").rglob("*.*")}
    assert {row["file"] for row in truth} == {f for f in files if not f.endswith("truth.csv")}
    assert tuple(truth[0]) == COLUMNS
    assert len(files) == PEOPLE * SHOTS
    assert {row["identity"] for row in truth} == set(NAMES[:PEOPLE])
    assert any(ord(letter) > 127 for letter in NAMES[0])


def test_enough_good_photographs_to_release(truth: list[dict[str, str]]) -> None:
    for name in NAMES[:PEOPLE]:
        good = [r for r in truth if r["identity"] == name and r["kind"] == "good"]
        assert 6 <= len(good) <= 9
        assert all(abs(float(r["yaw_deg"])) <= 3 and float(r["ipd_px"]) > 60 for r in good)


def test_each_defect_is_what_its_row_says(world: Path, truth: list[dict[str, str]]) -> None:
    assert abs(float(first_of(truth, "turned")["yaw_deg"])) > 10
    assert abs(float(first_of(truth, "nodding")["pitch_deg"])) > 10
    assert float(first_of(truth, "far")["ipd_px"]) < 30
    assert first_of(truth, "laughing")["expression"] in ("happiness", "surprise")
    wrong = first_of(truth, "wrong_person")
    assert wrong["person"] != wrong["identity"]
    assert wrong["reason"] == "someone_else"
    two = [row for row in truth if row["file"] == first_of(truth, "two_people")["file"]]
    assert [row["reason"] for row in two] == ["", "someone_else"]
    copy = first_of(truth, "copy")
    assert (world / copy["file"]).read_bytes() == (world / copy["duplicate_of"]).read_bytes()
    again = first_of(truth, "recompressed")
    small, large = (cv2.imread(str(world / again[key])) for key in ("file", "duplicate_of"))
    assert small.shape[0] < large.shape[0]
    dark_or_bright = cv2.imread(str(world / first_of(truth, "exposed")["file"]))
    assert not 40 < dark_or_bright.mean() < 160


def test_broken_files_are_no_whole_pictures(world: Path, truth: list[dict[str, str]]) -> None:
    row = first_of(truth, "broken")
    assert row["reason"] == "not_an_image"
    assert row["face"] == ""
    with pytest.raises(OSError):  # noqa: PT011 (Pillow raises its own kinds of OSError)
        Image.open(world / row["file"]).load()


def test_forms_of_files_show_the_same_picture_upright(
    world: Path, truth: list[dict[str, str]]
) -> None:
    orientations, modes = set(), set()
    for row in truth:
        if row["kind"] != "good" or row["face"] != "0":
            continue
        with Image.open(world / row["file"]) as stored:
            orientations.add(stored.getexif().get(0x0112, 1))
            modes.add(stored.mode)
            shown = ImageOps.exif_transpose(stored)
            assert shown.size == (int(row["width"]), int(row["height"]))
            grey = np.asarray(shown.convert("L"), dtype=float)
        x, y = float(row["left_pupil_x"]), float(row["left_pupil_y"])
        reach = float(row["ipd_px"])
        pupil = grey[int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3].mean()
        cheek = grey[int(y + 0.55 * reach) - 3 :, int(x) - 3 :][:6, :6].mean()
        assert pupil < cheek
    assert orientations == {1, 6}
    assert modes == {"RGB", "L", "RGBA"}


def test_people_of_a_world_differ() -> None:
    people = cast(0, 6)
    assert len({p.texture_seed for p in people}) == 6
    assert all(i != other for i, other in enumerate(unlike(people)))


def test_contact_sheet_is_whole_tiles() -> None:
    page = cv2.imread(str(Path(__file__).parents[3] / "docs" / "images" / "phantoms.jpg"))
    assert page.shape[1] == SHEET_COLUMNS * SIDE_PX
    assert page.std() > 20
