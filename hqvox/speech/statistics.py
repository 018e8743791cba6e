"""Mean and variance in one pass, merged over utterances and shards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class MeanVariance:
    """Mean and variance of log-mels, per filter (float64, shape (filters,)) and over all.

    Merging follows Chan, Golub and LeVeque (1979), which takes no difference of large sums of
    squares. The order of merging changes only the rounding.
    """

    frames: int
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]
    """Sum over frames of squared distances to the mean."""

    @classmethod
    def empty(cls, n_filters: int) -> MeanVariance:
        """Of no frames."""
        return cls(0, np.zeros(n_filters), np.zeros(n_filters))

    @classmethod
    def of(cls, log_mel: ArrayLike) -> MeanVariance:
        """Of frames (frames, filters)."""
        values = np.asarray(log_mel, np.float64)
        if not len(values):
            return cls.empty(values.shape[1])
        mean = values.mean(axis=0)
        return cls(len(values), mean, np.square(values - mean).sum(axis=0))

    def merged(self, other: MeanVariance) -> MeanVariance:
        """Mean and variance of both together."""
        frames = self.frames + other.frames
        if not frames:
            return self
        difference = other.mean - self.mean
        share = other.frames / frames
        return MeanVariance(
            frames,
            self.mean + difference * share,
            self.squares + other.squares + np.square(difference) * self.frames * share,
        )

    @property
    def variance(self) -> NDArray[np.float64]:
        """Population variance of each filter; zero where there are no frames."""
        return self.squares / max(self.frames, 1)

    @property
    def overall_mean(self) -> float:
        """Mean over all filters and frames (SF2F's code normalises by 10.9915 on VoxCeleb)."""
        return float(self.mean.mean())

    @property
    def overall_std(self) -> float:
        """Standard deviation over all filters and frames (SF2F's code: 3.1661)."""
        return float(np.sqrt(self.variance.mean() + self.mean.var()))

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "frames": self.frames,
            "mean": self.mean.tolist(),
            "squares": self.squares.tolist(),
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> MeanVariance:
        """From the JSON values of :meth:`record`."""
        return cls(record["frames"], np.array(record["mean"]), np.array(record["squares"]))
