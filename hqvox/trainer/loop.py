"""`hqvox train`: the loop over both stages, on one screen (:func:`_run_stage`)."""

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
from hqvox.trainer.state import enter_stage_2
from hqvox.trainer.step import Step

SEED_STRIDE = 1_000_003
"""Further apart than a run is long, so that no two runs' steps share their random numbers."""


@dataclass(frozen=True)
class Stepped:
    """A step is done."""

    stage: int
    step: int
    steps: int
    """Of both stages."""
    steps_per_second: float
    waiting: float
    """Share of the time that went into getting batches."""
    terms: dict[str, float] | None
    """Means over the steps since the line before, where a line of the log was written."""


@dataclass(frozen=True)
class Evaluated:
    """The generator was measured; ``best``: the figures that were never better in this stage."""

    stage: int
    step: int
    figures: dict[str, float]
    best: list[str]


@dataclass(frozen=True)
class Note:
    """Something that the user should know, in one line."""

    text: str


Event = Stepped | Evaluated | Note


@dataclass(frozen=True)
class Outcome:
    """How a training ended."""

    state: Literal["finished", "stopped"]
    step: int
    steps: int
    signal: int | None = None
    """What stopped it."""
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
) -> Outcome:
    """Train a model into the folder ``out``. Ctrl-C and SIGTERM save, and stop.

    ``resume``: go on after ``checkpoints/last.pt`` of ``out``. ``start``: a checkpoint with whose
    weights to begin. ``on_progress`` follows the packing of the data. Raises HqvoxError for what
    the user can mend, among it a loss that is not finite.
    """
    with distributed.join(device) as team, runs.hold(out) if team.leader else nullcontext():
        tell = on_event if team.leader else lambda event: None
        session = open_session(
            config, release, out, team, resume, start, lambda text: tell(Note(text)), on_progress
        )
        with session, _signals() as stop:
            return _run(session, stop, tell)


def _run(session: Session, stop: Stop, tell: Callable[[Event], None]) -> Outcome:
    first = session.config.stage1.iterations
    for stage, end in ((1, first), (2, session.steps)):
        if session.state.step < end:
            _run_stage(session, stage, end, stop, tell)
    state = session.state
    how: Literal["finished", "stopped"] = "finished" if state.step == session.steps else "stopped"
    return Outcome(how, state.step, session.steps, stop.signal, dict(state.best))


def _run_stage(
    session: Session, stage: int, end: int, stop: Stop, tell: Callable[[Event], None]
) -> None:
    """Train until ``end`` steps are done, or a signal comes."""
    state, team, cadence = session.state, session.team, session.config.cadence
    if stage > state.stage:
        enter_stage_2(state, session.config, session.speed)
    draw = session.source.stage1 if stage == 1 else session.source.stage2
    before = 0 if stage == 1 else session.config.stage1.iterations
    step = Step(state, session.network, session.real_features, session.config, session.speed, team)
    clock = Clock()
    while state.step < end and not stop.agreed:
        with clock.waiting():
            batch = draw(state.step - before)
        torch.manual_seed(_seed(session.config.seed, state.step, team))
        session.terms.append(step(batch))
        state.step += 1
        clock.step()

        at, last = state.step, state.step == end
        logged = last or at % cadence.log_every == 0
        evaluated = last or at % cadence.evaluate_every == 0
        stop.agree(team, here=logged)
        saved = evaluated or stop.agreed or at % cadence.checkpoint_every == 0
        if logged or saved:
            session.check_terms(step.names)
        means = session.log_terms(step.names, clock.figures()) if logged else None
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


def _seed(seed: int, step: int, team: distributed.Team) -> int:
    """What one process draws a step's noise by: a pure function of these, below torch's limit."""
    return ((seed * SEED_STRIDE + step) * team.size + team.rank) % 2**63


class Clock:
    """Steps per second and the share of waiting, over the last steps; pauses are not counted."""

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
        """Both, as the log has them."""
        return {"steps_per_second": self.steps_per_second, "waiting": self.waited}

    def _seconds(self) -> float:
        return max(sum(seconds for seconds, _ in self._steps), 1e-9)


class Stop:
    """Whether a signal asks to stop, and whether all processes know."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.agreed = False

    def agree(self, team: distributed.Team, here: bool) -> None:
        """Settle it: alone at once, several processes only ``here``, where all of them ask."""
        if team.size == 1:
            self.agreed = self.signal is not None
        elif here:
            self.agreed = team.any(self.signal is not None)


@contextmanager
def _signals() -> Iterator[Stop]:
    """Take Ctrl-C and SIGTERM as a wish to stop; a second Ctrl-C stops at once."""
    stop = Stop()

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
