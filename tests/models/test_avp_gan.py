"""AVP-GAN's networks: attention by hand, spectral normalisation's places, sizes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from models.avp_gan import (
    AvpClassifier,
    AvpDecoder,
    AvpDiscriminator,
    AvpSharedDiscriminator,
    AvpTrunk,
    Cbam,
    start_audible,
)
from models.errors import ModelError
from models.sf2f.colour import to_unit
from models.sf2f.generator import build_generator
from models.sf2f.spec import GeneratorSpec

AVP = GeneratorSpec("cmu", "avp_gan", n_filters=64, embedding_dim=64, attention=True)
NORMED = tuple(f"convs.{i}" for i in range(1, 5))


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-x))


def cbam_by_hand(network: Cbam, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Equations 2 to 5, element by element where that is short."""
    w0 = network.channel.reduce.weight.detach().double().numpy()
    w1 = network.channel.expand.weight.detach().double().numpy()
    kernel = network.spatial.conv.weight.detach().double().numpy()[0]
    out = np.empty_like(x)
    for number, picture in enumerate(x):
        scores = sum(
            w1 @ np.maximum(w0 @ pooled, 0)
            for pooled in (picture.mean(axis=(1, 2)), picture.max(axis=(1, 2)))
        )
        weighted = sigmoid(scores)[:, None, None] * picture
        maps = np.pad([weighted.mean(axis=0), weighted.max(axis=0)], ((0, 0), (3, 3), (3, 3)))
        height, width = picture.shape[1:]
        for y in range(height):
            for z in range(width):
                place = (kernel * maps[:, y : y + 7, z : z + 7]).sum()
                out[number, :, y, z] = sigmoid(place) * weighted[:, y, z]
    return out


def test_cbam_is_equations_2_to_5() -> None:
    torch.manual_seed(0)
    network = Cbam(48)
    x = torch.randn(2, 48, 9, 5)
    expected = cbam_by_hand(network, x.double().numpy())
    np.testing.assert_allclose(network(x).detach().numpy(), expected, atol=1e-5)
    assert network.channel.reduce.weight.shape == (3, 48), "reduction 16"
    weights = network.channel(x)
    assert weights.shape == (2, 48, 1, 1)
    assert not torch.allclose(weights[0], weights[1])


def test_the_generators_sizes() -> None:
    sizes = (64, 1024, 512, 256, 128, 64)
    plain = sum(16 * a * b + b for a, b in pairwise(sizes)) + 64 * 3 + 3
    without, attended = AvpDecoder(64, 1.0, False), AvpDecoder(64, 1.0, True)
    assert size(without) == plain == 12_191_875
    channel = sum(size(a.channel) for a in attended.attention)
    spatial = sum(size(a.spatial) for a in attended.attention)
    assert (channel, spatial) == (174_592, 490)
    assert size(attended) == plain + channel + spatial
    assert size(build_generator(AVP).decoder) == size(attended)
    assert size(build_generator(AVP).encoder) == 2_670_720


def test_the_critics_sizes() -> None:
    sizes = (32, 64, 128, 256, 512)
    trunk = 3 * 32 + 32 + sum(16 * a * b + b for a, b in pairwise(sizes)) + 16 * 512 * 64 + 64
    attention = sum(2 * c * (c // 16) + 2 * 49 for c in sizes)
    for attended, more in ((False, 0), (True, attention)):
        assert size(AvpDiscriminator(64, attention=attended)) == trunk + more + 64
        assert size(AvpClassifier(64, 924, attention=attended)) == trunk + more + 64 * 924
        shared = AvpSharedDiscriminator(64, 924, attention=attended)
        assert size(shared) == trunk + more + 64 + 64 * 924


@pytest.mark.parametrize("attention", [False, True])
def test_spectral_normalisation_is_in_the_places_that_the_paper_names(attention: bool) -> None:
    decoder = AvpDecoder(64, 0.25, attention)
    layers = [
        *((f"blocks.{i}", b) for i, b in enumerate(decoder.blocks)),
        ("to_rgb", decoder.to_rgb),
    ]
    normed = [number for number, (_, layer) in enumerate(layers, 1) if is_parametrized(layer)]
    assert normed == [2, 3, 4, 5]
    everywhere = {name for name, module in decoder.named_modules() if is_parametrized(module)}
    assert everywhere == {f"blocks.{i}" for i in range(1, 5)}
    trunk = AvpTrunk(64, 0.25, attention)
    everywhere = {name for name, module in trunk.named_modules() if is_parametrized(module)}
    assert everywhere == set(NORMED)
    for whole in (AvpDiscriminator(64), AvpClassifier(64, 3)):
        everywhere = {name for name, module in whole.named_modules() if is_parametrized(module)}
        assert everywhere == {f"trunk.{name}" for name in NORMED}


def test_the_largest_singular_value_becomes_1() -> None:
    torch.manual_seed(0)
    decoder, trunk = AvpDecoder(64, 0.25, True), AvpTrunk(64, 0.25, True)
    layers = [(b, 1) for b in decoder.blocks[1:]] + [(c, 0) for c in trunk.convs[1:]]
    for layer, outputs in layers:
        with torch.no_grad():
            layer.parametrizations.weight.original.mul_(3.0)
            for _ in range(60):  # the power iteration moves in training
                assert layer.weight.isfinite().all()
        matrix = layer.weight.detach().movedim(outputs, 0).flatten(1)
        assert torch.linalg.svdvals(matrix)[0].item() == pytest.approx(1.0, abs=0.02)
    for layer in (decoder.blocks[0], decoder.to_rgb, trunk.convs[0], trunk.last):
        before = layer.weight.detach().clone()
        with torch.no_grad():
            layer.weight.mul_(3.0)
        assert torch.equal(layer.weight, 3 * before)


@pytest.mark.parametrize("attention", [False, True])
def test_a_new_network_depends_on_its_input(attention: bool) -> None:
    """With torch's own initial weights the deviations are 1e-4 and less."""
    torch.manual_seed(0)
    decoder, trunk = AvpDecoder(64, 0.25, attention), AvpTrunk(64, 0.25, attention)
    voices = F.normalize(torch.randn(32, 64), dim=1)
    assert decoder(voices)[0].std(dim=0).mean() < 1e-3
    for network in (decoder, trunk):
        start_audible(network)
    with torch.no_grad():
        assert 0.03 < decoder(voices)[0].std(dim=0).mean() < 0.4
        assert 0.03 < trunk(torch.randn(16, 3, 64, 64)).std(dim=0).mean() < 2.0
    assert decoder.training
    assert trunk.training


def test_the_power_iteration_moves_in_training_only() -> None:
    torch.manual_seed(0)
    network = AvpDiscriminator(64, 0.25)
    pictures = torch.randn(2, 3, 64, 64)
    name = "trunk.convs.1.parametrizations.weight.0._u"
    before = network.state_dict()[name].clone()
    network.eval()(pictures)
    assert torch.equal(network.state_dict()[name], before)
    network.train()(pictures)
    assert not torch.equal(network.state_dict()[name], before)


def test_the_generator_layer_by_layer() -> None:
    torch.manual_seed(0)
    decoder = AvpDecoder(16, 0.05, True).eval()
    x = embedding = torch.randn(2, 16)
    x = x[:, :, None, None]
    for number, block in enumerate(decoder.blocks):
        stride, padding = (1, 0) if number == 0 else (2, 1)
        x = F.conv_transpose2d(x, block.weight, block.bias, stride, padding).clamp(min=0)
        assert x.shape[-1] == 4 << number
        x = torch.from_numpy(cbam_by_hand(decoder.attention[number], x.detach().double().numpy()))
        x = x.float()
    x = F.conv_transpose2d(x, decoder.to_rgb.weight, decoder.to_rgb.bias)
    torch.testing.assert_close(to_unit(decoder(embedding)[0]) * 2 - 1, x, rtol=1e-4, atol=1e-5)


def test_the_discriminator_layer_by_layer() -> None:
    torch.manual_seed(0)
    network = AvpDiscriminator(64, 0.05, attention=False).eval()
    pictures = torch.randn(2, 3, 64, 64)
    x = to_unit(pictures) * 2 - 1
    for number, conv in enumerate(network.trunk.convs):
        stride, padding = (1, 0) if number == 0 else (2, 1)
        x = F.conv2d(x, conv.weight, conv.bias, stride, padding)
        x = torch.where(x > 0, x, 0.2 * x)
    x = F.conv2d(x, network.trunk.last.weight, network.trunk.last.bias)
    assert x.shape == (2, 64, 1, 1)
    logits = network(pictures)
    assert torch.equal(logits[:, 0], torch.zeros(2))
    torch.testing.assert_close(logits[:, 1:], x.flatten(1) @ network.real.weight.T)
    shared = AvpSharedDiscriminator(64, 5, 0.05, attention=False).eval()
    real, whose = shared(pictures)
    features = shared.trunk(pictures)
    torch.testing.assert_close(real[:, 1:], features @ shared.real.weight.T)
    torch.testing.assert_close(whose, features @ shared.identity.weight.T)


def test_weights_are_normalised_in_float32_under_autocast() -> None:
    torch.manual_seed(0)
    network = AvpTrunk(64, 0.25, True).eval()
    pictures = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        exact = network(pictures)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = network(pictures)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, rtol=0.05, atol=0.02)


def test_what_there_is_not_is_one_line() -> None:
    with pytest.raises(ModelError, match="gives 64 px"):
        GeneratorSpec("cmu", "avp_gan", (128,))
    with pytest.raises(ModelError, match="has no attention"):
        GeneratorSpec("cmu", "cmu", attention=True)
    with pytest.raises(ModelError, match="for 64 px, not 128"):
        AvpDiscriminator(128)
    with pytest.raises(ModelError, match="without a face decoder"):
        build_generator(GeneratorSpec("plain", "none")).decode(torch.zeros(1, 512))
