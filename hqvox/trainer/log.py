"""A run's log: ``log.jsonl``, and TensorBoard's files where it is installed.

A line of ``log.jsonl`` is one of

    {"kind": "train", "stage": 1, "step": 10, "terms": {"total": …}, "speed": {…}}
    {"kind": "evaluate", "stage": 1, "step": 5000, "figures": {"l1": …}, "best": ["l1"]}

Terms are means over the steps since the last line. Everything but ``speed`` and ``seconds`` is
the same whether a run was interrupted or not.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hqvox.errors import HqvoxError
from hqvox.workspace.storage import Storage, disk_error

FILE = "log.jsonl"
TENSORBOARD = "tensorboard"
KINDS = ("train", "evaluate")
"""Kinds of lines."""


class TrainLog:
    """Appends to a run's log. Use as a context manager."""

    def __init__(self, folder: Path, step: int, on_note: Callable[[str], None]) -> None:
        """Continue after ``step``; later lines, of a run that was killed, are dropped.

        ``on_note`` gets one line where TensorBoard is not installed. Raises HqvoxError for errors
        of the disk.
        """
        self.path = folder / FILE
        kept = [line for line in read_log(folder) if line["step"] <= step]
        Storage(folder).write(FILE, b"".join(_line(line) for line in kept))
        try:
            self._file = self.path.open("ab")
        except OSError as error:
            raise disk_error(error, str(self.path)) from None
        self._board = _board(folder / TENSORBOARD, step, on_note)

    def __enter__(self) -> TrainLog:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()

    def train(
        self, stage: int, step: int, terms: Mapping[str, float], speed: Mapping[str, float]
    ) -> None:
        """Write the mean losses of the last steps, and their speed."""
        self._write({"kind": "train", "stage": stage, "step": step, "terms": terms, "speed": speed})
        self._plot(stage, step, {"loss": terms, "speed": speed})

    def evaluate(
        self, stage: int, step: int, figures: Mapping[str, float], best: list[str], seconds: float
    ) -> None:
        """Write an evaluation's metrics, and which of them are the best so far."""
        line = {"kind": "evaluate", "stage": stage, "step": step, "figures": figures, "best": best}
        self._write({**line, "seconds": round(seconds, 3)})
        self._plot(stage, step, {"evaluate": figures})

    def picture(self, step: int, grid: Any) -> None:
        """Show a sample grid, RGB uint8 (h, w, 3), in TensorBoard."""
        if self._board is not None:
            self._board.add_image("samples", grid, step, dataformats="HWC")

    def flush(self) -> None:
        """Flush the log to disk; a checkpoint is written after it."""
        os.fsync(self._file.fileno())
        if self._board is not None:
            self._board.flush()

    def _write(self, line: Mapping[str, Any]) -> None:
        try:
            self._file.write(_line(line))
            self._file.flush()
        except OSError as error:
            raise disk_error(error, str(self.path)) from None

    def _plot(self, stage: int, step: int, groups: Mapping[str, Mapping[str, float]]) -> None:
        if self._board is not None:
            for group, values in groups.items():
                for name, value in values.items():
                    self._board.add_scalar(f"stage{stage}/{group}/{name}", value, step)


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The complete lines of a run's log; empty where there is none. A line cut short is left out.

    Raises HqvoxError where a line is not one of a training log.
    """
    try:
        data = (folder / FILE).read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise disk_error(error, str(folder / FILE)) from None
    lines = []
    for number, text in enumerate(data.split(b"\n")[:-1], 1):
        try:
            line = json.loads(text)
            assert isinstance(line["step"], int)
            assert line["kind"] in KINDS
        except (ValueError, KeyError, TypeError, AssertionError):
            raise HqvoxError(
                f"{folder / FILE}:{number}: not a line of a training log; restore the file, or "
                "remove it"
            ) from None
        lines.append(line)
    return lines


def _line(line: Mapping[str, Any]) -> bytes:
    return json.dumps(line).encode() + b"\n"


def _board(folder: Path, step: int, on_note: Callable[[str], None]) -> Any:
    """TensorBoard's writer, which hides what comes after ``step``; None where not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        on_note(
            "TensorBoard is not installed, so only log.jsonl is written: pip install 'hqvox[train]'"
        )
        return None
    try:
        return SummaryWriter(str(folder), purge_step=step + 1 if step else None)
    except OSError as error:
        raise disk_error(error, str(folder)) from None
