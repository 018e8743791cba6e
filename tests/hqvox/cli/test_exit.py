"""A command leaves no thread of a library behind, which could abort the process as it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.synthetic_build import make_build

RUN = """
import json, os, sys
from hqvox.cli.app import main

def threads():
    # Those of this process that are not Python's own; jemalloc's touches no Python object.
    folder = "/proc/self/task"
    names = [open(f"{folder}/{task}/comm").read().strip() for task in os.listdir(folder)]
    return len([name for name in names if name != "jemalloc_bg_thd"]) - 1

if __name__ == "__main__":
    left = {}
    for command in json.loads(sys.argv[1]):
        sys.argv = ["hqvox", *command]
        try:
            main()
        except SystemExit as ended:
            assert not ended.code, (command, ended.code)
        left[" ".join(command[:2])] = threads()
    with open("left.json", "w") as file:
        json.dump(left, file)
"""


def left_after(folder: Path, *commands: list[str]) -> dict[str, int]:
    """How many threads besides the main one are there after each command."""
    script = folder / "run.py"
    script.write_text(RUN)
    done = subprocess.run(
        [sys.executable, str(script), json.dumps(commands)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    left: dict[str, int] = json.loads((folder / "left.json").read_text())
    return left


@pytest.mark.slow
def test_no_command_leaves_a_thread_of_arrow_behind(tmp_path: Path) -> None:
    make_build(tmp_path / "w", tmp_path / "photos")
    again = ["--stage", "landmarks", "--workers", "1", "--set", "duplicates.max_distance_bits=5"]
    left = left_after(
        tmp_path,
        ["status", "w"],
        ["build", "w", "--dry-run"],
        ["build", "w", *again],
        ["explain", "w", "id0", "--out", "sheet.jpg"],
        ["config", "show", "w"],
    )
    assert left == {"status w": 0, "build w": 0, "explain w": 0, "config show": 0}
