"""`hqvox release verify`: every kind of damage is found, named, and ends in exit code 1."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from test_speech_release import PEOPLE, SPOKEN, pack_voices
from typer.testing import CliRunner

from hqvox.cli.app import app
from hqvox.errors import HqvoxError
from hqvox.release.read import Release, find_release
from hqvox.release.verify import verify_release
from hqvox.release.write import write_release
from hqvox.workspace.layout import Workspace
from tests.helpers.synthetic_build import make_build

FIRST = "custom/masked_faces/Ada_Lovelace/0.jpg"


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    root = tmp_path_factory.mktemp("verify")
    build = make_build(root / "w", root / "photos", PEOPLE)
    pack_voices(build, SPOKEN)
    return build


@pytest.fixture(scope="module")
def whole(build: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("split") / "split.csv"
    file.write_text("identity,part\nid0,train\nid4,test\nid5,train\n")
    return Path(write_release(build, "v1", build.config(), auto=True, split=str(file)).folder)


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """The release alone, without its workspace, as those who get one have it."""
    return Path(shutil.copytree(whole, tmp_path / "got"))


def reseal(folder: Path, *names: str) -> None:
    """Bring SHA256SUMS up to date, as one who meddles would."""
    file = folder / "SHA256SUMS"
    sums = dict(reversed(line.split("  ", 1)) for line in file.read_text().splitlines())
    for name in names:
        sums[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    file.write_text("".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())))


def rewrite(folder: Path, file: str, change: Callable[[dict[str, Any], int], None]) -> None:
    """Change a table's rows in place, and seal it again."""
    table = pq.read_table(folder / file)
    rows = table.to_pylist()
    for number, row in enumerate(rows):
        change(row, number)
    pq.write_table(pa.Table.from_pylist(rows, table.schema), folder / file)
    reseal(folder, file)


def failing(folder: Path) -> dict[str, list[str]]:
    return {
        check.name: check.failures for check in verify_release(Release(folder)) if check.failures
    }


def test_a_whole_release_passes_by_its_folder_alone(copy: Path) -> None:
    checks = verify_release(Release(copy))
    assert [check.mark for check in checks] == ["✓"] * len(checks)
    assert {"eyes", "leaks", "speech", "pictures"} <= {check.name for check in checks}


def test_a_changed_byte_is_found(copy: Path) -> None:
    data = bytearray((copy / FIRST).read_bytes())
    data[-3] ^= 1
    (copy / FIRST).write_bytes(data)
    (line,) = failing(copy)["checksums"]
    assert line.startswith(f"{FIRST}: changed since it was released")


def test_missing_and_extra_files_are_found(copy: Path) -> None:
    (copy / FIRST).unlink()
    (copy / "custom" / "notes.txt").write_text("mine")
    (copy / "link.jpg").symlink_to("/etc/hostname")
    found = failing(copy)
    assert found["checksums"] == [
        f"{FIRST}: missing, or cannot be read; restore it from a complete copy, or make "
        "the release again"
    ]
    assert found["files"] == [
        "custom/notes.txt: not part of the release; remove it",
        "link.jpg: a link, not a file; remove it",
    ]


def test_files_that_no_table_speaks_of_are_found_though_they_are_listed(copy: Path) -> None:
    stray = FIRST.replace("0.jpg", "99.jpg")
    shutil.copy(copy / FIRST, copy / stray)
    (copy / "speech" / "more.f16").write_bytes(b"")
    reseal(copy, stray, "speech/more.f16")
    files = failing(copy)["files"]
    assert {line.split(": ")[0] for line in files} == {stray, "speech/more.f16"}
    assert all("in no table" in line for line in files)


def test_a_picture_that_is_not_the_manifests_is_found_though_it_is_listed(copy: Path) -> None:
    side = Release(copy).manifest(["crop_side_px"])["crop_side_px"][0].as_py()
    (copy / FIRST).write_bytes(picture(side))
    reseal(copy, FIRST)
    assert failing(copy) == {
        "pictures": [
            f"{FIRST}: not the picture of the manifest (SHA-256 differs); restore it from a "
            "complete copy, or make the release again"
        ]
    }


def test_a_picture_left_out_of_the_checksums_is_found(copy: Path) -> None:
    file = copy / "SHA256SUMS"
    file.write_text("".join(x for x in file.read_text().splitlines(True) if FIRST not in x))
    assert any("not in SHA256SUMS" in line for line in failing(copy)["files"])


@pytest.mark.parametrize("line", ["0" * 64 + "  ../../etc/passwd", "0" * 64 + "  /etc/passwd", "x"])
def test_names_that_lead_out_of_the_release_are_not_opened(copy: Path, line: str) -> None:
    with (copy / "SHA256SUMS").open("a") as file:
        file.write(line + "\n")
    found = failing(copy)
    assert "not a checksum and a file name" in found["list of checksums"][0]
    assert "checksums" not in found


def picture(side: int, mode: str = "RGB", form: str = "JPEG") -> bytes:
    sink = io.BytesIO()
    Image.new(mode, (side, side)).save(sink, form)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda data, side: picture(side + 1), "px where the manifest says"),
        (lambda data, side: picture(side, "L"), "mode L, not RGB"),
        (lambda data, side: picture(side, form="PNG"), "cannot be decoded"),
        (lambda data, side: data[: len(data) // 2], "cannot be decoded"),
        (lambda data, side: b"", "cannot be decoded"),
    ],
)
def test_pictures_must_decode_at_their_size(
    copy: Path, make: Callable[[bytes, int], bytes], message: str
) -> None:
    side = Release(copy).manifest(["crop_side_px"])["crop_side_px"][0].as_py()
    (copy / FIRST).write_bytes(make((copy / FIRST).read_bytes(), side))
    reseal(copy, FIRST)
    found = failing(copy)
    assert list(found) == ["pictures"]
    assert message in found["pictures"][0]


def test_eyes_out_of_place_are_found(copy: Path) -> None:
    def shift(row: dict[str, Any], number: int) -> None:
        if number == 1:
            row["transform"][2] += 0.02 * row["crop_side_px"]

    rewrite(copy, "manifest.parquet", shift)
    (line,) = failing(copy)["eyes"]
    assert re.search(r"Ada_Lovelace/1.jpg: eyes at \(0\.(399|400), 0\.48[67]\)", line)


def test_a_photograph_on_two_sides_is_found(copy: Path) -> None:
    shared: dict[str, str] = {}

    def share(row: dict[str, Any], number: int) -> None:
        if row["masked_file"] in (FIRST, "custom/masked_faces/Emmy_Noether/2.jpg"):
            row["photo_id"] = shared.setdefault("id", row["photo_id"])

    rewrite(copy, "manifest.parquet", share)
    (line,) = failing(copy)["leaks"]
    assert "Emmy_Noether/2.jpg (test): same_photo as custom/masked_faces/Ada_Lovelace/0.jpg" in line


def test_an_identity_on_two_sides_is_found(copy: Path) -> None:
    def move(row: dict[str, Any], number: int) -> None:
        row["split"] = "val" if number == 0 else row["split"]

    rewrite(copy, "manifest.parquet", move)
    assert "id0 is in val, identities.parquet says train" in failing(copy)["split"][0]


def test_split_file_must_agree(copy: Path) -> None:
    split = json.loads((copy / "split.json").read_text())
    split["custom"]["val"].append(split["custom"]["train"].pop())
    (copy / "split.json").write_text(json.dumps(split))
    reseal(copy, "split.json")
    assert failing(copy) == {
        "split": [
            "split.json: differs from identities.parquet; restore it from a complete copy, or "
            "make the release again"
        ]
    }


def test_counts_must_agree(copy: Path) -> None:
    def count(row: dict[str, Any], number: int) -> None:
        row["images"] += number == 0

    rewrite(copy, "identities.parquet", count)
    assert "id0 has 4 faces, identities.parquet says 5" in failing(copy)["identities"][0]


@pytest.mark.parametrize("damage", [b"", b"PAR1 nothing", b"PAR1" * 40])
def test_damaged_tables_are_one_line_and_stop_only_what_needs_them(
    copy: Path, damage: bytes
) -> None:
    (copy / "manifest.parquet").write_bytes(damage)
    reseal(copy, "manifest.parquet")
    checks = {check.name: check for check in verify_release(Release(copy))}
    assert checks["tables"].mark == "✗"
    assert "\n" not in checks["tables"].failures[0]
    assert checks["leaks"].mark == "–"
    assert checks["checksums"].mark == "✓"


def test_tables_must_have_the_right_columns(copy: Path) -> None:
    table = pq.read_table(copy / "manifest.parquet").drop_columns(["licence"])
    pq.write_table(table, copy / "manifest.parquet")
    reseal(copy, "manifest.parquet")
    assert "missing or of another type: licence" in failing(copy)["tables"][0]


@pytest.mark.parametrize(
    ("file", "column", "check"),
    [("manifest.parquet", "masked_file", "tables"), ("speech/index.parquet", "offset", "tables")],
)
def test_holes_in_tables_are_one_line(copy: Path, file: str, column: str, check: str) -> None:
    rewrite(copy, file, lambda row, number: row.update({column: None} if number == 1 else {}))
    assert f"{file}: contains nulls in column {column}" in failing(copy)[check][0]


@pytest.mark.parametrize("change", [{"leaks": []}, {"config": None}, {"speech": 3}])
def test_a_release_json_without_its_values_is_one_line(copy: Path, change: dict[str, Any]) -> None:
    info = json.loads((copy / "release.json").read_text())
    (copy / "release.json").write_text(json.dumps(info | change))
    assert "values are missing or of another kind" in failing(copy)["format"][0]


def voices(copy: Path) -> Path:
    return sorted((copy / "speech").glob("*.f16"))[0]


def test_voices_must_be_finite(copy: Path) -> None:
    array = np.fromfile(voices(copy), "<f2")
    array[5] = np.nan
    array.tofile(voices(copy))
    reseal(copy, f"speech/{voices(copy).name}")
    assert "id0 v/0 holds values that are not finite" in failing(copy)["speech"][0]


@pytest.mark.parametrize(("cut", "message"), [(3, "cut short"), (80, "is listed at frames")])
def test_voices_must_be_whole(copy: Path, cut: int, message: str) -> None:
    data = voices(copy).read_bytes()
    voices(copy).write_bytes(data[:-cut])
    reseal(copy, f"speech/{voices(copy).name}")
    assert message in failing(copy)["speech"][0]


def test_an_index_beyond_the_array_is_found(copy: Path) -> None:
    def move(row: dict[str, Any], number: int) -> None:
        row["offset"] += 10**9 if number == 1 else 0

    rewrite(copy, "speech/index.parquet", move)
    assert "is listed at frames 1000000120" in failing(copy)["speech"][0]


def test_mean_and_variance_must_be_those_of_train(copy: Path) -> None:
    file = copy / "speech" / "stats.json"
    stats = json.loads(file.read_text())
    file.write_text(json.dumps(stats | {"mean": stats["mean"] + 0.01}))
    reseal(copy, "speech/stats.json")
    found = failing(copy)
    assert list(found) == ["mean and variance"]
    assert "mean differs from what the arrays give" in found["mean and variance"][0]


def test_licences_must_be_those_of_the_faces(copy: Path) -> None:
    lines = (copy / "LICENSES.csv").read_text().splitlines(True)
    (copy / "LICENSES.csv").write_text("".join(lines[:-1]))
    reseal(copy, "LICENSES.csv")
    assert list(failing(copy)) == ["licences"]


def test_what_is_no_release_says_what_to_name(build: Workspace, tmp_path: Path) -> None:
    with pytest.raises(HqvoxError, match=r"no release here .* name the folder"):
        find_release(str(tmp_path))
    with pytest.raises(HqvoxError, match=r"this is a workspace; name a release of it .*v1"):
        find_release(build.url)
    with pytest.raises(HqvoxError, match=r"no release 'v9'"):
        find_release(f"{build.url}/v9")
    assert find_release(f"{build.url}/v1").name == "v1"


@pytest.mark.parametrize("text", ['{"format": 3}', '{"format": "x"}', "[]"])
def test_unknown_formats_are_one_clear_line(copy: Path, text: str) -> None:
    (copy / "release.json").write_text(text)
    with pytest.raises(HqvoxError, match=r"release format .* is not one that this hqvox reads"):
        Release(copy)
    (copy / "release.json").write_text("{")
    with pytest.raises(HqvoxError, match=r"release\.json: damaged"):
        Release(copy)


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "100"})
    return result.exit_code, result.output


def test_commands_read_well(copy: Path, build: Workspace, whole: Path) -> None:
    code, text = run("release", "verify", str(copy))
    assert (code, "✗" in text, "✓" in text) == (0, False, True)
    (copy / FIRST).write_bytes(b"")
    code, text = run("release", "verify", str(copy))
    assert code == 1
    assert f"✗ checksums: {FIRST}: changed since it was released" in text
    code, text = run("release", "--help")
    assert (code, "verify" in text, "hqvox release work v1 --auto" in text) == (0, True, True)
    code, text = run("release", build.url, "by-default", "--auto", "--no-speech")
    assert code == 0, text
    assert "faces alone: asked for without speech" in text
    code, text = run("release", "write", build.url, "by-name", "--auto")
    assert code == 0, text
    assert "kept apart, faces but no speech: Bedřich Ω (4)" in text
    code, text = run("stats", build.url, "by-default", "--against", "by-name")
    assert code == 0, text
    assert "by-default less by-name" in text
    assert "HQ-VoxCeleb" in run("stats", str(whole))[1]


def test_stats_print_both_tables_for_a_folder_alone(copy: Path) -> None:
    code, text = run("stats", str(copy))
    assert code == 0, text
    assert "609,700" in text
    row = next(line for line in text.splitlines() if line.startswith("│ got"))
    assert row.split("│")[1:6] == [
        " got              ", "          3 ", "      12 ", "          6 ", "              Yes "
    ]  # fmt: skip


@pytest.mark.slow
def test_a_release_killed_anywhere_is_not_there_and_can_be_made_again(
    build: Workspace, whole: Path
) -> None:
    command = [sys.executable, "-m", "hqvox.cli.app", "release", build.url, "killed", "--auto"]
    folder = whole.parent
    for delay in (0.0, 0.1):
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ
        )
        while process.poll() is None and not list(folder.glob(".killed*")):
            time.sleep(0.002)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if (folder / "killed").exists():
            break  # it was quicker than the signal
    if not (folder / "killed").exists():
        write_release(build, "killed", build.config(), auto=True)
    assert not list(folder.glob(".*"))
    assert not [c for c in verify_release(Release(build, "killed")) if c.failures]
