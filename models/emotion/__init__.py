"""Facial expressions: the paper's ``mini_xception_fer2013`` and our own ``hqvox_neutral``."""

from __future__ import annotations

from typing import Protocol

from models.errors import ModelError
from models.protocols import EmotionClassifier
from models.store import ModelStore


class NeutralClassifier(EmotionClassifier, Protocol):
    """An emotion classifier with the probability from which a face counts as neutral."""

    neutral_threshold: float
    """Probability of neutral from which a face is neutral; each network documents its source."""


WEIGHTS: dict[str, tuple[str, ...]] = {
    "hqvox_neutral": ("hqvox_neutral",),
    "mini_xception_fer2013": ("mini_xception_fer2013",),
}
"""Registry names of the weight files that each network needs."""


def load(name: str, store: ModelStore, device: str = "cpu") -> NeutralClassifier:
    """Return an emotion classifier by name.

    Raises ModelError for an unknown name and for missing or wrong weights.
    """
    if name == "hqvox_neutral":
        from models.emotion.neutral_net import HqvoxNeutral

        return HqvoxNeutral.from_file(store.path(name), device)
    if name == "mini_xception_fer2013":
        from models.emotion.mini_xception import MiniXceptionClassifier

        return MiniXceptionClassifier(store.path(name), device)
    raise ModelError(f"no emotion network named '{name}'; known: {', '.join(sorted(WEIGHTS))}")
