"""The state of a training run: networks, optimisers, counters; and its form in a checkpoint."""

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
from hqvox.trainer.distributed import ProcessGroup
from hqvox.trainer.schedule import decay_begin, set_rates
from hqvox.trainer.speed import Speed, make_adam, place
from models.avp_gan import (
    AvpClassifier,
    AvpDiscriminator,
    AvpSharedDiscriminator,
    start_audible,
)
from models.errors import ModelError
from models.sf2f.discriminators import (
    IdentityClassifier,
    IdentityDiscriminator,
    ImageDiscriminator,
    PatchDiscriminator,
)
from models.sf2f.generator import (
    Generator,
    GeneratorSpec,
    build_generator,
    freeze,
    freeze_norms,
)
from models.sf2f.released import load_voice_encoder
from models.speakers import SpeakerClassifier
from models.voice2face import CmuDiscriminator, Sf2fVoice2faceDiscriminator

SPEAKERS = "speakers"
"""Name of the classifier of task speakers."""


def generator_spec(config: TrainConfig) -> GeneratorSpec:
    """The generator of a configuration. Raises ModelError where its values do not fit together."""
    return GeneratorSpec(**{f.name: getattr(config.model, f.name) for f in fields(GeneratorSpec)})


@dataclass
class State:
    """A training run between two steps."""

    generator: Generator
    critics: dict[str, nn.Module]
    """D_real and D_id, in the order of their steps; see :func:`build_critics`."""
    optimisers: dict[str, torch.optim.Adam]
    """The generator's as ``generator``, and each critic's by its name."""
    stage: int
    step: int
    """Steps done, over both stages."""
    best: dict[str, float]
    pending: list[list[float]]
    """Losses of the steps since the last line of the log."""

    def networks(self) -> dict[str, nn.Module]:
        """Every network by the name of its optimiser."""
        return {"generator": self.generator, **self.critics}

    def content(self) -> dict[str, Any]:
        """This state as a checkpoint stores it: tensors and plain values."""
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
        """Restore what :meth:`content` returned; the stage must have been entered before.

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
                _match_memory_layout(adam)
        except (RuntimeError, KeyError, ValueError, TypeError) as error:
            raise HqvoxError(
                f"damaged, or of another model ({_last_line(error)}); use another checkpoint"
            ) from None


def build_critics(config: TrainConfig, identities: int) -> dict[str, nn.Module]:
    """The discriminators and identity classifiers whose losses are on.

    ``discriminator_64`` and ``classifier_64`` (table 11, or of the released code, whose classifier
    has both heads), or ``shared_64`` with both heads, and the same of every other resolution;
    discriminators come before classifiers. Of task speakers, ``speakers`` alone. ``identities``:
    their number. Raises ModelError where there is no such network.
    """
    if config.task == "speakers":
        return {SPEAKERS: SpeakerClassifier(config.model.embedding_dim, identities)}
    width, loss = config.model.width, config.loss
    sides = config.model.resolutions
    if config.model.discriminators in ("avp_gan", "avp_gan_shared"):
        return _avp_critics(config, identities)
    released = config.model.discriminators == "sf2f_released"
    if config.model.discriminators in ("voice2face", "cmu"):
        kind = (
            CmuDiscriminator
            if config.model.discriminators == "cmu"
            else Sf2fVoice2faceDiscriminator
        )
        on = loss.gan.weight or loss.classifier.weight
        return {f"shared_{px}": kind(px, identities, width) for px in sides if on}
    critics: dict[str, nn.Module] = {}
    if loss.gan.weight:
        patch = PatchDiscriminator if released else ImageDiscriminator
        critics |= {f"discriminator_{px}": patch(px, width) for px in sides}
    if loss.classifier.weight:
        both = IdentityDiscriminator if released else IdentityClassifier
        critics |= {f"classifier_{px}": both(px, identities, width) for px in sides}
    return critics


def _avp_critics(config: TrainConfig, identities: int) -> dict[str, nn.Module]:
    """AVP-GAN's, whose losses are on; named as in :func:`build_critics`."""
    width, attention = config.model.width, config.model.attention
    gan, classifier = bool(config.loss.gan.weight), bool(config.loss.classifier.weight)
    critics: dict[str, nn.Module] = {}
    for px in config.model.resolutions:
        if config.model.discriminators == "avp_gan_shared":
            if gan or classifier:
                shared = AvpSharedDiscriminator(px, identities, width, attention)
                critics[f"shared_{px}"] = shared
            continue
        if gan:
            critics[f"discriminator_{px}"] = AvpDiscriminator(px, width, attention)
        if classifier:
            critics[f"classifier_{px}"] = AvpClassifier(px, identities, width, attention)
    return critics


def build_state(
    config: TrainConfig,
    identities: int,
    speed: Speed,
    group: ProcessGroup,
    *,
    weights_follow: bool = False,
) -> State:
    """A run before its first step, in stage 1, with random weights from the configuration's seed.

    ``identities``: number of classes of D_id. A voice encoder with ``stage1.encoder_weights`` gets
    them and stays frozen. ``weights_follow``: a checkpoint's weights come next, so that the
    encoder's need not be there. Raises ModelError where there is no such model, or those weights do
    not fit the encoder; HqvoxError where a frozen encoder has no weights, or its speech is other.
    """
    torch.manual_seed(config.seed)
    generator = build_generator(generator_spec(config))
    stage = config.stage1
    if not weights_follow:
        if stage.encoder_weights is not None:
            _read_encoder(generator, Path(stage.encoder_weights), config)
        elif stage.freeze_encoder:
            raise HqvoxError(
                f"recipe {config.recipe} has a pretrained voice encoder: train one with `hqvox "
                "train voice-embedding`, and name its checkpoints/last.pt with --set "
                "stage1.encoder_weights=FILE; --set stage1.freeze_encoder=false trains it with "
                "the rest"
            )
    state = State(
        generator, build_critics(config, identities), {}, stage=1, step=0, best={}, pending=[]
    )
    if not weights_follow:
        for network in state.networks().values():
            start_audible(network)
    for network in state.networks().values():
        place(group.synchronise(network), speed, group.device).train()
    if stage.encoder_weights is not None or stage.freeze_encoder:
        freeze(generator.encoder)
    for name, network in state.networks().items():
        state.optimisers[name] = make_adam(_trained(network), config.optimiser, speed)
    state.optimisers["generator"] = _stage_1_adam(generator, config, speed)
    return state


def _stage_1_adam(generator: Generator, config: TrainConfig, speed: Speed) -> torch.optim.Adam:
    """A new Adam of all that is not frozen but the fuser, whose training starts with stage 2."""
    fuser = set() if generator.fuser is None else {id(p) for p in generator.fuser.parameters()}
    trained = [p for p in _trained(generator) if id(p) not in fuser]
    return make_adam(trained, config.optimiser, speed)


def begin_decay(state: State, config: TrainConfig, speed: Speed) -> None:
    """What changes at the step of stage 1 where the rate begins to fall, if asked for.

    Freezes the statistics of the generator's batch norms, and gives it a new Adam.
    """
    if config.optimiser.schedule.freeze_norms:
        freeze_norms(state.generator)
        state.optimisers["generator"] = _stage_1_adam(state.generator, config, speed)


def prepare_step(state: State, config: TrainConfig, speed: Speed) -> None:
    """Set what the schedule says for the step that comes next."""
    first = 0 if state.stage == 1 else config.stage1.iterations
    if state.stage == 1 and state.step == decay_begin(config):
        begin_decay(state, config, speed)
    set_rates(state.optimisers, config, state.stage, state.step - first)


def _read_encoder(generator: Generator, path: Path, config: TrainConfig) -> None:
    """Fill the voice encoder; check that it was trained on log-mels as this run's."""
    hears = load_voice_encoder(generator.encoder, path)
    needs = {"kind": config.data.normalise, "front_end": config.data.front_end}
    for name, key in (("front_end", "data.front_end"), ("kind", "data.normalise")):
        if hears and hears.get(name, "sf2f") != needs[name]:
            raise HqvoxError(
                f"{path}: a voice encoder for {key}={hears.get(name, 'sf2f')}, not {needs[name]}; "
                "name another one, or change that setting"
            )


def enter_stage_2(state: State, config: TrainConfig, speed: Speed) -> None:
    """Freeze encoder and decoder, with batch norm's statistics; train the fuser with a new Adam.

    The critics continue; their optimisers too, unless ``stage2.restart_critics``.
    """
    assert state.generator.fuser is not None
    freeze(state.generator.encoder)
    freeze(state.generator.decoder)
    state.stage = 2
    parameters = state.generator.fuser.parameters()
    state.optimisers["generator"] = make_adam(parameters, config.optimiser, speed)
    if config.stage2.restart_critics:
        for name, critic in state.critics.items():
            state.optimisers[name] = make_adam(critic.parameters(), config.optimiser, speed)


def start_from(state: State, content: Mapping[str, Any], where: Path) -> None:
    """Load the weights of another run's checkpoint, or of an imported generator.

    Also the critics', where the checkpoint has them for as many people. Raises HqvoxError where
    the generators differ in more than the fuser.
    """
    try:
        given, needed = checkpoint.spec_of(content), state.generator.spec
    except ModelError as error:
        raise HqvoxError(f"{where}: {error}") from None
    differ = [
        f"{f.name} {getattr(given, f.name)} not {getattr(needed, f.name)}"
        for f in fields(GeneratorSpec)
        if f.name != "fuser" and getattr(given, f.name) != getattr(needed, f.name)
    ]
    if differ:
        raise HqvoxError(
            f"{where}: weights of another model ({', '.join(differ)}); start with the recipe and "
            "settings that they were trained with"
        )
    weights = {
        name: value
        for name, value in content["generator"].items()
        if given.fuser == needed.fuser or not name.startswith("fuser.")
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


def parameters_of(adam: torch.optim.Adam) -> list[nn.Parameter]:
    """The parameters that an optimiser updates."""
    return [parameter for group in adam.param_groups for parameter in group["params"]]


def _trained(network: nn.Module) -> list[nn.Parameter]:
    """The parameters that are not frozen."""
    return [p for p in network.parameters() if p.requires_grad]


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip()


def _match_memory_layout(adam: torch.optim.Adam) -> None:
    """Give Adam's moments the memory layout of their parameters.

    Fused kernels read both as flat memory, and a run may be resumed with another layout than it was
    saved with.
    """
    for parameter in parameters_of(adam):
        moments = adam.state.get(parameter, {})
        for name, value in moments.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter).copy_(value)
