"""What `hqvox train` shows: before it starts, and while it runs."""

from __future__ import annotations

import math
import resource
import time

import torch
from rich.console import Console
from rich.live import Live
from rich.text import Text

from hqvox.cli.common import console, roomy_console, say, text_table
from hqvox.release.read import Release
from hqvox.runner.bars import progress_bars
from hqvox.trainer.batches import BatchSource
from hqvox.trainer.config import TrainConfig
from hqvox.trainer.data import TrainingData
from hqvox.trainer.distributed import ProcessGroup
from hqvox.trainer.features import load_features
from hqvox.trainer.loop import Evaluated, Event, Stepped
from hqvox.trainer.readings import parts
from hqvox.trainer.speed import Speed, resolve
from hqvox.trainer.state import build_state
from models.inference import pick_device

PLAIN_EVERY_SECONDS = 10.0
"""Without a terminal, a line at most this often."""
WORTH_SAYING = 0.02
"""Share of waiting for data from which on it is shown."""


class TrainDisplay:
    """One live line on a terminal, else plain lines now and then. Use as a context manager."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live = Live(console=console, refresh_per_second=4, transient=True, auto_refresh=True)
        self._terms: dict[str, float] = {}
        self._last_line = time.monotonic()

    def __enter__(self) -> TrainDisplay:
        if self.console.is_terminal:
            self._live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        if self.console.is_terminal:
            self._live.__exit__(None, None, None)

    def __call__(self, event: Event) -> None:
        """Take in an event."""
        if isinstance(event, Stepped):
            self._terms = event.terms or self._terms
            line = step_line(event, self._terms)
            if self.console.is_terminal:
                self._live.update(Text(line, no_wrap=True, overflow="ellipsis"))
            elif time.monotonic() - self._last_line >= PLAIN_EVERY_SECONDS:
                self._last_line = time.monotonic()
                say(line, self.console)
        elif isinstance(event, Evaluated):
            say(evaluation_line(event), self.console)
        else:
            say(event.text, self.console)


def step_line(event: Stepped, terms: dict[str, float]) -> str:
    """How a run stands, in one line."""
    rate = event.steps_per_second
    left = int((event.steps - event.step) / max(rate, 1e-9))
    speed = f"{rate:.1f} steps/s" if rate >= 1 else f"{1 / max(rate, 1e-9):.1f} s a step"
    parts = [
        f"stage {event.stage}",
        f"step {event.step:,} of {event.steps:,}",
        speed,
        f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left",
        f"{memory_bytes() / 2**30:.1f} GiB",
    ]
    if event.waiting >= WORTH_SAYING:
        parts.append(f"{100 * event.waiting:.0f} % waiting for data")
    parts += [f"{name} {value:.3g}" for name, value in terms.items() if not math.isnan(value)]
    return ", ".join(parts)


def evaluation_line(event: Evaluated) -> str:
    """An evaluation's figures, in one line."""
    if not event.figures:
        return f"step {event.step:,}: nothing could be measured"
    figures = ", ".join(f"{name} {value:.4g}" for name, value in event.figures.items())
    best = f"; best yet: {', '.join(event.best)}" if event.best else ""
    return f"step {event.step:,}, stage {event.stage}: {figures}{best}"


def memory_bytes() -> int:
    """Most memory that was taken so far: of the GPU where one is used, else of this process."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_reserved()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def print_plan(config: TrainConfig, release: Release, device: str | None) -> None:
    """What would be trained, on what, with which fast paths. Raises HqvoxError as training does."""
    where = pick_device(device)
    speed = resolve(config.speed, where)
    with progress_bars(console) as bars:
        data = TrainingData.open(
            release,
            config.model.resolutions,
            pictures=config.data.pictures,
            resize=config.data.resize,
            on_progress=bars,
        )
    split = data.split("train")
    BatchSource(split, config).close()
    state = build_state(config, len(split), Speed(), ProcessGroup(torch.device("cpu")))
    rows = []
    for name, network in state.networks().items():
        count = sum(p.numel() for p in network.parameters())
        rows.append((name, f"{count:,} parameters"))
    faces = sum(len(own) for own in split.faces_of)
    spoken = sum(len(own) for own in split.utterances_of)
    rows.append(("data", f"{len(split):,} people, {faces:,} faces, {spoken:,} utterances"))
    for stage in ("stage1", "stage2"):
        section = getattr(config, stage)
        rows.append((stage, f"{section.iterations:,} iterations of {section.batch_size}"))
    rows.append(("device", f"{where}: {speed.describe()}"))
    console.print(text_table(("", ""), rows, frame=False), highlight=False)
    read_as = text_table(("part", "here", "as in"), parts(config), frame=False)
    roomy_console().print(read_as, highlight=False)
    if config.loss.perceptual.weight:  # last: the tables need no weights
        load_features(config.loss.perceptual.network)
    say("dry run: nothing was trained")
