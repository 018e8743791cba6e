"""The generator's four losses and the discriminators' (paper, section 4), as pure functions.

Their weights are set in ``config.py``, :class:`~hqvox.trainer.config.LossConfig`.

Our reading of the paper: the L1 norm is the mean over pixels and colour channels of
ImageNet-normalised pictures, as the weights of table 13 ask; of L_G the generator minimises the
non-saturating form -log D_real(generated), since the form as printed is the discriminator's; with
several resolutions every loss is summed over them. All are means over the batch, in float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from hqvox.trainer.config import LossConfig
from hqvox.trainer.features import FeatureNetwork, Features
from models.sf2f.colour import to_unit
from models.sf2f.precision import at_least_float32

GENERATED, REAL = 0, 1
"""Classes of D_real's two logits."""


def l1(generated: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of pictures (n, 3, px, px)."""
    return (at_least_float32(generated) - at_least_float32(real)).abs().mean()


def gan_generator(logits: torch.Tensor) -> torch.Tensor:
    """-log D_real(generated). ``logits``: (n, 2) of generated pictures."""
    return F.cross_entropy(at_least_float32(logits), _all(REAL, logits))


def gan_discriminator(real: torch.Tensor, generated: torch.Tensor) -> torch.Tensor:
    """-log D_real(real) - log(1 - D_real(generated)), of logits (n, 2)."""
    return F.cross_entropy(at_least_float32(real), _all(REAL, real)) + F.cross_entropy(
        at_least_float32(generated), _all(GENERATED, generated)
    )


def classifier(logits: torch.Tensor, identity: torch.Tensor) -> torch.Tensor:
    """-log D_id(picture) of the right identity: logits (n, identities), identity (n,).

    D_id's own loss on real pictures; the generator's auxiliary loss on generated ones.
    """
    return F.cross_entropy(at_least_float32(logits), identity)


def perceptual(generated: Features, real: Features, weights: Sequence[float]) -> torch.Tensor:
    """Mean absolute difference of features, weighted by level and summed.

    ``weights``: of the maps in order, then of the embedding. No gradient goes to ``real``.
    """
    pairs = zip([*generated[0], generated[1]], [*real[0], real[1]], weights, strict=True)
    return torch.stack(
        [weight * (at_least_float32(ours) - at_least_float32(theirs.detach())).abs().mean()
         for ours, theirs, weight in pairs]
    ).sum()  # fmt: skip


@dataclass(frozen=True)
class Terms:
    """What the generator minimises."""

    total: torch.Tensor
    """Sum of the terms, each with its weight; a scalar with a gradient."""
    terms: dict[str, torch.Tensor]
    """``l1``, ``gan``, ``classifier``, ``classifier_gan``, ``perceptual`` if switched on;
    unweighted, detached."""


class GeneratorLosses:
    """The weighted sum of the losses that a configuration switches on."""

    def __init__(
        self,
        config: LossConfig,
        network: FeatureNetwork | None = None,
        *,
        classifier_gan: bool = False,
    ) -> None:
        """``network``: of the perceptual loss; needed where that has a weight.

        ``classifier_gan``: D_id has a real/fake head too (released code).
        """
        self._config, self._network = config, network
        assert network is not None or not config.perceptual.weight, "no network for the features"
        self.weights = {
            name: getattr(config, name).weight
            for name in ("l1", "gan", "classifier", "perceptual")
            if getattr(config, name).weight
        }
        if classifier_gan and config.classifier.weight:
            self.weights["classifier_gan"] = config.classifier.weight
        """Weights of the terms that are switched on."""

    def __call__(
        self,
        generated: Sequence[torch.Tensor],
        real: Sequence[torch.Tensor],
        identity: torch.Tensor,
        *,
        real_logits: Sequence[torch.Tensor] = (),
        identity_logits: Sequence[torch.Tensor] = (),
        identity_real_logits: Sequence[torch.Tensor] = (),
        real_features: Sequence[Features] = (),
    ) -> Terms:
        """Pictures and logits are for each resolution, low to high; unused ones may be missing.

        ``generated``, ``real``: (n, 3, px, px), ImageNet-normalised; ``identity``: (n,);
        ``real_logits``: D_real's of generated pictures, ``identity_logits``: D_id's of them,
        ``identity_real_logits``: those of D_id's real/fake head;
        ``real_features``: of the real pictures. A missing resolution is a ValueError.
        """
        terms: dict[str, torch.Tensor] = {}
        if "l1" in self.weights:
            terms["l1"] = _sum(l1(g, r) for g, r in zip(generated, real, strict=True))
        if "gan" in self.weights:
            terms["gan"] = _sum(
                gan_generator(logits) for _, logits in zip(generated, real_logits, strict=True)
            )
        if "classifier" in self.weights:
            terms["classifier"] = _sum(
                classifier(logits, identity)
                for _, logits in zip(generated, identity_logits, strict=True)
            )
        if "classifier_gan" in self.weights:
            terms["classifier_gan"] = _sum(
                gan_generator(logits)
                for _, logits in zip(generated, identity_real_logits, strict=True)
            )
        if "perceptual" in self.weights and self._network is not None:
            network, section = self._network, self._config.perceptual
            terms["perceptual"] = _sum(
                perceptual(
                    network.features(to_unit(g, section.clamp)), features, section.level_weights
                )
                for g, features in zip(generated, real_features, strict=True)
            )
        total = _sum(self.weights[name] * term for name, term in terms.items())
        return Terms(total, {name: term.detach() for name, term in terms.items()})


def _sum(terms: Iterable[torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(terms)).sum()


def _all(label: int, logits: torch.Tensor) -> torch.Tensor:
    return torch.full((len(logits),), label, dtype=torch.int64, device=logits.device)
