"""How models are evaluated: which crops of speech, drawn how (SF2F appendix E.2).

The paper crops ten pieces of the wanted length from each identity's speech, evaluates, and does so
ten times. Every model is given the same crops: a draw depends on the seed, the run, the crop's
number and the length, never on the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

FRAMES_PER_SECOND = 100


@dataclass(frozen=True)
class Condition:
    """A kind of speech that a model is given: crops of so many frames, and whether it fuses them.

    ``frames``: shortest and longest crop, 100 a second; one length is drawn for each run and crop.
    ``fused``: over windows of 1.25 s by the fuser; else the encoder sees the crop as a whole.
    """

    length: str
    frames: tuple[int, int]
    fused: bool = False


SHORT = Condition("1.25 s", (125, 125))
LONG = Condition("5 s", (500, 500))
FUSED = Condition("5 s", (500, 500), fused=True)
LENGTHS = (
    Condition("0.5 - 1 s", (50, 100)),
    Condition("1 - 1.5 s", (100, 150)),
    Condition("1.5 - 3 s", (150, 300)),
    Condition("3 - 6 s", (300, 600)),
    Condition("6 - 10 s", (600, 1000)),
)
"""Of table 4."""


class Crop(NamedTuple):
    """A piece of an identity's utterance number ``utterance``: its frames from start to stop."""

    utterance: int
    start: int
    stop: int


@dataclass(frozen=True)
class Protocol:
    """``runs`` evaluations, each of ``crops`` pieces of speech per identity; drawn by ``seed``."""

    runs: int = 10
    crops: int = 10
    seed: int = 0

    def length(self, condition: Condition, run: int, crop: int) -> int:
        """Frames of a crop; the same for every identity, so that they make one batch."""
        low, high = condition.frames
        return int(self._draws(condition, run, crop, 0).integers(low, high + 1))

    def crop(
        self, frames: Sequence[int], condition: Condition, run: int, crop: int, identity: int
    ) -> Crop:
        """A piece of one identity's speech; ``frames``: of its utterances, at least one.

        One of the utterances that are long enough, each as likely, and where in it; where none is,
        the longest as a whole, which is then shorter than wanted.
        """
        wanted = self.length(condition, run, crop)
        rng = self._draws(condition, run, crop, 1 + identity)
        enough = [i for i, count in enumerate(frames) if count >= wanted]
        if not enough:
            longest = int(np.argmax(frames))
            return Crop(longest, 0, int(frames[longest]))
        chosen = enough[int(rng.integers(len(enough)))]
        start = int(rng.integers(int(frames[chosen]) - wanted + 1))
        return Crop(chosen, start, start + wanted)

    def _draws(self, condition: Condition, run: int, crop: int, of: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *condition.frames, run, crop, of])
