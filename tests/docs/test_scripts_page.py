"""docs/scripts.md: its Slurm scripts run, with commands in place of Slurm's."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hqvox.cli.app import app
from tests.helpers.synthetic_build import make_build

PAGE = Path(__file__).parents[2] / "docs" / "scripts.md"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with ``bin``, in which ``srun`` runs its arguments here and ``scontrol`` notes."""
    (tmp_path / "bin").mkdir()
    stub(tmp_path, "srun", 'exec "$@"')
    stub(tmp_path, "scontrol", 'echo "$@" >> scontrol.txt')
    return tmp_path


def stub(place: Path, name: str, text: str) -> None:
    file = place / "bin" / name
    file.write_text(f"#!/bin/bash\n{text}\n")
    file.chmod(0o755)


def script(number: int) -> str:
    return re.findall(r"^```bash\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)[
        number
    ]


def submit(place: Path, text: str) -> subprocess.CompletedProcess[str]:
    path = f"{place / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "SLURM_CPUS_PER_TASK": "1", "SLURM_JOB_ID": "77"}
    return subprocess.run(
        ["bash", "-c", text], cwd=place, env=env, capture_output=True, text=True, timeout=300
    )


def test_the_build_script_builds(place: Path) -> None:
    make_build(place / "work", place / "photos", ("Ada",))
    done = submit(place, script(0))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert submit(place, script(0).replace("build work", "build no")).returncode == 1


def test_the_training_script_requeues_what_was_stopped_and_nothing_else(place: Path) -> None:
    stub(place, "torchrun", 'echo "$@" > torchrun.txt; exit 143')
    assert submit(place, script(1)).returncode == 143
    assert not (place / "scontrol.txt").exists()  # no checkpoint: an error
    words = (place / "torchrun.txt").read_text().split()
    assert "hqvox train sf2f-64 --data work/v1 --out runs/sf2f-64 --resume" in " ".join(words)
    (place / "runs/sf2f-64/checkpoints").mkdir(parents=True)
    (place / "runs/sf2f-64/checkpoints/last.pt").touch()
    assert submit(place, script(1)).returncode == 143
    assert (place / "scontrol.txt").read_text() == "requeue 77\n"
    stub(place, "torchrun", "exit 0")
    assert submit(place, script(1)).returncode == 0
    assert (place / "scontrol.txt").read_text() == "requeue 77\n"


def test_the_page_lists_the_keys_of_status(place: Path) -> None:
    make_build(place / "work", place / "photos", ("Ada",), photos_per_identity=1)
    done = CliRunner().invoke(app, ["status", str(place / "work"), "--json"])
    table = PAGE.read_text("utf-8").split("prints one object:")[1].split("```")[0]
    assert set(json.loads(done.output)) == set(
        re.findall(r"`(\w+)`", "".join(re.findall(r"^\|([^|]*)\|", table, re.MULTILINE)))
    )
