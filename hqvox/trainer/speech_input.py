"""From stored log-mels to a voice encoder's input: windows, padding, normalisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from hqvox.errors import HqvoxError
from hqvox.trainer.config import TrainConfig
from hqvox.trainer.data import TrainingData, mean_deviation

WINDOW_FRAMES = 125
"""Length of a window: 1.25 s (paper)."""
STRIDE_FRAMES = 63
"""Distance between windows: 50 % overlap, rounded as in the released code."""
SF2F_MEAN, SF2F_STD = 10.9915, 3.1661
"""Mean and deviation over HQ-VoxCeleb's log-mels (SF2F's released code)."""

KINDS = ("sf2f", "release", "utterance")
"""Kinds of normalisation."""


@dataclass(frozen=True)
class Normaliser:
    """How log-mels are normalised; plain values, so that a checkpoint can store them.

    ``kind``: ``sf2f`` and ``release`` use one ``mean`` and ``std`` for everything; crops that are
    too short are first padded with zeros, as in SF2F's released code. ``utterance`` uses each
    filter's mean and deviation over the whole utterance (voice2face), and pads afterwards.
    ``short``: how speech shorter than a crop is filled up, ``pad`` or ``repeat``. ``front_end``:
    what the log-mels are made by, see ``speech.front_end``.
    """

    kind: Literal["sf2f", "release", "utterance"] = "sf2f"
    mean: float = SF2F_MEAN
    std: float = SF2F_STD
    short: Literal["pad", "repeat"] = "pad"
    front_end: Literal["sf2f", "voice2face"] = "sf2f"

    @classmethod
    def of(cls, config: TrainConfig, data: TrainingData) -> Normaliser:
        """The configuration's normaliser. Raises HqvoxError where the release has no frames."""
        kind = config.data.normalise
        short, front_end = config.data.short, config.data.front_end
        base = cls.of_release(data) if kind == "release" else cls(kind)
        return replace(base, short=short, front_end=front_end)

    @classmethod
    def of_release(cls, data: TrainingData) -> Normaliser:
        """By mean and deviation over the release's train. Raises HqvoxError if that is silent."""
        stats = data.speech_stats
        if not stats.get("variance"):
            raise HqvoxError(
                f"{data.release.url}: no speech in train, so there is no mean to normalise with; "
                "set data.normalise=sf2f (in Python: normalise=False)"
            )
        return cls("release", float(stats["mean"]), float(stats["variance"]) ** 0.5)

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Normaliser:
        """Read what :meth:`as_dict` gave. Raises HqvoxError for anything else."""
        names = {field.name for field in fields(cls)}
        if values.keys() - names or values.get("kind") not in KINDS:
            raise HqvoxError(
                f"unknown normalisation of log-mels, {dict(values)}; written by a newer hqvox? "
                "upgrade with: pip install --upgrade hqvox"
            )
        return cls(**values)

    def windows(
        self, log_mel: NDArray[np.floating], length: int = WINDOW_FRAMES, stride: int | None = None
    ) -> torch.Tensor:
        """An utterance (frames, filters) as the encoder's input: (w, filters, length) float32.

        ``stride``: frames between windows, by default half of ``length`` rounded up (63 of 125).
        """
        step = (length + 1) // 2 if stride is None else stride
        if self.kind != "utterance":
            filled = self.filled(log_mel, length)
            return self.scaled(torch.from_numpy(windows(filled, length, step)))
        mean, std = mean_deviation(log_mel)
        filled = self.filled((log_mel.astype(np.float32) - mean) / std, length)
        return torch.from_numpy(windows(filled, length, step))

    def whole(self, log_mel: NDArray[np.floating], least_frames: int = 32) -> torch.Tensor:
        """An utterance or crop, (frames, filters), as one window: float32 (1, filters, frames)."""
        return self.windows(log_mel, max(len(log_mel), least_frames))

    def filled(self, log_mel: NDArray[np.floating], frames: int) -> NDArray[np.floating]:
        """Speech (t, filters) repeated to so many frames, where short speech is repeated."""
        if self.short != "repeat" or len(log_mel) >= frames:
            return log_mel
        return log_mel[np.arange(frames) % len(log_mel)]

    def scaled(self, log_mel: torch.Tensor) -> torch.Tensor:
        """Normalise with the one mean and deviation; not in place."""
        return (log_mel - self.mean) / self.std


def check_front_end(data: TrainingData, needs: str) -> None:
    """Raise HqvoxError where a release's log-mels were made by another front end."""
    if data.front_end != needs:
        raise HqvoxError(
            f"{data.release.url}: its log-mels are made by the {data.front_end} front end, the "
            f"model needs {needs}; run `hqvox speech WORKSPACE --set speech.front_end={needs}`, "
            "then release under a new name"
        )


def normalise(log_mel: torch.Tensor) -> torch.Tensor:
    """As SF2F's released code: (x - 10.9915) / 3.1661."""
    return Normaliser().scaled(log_mel)


def windows(
    log_mel: NDArray[np.floating], length: int = WINDOW_FRAMES, stride: int = STRIDE_FRAMES
) -> NDArray[np.float32]:
    """Windows of an utterance (frames, filters): (w, filters, length) float32, not normalised.

    Only whole windows; a rest at the end is dropped. An utterance shorter than a window gives one
    window, padded with zeros.
    """
    frames, filters = log_mel.shape
    if frames < length:
        padded = np.zeros((1, filters, length), np.float32)
        padded[0, :, :frames] = log_mel.T
        return padded
    view = np.lib.stride_tricks.sliding_window_view(log_mel, length, axis=0)[::stride]
    return np.ascontiguousarray(view, np.float32)
