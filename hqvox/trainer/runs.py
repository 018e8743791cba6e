"""A run's folder: its lock, ``run.json``, and what :command:`hqvox runs` lists.

::

    config.yaml  run.json  log.jsonl  tensorboard/  samples/<step>.jpg
    checkpoints/last.pt  checkpoints/best_<figure>.pt  checkpoints/best_fused_<figure>.pt
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import hqvox
from hqvox.errors import HqvoxError
from hqvox.trainer.log import read_log
from hqvox.workspace.locks import file_lock, is_locked
from hqvox.workspace.storage import Storage, disk_error

INFO = "run.json"
CONFIG = "config.yaml"
LOCK = ".lock"
CHECKPOINTS = "checkpoints"
LAST = "last.pt"
"""The checkpoint that a run resumes from."""
VERSIONS_OF = ("torch", "numpy")
"""Packages whose versions can change a result."""
HIGHER_IS_BETTER = {
    "l1": False,
    "cosine": True,
    "recall_1": True,
    "recall_5": True,
    "recall_10": True,
    "vfs": True,
    "eer": False,
    "accuracy": True,
}
"""The metrics whose best checkpoint is kept, as in the released code; the last two are those of a
voice encoder alone."""


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Lock a run's folder for one training; create it where it is missing.

    The kernel releases the lock when the process ends, however it ends. Raises HqvoxError where
    another process has it, and for errors of the disk.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, str(folder)) from None

    def busy(_: int) -> HqvoxError:
        return HqvoxError(f"{folder}: a training is running here; wait for it, or stop it")

    with file_lock(folder / LOCK, busy):
        yield


def held(folder: Path) -> bool:
    """Whether a training is running in a folder at this moment."""
    return is_locked(folder / LOCK)


def session_info(device: str, processes: int, speed: str, step: int) -> dict[str, Any]:
    """What ``run.json`` records of one session: when, where, with what, from which step."""
    return {
        "started": now(),
        "host": platform.node(),
        "platform": platform.platform(),
        "device": device,
        "processes": processes,
        "speed": speed,
        "hqvox": hqvox.__version__,
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in VERSIONS_OF},
        "from_step": step,
    }


def now() -> str:
    """The time, UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def write_info(folder: Path, info: dict[str, Any]) -> None:
    """Write ``run.json``. Raises HqvoxError for errors of the disk."""
    Storage(folder).write(INFO, (json.dumps(info, indent=2, ensure_ascii=False) + "\n").encode())


def read_info(folder: Path) -> dict[str, Any]:
    """Read ``run.json``. Raises HqvoxError where it is missing or damaged."""
    path = folder / INFO
    try:
        info = {"sessions": [], "release": {}, **json.loads(path.read_bytes())}
        if not all(isinstance(entry, dict) for entry in [info["release"], *info["sessions"]]):
            raise TypeError
        return info
    except FileNotFoundError:
        raise HqvoxError(f"{folder}: no run of `hqvox train` ({INFO} is missing)") from None
    except OSError as error:
        raise disk_error(error, str(path)) from None
    except (ValueError, TypeError):
        raise HqvoxError(f"{path}: damaged; restore it, or remove the run") from None


@dataclass(frozen=True)
class Run:
    """A run as :command:`hqvox runs` shows it."""

    folder: Path
    recipe: str
    release: str
    state: str
    """``running``, ``finished``, ``stopped``, ``failed``, or ``killed``."""
    step: int
    steps: int
    steps_per_second: float | None
    best: dict[str, float] = field(default_factory=dict)
    """The best value of each metric, on fused speech where stage 2 has been evaluated."""


def find_runs(places: Sequence[Path]) -> list[Run]:
    """The runs in ``places``, or one or two folders below, by name.

    Raises HqvoxError where there is none, or one is damaged.
    """
    folders = {
        info.parent
        for place in places
        for pattern in (INFO, f"*/{INFO}", f"*/*/{INFO}")
        for info in place.glob(pattern)
    }
    if not folders:
        named = ", ".join(str(place.absolute()) for place in places)
        raise HqvoxError(f"{named}: no run of `hqvox train` here; name the folder given as --out")
    return [read_run(folder) for folder in sorted(folders)]


def read_run(folder: Path) -> Run:
    """Read one run. Raises HqvoxError where it is damaged."""
    info, lines = read_info(folder), read_log(folder)
    last = info["sessions"][-1] if info["sessions"] else {}
    state = last.get("state")
    if state is None:
        state = "running" if held(folder) else "killed"
    trained = [line for line in lines if line["kind"] == "train"]
    rates = [line["speed"]["steps_per_second"] for line in trained[-20:]]
    return Run(
        folder=folder,
        recipe=str(info.get("recipe", "?")),
        release=str(info["release"].get("name", "?")),
        state=state,
        # A session may end after the last line of the log, or be killed before its first.
        step=max([int(last.get("to_step", last.get("from_step", 0))), *(w["step"] for w in lines)]),
        steps=int(info.get("steps", 0)),
        steps_per_second=sum(rates) / len(rates) if rates else None,
        best=best_figures(lines),
    )


def best_figures(lines: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The best value of each metric over a log's evaluations of the last stage evaluated."""
    evaluated = [line for line in lines if line["kind"] == "evaluate"]
    stage = max((line["stage"] for line in evaluated), default=0)
    best: dict[str, float] = {}
    for line in evaluated:
        for name, value in line["figures"].items():
            known = line["stage"] == stage and name in HIGHER_IS_BETTER
            if known and better(name, value, best.get(name)):
                best[name] = value
    return best


def better(name: str, value: float, than: float | None) -> bool:
    """Whether a metric's value is better than another one, or than none; NaN never is."""
    if not math.isfinite(value):
        return False
    if than is None:
        return True
    return value > than if HIGHER_IS_BETTER[name] else value < than
