"""One iteration: the generator, then the image discriminators, then the identity classifiers.

Each has its own Adam, in the order of SF2F's released code; with ``optimiser.first=critics`` the
generator comes last, as in voice2face and AVP-GAN. Pictures are generated once, before any weights
move: all learn from the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn

from hqvox.trainer import losses
from hqvox.trainer.batches import Batch, FusedBatch
from hqvox.trainer.config import TrainConfig
from hqvox.trainer.distributed import ProcessGroup
from hqvox.trainer.features import FeatureNetwork, Features, RealFeatures
from hqvox.trainer.speed import Speed, autocast, begin_step, compiled
from hqvox.trainer.state import State, parameters_of
from models.avp_gan import AvpClassifier, AvpDiscriminator
from models.sf2f.discriminators import (
    IdentityClassifier,
    IdentityDiscriminator,
    ImageDiscriminator,
    PatchDiscriminator,
)

Pictures = tuple[torch.Tensor, ...]
Logits = torch.Tensor


class CriticLogits(NamedTuple):
    """What the critics say of generated pictures, each a list over the resolutions."""

    real: list[Logits]
    """D_real's."""
    identity: list[Logits]
    """D_id's."""
    identity_real: list[Logits]
    """Of the real/fake head of D_id, where it stands beside a D_real."""


class TrainStep:
    """The iteration of one stage. A call with a batch updates the state's networks."""

    def __init__(
        self,
        state: State,
        network: FeatureNetwork | None,
        real_features: Sequence[RealFeatures],
        config: TrainConfig,
        speed: Speed,
        group: ProcessGroup,
    ) -> None:
        """``network`` and ``real_features`` (one for each resolution) are of the perceptual loss;
        None and empty where it is off."""
        self._speed, self._group, self._clip_norm = speed, group, config.optimiser.clip_norm
        self._generator = state.generator
        self._embed = compiled(state.generator.embed, speed, lengths_vary=True)
        self._fuse = compiled(state.generator.fuse, speed)
        self._decode = compiled(state.generator.decode, speed)
        self._critics = {
            name: Critic(critic, name, config.model.resolutions, speed)
            for name, critic in state.critics.items()
        }
        features = None if network is None else _CompiledFeatures(network, speed)
        self._losses = losses.GeneratorLosses(
            config.loss, features, classifier_gan=config.model.discriminators == "sf2f_released"
        )
        self._real_features = real_features
        self._critics_first = config.optimiser.first == "critics"
        self._optimisers = state.optimisers
        self._trained = parameters_of(state.optimisers["generator"])
        self.names = ("total", *self._losses.weights, *self._critics)
        """Names of the losses returned: the generator's total and terms, and each critic's."""

    def __call__(self, batch: Batch | FusedBatch) -> torch.Tensor:
        """Do one iteration; return the losses in the order of :attr:`names`, float32, detached."""
        begin_step(self._speed)
        with autocast(self._speed, self._group.device):
            generated = self._generate(batch)
        detached = tuple(pictures.detach() for pictures in generated)
        if self._critics_first:
            critics = self._critic_steps(batch, detached)
            return torch.stack([*self._generator_step(batch, generated), *critics])
        terms = self._generator_step(batch, generated)
        return torch.stack([*terms, *self._critic_steps(batch, detached)])

    def _critic_steps(self, batch: Batch | FusedBatch, generated: Pictures) -> list[torch.Tensor]:
        critics = self._critics.items()
        return [self._critic_step(name, critic, batch, generated) for name, critic in critics]

    def _generator_step(self, batch: Batch | FusedBatch, generated: Pictures) -> list[torch.Tensor]:
        with _without_weight_gradients(critic.network for critic in self._critics.values()):
            with autocast(self._speed, self._group.device):
                logits = self._logits(generated)
                loss = self._losses(
                    generated,
                    batch.pictures,
                    batch.identity,
                    real_logits=logits.real,
                    identity_logits=logits.identity,
                    identity_real_logits=logits.identity_real,
                    real_features=self._real(batch),
                )
            loss.total.backward()
        self._update("generator", self._trained, self._clip_norm)
        return [loss.total.detach(), *(loss.terms[name] for name in self._losses.weights)]

    def _generate(self, batch: Batch | FusedBatch) -> Pictures:
        if isinstance(batch, Batch):
            return self._decode(self._embed(batch.log_mel))
        with torch.no_grad():  # the encoder is frozen
            rows = self._embed(batch.windows[batch.mask])
        embeddings = rows.new_zeros(*batch.mask.shape, rows.shape[1])
        embeddings[batch.mask] = rows
        return self._decode(self._fuse(embeddings, batch.mask))

    def _real(self, batch: Batch | FusedBatch) -> list[Features]:
        if not self._real_features:
            return []
        pairs = zip(self._real_features, batch.pictures, strict=True)
        return [features.of(batch.face, pictures) for features, pictures in pairs]

    def _logits(self, generated: Pictures) -> CriticLogits:
        """The critics' logits of generated pictures."""
        logits = CriticLogits([], [], [])
        for critic in self._critics.values():
            real, identity = critic(generated[critic.resolution])
            if real is not None:
                (logits.identity_real if critic.second_opinion else logits.real).append(real)
            if identity is not None:
                logits.identity.append(identity)
        return logits

    def _critic_step(
        self, name: str, critic: Critic, batch: Batch | FusedBatch, generated: Pictures
    ) -> torch.Tensor:
        terms = []
        with autocast(self._speed, self._group.device):
            real, identity = critic(batch.pictures[critic.resolution])
            if real is not None:
                fake, _ = critic(generated[critic.resolution])
                assert fake is not None
                terms.append(losses.gan_discriminator(real, fake))
            if identity is not None:
                terms.append(losses.classifier(identity, batch.face_identity))
            loss = torch.stack(terms).sum()
        loss.backward()
        self._update(name, list(critic.network.parameters()))
        return loss.detach()

    def _update(
        self, name: str, parameters: Sequence[nn.Parameter], clip_norm: float | None = None
    ) -> None:
        self._group.average_gradients(parameters)
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, clip_norm)
        self._optimisers[name].step()
        self._optimisers[name].zero_grad(set_to_none=True)


class Critic:
    """D_real, D_id or a network with both heads, behind one signature."""

    def __init__(
        self, network: nn.Module, name: str, resolutions: Sequence[int], speed: Speed
    ) -> None:
        """``name``: ends in the side of its pictures, px, as in ``discriminator_64``."""
        self.network = network
        self.resolution = list(resolutions).index(int(name.rpartition("_")[2]))
        """Index of the generator's resolution that it sees, 0 for the lowest."""
        self.second_opinion = isinstance(network, IdentityDiscriminator)
        """Whether its real/fake head is one beside D_real."""
        self._real = not isinstance(network, IdentityClassifier | AvpClassifier)
        self._identity = not isinstance(
            network, ImageDiscriminator | PatchDiscriminator | AvpDiscriminator
        )
        self._forward = compiled(network, speed)

    def __call__(self, pictures: torch.Tensor) -> tuple[Logits | None, Logits | None]:
        """Logits of real, and of identity (n, identities); None for a head that it lacks.

        Of real: class 1 of (n, 2), or of (patches, 2).
        """
        logits = self._forward(pictures)
        if self._real and self._identity:
            return logits
        return (logits, None) if self._real else (None, logits)


class _CompiledFeatures:
    """A feature network whose forward pass goes through ``torch.compile`` where that path is on."""

    def __init__(self, network: FeatureNetwork, speed: Speed) -> None:
        self.name, self.dim = network.name, network.dim
        self._features = compiled(network.features, speed)

    def features(self, unit_pictures: torch.Tensor) -> Features:
        """As :meth:`FeatureNetwork.features`."""
        features: Features = self._features(unit_pictures)
        return features


@contextmanager
def _without_weight_gradients(critics: Iterable[nn.Module]) -> Iterator[None]:
    """Pass gradients through critics to the pictures without computing those of their weights."""
    parameters = [p for critic in critics for p in critic.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
