"""The stateless sampler: which person, face, utterance and crop is trained on at which step.

A sample is a function of (seed, step) alone, so a resumed run needs no stored state. As a data
loader over the released code's list of identities does, each epoch goes through all people once, in
a random order, however many faces or utterances they have; with ``data.drop_last`` it ends with its
last whole batch. A person's face, utterance and the crop's position are uniform. With
``data.draw=apart`` an epoch goes through all utterances once, and one of its own through all faces.
Every process samples the whole batch and takes its slice, so the number of processes changes
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hqvox.errors import HqvoxError
from hqvox.trainer.config import TrainConfig
from hqvox.trainer.data import Split

Integers = NDArray[np.int64]
FRAMES_PER_SECOND = 100
REPEATED_FRAMES = 1000
"""Utterances that are repeated are so long at least, as in voice2face's released code."""
_EPOCHS, _STAGE_1, _STAGE_2, _UTTERANCES, _FACES = 0, 1, 2, 3, 4
"""Second number of each random seed, so that no two streams of random numbers are the same."""


@dataclass(frozen=True)
class SpeechCrops:
    """A batch of stage 1: one crop of each person, arrays (n,)."""

    frames: int
    """Length of every crop, frames of 10 ms."""
    identity: Integers
    """Position in the split of whoever speaks."""
    face: Integers
    """Row of ``TrainingData.faces``."""
    face_identity: Integers
    """Position in the split of whose face it is; ``identity`` unless they are drawn apart."""
    utterance: Integers
    """Row of ``TrainingData.utterances``."""
    start: Integers
    """First frame of the crop; 0 where the utterance is shorter than it and not repeated."""
    mirrored: NDArray[np.bool_]
    """Whether the picture is mirrored."""


@dataclass(frozen=True)
class SpeechWindows:
    """A batch of stage 2: windows of each person's utterances; else as :class:`SpeechCrops`."""

    identity: Integers
    face: Integers
    mirrored: NDArray[np.bool_]
    windows: list[Integers]
    """For each person (w, 2): utterance, first frame."""


class Sampler:
    """Samples the batches of one split, for one process of several."""

    def __init__(self, split: Split, config: TrainConfig, rank: int = 0, world: int = 1) -> None:
        """Raises HqvoxError where ``world`` processes cannot share a batch evenly."""
        self._config, self._rank, self._world = config, rank, world
        for stage in ("stage1", "stage2"):
            size = getattr(config, stage).batch_size
            if size % world:
                raise HqvoxError(
                    f"{stage}.batch_size is {size}, which {world} processes cannot share evenly; "
                    f"set {stage}.batch_size={max(1, size // world) * world}"
                )
        self._people = len(split)
        self._apart = config.data.draw == "apart"
        self._repeat = config.data.short == "repeat"
        # Every file of the split, and the person of each.
        self._all_utterances = _with_people(split.utterances_of)
        self._all_faces = _with_people(split.faces_of)
        self._faces, self._face_counts = _padded(split.faces_of)
        self._utterances, self._utterance_counts = _padded(split.utterances_of)
        self._frames = split.data.utterances.frames
        self._epochs: dict[tuple[int, int], Integers] = {}

    def stage1(self, step: int) -> SpeechCrops:
        """The crops of a step, counted from 0; this process's slice."""
        config = self._config.stage1
        size = config.batch_size
        rng = np.random.default_rng([self._config.seed, _STAGE_1, step])
        low, high = config.crop_frames
        frames = int(rng.integers(low, high, endpoint=True))
        chances = rng.random((4, size))
        mine = self._slice(size)
        chances = chances[:, mine]
        if self._apart:
            spoken = self._shuffled(_UTTERANCES, len(self._all_utterances), step, size)[mine]
            shown = self._shuffled(_FACES, len(self._all_faces), step, size)[mine]
            utterance, identity = self._all_utterances[spoken].T
            face, face_identity = self._all_faces[shown].T
        else:
            identity = face_identity = self._identities(step, size)[mine]
            face = self._faces[identity, _pick(chances[0], self._face_counts[identity])]
            number = _pick(chances[1], self._utterance_counts[identity])
            utterance = self._utterances[identity, number]
        length = self._frames[utterance]
        if self._repeat:
            length = np.maximum(length, max(REPEATED_FRAMES, frames))
        start = _pick(chances[2], np.maximum(length - frames + 1, 1))
        return SpeechCrops(
            frames, identity, face, face_identity, utterance, start, self._mirrored(chances[3])
        )

    def stage2(self, step: int) -> SpeechWindows:
        """The windows of a step, counted from 0; this process's slice."""
        size = self._config.stage2.batch_size
        rng = np.random.default_rng([self._config.seed, _STAGE_2, step])
        chances = rng.random((2, size))
        seeds = rng.integers(0, 2**63, size)
        mine = self._slice(size)
        identity, chances = self._identities(step, size)[mine], chances[:, mine]
        face = self._faces[identity, _pick(chances[0], self._face_counts[identity])]
        windows = [
            self._windows(np.random.default_rng(seed), person)
            for seed, person in zip(seeds[mine], identity, strict=True)
        ]
        return SpeechWindows(identity, face, self._mirrored(chances[1]), windows)

    def _windows(self, rng: np.random.Generator, person: int) -> Integers:
        """Windows (w, 2) of a person's utterances, which come in random order; at least one.

        No window spans two utterances. An utterance is padded if no utterance holds a window.
        """
        utterances = rng.permutation(self._utterances[person, : self._utterance_counts[person]])
        if self._config.stage2.seconds is None:
            return self._windows_to_the_end(rng, utterances)
        return self._windows_of_seconds(rng, utterances, *self._config.stage2.seconds)

    def _windows_of_seconds(
        self, rng: np.random.Generator, utterances: Integers, least: float, most: float
    ) -> Integers:
        """Over ``least`` to ``most`` seconds (paper, section 4); of too many a random selection."""
        config = self._config.stage2
        left = round(rng.uniform(least, most) * FRAMES_PER_SECOND)
        pairs: list[tuple[int, int]] = []
        for utterance in utterances.tolist():
            frames = min(int(self._frames[utterance]), left)
            if pairs and frames < config.window_frames:
                continue
            first = int(rng.integers(0, int(self._frames[utterance]) - frames, endpoint=True))
            last = max(frames - config.window_frames, 0)
            pairs += [(utterance, first + at) for at in range(0, last + 1, config.stride_frames)]
            left -= frames
            if left < config.window_frames:
                break
        windows = np.array(pairs, np.int64)
        if len(windows) > config.max_windows:
            kept = rng.choice(len(windows), config.max_windows, replace=False)
            windows = windows[np.sort(kept)]
        return windows

    def _windows_to_the_end(self, rng: np.random.Generator, utterances: Integers) -> Integers:
        """Each utterance from a random frame to its end, until there are enough (released code)."""
        config = self._config.stage2
        pairs: list[tuple[int, int]] = []
        for utterance in utterances.tolist():
            last = int(self._frames[utterance]) - config.window_frames
            if last < 0:
                continue
            first = int(rng.integers(max(last, 1)))
            pairs += [(utterance, at) for at in range(first, last + 1, config.stride_frames)]
        longest = utterances[np.argmax(self._frames[utterances])]
        return np.array(pairs[: config.max_windows] or [(longest, 0)], np.int64)

    def _mirrored(self, chances: NDArray[np.float64]) -> NDArray[np.bool_]:
        return (chances < 0.5) & self._config.data.flip

    def _slice(self, size: int) -> slice:
        """This process's slice of a batch of all processes."""
        share = size // self._world
        return slice(self._rank * share, (self._rank + 1) * share)

    def _identities(self, step: int, size: int) -> Integers:
        """The people of a whole batch: positions in the split, (size,)."""
        return self._shuffled(_EPOCHS, self._people, step, size)

    def _shuffled(self, stream: int, count: int, step: int, size: int) -> Integers:
        """Numbers below ``count`` of a whole batch, (size,); each once an epoch, shuffled."""
        per_epoch = count
        if self._config.data.drop_last and size < per_epoch:
            per_epoch -= per_epoch % size
        epochs, places = np.divmod(np.arange(step * size, (step + 1) * size), per_epoch)
        needed = range(int(epochs[0]), int(epochs[-1]) + 1)
        cached = self._epochs  # Another thread may replace it meanwhile.
        orders = {
            n: cached[stream, n] if (stream, n) in cached else self._order(stream, count, n)
            for n in needed
        }
        others = {key: order for key, order in cached.items() if key[0] != stream}
        self._epochs = others | {(stream, n): order for n, order in orders.items()}
        return np.stack([orders[n] for n in needed])[epochs - epochs[0], places]

    def _order(self, stream: int, count: int, epoch: int) -> Integers:
        rng = np.random.default_rng([self._config.seed, stream, epoch])
        return rng.permutation(count)


def _with_people(rows: tuple[Integers, ...]) -> Integers:
    """Rows of all people, each with the person's position: (rows, 2)."""
    people = np.repeat(np.arange(len(rows)), [len(some) for some in rows])
    return np.stack([np.concatenate(rows), people], axis=1)


def _pick(chances: NDArray[np.float64], counts: Integers) -> Integers:
    """A whole number from 0 to below each count; chances lie in 0 to below 1."""
    return np.minimum((chances * counts).astype(np.int64), counts - 1)


def _padded(rows: tuple[Integers, ...]) -> tuple[Integers, Integers]:
    """Arrays of unequal length as one array padded with zeros, and their lengths."""
    counts = np.array([len(row) for row in rows], np.int64)
    table = np.zeros((len(rows), int(counts.max(initial=0))), np.int64)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return table, counts
