"""Every loss against a few lines of NumPy, and where its gradient goes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hqvox.trainer.config import LossConfig
from hqvox.trainer.features import Features
from hqvox.trainer.losses import (
    GeneratorLosses,
    classifier,
    gan_discriminator,
    gan_generator,
    l1,
    perceptual,
)
from hqvox.trainer.recipes import load_train_config
from models.sf2f.colour import from_unit

LEVELS = (1 / 16, 1 / 8, 1 / 4, 1.0)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def tensor(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.from_numpy(rng.standard_normal(shape).astype(np.float32)).requires_grad_()


def softmax(logits: torch.Tensor) -> np.ndarray:
    powers = np.exp(logits.detach().numpy().astype(np.float64))
    return powers / powers.sum(axis=1, keepdims=True)


def test_l1_is_the_mean_over_pixels_and_colours(rng: np.random.Generator) -> None:
    a, b = tensor(rng, 4, 3, 8, 8), tensor(rng, 4, 3, 8, 8)
    assert l1(a, b).item() == pytest.approx(np.abs((a - b).detach().numpy()).mean(), rel=1e-6)


def test_gan_losses_are_logarithms_of_the_softmax(rng: np.random.Generator) -> None:
    real, generated = tensor(rng, 7, 2), tensor(rng, 7, 2)
    p_real, p_generated = softmax(real)[:, 1], softmax(generated)[:, 1]
    assert gan_generator(generated).item() == pytest.approx(-np.log(p_generated).mean(), rel=1e-5)
    wanted = -np.log(p_real).mean() - np.log(1 - p_generated).mean()
    assert gan_discriminator(real, generated).item() == pytest.approx(wanted, rel=1e-5)


def test_the_generators_gan_loss_does_not_saturate() -> None:
    """Where D_real is sure that a picture is generated, the generator still has a full gradient."""
    logits = torch.tensor([[12.0, -12.0]], requires_grad=True)
    gan_generator(logits).backward()
    assert logits.grad is not None
    assert logits.grad[0, 1].item() == pytest.approx(-1.0, abs=1e-4)


def test_the_classifier_is_the_cross_entropy(rng: np.random.Generator) -> None:
    logits, identity = tensor(rng, 5, 9), torch.tensor([0, 8, 3, 3, 1])
    wanted = -np.log(softmax(logits)[np.arange(5), identity.numpy()]).mean()
    assert classifier(logits, identity).item() == pytest.approx(wanted, rel=1e-5)


def features_of(rng: np.random.Generator, n: int = 3) -> Features:
    maps = [tensor(rng, n, c, s, s) for c, s in ((4, 5), (6, 3), (8, 2))]
    return maps, tensor(rng, n, 16)


def test_the_perceptual_loss_weighs_levels_and_spares_the_real_side(
    rng: np.random.Generator,
) -> None:
    ours, theirs = features_of(rng), features_of(rng)
    pairs = zip([*ours[0], ours[1]], [*theirs[0], theirs[1]], strict=True)
    wanted = sum(
        w * np.abs((a - b).detach().numpy()).mean() for (a, b), w in zip(pairs, LEVELS, strict=True)
    )
    loss = perceptual(ours, theirs, LEVELS)
    assert loss.item() == pytest.approx(wanted, rel=1e-5)
    loss.backward()
    assert all(x.grad is not None and x.grad.abs().sum() > 0 for x in [*ours[0], ours[1]])
    assert all(x.grad is None for x in [*theirs[0], theirs[1]])
    with pytest.raises(ValueError, match="zip"):
        perceptual(ours, theirs, LEVELS[:3])


class PixelFeatures:
    """A network whose maps are the pictures, and their embedding the mean colour."""

    name = "pixels"
    dim = 3

    def features(self, unit_pictures: torch.Tensor) -> Features:
        return [unit_pictures, unit_pictures**2, unit_pictures[..., ::2]], unit_pictures.mean(
            (2, 3)
        )


def both(rng: np.random.Generator) -> dict:
    """A batch at two resolutions."""
    network = PixelFeatures()
    real_units = [torch.from_numpy(rng.random((4, 3, px, px), np.float32)) for px in (8, 16)]
    return {
        "generated": [tensor(rng, 4, 3, 8, 8), tensor(rng, 4, 3, 16, 16)],
        "real": [from_unit(u) for u in real_units],
        "identity": torch.tensor([0, 2, 1, 2]),
        "real_logits": [tensor(rng, 4, 2), tensor(rng, 4, 2)],
        "identity_logits": [tensor(rng, 4, 3), tensor(rng, 4, 3)],
        "real_features": [network.features(u) for u in real_units],
    }


def test_terms_are_summed_over_resolutions_and_weighted(rng: np.random.Generator) -> None:
    batch = both(rng)
    losses = GeneratorLosses(LossConfig(), PixelFeatures())
    found = losses(**batch)
    assert losses.weights == {"l1": 10, "gan": 1, "classifier": 0.05, "perceptual": 100}
    generated, real = batch["generated"], batch["real"]
    assert found.terms["l1"] == l1(generated[0], real[0]) + l1(generated[1], real[1])
    assert found.terms["gan"] == sum(gan_generator(x) for x in batch["real_logits"])
    own = [classifier(x, batch["identity"]) for x in batch["identity_logits"]]
    assert found.terms["classifier"] == own[0] + own[1]
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    first = sum(((g - r).abs() * std).mean() for g, r in zip(generated, real, strict=True))
    only_first = LossConfig.model_validate({"perceptual": {"level_weights": (1, 0, 0, 0)}})
    shallow = GeneratorLosses(only_first, PixelFeatures())(**batch).terms["perceptual"]
    assert shallow.item() == pytest.approx(first.item(), rel=1e-5)
    total = sum(losses.weights[name] * term for name, term in found.terms.items())
    assert found.total.item() == pytest.approx(float(total), rel=1e-6)
    assert not any(term.requires_grad for term in found.terms.values())
    found.total.backward()
    assert all(g.grad.abs().sum() > 0 for g in generated)


@pytest.mark.parametrize("off", ["l1", "gan", "classifier", "perceptual"])
def test_a_loss_that_is_off_is_not_computed(rng: np.random.Generator, off: str) -> None:
    batch = both(rng)
    needed = {"gan": "real_logits", "classifier": "identity_logits", "perceptual": "real_features"}
    batch.pop(needed.get(off, ""), None)
    config = load_train_config("sf2f-64", [f"loss.{off}.weight=0"]).loss
    network = None if off == "perceptual" else PixelFeatures()
    found = GeneratorLosses(config, network)(**batch)
    assert list(found.terms) == [n for n in ("l1", "gan", "classifier", "perceptual") if n != off]
    assert found.total.isfinite()


def test_a_missing_resolution_is_no_silent_zero(rng: np.random.Generator) -> None:
    batch = both(rng)
    with pytest.raises(ValueError, match="zip"):
        GeneratorLosses(LossConfig(), PixelFeatures())(**batch | {"real_logits": ()})
