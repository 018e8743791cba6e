"""`hqvox train`: the training loop of both stages (:func:`_run_stage`), signals, and events."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Literal

import torch

from hqvox.release.read import Release
from hqvox.trainer import distributed, runs
from hqvox.trainer.config import TrainConfig
from hqvox.trainer.session import Session, open_session
from hqvox.trainer.speakers import SpeakerStep
from hqvox.trainer.state import enter_stage_2, prepare_step
from hqvox.trainer.step import TrainStep

SEED_STRIDE = 1_000_003
"""More than the steps of a run, so that no two seeds share a step's random numbers."""


@dataclass(frozen=True)
class Stepped:
    """Event: a step is done."""

    stage: int
    step: int
    steps: int
    """Steps of both stages."""
    steps_per_second: float
    waiting: float
    """Share of the time spent waiting for batches."""
    terms: dict[str, float] | None
    """Mean losses since the last line of the log, where one was written; else None."""


@dataclass(frozen=True)
class Evaluated:
    """Event: the generator was measured. ``best``: the metrics that are the best so far."""

    stage: int
    step: int
    figures: dict[str, float]
    best: list[str]


@dataclass(frozen=True)
class Note:
    """Event: a note for the user, in one line."""

    text: str


Event = Stepped | Evaluated | Note


@dataclass(frozen=True)
class TrainOutcome:
    """How a training ended."""

    state: Literal["finished", "stopped"]
    step: int
    steps: int
    signal: int | None = None
    """The signal that stopped it."""
    best: dict[str, float] = field(default_factory=dict)


def train(
    config: TrainConfig,
    release: Release,
    out: Path,
    *,
    resume: bool = False,
    start: Path | None = None,
    device: str | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> TrainOutcome:
    """Train a model into the folder ``out``. Ctrl-C and SIGTERM save a checkpoint and stop.

    ``resume``: continue after ``checkpoints/last.pt`` of ``out``. ``start``: a checkpoint whose
    weights a new run starts from. ``on_progress`` follows the packing of the data. Raises
    HqvoxError for what the user can correct, and for a loss that is not finite.
    """
    with distributed.join(device) as group, runs.hold(out) if group.leader else nullcontext():
        tell = on_event if group.leader else lambda event: None
        session = open_session(
            config, release, out, group, resume, start, lambda text: tell(Note(text)), on_progress
        )
        with session, _signals() as stop:
            return _run(session, stop, tell)


def _run(session: Session, stop: StopRequest, tell: Callable[[Event], None]) -> TrainOutcome:
    first = session.config.stage1.iterations
    for stage, end in ((1, first), (2, session.steps)):
        if session.state.step < end and not stop.agreed:
            _run_stage(session, stage, end, stop, tell)
    state = session.state
    how: Literal["finished", "stopped"] = "finished" if state.step == session.steps else "stopped"
    return TrainOutcome(how, state.step, session.steps, stop.signal, dict(state.best))


def _run_stage(
    session: Session, stage: int, end: int, stop: StopRequest, tell: Callable[[Event], None]
) -> None:
    """Train until ``end`` steps are done or a signal asks to stop."""
    state, group, cadence = session.state, session.group, session.config.cadence
    if stage > state.stage:
        enter_stage_2(state, session.config, session.speed)
    load_batch = session.source.stage1 if stage == 1 else session.source.stage2
    first = 0 if stage == 1 else session.config.stage1.iterations
    train_step: TrainStep | SpeakerStep
    if session.config.task == "speakers":
        train_step = SpeakerStep(state, session.config, session.speed, group)
    else:
        train_step = TrainStep(
            state, session.network, session.real_features, session.config, session.speed, group
        )
    clock = Clock()
    while state.step < end and not stop.agreed:
        with clock.waiting():
            batch = load_batch(state.step - first)
        prepare_step(state, session.config, session.speed)
        torch.manual_seed(_seed(session.config.seed, state.step, group))
        session.terms.append(train_step(batch))
        state.step += 1
        clock.step()

        at, last = state.step, state.step == end
        logged = last or at % cadence.log_every == 0
        evaluated = last or at % cadence.evaluate_every == 0
        stop.agree(group, here=logged)
        saved = evaluated or stop.agreed or at % cadence.checkpoint_every == 0
        if logged or saved:
            session.check_terms(train_step.names)
        means = session.log_terms(train_step.names, clock.figures()) if logged else None
        tell(Stepped(stage, at, session.steps, clock.steps_per_second, clock.waited, means))
        with clock.paused():
            if evaluated or at % cadence.samples_every == 0:
                session.show_samples()
            best: list[str] = []
            if evaluated:
                figures, best = session.evaluate()
                tell(Evaluated(stage, at, figures, best))
            if saved:
                session.save(best)


def _seed(seed: int, step: int, group: distributed.ProcessGroup) -> int:
    """The seed of one process's random numbers in a step; below torch's limit."""
    return ((seed * SEED_STRIDE + step) * group.size + group.rank) % 2**63


class Clock:
    """Steps per second and the share of waiting, over the last steps; pauses do not count."""

    def __init__(self, over: int = 50) -> None:
        self._over = over
        self._steps: list[tuple[float, float]] = []
        self._started, self._waited = time.perf_counter(), 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the block as waiting for data."""
        began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - began

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the block."""
        began = time.perf_counter()
        yield
        self._started += time.perf_counter() - began

    def step(self) -> None:
        """A step is done."""
        now = time.perf_counter()
        self._steps = [*self._steps[1 - self._over :], (now - self._started, self._waited)]
        self._started, self._waited = now, 0.0

    @property
    def steps_per_second(self) -> float:
        """Over the last steps."""
        return len(self._steps) / self._seconds()

    @property
    def waited(self) -> float:
        """Share of the time that was waiting, over the last steps."""
        return sum(waited for _, waited in self._steps) / self._seconds()

    def figures(self) -> dict[str, float]:
        """Both, as the log stores them."""
        return {"steps_per_second": self.steps_per_second, "waiting": self.waited}

    def _seconds(self) -> float:
        return max(sum(seconds for seconds, _ in self._steps), 1e-9)


class StopRequest:
    """Whether a signal asks to stop, and whether all processes have agreed to."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.agreed = False

    def agree(self, group: distributed.ProcessGroup, here: bool) -> None:
        """Decide: a single process at once, several only ``here``, where all of them call this."""
        if group.size == 1:
            self.agreed = self.signal is not None
        elif here:
            self.agreed = group.any(self.signal is not None)


@contextmanager
def _signals() -> Iterator[StopRequest]:
    """Take Ctrl-C and SIGTERM as a request to stop; a second Ctrl-C stops at once."""
    stop = StopRequest()

    def note(number: int, frame: FrameType | None) -> None:
        if stop.signal == signal.SIGINT == number:
            raise KeyboardInterrupt
        stop.signal = number

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
