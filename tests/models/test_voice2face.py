"""voice2face, the authors' and SF2F's, against their published layers by hand."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.errors import ModelError
from models.sf2f.colour import IMAGENET_MEAN, IMAGENET_STD, from_signed, to_unit
from models.sf2f.generator import build_generator
from models.sf2f.released import VOICE2FACE_INPUT, load_voice_encoder, read_voice2face
from models.sf2f.spec import GeneratorSpec
from models.voice2face import CmuDiscriminator, Sf2fVoice2faceDiscriminator
from tests.helpers import voice2face_published as published

CMU = GeneratorSpec("cmu", "cmu", (64,), None, 64, 64)
TINY = GeneratorSpec("cmu", "cmu", (64,), None, 64, 16, 0.05)


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_authors_sizes() -> None:
    # Kernel 3 without bias and batch norm, the last with bias; 4 × 4 deconvolutions, 1 × 1 to RGB.
    channels = (64, 256, 384, 576, 864)
    voice = sum(3 * a * b + 2 * b for a, b in pairwise(channels))
    sides = (64, 1024, 512, 256, 128, 64)
    face = sum(16 * a * b + b for a, b in pairwise(sides))
    generator = build_generator(CMU)
    assert size(generator.encoder) == voice + 3 * 864 * 64 + 64 == 2_670_720
    assert size(generator.decoder) == face + 64 * 3 + 3 == 12_191_875


def test_sf2fs_own_sizes() -> None:
    channels = (40, 256, 384, 576, 864)
    voice = sum(3 * a * b + 2 * b for a, b in pairwise(channels))
    sides = (512, 1024, 512, 256, 128, 64)
    face = sum(16 * a * b + b for a, b in pairwise(sides))
    generator = build_generator(GeneratorSpec("plain_released", "deconvolution"))
    assert size(generator.encoder) == voice + 3 * 864 * 512 + 512 == 3_813_952
    assert size(generator.decoder) == face + 64 * 3 + 3 == 19_531_907


def test_pictures_double_from_four_pixels_on() -> None:
    for px, count in ((64, 5), (128, 6)):
        spec = GeneratorSpec("plain", "deconvolution", (px,), None, 40, 16, 0.05)
        decoder = build_generator(spec).decoder
        x = torch.randn(1, 16, 1, 1)
        sides = []
        for block in decoder.blocks:
            x = block(x)
            sides.append(x.shape[-1])
        assert sides == [4 << i for i in range(count)]
        assert decoder(torch.randn(1, 16))[0].shape == (1, 3, px, px)


def test_the_authors_pictures_are_converted_from_minus_one_to_one() -> None:
    torch.manual_seed(0)
    signed = build_generator(TINY).eval()
    plain = build_generator(GeneratorSpec("cmu", "deconvolution", (64,), None, 64, 16, 0.05)).eval()
    plain.load_state_dict(signed.state_dict())
    embedding = torch.randn(2, 16)
    with torch.inference_mode():
        raw, converted = plain.decode(embedding)[0], signed.decode(embedding)[0]
    torch.testing.assert_close(to_unit(converted), raw / 2.0 + 0.5)
    for value, unit in ((-1.0, 0.0), (1.0, 1.0)):
        picture = from_signed(torch.full((1, 3, 1, 1), value)).flatten()
        expected = (unit - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
        torch.testing.assert_close(picture, expected)


def test_the_authors_discriminator_layer_by_layer() -> None:
    torch.manual_seed(0)
    network = CmuDiscriminator(64, 7)
    channels = (32, 64, 128, 256, 512)
    convs = 3 * 32 + 32 + sum(16 * a * b + b for a, b in pairwise(channels))
    assert size(network) == convs + 16 * 512 * 64 + 64 + 64 * 1 + 64 * 7
    pictures = torch.randn(2, 3, 64, 64)
    x = to_unit(pictures) * 2.0 - 1.0
    weights = dict(network.named_parameters())
    for i in range(6):
        stride, padding = (1, 0) if i in (0, 5) else (2, 1)
        x = F.conv2d(x, weights[f"convs.{i}.weight"], weights[f"convs.{i}.bias"], stride, padding)
        x = torch.where(x > 0, x, 0.2 * x) if i < 5 else x
    assert x.shape == (2, 64, 1, 1)
    real, whose = network(pictures)
    torch.testing.assert_close(real[:, 1:], x.flatten(1) @ weights["real.weight"].T)
    torch.testing.assert_close(whose, x.flatten(1) @ weights["identity.weight"].T)


def test_sf2fs_discriminator_layer_by_layer() -> None:
    torch.manual_seed(0)
    network = Sf2fVoice2faceDiscriminator(128, 7)
    channels = (32, 64, 128, 256, 512)
    convs = 3 * 32 + 32 + sum(16 * a * b + b for a, b in pairwise(channels))
    assert size(network) == convs + 513 * 1024 + 1025 * 1 + 1025 * 7
    x = pictures = torch.randn(2, 3, 128, 128)
    weights = dict(network.named_parameters())
    for i in range(5):
        stride, padding = (1, 0) if i in (0, 4) else (2, 1)
        x = F.conv2d(x, weights[f"convs.{i}.weight"], weights[f"convs.{i}.bias"], stride, padding)
        x = torch.where(x > 0, x, 0.2 * x) if i < 4 else x
    assert x.shape == (2, 512, 13, 13)
    features = F.linear(x.mean((2, 3)), weights["hidden.weight"], weights["hidden.bias"])
    real, whose = network(pictures)
    expected = F.linear(features, weights["real.weight"], weights["real.bias"])
    torch.testing.assert_close(real[:, 1:], expected)
    expected = F.linear(features, weights["identity.weight"], weights["identity.bias"])
    torch.testing.assert_close(whose, expected)


@pytest.mark.parametrize("target", [0, 1])
def test_two_logits_are_the_binary_cross_entropy_of_one(target: int) -> None:
    torch.manual_seed(0)
    real, _ = CmuDiscriminator(64, 3, width=0.1)(torch.randn(5, 3, 64, 64))
    two = F.cross_entropy(real, torch.full((5,), target))
    one = F.binary_cross_entropy_with_logits(real[:, 1], torch.full((5,), float(target)))
    torch.testing.assert_close(two, one)


def test_discriminators_of_other_sizes_are_refused() -> None:
    with pytest.raises(ModelError, match="for 64 px, not 128"):
        CmuDiscriminator(128, 3)
    with pytest.raises(ModelError, match="64 or 128 px, not 96"):
        Sf2fVoice2faceDiscriminator(96, 3)


def authors_state(spec: GeneratorSpec) -> dict[str, torch.Tensor]:
    """A ``voice_embedding.pth`` of this spec's size: names of the authors' ``VoiceEmbedNet``."""
    network = nn.Sequential()
    before = spec.n_filters
    sizes = [layer.conv.out_channels for layer in build_generator(spec).encoder.layers[:4]]
    for after in sizes:
        network.extend([nn.Conv1d(before, after, 3, 2, 1, bias=False), nn.BatchNorm1d(after)])
        network.append(nn.ReLU())
        before = after
    network.append(nn.Conv1d(before, spec.embedding_dim, 3, 2, 1))
    network.train()(torch.randn(4, spec.n_filters, 90))  # moves the statistics
    return {f"model.{name}": value for name, value in network.state_dict().items()}


def test_the_authors_voice_network_is_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = authors_state(TINY)
    torch.save(state, tmp_path / "voice_embedding.pth")
    generator = build_generator(TINY).eval()
    hears = load_voice_encoder(generator.encoder, tmp_path / "voice_embedding.pth")
    assert hears == VOICE2FACE_INPUT
    x = given = torch.randn(2, 64, 200)
    for layer in range(4):
        x = F.conv1d(x, state[f"model.{3 * layer}.weight"], stride=2, padding=1)
        kinds = ("running_mean", "running_var", "weight", "bias")
        x = F.relu(F.batch_norm(x, *(state[f"model.{3 * layer + 1}.{kind}"] for kind in kinds)))
    x = F.conv1d(x, state["model.12.weight"], state["model.12.bias"], stride=2, padding=1)
    with torch.inference_mode():
        torch.testing.assert_close(generator.encoder(given), x)


def test_the_authors_generator_is_read(tmp_path: Path) -> None:
    face, voice = published.generator(), published.voice_embedding()
    torch.save(face, tmp_path / "generator.pth")
    torch.save(voice, tmp_path / "voice_embedding.pth")
    read = read_voice2face(tmp_path / "generator.pth", tmp_path / "voice_embedding.pth")
    log_mel = torch.randn(2, 64, 300)
    wanted = published.decode(face, published.embed(voice, log_mel))
    with torch.inference_mode():
        picture = to_unit(read.build()(log_mel)[0]) * 2 - 1
    torch.testing.assert_close(picture.double(), wanted, rtol=0, atol=1e-5)

    other = {k: v for k, v in face.items() if k != "model.4.bias"}
    torch.save(other, tmp_path / "other.pth")
    with pytest.raises(ModelError, match=r"not voice2face's generator\.pth: lacks blocks\.2\.bias"):
        read_voice2face(tmp_path / "other.pth", tmp_path / "voice_embedding.pth")
    with pytest.raises(ModelError, match=r"not voice2face's voice_embedding\.pth"):
        read_voice2face(tmp_path / "generator.pth", tmp_path / "generator.pth")


def test_a_voice_network_by_our_own_names_is_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    first, second = build_generator(TINY).eval(), build_generator(TINY).eval()
    torch.save(first.encoder.state_dict(), tmp_path / "encoder.pt")
    assert load_voice_encoder(second.encoder, tmp_path / "encoder.pt") == {}
    x = torch.randn(2, 64, 100)
    torch.testing.assert_close(second.embed(x), first.embed(x), rtol=0.0, atol=0.0)


def test_other_weights_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "voice.pth"
    encoder = build_generator(TINY).encoder

    def refusal(state: object, of: nn.Module = encoder) -> str:
        torch.save(state, path)
        with pytest.raises(ModelError) as caught:
            load_voice_encoder(of, path)
        line = str(caught.value)
        assert "\n" not in line
        return line

    state = authors_state(TINY)
    del state["model.12.bias"]
    assert "lacks layers.4.bias" in refusal(state)
    wider = authors_state(GeneratorSpec("cmu", "cmu", (64,), None, 64, 32, 0.05))
    assert "misshapen" in refusal(wider)
    assert "something else than tensors by name" in refusal([1])
    inception = build_generator(GeneratorSpec(embedding_dim=16, width=0.05)).encoder
    assert "for a plain voice encoder" in refusal(authors_state(TINY), inception)
