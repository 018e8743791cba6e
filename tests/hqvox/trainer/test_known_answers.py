"""A minute's training must tell strangers' faces from their voices better than chance does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binom

from hqvox.trainer.checkpoint import load_generator
from hqvox.trainer.data import TrainingData
from hqvox.trainer.evaluate import SHORT, Protocol, evaluate, real_faces
from hqvox.trainer.generate import normaliser_of
from hqvox.trainer.loop import train
from hqvox.trainer.metric_networks import MetricNetworks
from hqvox.trainer.metrics import chance
from hqvox.trainer.recipes import load_train_config
from tests.helpers.tiny_release import make_tiny_release

STRANGERS = 60
CHANCE_REACHES_IT = 1e-6
"""How likely chance may be to find as many people: a binomial tail over the strangers."""


@pytest.mark.slow(seconds=30)
def test_a_short_training_tells_strangers_by_their_voices(tmp_path: Path) -> None:
    """Four traits show in these people's faces and sound in their voices.

    Faces are compared as people who have to hand them would: block by block, less the mean face of
    the training people. One query for each stranger, so that trials are independent.
    """
    release = make_tiny_release(
        tmp_path / "r", train=80, val=0, test=STRANGERS, faces=2, frames=(150, 250)
    )
    config = load_train_config(
        "sf2f-64-tiny",
        [
            "model.width=0.125",
            "model.fuser=null",
            "optimiser.learning_rate=0.003",
            "loss.perceptual.weight=0",
            "stage1.iterations=250",
            "stage2.iterations=0",
            "cadence.evaluate_every=100000",
            "cadence.samples_every=100000",
            "speed.threads=1",
        ],
    )
    train(config, release, tmp_path / "run", device="cpu")

    data = TrainingData.open(release, (64,))
    loaded = load_generator(tmp_path / "run" / "checkpoints" / "last.pt")
    known, strangers = data.split("train"), data.split("test")
    assert not set(known.identity_ids) & set(strangers.identity_ids)
    middle = torch.cat([pictures for pictures, _ in real_faces(known, 64)]).mean(dim=0)

    def blocks(pictures: torch.Tensor) -> np.ndarray:
        return torch.nn.functional.avg_pool2d(pictures - middle, 8).flatten(1).numpy()

    [result] = evaluate(
        loaded.generator,
        normaliser_of(loaded),
        strangers,
        [SHORT],
        MetricNetworks(blocks, "blocks"),
        Protocol(runs=1, crops=1),
    ).results
    recall = result.scores["recall_10"].mean
    hits = round(recall / 100 * STRANGERS)
    tail = float(binom.sf(hits - 1, STRANGERS, chance(10, STRANGERS) / 100))
    assert tail < CHANCE_REACHES_IT, f"R@10 {recall:.0f} %, chance {chance(10, STRANGERS):.0f} %"
