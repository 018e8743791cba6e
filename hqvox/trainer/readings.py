"""Whether a configuration follows the paper or SF2F's released code, part by part."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from operator import attrgetter
from typing import NamedTuple

from hqvox.trainer import schedule
from hqvox.trainer.config import TrainConfig
from hqvox.trainer.recipes import load_train_config

PAPER, RELEASED = "sf2f-64", "sf2f-64-released"
"""The recipes that spell out each reading."""
SEVERAL = "sf2f-128-multires-released"
"""As ``RELEASED``, for several resolutions."""
BASELINE, BASELINE_RELEASED = "voice2face-64", "voice2face-64-released"
"""Each reading of SF2F's baseline."""
AUTHORS = "voice2face-cmu"
"""The baseline as its own authors released it."""


class Part(NamedTuple):
    """Something that the paper and the released code do differently."""

    name: str
    keys: tuple[str, ...]
    """Settings that it is made of."""
    describe: Callable[[TrainConfig], str]


def parts(config: TrainConfig) -> list[tuple[str, str, str]]:
    """For each part its name, what the configuration has, and whose reading that is."""
    return [(part.name, part.describe(config), whose(config, part)) for part in PARTS]


def whose(config: TrainConfig, part: Part) -> str:
    """``paper``, ``released code``, both, ``voice2face's code``, or ``neither``."""
    values = _values(config, part)
    if config.model.encoder == "cmu" or config.model.discriminators in ("voice2face", "cmu"):
        names = {"paper": BASELINE, "released code": BASELINE_RELEASED}
        authors = _values(_recipe(AUTHORS), part)
    else:
        released = RELEASED if len(config.model.resolutions) == 1 else SEVERAL
        names, authors = {"paper": PAPER, "released code": released}, None
    same = [name for name, recipe in names.items() if _values(_recipe(recipe), part) == values]
    return " and ".join(same) or ("voice2face's code" if values == authors else "neither")


def _values(config: TrainConfig, part: Part) -> list[object]:
    return [attrgetter(key)(config) for key in part.keys]


@cache
def _recipe(name: str) -> TrainConfig:
    return load_train_config(name)


def _networks(config: TrainConfig) -> str:
    model = config.model
    text = ", ".join(filter(None, (model.encoder, model.decoder, model.fuser)))
    text += f"; embedding {model.embedding_dim}"
    return text if model.width == 1 else f"{text}, channels times {model.width:g}"


def _adam(config: TrainConfig) -> str:
    optimiser = config.optimiser
    text = "{:g}, {:g}".format(*optimiser.betas)
    text += ", critics first" if optimiser.first == "critics" else ""
    clip = optimiser.clip_norm
    return text if clip is None else f"{text}, gradient at most {clip:g}"


def _iterations(config: TrainConfig) -> str:
    one, two = config.stage1, config.stage2
    return " and ".join(f"{stage.iterations:,} of {stage.batch_size}" for stage in (one, two))


def _speech(config: TrainConfig) -> str:
    data, (low, high) = config.data, config.stage1.crop_frames
    return (
        f"{config.model.n_filters} filters of {data.front_end}, normalised: {data.normalise}; "
        f"crops of {low / 100:g} to {high / 100:g} s, short ones: {data.short}"
    )


def _losses(config: TrainConfig) -> str:
    loss = config.loss
    clamp = ", FaceNet's input clamped" if loss.perceptual.clamp else ""
    network = loss.perceptual.network
    clamp += "" if network == "facenet_vggface2" else f", features of {network}"
    weights = (loss.l1.weight, loss.gan.weight, loss.classifier.weight, loss.perceptual.weight)
    return " : ".join(f"{weight:g}" for weight in weights) + clamp


def _windows(config: TrainConfig) -> str:
    stage = config.stage2
    if not stage.iterations:
        return "none"
    seconds = "{:g} to {:g} s".format(*stage.seconds) if stage.seconds else "whole utterances"
    return (
        f"{seconds} in windows of {stage.window_frames} frames every {stage.stride_frames}, at "
        f"most {stage.max_windows}"
    )


def _pictures(config: TrainConfig) -> str:
    how = "PIL's bilinear" if config.data.resize == "bilinear" else "area averaging"
    how += ", with background" if config.data.pictures == "origin" else ""
    how += ", half of them mirrored" if config.data.flip else ""
    return how + (", last part of an epoch left out" if config.data.drop_last else "")


def _evaluation(config: TrainConfig) -> str:
    if config.evaluation.reading == "paper":
        return "10 crops in each of 10 runs; fused windows overlap by 50 %"
    return "at most 20 segments without overlap; fixed galleries"


PARTS = (
    Part(
        "networks",
        (
            "model.encoder",
            "model.decoder",
            "model.fuser",
            "model.embedding_dim",
            "model.width",
        ),
        _networks,
    ),
    Part("critics", ("model.discriminators",), lambda config: config.model.discriminators),
    Part(
        "L1 : GAN : classifier : perceptual",
        (
            "loss.l1.weight",
            "loss.gan.weight",
            "loss.classifier.weight",
            "loss.perceptual",
        ),
        _losses,
    ),
    Part(
        "betas of Adam",
        ("optimiser.betas", "optimiser.eps", "optimiser.first", "optimiser.clip_norm"),
        _adam,
    ),
    Part(
        "learning rate",
        (
            "optimiser.learning_rate",
            "optimiser.schedule",
            "stage2.learning_rate",
            "stage2.restart_critics",
        ),
        schedule.describe,
    ),
    Part(
        "iterations",
        ("stage1.iterations", "stage1.batch_size", "stage2.iterations", "stage2.batch_size"),
        _iterations,
    ),
    Part(
        "speech",
        (
            "model.n_filters",
            "data.front_end",
            "data.normalise",
            "data.short",
            "stage1.crop_frames",
        ),
        _speech,
    ),
    Part(
        "stage 2",
        (
            "stage2.seconds",
            "stage2.window_frames",
            "stage2.stride_frames",
            "stage2.max_windows",
        ),
        _windows,
    ),
    Part("pictures", ("data.pictures", "data.flip", "data.resize", "data.drop_last"), _pictures),
    Part("evaluation", ("evaluation.reading",), _evaluation),
)
