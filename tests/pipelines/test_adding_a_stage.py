"""Following docs/adding-a-stage.md in a copy of the code adds a stage that everything knows."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from hqvox.cli.app import app

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```python\n# (\S+?)(?:, above the line: ([^\n]*))?\n(.*?)^```", re.M | re.S)

_IN_THE_COPY = """
import json, sys
from typer.testing import CliRunner
from annotator.limits import explore, what_if
from hqvox.cli.app import app
from hqvox.workspace.layout import Workspace
from models.store import ModelStore

work, folder = sys.argv[1:]
said = {}
for name, command in {
    "plan": ["build", work, "--to", "colour", "--dry-run"],
    "build": ["build", work, "--to", "colour", "--workers", "0"],
    "again": ["build", work, "--to", "colour", "--dry-run"],
    "status": ["status", work],
    "grey": ["explain", work, "0.jpg", "--out", folder + "/explained.jpg"],
    "config": ["config", "show", work],
    "report": ["report", work, "--out", folder + "/report.html"],
}.items():
    result = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
    assert result.exit_code == 0, (name, result.output, result.exception)
    said[name] = result.output
workspace = Workspace.open(work)
verdicts = explore.read_verdicts(workspace, "colour")
bounds = what_if.settable_bounds("colour", workspace.config(), ModelStore())
lower = what_if.change(verdicts, bounds, {"chroma": 0.0}, "chroma")
higher = what_if.change(verdicts, bounds, {"chroma": 90.0}, "chroma")
said["bounds"] = bounds
said["let_in"] = verdicts.candidate[lower.let_in].tolist()
said["shut_out"] = verdicts.candidate[higher.shut_out].tolist()
said["line"] = what_if.yaml_line(what_if.setting_of("chroma"), 4.0)
print(json.dumps(said))
"""


def follow_the_page(code: Path) -> list[str]:
    """Apply the page's blocks to a copy of the code; the files that they name."""
    files = []
    for path, line, text in _BLOCK.findall((ROOT / "docs/adding-a-stage.md").read_text("utf-8")):
        file = code / path
        files.append(path)
        if not line:
            assert not file.exists()
            file.write_text(text, "utf-8")
            continue
        before = file.read_text("utf-8")
        assert before.count(f"\n{line}\n") == 1, line
        file.write_text(before.replace(f"\n{line}\n", f"\n{text}{line}\n"), "utf-8")
    return files


@pytest.fixture(scope="module")
def said(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What commands say with the page's stage, of three photos of which the first is grey.

    The stages before the new one are built by the code as it is.
    """
    folder = tmp_path_factory.mktemp("colour")
    with (small_world.parent / "truth.csv").open(encoding="utf-8", newline="") as file:
        good = [row for row in csv.DictReader(file) if row["kind"] == "good"]
    own = [row["file"] for row in good if row["identity"] == good[0]["identity"]][:3]
    target = folder / "photos" / "Somebody"
    target.mkdir(parents=True)
    for number, name in enumerate(own):
        flag = cv2.IMREAD_COLOR if number else cv2.IMREAD_GRAYSCALE
        data = (small_world.parent / name).read_bytes()
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
        assert cv2.imwrite(str(target / f"{number}.jpg"), pixels)
    work = str(folder / "work")
    for command in (
        ["init", work, "--photos", str(folder / "photos")],
        ["build", work, "--to", "lighting", "--workers", "0"],
    ):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output

    code = folder / "code"
    for package in ("hqvox", "pipelines", "annotator"):
        shutil.copytree(
            ROOT / package, code / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    (code / "models").symlink_to(ROOT / "models")
    assert set(follow_the_page(code)) == {
        "hqvox/workspace/tables.py",
        "hqvox/config/build.py",
        "pipelines/colour.py",
    }
    done = subprocess.run(
        [sys.executable, "-c", _IN_THE_COPY, work, str(folder)],
        cwd=code,
        env={**os.environ, "PYTHONPATH": str(code)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict = json.loads(done.stdout.splitlines()[-1])
    return found | {"html": (folder / "report.html").read_text("utf-8")}


def row_of(text: str, *words: str) -> str:
    return next(line for line in text.splitlines() if all(word in line for word in words))


def test_only_the_new_stage_is_to_be_built(said: dict) -> None:
    assert "colour: not built yet" in said["plan"]
    assert "lighting" not in said["plan"]
    assert "up to date" in said["again"]


def test_a_grey_photo_is_refused_by_the_limit(said: dict) -> None:
    assert "not_in_colour 1" in row_of(said["status"], "│ colour ")
    line = row_of(said["grey"], "│ colour ", "chroma")
    assert "≥ 5.0" in line
    assert "not_in_colour" in line


def test_the_configuration_shows_the_settings(said: dict) -> None:
    assert "colour.enabled: true" in said["config"]
    assert "colour.min_chroma: 5.0" in said["config"]


def test_what_if_knows_who_another_limit_lets_in_or_shuts_out(said: dict) -> None:
    assert said["bounds"] == {"chroma": 5.0}
    assert said["let_in"] == [0]
    assert sorted(said["shut_out"]) == [1, 2]
    assert said["line"] == "colour: {min_chroma: 4.0}"


def test_the_report_shows_the_limit_the_histogram_and_the_reason(said: dict) -> None:
    assert "chroma ≥ 5.0" in said["html"]
    assert re.search(r"<h4 class=\"\w+\">not in colour <small>", said["html"])
    assert "Refuses faces of black-and-white photographs." in said["html"]
