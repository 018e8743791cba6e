"""Which identity, face, utterance and crop comes at which step: arithmetic on (seed, step) alone.

People are shuffled and dealt, as a data loader over the released code's list of identities does: in
each round everybody comes once, however many faces or utterances they have. A person's face,
utterance and the crop's place are drawn uniformly. Every process draws the whole batch and takes
its slice, so the number of processes changes nothing, and a resumed run needs no state.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hqvox.errors import HqvoxError
from hqvox.trainer.config import TrainConfig
from hqvox.trainer.data import Part

Integers = NDArray[np.int64]
FRAMES_PER_SECOND = 100
_ROUNDS, _STAGE_1, _STAGE_2 = 0, 1, 2


@dataclass(frozen=True)
class Crops:
    """A batch of stage 1, arrays (n,)."""

    frames: int
    """Length of every crop."""
    identity: Integers
    face: Integers
    utterance: Integers
    start: Integers
    """First frame of the crop; 0 where the utterance is shorter than it."""
    mirrored: NDArray[np.bool_]


@dataclass(frozen=True)
class Speeches:
    """A batch of stage 2: per person, windows of several utterances."""

    identity: Integers
    face: Integers
    mirrored: NDArray[np.bool_]
    windows: list[Integers]
    """Per person (w, 2): utterance, first frame."""


class Draws:
    """Draws for one part of a split, one process of several."""

    def __init__(self, part: Part, config: TrainConfig, rank: int = 0, world: int = 1) -> None:
        """Raises HqvoxError where a batch cannot be shared evenly."""
        self._config, self._rank, self._world = config, rank, world
        for stage in ("stage1", "stage2"):
            size = getattr(config, stage).batch_size
            if size % world:
                raise HqvoxError(
                    f"{stage}.batch_size is {size}, which {world} processes cannot share evenly; "
                    f"set {stage}.batch_size={max(1, size // world) * world}"
                )
        self._people = len(part)
        self._faces, self._face_counts = _table(part.faces_of)
        self._utterances, self._utterance_counts = _table(part.utterances_of)
        self._frames = part.data.utterances.frames
        self._rounds: dict[int, Integers] = {}

    def stage1(self, step: int) -> Crops:
        """The crops of a step, counted from 0; this process's slice."""
        config = self._config.stage1
        size = config.batch_size
        rng = np.random.default_rng([self._config.seed, _STAGE_1, step])
        low, high = config.crop_frames
        frames = int(rng.integers(low, high, endpoint=True))
        chances = rng.random((4, size))
        own = self._own(size)
        identity, chances = self._deal(step, size)[own], chances[:, own]
        face = self._faces[identity, _pick(chances[0], self._face_counts[identity])]
        utterance = self._utterances[identity, _pick(chances[1], self._utterance_counts[identity])]
        room = np.maximum(self._frames[utterance] - frames + 1, 1)
        start = _pick(chances[2], room)
        return Crops(frames, identity, face, utterance, start, self._mirrored(chances[3]))

    def stage2(self, step: int) -> Speeches:
        """The speeches of a step, counted from 0; this process's slice."""
        size = self._config.stage2.batch_size
        rng = np.random.default_rng([self._config.seed, _STAGE_2, step])
        chances = rng.random((2, size))
        seeds = rng.integers(0, 2**63, size)
        own = self._own(size)
        identity, chances = self._deal(step, size)[own], chances[:, own]
        face = self._faces[identity, _pick(chances[0], self._face_counts[identity])]
        windows = [
            self._windows(np.random.default_rng(seed), person)
            for seed, person in zip(seeds[own], identity, strict=True)
        ]
        return Speeches(identity, face, self._mirrored(chances[1]), windows)

    def _windows(self, rng: np.random.Generator, person: int) -> Integers:
        """Windows over 6 to 25 s of a person's utterances, taken in random order.

        No window spans two utterances. Of more windows than allowed, some drawn at random stay.
        """
        config = self._config.stage2
        least, most = config.seconds
        left = round(rng.uniform(least, most) * FRAMES_PER_SECOND)
        said = self._utterances[person, : self._utterance_counts[person]]
        found: list[tuple[int, int]] = []
        for utterance in rng.permutation(said).tolist():
            frames = min(int(self._frames[utterance]), left)
            if found and frames < config.window_frames:
                continue
            first = int(rng.integers(0, int(self._frames[utterance]) - frames, endpoint=True))
            last = max(frames - config.window_frames, 0)
            found += [(utterance, first + at) for at in range(0, last + 1, config.stride_frames)]
            left -= frames
            if left < config.window_frames:
                break
        windows = np.array(found, np.int64)
        if len(windows) > config.max_windows:
            stay = rng.choice(len(windows), config.max_windows, replace=False)
            windows = windows[np.sort(stay)]
        return windows

    def _mirrored(self, chances: NDArray[np.float64]) -> NDArray[np.bool_]:
        return (chances < 0.5) & self._config.data.flip

    def _own(self, size: int) -> slice:
        share = size // self._world
        return slice(self._rank * share, (self._rank + 1) * share)

    def _deal(self, step: int, size: int) -> Integers:
        """The people of a whole batch."""
        rounds, seats = np.divmod(np.arange(step * size, (step + 1) * size), self._people)
        needed = range(int(rounds[0]), int(rounds[-1]) + 1)
        known = self._rounds  # Another thread may put others in its place meanwhile.
        kept = {r: known[r] if r in known else self._shuffled(r) for r in needed}
        self._rounds = kept
        return np.stack([kept[r] for r in needed])[rounds - rounds[0], seats]

    def _shuffled(self, number: int) -> Integers:
        rng = np.random.default_rng([self._config.seed, _ROUNDS, number])
        return rng.permutation(self._people)


def _pick(chances: NDArray[np.float64], counts: Integers) -> Integers:
    """A whole number from 0 to below each count; chances lie in 0 to below 1."""
    return np.minimum((chances * counts).astype(np.int64), counts - 1)


def _table(rows: tuple[Integers, ...]) -> tuple[Integers, Integers]:
    """Lists of unequal length as one padded array, and their lengths."""
    counts = np.array([len(own) for own in rows], np.int64)
    table = np.zeros((len(rows), int(counts.max(initial=0))), np.int64)
    for i, own in enumerate(rows):
        table[i, : len(own)] = own
    return table, counts
