"""How short commands end: runs them many times and counts their exit codes.

    python benchmarks/exits.py --runs 150

Each round is one command, in turn: build five photographs up to the pose stage, show the status,
plan a build. A command that did its work and then aborts (exit code 134) is what this looks for.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from hqvox.phantom.world import make_world

COMMANDS = (
    ("build", "w", "--stage", "pose", "--from", "landmarks"),
    ("status", "w"),
    ("build", "w", "--dry-run"),
)


def main() -> None:
    """Print how often each command ended with which code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=150)
    given = parser.parse_args()
    ends: Counter[tuple[str, int, str]] = Counter()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_world(folder / "world", seed=3, identities=1, photos_per_identity=5)
        hqvox(folder, "init", "w", "--photos", "world/photos")
        hqvox(folder, "build", "w", "--stage", "pose")
        for number in range(given.runs):
            command = COMMANDS[number % len(COMMANDS)]
            done = hqvox(folder, *command)
            last = done.stderr.strip().splitlines()[-1:] if done.returncode else []
            ends[" ".join(command), done.returncode, "".join(last)] += 1
    for (text, code, line), count in sorted(ends.items()):
        print(f"{count:4} × hqvox {text}: exit code {code} {line}".rstrip())
    print(f"{given.runs} runs in {time.monotonic() - started:.0f} s")


def hqvox(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hqvox.cli.app", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


if __name__ == "__main__":
    main()
