"""Runs small enough for tests: a model of some thousand weights, a few steps of four pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from hqvox.trainer.config import TrainConfig
from hqvox.trainer.log import read_log
from hqvox.trainer.recipes import load_train_config

SMALL = (
    "model.width=0.05",
    "model.embedding_dim=16",
    "loss.perceptual.weight=0",
    "loss.perceptual.network=dlib_resnet",
    "stage1.batch_size=4",
    "stage2.batch_size=4",
    "stage2.max_windows=4",
    "speed.threads=1",
    "cadence.log_every=3",
)


def small_config(*settings: str, recipe: str = "sf2f-64-tiny") -> TrainConfig:
    """A recipe made small, with ``settings`` over it."""
    return load_train_config(recipe, [*SMALL, *settings])


def log_without_times(folder: Path) -> list[dict[str, Any]]:
    """A run's log without what may differ between two runs of the same."""
    return [
        {key: value for key, value in line.items() if key not in ("speed", "seconds")}
        for line in read_log(folder)
    ]


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Where two checkpoints' contents differ, to the bit."""
    if isinstance(one, torch.Tensor):
        same = one.dtype == other.dtype and torch.equal(one, other)
        return [] if same else [where]
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return [f"{where}: keys"]
        return [d for key in one for d in differences(one[key], other[key], f"{where}.{key}")]
    if isinstance(one, list | tuple):
        if len(one) != len(other):
            return [f"{where}: length"]
        pairs = zip(one, other, strict=True)
        return [d for i, (a, b) in enumerate(pairs) for d in differences(a, b, f"{where}[{i}]")]
    return [] if one == other else [where]
