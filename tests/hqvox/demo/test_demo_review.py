"""`hqvox demo --review`: more people in a new world, reference pictures, and the review UI."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

import hqvox.cli.demo
from hqvox.cli.app import app
from hqvox.demo.review import REFERENCE_PX, add_references
from hqvox.errors import HqvoxError
from hqvox.imaging.codec import decode
from hqvox.phantom.world import world_names


def test_everybody_gets_a_picture_once(tmp_path: Path) -> None:
    marker = {"seed": 7, "identities": 3, "photos": 8, "made": True}
    (tmp_path / "demo.json").write_text(json.dumps(marker))
    add_references(tmp_path, Console(quiet=True), workers=0)
    files = sorted((tmp_path / "workspace" / "references").iterdir())
    assert len(files) == len(world_names(3)) == 3
    pictures = [decode(file.read_bytes()) for file in files]
    assert {picture.shape for picture in pictures} == {(REFERENCE_PX, REFERENCE_PX, 3)}
    apart = [np.abs(a.astype(int) - b).mean() for a, b in itertools.pairwise(pictures)]
    assert min(apart) > 5  # three people
    before = [file.read_bytes() for file in files]
    files[0].unlink()
    files[1].write_bytes(b"their own")
    add_references(tmp_path, Console(quiet=True), workers=0)
    assert files[0].read_bytes() == before[0]
    assert files[1].read_bytes() == b"their own"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What the command has done, without the minutes that it takes."""
    done: list[tuple[str, Any]] = []
    workspace = SimpleNamespace(url="made/workspace")
    made = SimpleNamespace(
        workspace=workspace, release=SimpleNamespace(name="demo"), written=None, truth=[],
        report=Path("report.html"),
    )  # fmt: skip

    def step(name: str) -> Any:
        def run(folder: Path, console: Console, **options: Any) -> Any:
            done.append((name, (options["identities"], options["photos"])))
            options["watch"].seconds[name] = 1.5
            return made

        return run

    patches: dict[str, Any] = {
        "print_funnel": lambda workspace: None,
        "release_stats": lambda release: (),
        "print_stats": lambda name, stats: None,
        "need_extra": lambda: done.append(("need_extra", None)),
        "open_review": lambda url, **options: done.append(("open", (url, options))),
        "start_forkserver": lambda: None,
    }
    for name, patch in patches.items():
        monkeypatch.setattr(hqvox.cli.demo, name, patch)
    monkeypatch.setattr("hqvox.demo.run.run_demo", step("run"))
    monkeypatch.setattr("hqvox.demo.run.build_demo", step("build"))
    monkeypatch.setattr(
        "hqvox.demo.review.add_references",
        lambda folder, console, workers: done.append(("references", folder)),
    )
    return done


def test_with_review_there_are_more_people_and_no_training_before_it_opens(
    calls: list[tuple[str, Any]],
) -> None:
    command = ["demo", "x", "--review", "--no-browser", "--port", "8600"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert calls == [
        ("need_extra", None),
        ("build", (28, 10)),
        ("references", Path("x")),
        ("open", ("x/workspace", {"port": 8600, "browser": False})),
    ]


def test_without_it_nothing_opens(calls: list[tuple[str, Any]]) -> None:
    assert CliRunner().invoke(app, ["demo", "x"]).exit_code == 0
    assert calls == [("run", (12, 20))]
    calls.clear()
    assert CliRunner().invoke(app, ["demo", "x", "--review", "--identities", "6"]).exit_code == 0
    assert ("build", (6, 10)) in calls


def test_the_time_of_each_step_is_printed_at_the_end(calls: list[tuple[str, Any]]) -> None:
    for command, name in ((["demo", "x"], "run"), (["demo", "x", "--review"], "build")):
        output = CliRunner().invoke(app, command).output
        rows = [line.replace("│", " ").split() for line in output.splitlines()]
        assert [name, "1.5"] in [row[:2] for row in rows]
        assert ["all", "100%"] in [row[:3:2] for row in rows]


def test_a_missing_extra_is_told_before_the_minutes(
    calls: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise HqvoxError("pip install 'hqvox[review]'")

    monkeypatch.setattr(hqvox.cli.demo, "need_extra", missing)
    result = CliRunner().invoke(app, ["demo", "x", "--review"])
    assert isinstance(result.exception, HqvoxError)
    assert calls == []
