"""The learning rates of a step, and what changes where the rate of stage 1 begins to fall.

Both are functions of the configuration and the number of the step, so a resumed run needs no
stored state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from hqvox.trainer.config import TrainConfig

IDENTITY = ("classifier_", "shared_")
"""How the names of critics begin that classify identities."""


def decay_begin(config: TrainConfig) -> int:
    """The step of stage 1, counted from 0, from which its rate falls."""
    begin = config.optimiser.schedule.begin
    return config.stage1.iterations * 5 // 6 if begin is None else begin


def learning_rate(config: TrainConfig, step: int) -> float:
    """The rate at a step of stage 1, counted from 0, of what follows the schedule."""
    optimiser, schedule = config.optimiser, config.optimiser.schedule
    begin, every = decay_begin(config), schedule.every
    if schedule.kind == "constant" or step <= begin:
        return optimiser.learning_rate
    progress = ((step - begin) // every) / ((config.stage1.iterations - begin) / every)
    share = progress if schedule.kind == "linear" else (1 - math.cos(math.pi * progress)) / 2
    return optimiser.learning_rate - share * (optimiser.learning_rate - schedule.end_rate)


def set_rates(
    optimisers: Mapping[str, torch.optim.Adam], config: TrainConfig, stage: int, step: int
) -> None:
    """Set the rate of every optimiser for a step of a stage, counted from 0 in the stage."""
    for name, adam in optimisers.items():
        if stage == 2:
            rate = config.stage2.learning_rate or config.optimiser.learning_rate
        elif name.startswith(IDENTITY) and not config.optimiser.schedule.classifiers:
            rate = config.optimiser.learning_rate
        else:
            rate = learning_rate(config, step)
        for group in adam.param_groups:
            group["lr"] = rate


def describe(config: TrainConfig) -> str:
    """The rates in words, one line."""
    optimiser, schedule = config.optimiser, config.optimiser.schedule
    text = f"{optimiser.learning_rate:g}"
    if schedule.kind != "constant":
        text += f", {schedule.kind} from step {decay_begin(config):,} to {schedule.end_rate:g}"
        text += "" if schedule.classifiers else " (not of identity classifiers)"
    if schedule.freeze_norms:
        text += f"; batch norm frozen from step {decay_begin(config):,}"
    if config.stage2.iterations and config.stage2.learning_rate is not None:
        text += f"; stage 2 {config.stage2.learning_rate:g}"
    return text
