"""Learning rates: constant, or falling from a step of stage 1 on."""

from __future__ import annotations

import math

import pytest
import torch

from hqvox.errors import HqvoxError
from hqvox.trainer.config import TrainConfig
from hqvox.trainer.recipes import load_train_config
from hqvox.trainer.schedule import decay_begin, describe, learning_rate, set_rates


def config(*settings: str, recipe: str = "sf2f-64") -> TrainConfig:
    return load_train_config(recipe, list(settings))


def test_the_papers_rate_is_constant() -> None:
    assert {learning_rate(config(), step) for step in (0, 99_999, 119_999)} == {5e-4}


def test_the_released_rate_falls_by_the_epoch() -> None:
    """Of 12,000 epochs, after epoch e from 10,000 on, as the code computes it."""
    released = config(recipe="sf2f-64-released")
    assert decay_begin(released) == 110_000
    rate = 5e-4
    for epoch in range(9_990, 12_000):
        for step in (11 * epoch, 11 * epoch + 10):
            assert learning_rate(released, step) == pytest.approx(rate, abs=1e-11)
        if epoch >= 10_000:
            rate = 5e-4 - (epoch - 9_999) / (2_000 + 1e-5) * (5e-4 - 5e-7)
    assert rate == pytest.approx(5e-7, rel=1e-3)


def test_a_cosine_falls_slowly_fast_slowly() -> None:
    given = ("stage1.iterations=20", "optimiser.schedule.begin=10")
    falling = config(*given, "optimiser.schedule.kind=cosine", "optimiser.schedule.end_rate=1e-4")
    rates = [learning_rate(falling, step) for step in range(20)]
    assert rates[:11] == [5e-4] * 11
    assert rates[15] == pytest.approx(3e-4)
    expected = [1e-4 + 4e-4 * (1 + math.cos(math.pi * p / 10)) / 2 for p in range(1, 10)]
    assert rates[11:] == pytest.approx(expected)


def test_which_optimisers_follow() -> None:
    names = ("generator", "discriminator_64", "classifier_64", "shared_64")
    adams = {n: torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1.0) for n in names}

    def rates(stage: int, step: int, *settings: str) -> list[float]:
        given = ("stage1.iterations=12", "optimiser.schedule.kind=linear", *settings)
        set_rates(adams, config(*given), stage, step)
        return [adam.param_groups[0]["lr"] for adam in adams.values()]

    half = 5e-4 - (5e-4 - 5e-7) / 2
    assert rates(1, 10) == [5e-4] * 4
    assert rates(1, 11) == pytest.approx([half] * 4)
    apart = rates(1, 11, "optimiser.schedule.classifiers=false")
    assert apart == pytest.approx([half, half, 5e-4, 5e-4])
    assert rates(2, 0) == [5e-4] * 4
    assert rates(2, 0, "stage2.learning_rate=1e-4") == [1e-4] * 4


def test_a_schedule_in_words() -> None:
    assert describe(config()) == "0.0005"
    assert describe(config(recipe="sf2f-64-released")) == (
        "0.0005, linear from step 110,000 to 5e-07 (not of identity classifiers); batch norm "
        "frozen from step 110,000; stage 2 0.0001"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["optimiser.schedule.begin=120001"], "begin is 120001, after the last of 120000"),
        (
            ["optimiser.schedule.kind=linear", "optimiser.schedule.end_rate=1e-2"],
            "end_rate 0.01 is above optimiser.learning_rate 0.0005",
        ),
        (["optimiser.schedule.kind=steps"], "'constant', 'linear' or 'cosine'"),
    ],
)
def test_a_wrong_schedule_is_one_line(settings: list[str], message: str) -> None:
    with pytest.raises(HqvoxError, match=message):
        config(*settings)
