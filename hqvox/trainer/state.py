"""Everything that a step changes, networks, optimisers, counters, and how a checkpoint holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hqvox.errors import HqvoxError
from hqvox.trainer import checkpoint
from hqvox.trainer.config import TrainConfig
from hqvox.trainer.distributed import Team
from hqvox.trainer.speed import Speed, make_adam, place
from models.errors import ModelError
from models.sf2f.discriminators import IdentityClassifier, ImageDiscriminator
from models.sf2f.generator import Generator, GeneratorSpec, build_generator, freeze
from models.sf2f.released import load_voice_encoder
from models.voice2face import CmuDiscriminator, Sf2fVoice2faceDiscriminator


def generator_spec(config: TrainConfig) -> GeneratorSpec:
    """The generator that a configuration asks for. Raises ModelError where there is none such."""
    return GeneratorSpec(**{f.name: getattr(config.model, f.name) for f in fields(GeneratorSpec)})


@dataclass
class State:
    """A training run between two steps."""

    generator: Generator
    critics: dict[str, nn.Module]
    """D_real and D_id, in the order of their steps; see :func:`build_critics`."""
    optimisers: dict[str, torch.optim.Adam]
    """Of the generator, as ``generator``, and of each critic by its name."""
    stage: int
    step: int
    """Steps done, over both stages."""
    best: dict[str, float]
    pending: list[list[float]]
    """Terms of the steps since the last line of the log."""

    def networks(self) -> dict[str, nn.Module]:
        """Every network by the name of its optimiser."""
        return {"generator": self.generator, **self.critics}

    def content(self) -> dict[str, Any]:
        """What a checkpoint holds of this, as tensors and plain values."""
        return {
            "spec": self.generator.spec.as_dict(),
            "stage": self.stage,
            "step": self.step,
            "generator": self.generator.state_dict(),
            "critics": {name: critic.state_dict() for name, critic in self.critics.items()},
            "optimisers": {name: adam.state_dict() for name, adam in self.optimisers.items()},
            "best": dict(self.best),
            "pending": [list(terms) for terms in self.pending],
        }

    def restore(self, content: Mapping[str, Any]) -> None:
        """Take up what :meth:`content` gave; the stage must be entered already.

        Raises HqvoxError where it is of another model.
        """
        self.step = content["step"]
        self.best = dict(content["best"])
        self.pending = [list(terms) for terms in content["pending"]]
        try:
            self.generator.load_state_dict(content["generator"])
            for name, critic in self.critics.items():
                critic.load_state_dict(content["critics"][name])
            for name, adam in self.optimisers.items():
                adam.load_state_dict(content["optimisers"][name])
                _lay_out_as_parameters(adam)
        except (RuntimeError, KeyError, ValueError, TypeError) as error:
            raise HqvoxError(
                f"damaged, or of another model ({_last_line(error)}); use another checkpoint"
            ) from None


def build_critics(config: TrainConfig, identities: int) -> dict[str, nn.Module]:
    """The networks that judge pictures, as far as their losses are on.

    ``discriminator_64`` and ``classifier_64`` (table 11), or ``shared_64`` with both heads, and the
    same of every other resolution; discriminators come before classifiers. ``identities``: how many
    there are to tell apart. Raises ModelError where the configuration asks for what there is not.
    """
    width, loss = config.model.width, config.loss
    sides = config.model.resolutions
    if config.model.discriminators != "sf2f":
        kind = (
            CmuDiscriminator
            if config.model.discriminators == "cmu"
            else Sf2fVoice2faceDiscriminator
        )
        on = loss.gan.weight or loss.classifier.weight
        return {f"shared_{px}": kind(px, identities, width) for px in sides if on}
    critics: dict[str, nn.Module] = {}
    if loss.gan.weight:
        critics |= {f"discriminator_{px}": ImageDiscriminator(px, width) for px in sides}
    if loss.classifier.weight:
        critics |= {f"classifier_{px}": IdentityClassifier(px, identities, width) for px in sides}
    return critics


def build_state(config: TrainConfig, identities: int, speed: Speed, team: Team) -> State:
    """A run before its first step, in stage 1, random from the configuration's seed.

    ``identities``: how many D_id tells apart. A voice encoder whose weights the configuration names
    has them and stays as it is. Raises ModelError where there is no such model, or those weights
    are not the encoder's.
    """
    torch.manual_seed(config.seed)
    generator = build_generator(generator_spec(config))
    if config.stage1.encoder_weights is not None:
        load_voice_encoder(generator.encoder, Path(config.stage1.encoder_weights))
        freeze(generator.encoder)
    state = State(
        generator, build_critics(config, identities), {}, stage=1, step=0, best={}, pending=[]
    )
    for network in state.networks().values():
        place(team.synchronise(network), speed, team.device).train()
    for name, network in state.networks().items():
        state.optimisers[name] = make_adam(_learning(network), config.optimiser, speed)
    if generator.fuser is not None:
        # The fuser takes no part in stage 1, and its optimiser starts with stage 2.
        theirs = {id(p) for p in generator.fuser.parameters()}
        rest = [p for p in _learning(generator) if id(p) not in theirs]
        state.optimisers["generator"] = make_adam(rest, config.optimiser, speed)
    return state


def enter_stage_2(state: State, config: TrainConfig, speed: Speed) -> None:
    """Freeze encoder and decoder, batch norm's statistics too; the fuser learns with a new Adam.

    The critics go on as they are.
    """
    assert state.generator.fuser is not None
    freeze(state.generator.encoder)
    freeze(state.generator.decoder)
    state.stage = 2
    parameters = state.generator.fuser.parameters()
    state.optimisers["generator"] = make_adam(parameters, config.optimiser, speed)


def start_from(state: State, content: Mapping[str, Any], where: Path) -> None:
    """Take up the weights of another run's checkpoint, or of an imported generator.

    Critics come along where the checkpoint has such for as many people. Raises HqvoxError where the
    generators differ in more than the fuser.
    """
    try:
        there, here = checkpoint.spec_of(content), state.generator.spec
    except ModelError as error:
        raise HqvoxError(f"{where}: {error}") from None
    differ = [
        f"{f.name} {getattr(there, f.name)} not {getattr(here, f.name)}"
        for f in fields(GeneratorSpec)
        if f.name != "fuser" and getattr(there, f.name) != getattr(here, f.name)
    ]
    if differ:
        raise HqvoxError(
            f"{where}: weights of another model ({', '.join(differ)}); start with the recipe and "
            "settings that they were trained with"
        )
    weights = {
        name: value
        for name, value in content["generator"].items()
        if there.fuser == here.fuser or not name.startswith("fuser.")
    }
    fuser = {k: v for k, v in state.generator.state_dict().items() if k.startswith("fuser.")}
    try:
        state.generator.load_state_dict({**fuser, **weights})
    except RuntimeError as error:
        raise HqvoxError(
            f"{where}: damaged ({_last_line(error)}); use another checkpoint"
        ) from None
    for name, critic in state.critics.items():
        stored = content.get("critics", {}).get(name, {})
        shapes = {key: value.shape for key, value in critic.state_dict().items()}
        if {key: value.shape for key, value in stored.items()} == shapes:
            critic.load_state_dict(stored)


def learning(adam: torch.optim.Adam) -> list[nn.Parameter]:
    """The parameters that an optimiser moves."""
    return [parameter for group in adam.param_groups for parameter in group["params"]]


def _learning(network: nn.Module) -> list[nn.Parameter]:
    return [p for p in network.parameters() if p.requires_grad]


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip()


def _lay_out_as_parameters(adam: torch.optim.Adam) -> None:
    """Store Adam's moments as their parameters are stored: fused kernels read both as flat memory,
    and a run may go on with another memory layout than it was saved with."""
    for parameter in learning(adam):
        moments = adam.state.get(parameter, {})
        for name, value in moments.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter).copy_(value)
