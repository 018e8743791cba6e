"""What `describe` counts, against counts by hand."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from models.describe import describe_generator, describe_network
from models.errors import ModelError
from models.sf2f.discriminators import IdentityClassifier
from models.sf2f.spec import GeneratorSpec

FUSED = GeneratorSpec(fuser="attention")


def work(spec: GeneratorSpec, **given: int) -> dict[str, int]:
    return {p.name: p.multiply_adds for p in describe_generator(spec, **given).layers}


def encoder_by_hand(lengths: tuple[int, ...]) -> list[int]:
    """Per output frame, in × out / 4 for each tap of the four kernels; kernel 2 has one frame more
    where its input is even, which is trimmed away but computed."""
    channels = (40, 256, 384, 576, 864, 512)
    counts = []
    for i, before in enumerate(lengths):
        out = (before + 1) // 2
        pair = channels[i] * channels[i + 1] // 4
        counts.append(pair * (15 * out + 2 * (before // 2 + 1)))
    return counts


def test_multiply_adds_of_sf2f_are_those_by_hand() -> None:
    found = work(FUSED)
    encoder = encoder_by_hand((125, 63, 32, 16, 8))
    assert [found[f"encoder.layers.{i}"] for i in range(5)] == encoder
    sides = [(512, 1024), (1024, 512), (512, 256), (256, 128), (128, 64), (64, 32)]
    blocks = [9 * before * after * 4 ** (i + 1) for i, (before, after) in enumerate(sides)]
    assert [found[f"decoder.blocks.{i}"] for i in range(6)] == blocks
    assert found["decoder.heads.64"] == 32 * 3 * 64 * 64
    # W e, one score, one weighted sum, W_f [a, e].
    fuser = 512 * 512 + 512 + 512 + 1024 * 512
    assert found["fuser"] == fuser
    whole = describe_generator(FUSED).total
    assert whole.multiply_adds == sum(encoder) + sum(blocks) + 32 * 3 * 64 * 64 + fuser
    assert whole.flops == 2 * whole.multiply_adds
    assert whole.parameters == 5_401_664 + 786_944 + 11_010_051


def test_windows_multiply_the_encoder_and_square_the_scores() -> None:
    one, seven = work(FUSED), work(FUSED, windows=7)
    assert seven["encoder.layers.2"] == 7 * one["encoder.layers.2"]
    assert seven["fuser"] == 7 * (512 * 512 + 1024 * 512) + 7 * 7 * (512 + 512)
    assert seven["decoder.blocks.3"] == one["decoder.blocks.3"]


def test_frames_lengthen_the_encoder_alone() -> None:
    found = work(FUSED, frames=300)
    lengths = (300, 150, 75, 38, 19)
    assert [found[f"encoder.layers.{i}"] for i in range(5)] == encoder_by_hand(lengths)
    assert found["decoder.blocks.0"] == work(FUSED)["decoder.blocks.0"]


def test_deconvolution_counts_every_weight_per_input_pixel() -> None:
    found = work(GeneratorSpec("plain", "deconvolution"))
    assert found["decoder.blocks.0"] == 512 * 1024 * 16
    assert found["decoder.blocks.1"] == 1024 * 512 * 16 * 4 * 4
    assert found["decoder.to_rgb"] == 64 * 3 * 64 * 64


def test_parts_hold_every_parameter_once() -> None:
    for spec in (
        FUSED,
        dataclasses.replace(FUSED, resolutions=(64, 128)),
        GeneratorSpec("inception_released", "upsampling_released", fuser="attention_released"),
        GeneratorSpec("cmu", "cmu", n_filters=64, embedding_dim=64),
    ):
        description = describe_generator(spec)
        assert sum(part.parameters for part in description.layers) == description.total.parameters
        work_of_parts = sum(part.multiply_adds for part in description.layers)
        assert work_of_parts == description.total.multiply_adds


def test_a_discriminator_is_described() -> None:
    with torch.device("meta"):
        network = IdentityClassifier(64, 50)
    parts = {p.name: p for p in describe_network(network, 64).layers}
    assert parts["blocks.1"].multiply_adds == 64 * 128 * 16 * 16 * 16
    assert parts["blocks.1"].output == (128, 16, 16)
    assert parts["out"].parameters == 1025 * 50


def test_no_hook_stays_behind() -> None:
    network = IdentityClassifier(64, 50)
    describe_network(network, 64)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_what_cannot_be_described_is_one_line() -> None:
    with pytest.raises(ModelError, match="only with a fuser"):
        describe_generator(GeneratorSpec(), windows=2)
    with pytest.raises(ModelError, match="frames is 0"):
        describe_generator(GeneratorSpec(), frames=0)
