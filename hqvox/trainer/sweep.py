"""Sweeps: one training run for every point of a grid of settings, in plain files.

A sweep's file is YAML: a setting, and the values it takes::

    optimiser.learning_rate: [1e-4, 2e-4, 5e-4, 1e-3]
    stage1.batch_size: [64, 128, 256, 512]

Every point is a run's folder below the sweep's, named by its values, and ``sweep.csv`` has a row
for each.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any

from hqvox.config.explain import read_yaml
from hqvox.errors import HqvoxError
from hqvox.trainer.runs import HIGHER_IS_BETTER, INFO, read_run
from hqvox.workspace.storage import Storage

TABLE = "sweep.csv"
MOST_POINTS = 10_000
LONGEST_NAME = 255
"""Bytes that file systems take as a folder's name."""
_HINT = "write a setting and its values on each line, for example stage1.batch_size: [64, 128]"


@dataclass(frozen=True)
class Point:
    """A point of the grid."""

    name: str
    """Of its run's folder: ``learning_rate=1e-4,batch_size=64``."""
    values: tuple[str, ...]
    """As text, in the order of the sweep's settings."""
    settings: tuple[str, ...]
    """As of ``--set``."""


@dataclass(frozen=True)
class Sweep:
    """The settings of a sweep, and every combination of their values, in the file's order."""

    keys: tuple[str, ...]
    points: tuple[Point, ...]


def sweep_names() -> list[str]:
    """Names of the installed sweeps."""
    folder = resources.files("hqvox") / "recipes" / "sweep"
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir())


def read_sweep(file: str) -> Sweep:
    """Read a sweep's file, or an installed one by name. Raises HqvoxError, in one line."""
    if file in sweep_names():
        text = (resources.files("hqvox") / "recipes" / "sweep" / f"{file}.yaml").read_text("utf-8")
    else:
        try:
            text = Path(file).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8 text"
            known = ", ".join(sweep_names())
            raise HqvoxError(f"--sweep {file}: {reason}; name a file, or {known}") from None
    grid, _ = read_yaml(text, file)
    if not grid:
        raise HqvoxError(f"{file}: empty; {_HINT}")
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise HqvoxError(f"{file}: {key} has no list of values; {_HINT}")
    keys = tuple(map(str, grid))
    count = 1
    for values in grid.values():
        count *= len(values)
    if count > MOST_POINTS:
        raise HqvoxError(f"{file}: {count:,} points, at most {MOST_POINTS:,} are possible")
    points = tuple(_point(keys, values) for values in product(*grid.values()))
    names = [point.name for point in points]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise HqvoxError(f"{file}: {twice} is there twice; give each value once")
    longest = max(names, key=lambda name: len(name.encode()))
    if len(longest.encode()) > LONGEST_NAME:
        raise HqvoxError(
            f"{file}: {longest[:40]}… is too long for a folder's name, which may have "
            f"{LONGEST_NAME} bytes; give shorter values, or fewer settings"
        )
    return Sweep(keys, points)


def _point(keys: Sequence[str], values: Sequence[Any]) -> Point:
    texts = tuple(v if isinstance(v, str) else json.dumps(v) for v in values)
    short = [key.rsplit(".", 1)[-1] for key in keys]
    if len(set(short)) < len(short):
        short = list(keys)
    parts = (f"{key}={text}" for key, text in zip(short, texts, strict=True))
    name = re.sub(r"[^\w.,=+-]+", "_", ",".join(parts))
    settings = tuple(f"{key}={text}" for key, text in zip(keys, texts, strict=True))
    return Point(name, texts, settings)


def sweep_table(
    sweep: Sweep, out: Path, failed: Sequence[str] = ()
) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: the values of each point, its state, its step, and its best figures.

    ``failed``: names of points whose training ended with an error.
    """
    headings = [*sweep.keys, "state", "step", *HIGHER_IS_BETTER]
    rows = []
    for point in sweep.points:
        folder = out / point.name
        if not (folder / INFO).is_file():
            state = "failed" if point.name in failed else "not begun"
            rows.append([*point.values, state, "", *("" for _ in HIGHER_IS_BETTER)])
            continue
        run = read_run(folder)
        best = (run.best.get(figure) for figure in HIGHER_IS_BETTER)
        figures = ("" if value is None else f"{value:.6g}" for value in best)
        rows.append([*point.values, run.state, f"{run.step}/{run.steps}", *figures])
    return headings, rows


def write_sweep_table(headings: Sequence[str], rows: Sequence[Sequence[str]], out: Path) -> Path:
    """Write ``sweep.csv`` into the sweep's folder. Raises HqvoxError for errors of the disk."""
    sink = io.StringIO()
    csv.writer(sink, lineterminator="\n").writerows([headings, *rows])
    Storage(out).write(TABLE, sink.getvalue().encode())
    return out / TABLE
