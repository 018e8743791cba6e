"""One iteration: the generator, then the image discriminators, then the identity classifiers.

Each has its own Adam, in the order of SF2F's released code. Pictures are generated once: the
critics learn from those of the generator's step, which came before its weights moved.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from hqvox.trainer import losses
from hqvox.trainer.batches import Batch, FusedBatch
from hqvox.trainer.config import TrainConfig
from hqvox.trainer.distributed import Team
from hqvox.trainer.feature_cache import RealFeatures
from hqvox.trainer.features import FeatureNetwork, Features
from hqvox.trainer.speed import Speed, autocast, begin_step, compiled
from hqvox.trainer.state import State, learning
from models.sf2f.discriminators import IdentityClassifier, ImageDiscriminator

Pictures = tuple[torch.Tensor, ...]
Logits = torch.Tensor


class Step:
    """Steps of one stage. Call it with a batch; it changes the state's networks and optimisers."""

    def __init__(
        self,
        state: State,
        network: FeatureNetwork | None,
        real_features: Sequence[RealFeatures],
        config: TrainConfig,
        speed: Speed,
        team: Team,
    ) -> None:
        """``network`` and ``real_features``, per resolution: of the perceptual loss; none: off."""
        self._speed, self._team, self._clip_norm = speed, team, config.optimiser.clip_norm
        self._generator = state.generator
        self._embed = compiled(state.generator.embed, speed, lengths_vary=True)
        self._fuse = compiled(state.generator.fuse, speed)
        self._decode = compiled(state.generator.decode, speed)
        self._judges = {
            name: Judge(critic, name, config.model.resolutions, speed)
            for name, critic in state.critics.items()
        }
        faces = None if network is None else _CompiledFeatures(network, speed)
        self._losses = losses.GeneratorLosses(config.loss, faces)
        self._real_features = real_features
        self._optimisers = state.optimisers
        self._learning = learning(state.optimisers["generator"])
        self.names = ("total", *self._losses.weights, *self._judges)
        """Of what a step returns: the generator's objective, its terms, each critic's own loss."""

    def __call__(self, batch: Batch | FusedBatch) -> torch.Tensor:
        """Do one iteration; return the losses in the order of :attr:`names`, float32, detached."""
        begin_step(self._speed)
        generated, terms = self._generator_step(batch)
        for name, judge in self._judges.items():
            terms.append(self._critic_step(name, judge, batch, generated))
        return torch.stack(terms)

    def _generator_step(self, batch: Batch | FusedBatch) -> tuple[Pictures, list[torch.Tensor]]:
        with _passing_gradients_on(judge.critic for judge in self._judges.values()):
            with autocast(self._speed, self._team.device):
                generated = self._generate(batch)
                real_logits, identity_logits = self._verdicts(generated)
                found = self._losses(
                    generated,
                    batch.pictures,
                    batch.identity,
                    real_logits=real_logits,
                    identity_logits=identity_logits,
                    real_features=self._real(batch),
                )
            found.total.backward()
        self._update("generator", self._learning, self._clip_norm)
        terms = [found.total.detach(), *(found.terms[name] for name in self._losses.weights)]
        return tuple(pictures.detach() for pictures in generated), terms

    def _generate(self, batch: Batch | FusedBatch) -> Pictures:
        if isinstance(batch, Batch):
            return self._decode(self._embed(batch.log_mel))
        with torch.no_grad():  # the encoder is frozen
            found = self._embed(batch.windows[batch.mask])
        embeddings = found.new_zeros(*batch.mask.shape, found.shape[1])
        embeddings[batch.mask] = found
        return self._decode(self._fuse(embeddings, batch.mask))

    def _real(self, batch: Batch | FusedBatch) -> list[Features]:
        if not self._real_features:
            return []
        pairs = zip(self._real_features, batch.pictures, strict=True)
        return [features.of(batch.face, pictures) for features, pictures in pairs]

    def _verdicts(self, generated: Pictures) -> tuple[list[Logits], list[Logits]]:
        """Logits of real and of identity, each per resolution as far as there are critics."""
        found = [judge(generated[judge.resolution]) for judge in self._judges.values()]
        real = [logits for logits, _ in found if logits is not None]
        return real, [logits for _, logits in found if logits is not None]

    def _critic_step(
        self, name: str, judge: Judge, batch: Batch | FusedBatch, generated: Pictures
    ) -> torch.Tensor:
        parts = []
        with autocast(self._speed, self._team.device):
            real, identity = judge(batch.pictures[judge.resolution])
            if real is not None:
                fake, _ = judge(generated[judge.resolution])
                assert fake is not None
                parts.append(losses.gan_discriminator(real, fake))
            if identity is not None:
                parts.append(losses.classifier(identity, batch.identity))
            loss = torch.stack(parts).sum()
        loss.backward()
        self._update(name, list(judge.critic.parameters()))
        return loss.detach()

    def _update(
        self, name: str, parameters: Sequence[nn.Parameter], clip_norm: float | None = None
    ) -> None:
        self._team.average_gradients(parameters)
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, clip_norm)
        self._optimisers[name].step()
        self._optimisers[name].zero_grad(set_to_none=True)


class Judge:
    """A critic behind one signature, whichever of the two heads it has."""

    def __init__(
        self, critic: nn.Module, name: str, resolutions: Sequence[int], speed: Speed
    ) -> None:
        self.critic = critic
        self.resolution = list(resolutions).index(int(name.rpartition("_")[2]))
        """Which of the generator's pictures it judges, 0 for the lowest."""
        self._real = not isinstance(critic, IdentityClassifier)
        self._identity = not isinstance(critic, ImageDiscriminator)
        self._forward = compiled(critic, speed)

    def __call__(self, pictures: torch.Tensor) -> tuple[Logits | None, Logits | None]:
        """Logits (n, 2), class 1 = real, and (n, identities); None for a head that it lacks."""
        found = self._forward(pictures)
        if self._real and self._identity:
            return found
        return (found, None) if self._real else (None, found)


class _CompiledFeatures:
    """A feature network as it is, its pass through ``torch.compile`` where that is asked for."""

    def __init__(self, network: FeatureNetwork, speed: Speed) -> None:
        self.name, self.dim = network.name, network.dim
        self._features = compiled(network.features, speed)

    def features(self, unit_pictures: torch.Tensor) -> Features:
        """As the network's own."""
        found: Features = self._features(unit_pictures)
        return found


@contextmanager
def _passing_gradients_on(critics: Iterable[nn.Module]) -> Iterator[None]:
    """Let gradients through critics to the pictures, without computing those of their weights."""
    parameters = [p for critic in critics for p in critic.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
