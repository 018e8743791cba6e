"""What every command has: --quiet, -o beside --out, recipe names completed; and status as JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner, Result

from hqvox.cli.app import app
from hqvox.config.file import recipe_names
from hqvox.trainer.recipes import recipe_names as train_recipe_names
from tests.helpers.synthetic_build import FATES, make_build


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("options")
    make_build(root / "work", root / "photos", ("Ada Lovelace", "Bedřich Ω"))
    return root / "work"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command that is no group, by its name."""
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))
    if not hasattr(command, "commands"):
        yield " ".join(path), command


COMMANDS = dict(commands(typer.main.get_command(app)))


def test_every_command_is_quiet_when_asked_and_out_has_a_short_name() -> None:
    assert len(COMMANDS) > 30
    for name, command in COMMANDS.items():
        options = [option for parameter in command.params for option in parameter.opts]
        assert options.count("--quiet") == options.count("-q") == 1, name
        assert ("--out" in options) == ("-o" in options), name
        assert len(options) == len(set(options)), name


def test_quiet_prints_nothing_and_only_once(work: Path) -> None:
    for option in ("--quiet", "-q"):
        done = run("status", work, option)
        assert (done.exit_code, done.output) == (0, "")
    assert "landmarks" in run("status", work).output
    assert run("config", "check", work, "-q").output == ""
    assert run("release", "verify", "-q", work).exit_code != 0


def test_errors_are_printed_even_when_quiet(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hqvox.cli.app", "status", str(tmp_path), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "no workspace here" in done.stderr


def test_status_as_json(work: Path) -> None:
    for arguments in (("--json",), ("--json", "--quiet")):
        done = run("status", work, *arguments)
        assert done.exit_code == 0
        record = json.loads(done.output)
    assert record["identities"] == 2
    stages = {step["stage"]: step for step in record["stages"]}
    assert stages["download"] == {
        "stage": "download",
        "entered": 2 * len(FATES),
        "entered_unit": "photo",
        "kept": 2 * len(FATES) - 2,
        "kept_unit": "photo",
        "refused": {"not_an_image": 2},
    }
    assert record["up_to_date"] is True
    assert (stages["landmarks"]["entered_unit"], stages["landmarks"]["kept_unit"]) == (
        "photo",
        "face",
    )
    assert record["left_out"] == 0
    assert record["failed"] == record["stale"] == {}
    assert record["releases"] == []


def test_status_as_json_says_what_is_stale(work: Path, tmp_path: Path) -> None:
    make_build(tmp_path / "work", tmp_path / "photos", ("Ada", "Bob"))
    file = tmp_path / "work" / "hqvox.yaml"
    file.write_text(file.read_text() + "pose:\n  max_yaw_deg: 4\n")
    record = json.loads(run("status", tmp_path / "work", "--json").output)
    assert record["up_to_date"] is False
    assert all("pose" in why or "yaw" in why for why in record["stale"].values())
    assert record["stale"]


def completed(line: str) -> list[str]:
    """What bash is offered at the end of a line."""
    words = line.split(" ")
    asked = {
        "_HQVOX_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    done = subprocess.run(
        [str(Path(sys.executable).with_name("hqvox"))],
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.stdout.split()


def test_recipe_names_are_completed() -> None:
    assert completed("hqvox build work --recipe ") == recipe_names()
    voices = [name for name in train_recipe_names() if name.startswith("voice")]
    assert completed("hqvox train voice") == voices
    assert completed("hqvox models describe voice") == voices
