"""A split of a release as a data set of PyTorch: pairs of a face and a crop of speech."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from hqvox.errors import HqvoxError
from hqvox.release.read import Release
from hqvox.trainer.data import SPLITS, SplitName, TrainingData
from hqvox.trainer.sampler import FRAMES_PER_SECOND
from hqvox.trainer.speech_input import Normaliser


class FaceVoicePair(NamedTuple):
    """A face and a crop of speech of one person; a batch of a DataLoader has ``n`` of each."""

    face: torch.Tensor
    """float32 (3, px, px), RGB, 0 to 1."""
    log_mel: torch.Tensor
    """float32 (filters, frames), 100 frames a second."""
    person: int
    """Position in :attr:`FaceVoiceDataset.identity_ids`."""


class FaceVoiceDataset(Dataset[FaceVoicePair]):
    """Every face of a split, each with a random crop of its person's speech.

    People without a face or without speech are left out. A crop is of a random utterance and begins
    at a random frame. Speech that is shorter than the crop is padded: with zeros before it is
    normalised, as in training. Random numbers come from PyTorch, so that ``torch.manual_seed`` and
    the workers of a DataLoader do what they do elsewhere.
    """

    identity_ids: tuple[str, ...]
    """Of the people, in the order of the numbers in ``person``."""
    names: tuple[str, ...]
    """Of the people, in the same order."""

    def __init__(
        self,
        release: Release,
        split: SplitName,
        *,
        px: int = 64,
        seconds: float = 1.25,
        pictures: Literal["masked", "origin"] = "masked",
        normalise: bool = True,
        seed: int | None = None,
        cache_dir: Path | None = None,
    ) -> None:
        """See :meth:`hqvox.OpenRelease.dataset`."""
        if split not in SPLITS:
            raise HqvoxError(f"no split {split!r}; there are {', '.join(SPLITS)}")
        if pictures not in ("masked", "origin"):
            raise HqvoxError(f"no pictures {pictures!r}; there are masked and origin")
        if px < 1 or round(seconds * FRAMES_PER_SECOND) < 1:
            raise HqvoxError(f"px={px}, seconds={seconds}: must be at least 1 and 0.01")
        self._made_from = (release, split, px, seconds, pictures, normalise, seed, cache_dir)
        self._data = TrainingData.open(release, [px], pictures=pictures, cache_dir=cache_dir)
        self._faces = self._data.faces[px]
        self._frames = round(seconds * FRAMES_PER_SECOND)
        self._seed = seed
        people = self._data.split(split)
        self._utterances_of = people.utterances_of
        self.identity_ids, self.names = people.identity_ids, people.person_names
        self._rows = np.concatenate([np.zeros(0, np.int64), *people.faces_of])
        self._people = np.repeat(np.arange(len(people)), [len(rows) for rows in people.faces_of])
        self._normaliser = (
            Normaliser.of_release(self._data) if normalise else Normaliser("release", 0.0, 1.0)
        )

    def __len__(self) -> int:
        """The number of faces."""
        return len(self._rows)

    def __getitem__(self, index: int) -> FaceVoicePair:
        """The face of that number, with a crop of speech."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"{index}: there are {len(self)} faces")
        index %= len(self)
        person = int(self._people[index])
        pixels = torch.from_numpy(np.array(self._faces[self._rows[index]]))
        rng = self._random(index)
        log_mel = self._data.log_mel(int(rng.choice(self._utterances_of[person])))
        start = int(rng.integers(max(len(log_mel) - self._frames, 0), endpoint=True))
        crop = log_mel[start : start + self._frames]
        window = self._normaliser.windows(crop, self._frames)[0]
        return FaceVoicePair(pixels.float().div_(255), window, person)

    def prepared(self, log_mel: NDArray[np.floating]) -> torch.Tensor:
        """Other speech, (frames, filters) as of :func:`hqvox.log_mel`, as in the data set's pairs.

        Returns float32 (filters, frames), whole.
        """
        return self._normaliser.whole(log_mel, 1)[0]

    def _random(self, index: int) -> np.random.Generator:
        if self._seed is not None:
            return np.random.default_rng([self._seed, index])
        return np.random.default_rng(int(torch.randint(2**62, ())))

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker that is started afresh maps the same files; pickled, the arrays would be copied.
        return _opened, self._made_from


def _opened(
    release: Release,
    split: SplitName,
    px: int,
    seconds: float,
    pictures: Literal["masked", "origin"],
    normalise: bool,
    seed: int | None,
    cache_dir: Path | None,
) -> FaceVoiceDataset:
    return FaceVoiceDataset(
        release, split, px=px, seconds=seconds, pictures=pictures, normalise=normalise, seed=seed,
        cache_dir=cache_dir,
    )  # fmt: skip
