"""SF2F's networks against the paper's tables: shapes, parameters and mathematics by hand."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from models.describe import describe_generator
from models.errors import ModelError
from models.sf2f.colour import IMAGENET_MEAN, IMAGENET_STD, from_unit, to_unit
from models.sf2f.decoders import UpBlock
from models.sf2f.discriminators import (
    IdentityClassifier,
    IdentityDiscriminator,
    ImageDiscriminator,
    PatchDiscriminator,
)
from models.sf2f.encoders import InceptionModule, ReleasedInceptionModule
from models.sf2f.generator import Generator, build_generator, freeze, freeze_norms
from models.sf2f.spec import GeneratorSpec, scaled

PAPER = GeneratorSpec(fuser="attention")
SMALL = GeneratorSpec(fuser="attention", embedding_dim=16, width=0.05)
KINDS = {
    "paper": SMALL,
    "multi": dataclasses.replace(SMALL, resolutions=(64, 128)),
    "baseline": dataclasses.replace(SMALL, encoder="plain", decoder="deconvolution"),
    "released": GeneratorSpec(
        "inception_released",
        "upsampling_released",
        (64, 128),
        "attention_released",
        embedding_dim=64,
        width=0.1,
    ),
    "voice2face": GeneratorSpec("plain_released", "deconvolution", (128,), None, 40, 16, 0.05),
    "cmu": GeneratorSpec("cmu", "cmu", (64,), None, 64, 16, 0.05),
}


def small(kind: str = "paper", seed: int = 0) -> Generator:
    torch.manual_seed(seed)
    return build_generator(KINDS[kind])


def log_mels(spec: GeneratorSpec, n: int = 3, frames: int = 125) -> torch.Tensor:
    return torch.randn(n, spec.n_filters, frames, generator=torch.Generator().manual_seed(frames))


def size(module: nn.Module | None) -> int:
    assert module is not None
    return sum(parameter.numel() for parameter in module.parameters())


def test_encoder_has_the_parameters_of_table_9() -> None:
    # Of a module: in × (out / 4) × (2 + 3 + 5 + 7) weights, and scale and shift of the batch norm.
    modules = [
        40 * 64 * 17 + 2 * 256,
        256 * 96 * 17 + 2 * 384,
        384 * 144 * 17 + 2 * 576,
        576 * 216 * 17 + 2 * 864,
        864 * 128 * 17 + 2 * 512,
    ]
    assert sum(modules) == 5_401_664
    generator = build_generator(PAPER)
    assert [size(layer) for layer in generator.encoder.layers] == modules
    assert size(generator.encoder) == 5_401_664


def test_fuser_has_the_parameters_of_section_4() -> None:
    assert size(build_generator(PAPER).fuser) == 512 * 512 + 1024 * 512 + 512 == 786_944


def test_decoder_has_the_parameters_of_table_10() -> None:
    # Of a block: 9 × in × out weights, out biases, and scale and shift of the batch norm.
    sides = [(512, 1024), (1024, 512), (512, 256), (256, 128), (128, 64), (64, 32)]
    blocks = [9 * before * after + 3 * after for before, after in sides]
    assert sum(blocks) + 32 * 3 + 3 == 11_010_051
    assert size(build_generator(PAPER).decoder) == 11_010_051
    seventh = 9 * 32 * 16 + 3 * 16
    at_128 = dataclasses.replace(PAPER, resolutions=(128,))
    assert size(build_generator(at_128).decoder) == sum(blocks) + seventh + 16 * 3 + 3
    both = dataclasses.replace(PAPER, resolutions=(64, 128))
    assert size(build_generator(both).decoder) == 11_010_051 + seventh + 16 * 3 + 3


def test_layers_have_the_dimensions_of_the_tables() -> None:
    parts = {p.name: p.output for p in describe_generator(PAPER).layers}
    assert parts == {
        "encoder.layers.0": (256, 63),
        "encoder.layers.1": (384, 32),
        "encoder.layers.2": (576, 16),
        "encoder.layers.3": (864, 8),
        "encoder.layers.4": (512, 4),
        "fuser": (512,),
        "decoder.blocks.0": (1024, 2, 2),
        "decoder.blocks.1": (512, 4, 4),
        "decoder.blocks.2": (256, 8, 8),
        "decoder.blocks.3": (128, 16, 16),
        "decoder.blocks.4": (64, 32, 32),
        "decoder.blocks.5": (32, 64, 64),
        "decoder.heads.64": (3, 64, 64),
    }
    multi = describe_generator(dataclasses.replace(PAPER, resolutions=(64, 128))).layers
    assert [p.output for p in multi][-4:] == [
        (32, 64, 64), (3, 64, 64), (16, 128, 128), (3, 128, 128),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "encoder", "fuser", "decoder"),
    [
        (
            GeneratorSpec("inception_released", "upsampling_released", fuser="attention_released"),
            4_848_192,
            5_634_624 - 4_848_192,
            11_566_083,
        ),
        (
            GeneratorSpec("inception_released", "upsampling_released", (64, 128)),
            4_848_192,
            0,
            11_577_734,
        ),
        (
            GeneratorSpec("inception_released", "upsampling_released", (128,)),
            4_848_192,
            0,
            11_568_387,
        ),
        (GeneratorSpec("plain_released", "deconvolution"), 3_813_952, 0, 19_531_907),
    ],
    ids=["64", "multi", "128", "voice2face"],
)
def test_released_variants_have_the_published_counts(
    spec: GeneratorSpec, encoder: int, fuser: int, decoder: int
) -> None:
    with torch.device("meta"):
        generator = build_generator(spec)
    assert size(generator.encoder) == encoder
    assert (0 if generator.fuser is None else size(generator.fuser)) == fuser
    assert size(generator.decoder) == decoder


@pytest.mark.parametrize("kind", KINDS)
def test_any_length_of_speech_gives_pictures(kind: str) -> None:
    generator = small(kind).eval()
    with torch.inference_mode():
        for frames in (1, 2, 31, 100, 101, 150, 333):
            length = frames
            for _ in range(5):
                length = math.ceil(length / 2)
            features = generator.encoder(log_mels(generator.spec, 2, frames))
            assert features.shape == (2, generator.spec.embedding_dim, length)
        pictures = generator(log_mels(generator.spec, 2, 1))
    assert [p.shape for p in pictures] == [(2, 3, px, px) for px in generator.spec.resolutions]


def settle(module: nn.Module) -> None:
    """Give batch norms statistics and scales that a wrong order or formula would show."""
    torch.manual_seed(1)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(part.weight, 1.0, 0.3)
            nn.init.normal_(part.bias, 0.5, 0.3)
            part.running_mean.normal_(0.3, 0.3)
            part.running_var.uniform_(0.5, 2.0)


def numpy_norm(x: NDArray[np.float64], norm: nn.Module) -> NDArray[np.float64]:
    shape = (-1, *[1] * (x.ndim - 1))
    mean, var, scale, shift = (
        getattr(norm, name).detach().double().numpy().reshape(shape)
        for name in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / np.sqrt(var + 1e-5) * scale + shift


@pytest.mark.parametrize("frames", [7, 8])
def test_inception_module_is_four_convolutions_then_norm_then_relu(frames: int) -> None:
    module = InceptionModule(5, 8)
    settle(module)
    x = torch.randn(1, 5, frames)
    length = (frames + 1) // 2
    branches = []
    for conv, kernel, padding in zip(module.convs, (2, 3, 5, 7), (1, 1, 2, 3), strict=True):
        weight = conv.weight.detach().double().numpy()
        padded = np.pad(x[0].double().numpy(), ((0, 0), (padding, padding)))
        steps = [padded[:, 2 * i : 2 * i + kernel] for i in range(length)]
        branches.append(np.stack([np.tensordot(weight, s, 2) for s in steps], axis=1))
    expected = np.maximum(numpy_norm(np.concatenate(branches), module.norm), 0.0)
    with torch.inference_mode():
        found = module.eval()(x)[0]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_upsampling_block_is_bilinear_then_convolution_then_relu_then_norm() -> None:
    block = UpBlock(2, 3)
    settle(block)
    x = torch.randn(1, 2, 4, 4)
    up = x[0].double().numpy()
    for axis in (1, 2):
        up = numpy_double(up, axis)
    padded = np.pad(up, ((0, 0), (1, 1), (1, 1)))
    weight, bias = (t.detach().double().numpy() for t in (block.conv.weight, block.conv.bias))
    views = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    convolved = np.einsum("oiyx,ihwyx->ohw", weight, views) + bias[:, None, None]
    expected = numpy_norm(np.maximum(convolved, 0.0), block.norm)
    with torch.inference_mode():
        found = block.eval()(x)[0]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def numpy_double(x: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Bilinear by two along an axis: 3/4 of the pixel, 1/4 of the neighbour, edges repeated."""
    x = np.moveaxis(x, axis, 0)
    before, after = np.concatenate([x[:1], x[:-1]]), np.concatenate([x[1:], x[-1:]])
    pairs = np.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis=1)
    return np.moveaxis(pairs.reshape(-1, *x.shape[1:]), 0, axis)


def test_low_picture_comes_from_block_6_and_the_high_one_goes_on_from_there() -> None:
    generator = small("multi")
    low, high = generator.decode(torch.randn(2, 16))
    low.sum().backward(retain_graph=True)
    assert generator.decoder.blocks[5].conv.weight.grad is not None
    assert generator.decoder.blocks[6].conv.weight.grad is None
    assert generator.decoder.heads["128"].weight.grad is None
    generator.zero_grad()
    high.sum().backward()
    assert generator.decoder.blocks[5].conv.weight.grad is not None
    assert generator.decoder.heads["64"].weight.grad is None


def test_embeddings_are_time_averages_of_length_one() -> None:
    generator = small().eval()
    with torch.inference_mode():
        x = log_mels(SMALL)
        embedding = generator.embed(x)
        mean = generator.encoder(x).mean(dim=2)
    torch.testing.assert_close(embedding, mean / mean.norm(dim=1, keepdim=True))


def test_an_embedding_of_nothing_is_zero_not_nan() -> None:
    generator = small().eval()
    last = generator.encoder.layers[4]
    nn.init.zeros_(last.norm.weight)
    assert (generator.embed(log_mels(SMALL)) == 0.0).all()


@pytest.mark.parametrize("kind", ["voice2face", "cmu"])
def test_noise_is_added_in_training_only_and_normalised_after(kind: str) -> None:
    generator = small(kind)
    x = log_mels(generator.spec)
    generator.eval()
    with torch.inference_mode():
        clean = generator.embed(x)
        torch.testing.assert_close(generator.embed(x), clean, rtol=0.0, atol=0.0)
        generator.train()
        generator.encoder.eval()  # as a frozen voice network; batch norm would change it as well
        torch.manual_seed(3)
        noisy = generator.embed(x)
    torch.manual_seed(3)
    moved = clean + 0.05 * torch.randn(clean.shape)
    torch.testing.assert_close(noisy, moved / moved.norm(dim=1, keepdim=True))
    assert (noisy - clean).abs().max() > 0.01


@pytest.mark.parametrize("kind", ["paper", "baseline", "released"])
def test_other_encoders_have_no_noise(kind: str) -> None:
    generator = small(kind).train()
    x = log_mels(generator.spec)
    torch.testing.assert_close(generator.embed(x), generator.embed(x), rtol=0.0, atol=0.0)


def numpy_fuse(generator: Generator, embeddings: torch.Tensor) -> NDArray[np.float64]:
    """Section 4 for one person's windows (w, d), one sum at a time."""
    assert generator.fuser is not None
    e = embeddings.double().numpy()
    w = generator.fuser.score.weight.detach().double().numpy().T  # nn.Linear multiplies by W'
    w_f, b_f = (
        t.detach().double().numpy()
        for t in (generator.fuser.combine.weight, generator.fuser.combine.bias)
    )
    total = np.zeros(e.shape[1])
    for i in range(len(e)):
        scores = np.array([e[i] @ w @ e[j] for j in range(len(e))])
        beta = np.exp(scores) / np.exp(scores).sum()
        attended = sum(beta[j] * e[j] for j in range(len(e)))
        total += w_f @ np.concatenate([attended, e[i]]) + b_f
    return total / len(e)


def fusing() -> Generator:
    generator = small().eval()
    assert generator.fuser is not None
    nn.init.normal_(generator.fuser.score.weight, std=1.0)  # scores that tell windows apart
    return generator


@pytest.mark.parametrize("windows", [1, 2, 7, 40])
def test_fuser_is_section_4(windows: int) -> None:
    generator = fusing()
    embeddings = nn.functional.normalize(torch.randn(2, windows, 16), dim=2)
    with torch.inference_mode():
        fused = generator.fuse(embeddings, torch.ones(2, windows, dtype=torch.bool))
    for row, windows_of_row in zip(fused, embeddings, strict=True):
        expected = numpy_fuse(generator, windows_of_row)
        np.testing.assert_allclose(row.numpy(), expected, atol=1e-5)
        apart = numpy_fuse(generator, windows_of_row[:1]) - expected
        assert windows == 1 or np.abs(apart).max() > 1e-3


@pytest.mark.parametrize("padding", [0.0, 1e6, math.nan, math.inf])
@pytest.mark.parametrize("kind", ["paper", "released"])
def test_padded_windows_have_no_influence(kind: str, padding: float) -> None:
    generator = small(kind).eval()
    dim = generator.spec.embedding_dim
    there = [3, 1, 5]
    embeddings = torch.full((3, 5, dim), padding)
    mask = torch.zeros(3, 5, dtype=torch.bool)
    rows = [torch.randn(count, dim) for count in there]
    for i, (count, row) in enumerate(zip(there, rows, strict=True)):
        embeddings[i, :count], mask[i, :count] = row, True
    with torch.inference_mode():
        together = generator.fuse(embeddings, mask)
        for i, row in enumerate(rows):
            alone = generator.fuse(row[None], torch.ones(1, len(row), dtype=torch.bool))
            torch.testing.assert_close(together[i], alone[0], rtol=1e-4, atol=1e-5)


def test_order_of_windows_does_not_matter() -> None:
    generator = fusing()
    embeddings = torch.randn(1, 6, 16)
    there = torch.ones(1, 6, dtype=torch.bool)
    with torch.inference_mode():
        straight = generator.fuse(embeddings, there)
        back = generator.fuse(embeddings.flip(1), there)
    torch.testing.assert_close(straight, back, rtol=1e-4, atol=1e-5)


def test_released_fuser_gives_length_one() -> None:
    generator = small("released").eval()
    fused = generator.fuse(torch.randn(3, 4, 64), torch.ones(3, 4, dtype=torch.bool))
    torch.testing.assert_close(fused.norm(dim=1), torch.ones(3))


def test_what_cannot_be_fused_is_one_line() -> None:
    generator = small().eval()
    mask = torch.tensor([[True, False], [False, False]])
    with pytest.raises(ModelError, match="row without any window"):
        generator.fuse(torch.randn(2, 2, 16), mask)
    with pytest.raises(ModelError, match="no fuser"):
        small("cmu").fuse(torch.randn(2, 2, 16), mask)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_reaches_every_parameter(kind: str) -> None:
    generator = small(kind).train()
    settle(generator)
    embeddings = generator.embed(log_mels(generator.spec, 4)).view(2, 2, -1)
    if generator.fuser is None:
        vectors = embeddings.flatten(0, 1)
    else:
        vectors = generator.fuse(embeddings, torch.ones(2, 2, dtype=torch.bool))
    torch.stack([p.square().mean() for p in generator.decode(vectors)]).sum().backward()
    idle = [
        name
        for name, parameter in generator.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().max() > 0
    ]
    assert idle == []


def test_what_is_frozen_stays_as_it_was_while_the_fuser_learns() -> None:
    generator = small()
    freeze(generator.encoder)
    freeze(generator.decoder)
    generator.train()
    assert generator.training
    assert generator.fuser is not None
    assert generator.fuser.training
    assert not any(m.training for m in (*generator.encoder.modules(), *generator.decoder.modules()))
    before = copy.deepcopy(generator.state_dict())
    optimiser = torch.optim.Adam([p for p in generator.parameters() if p.requires_grad], 0.01)
    for _ in range(2):
        embeddings = generator.embed(log_mels(SMALL, 4)).view(2, 2, -1)
        (picture,) = generator.decode(
            generator.fuse(embeddings, torch.ones(2, 2, dtype=torch.bool))
        )
        optimiser.zero_grad()
        picture.square().mean().backward()
        optimiser.step()
    moved = {
        name for name, value in generator.state_dict().items() if (value != before[name]).any()
    }
    assert moved == {"fuser.score.weight", "fuser.combine.weight", "fuser.combine.bias"}
    twin = copy.deepcopy(generator).train()
    assert not twin.encoder.training


def test_a_description_survives_storing() -> None:
    for spec in KINDS.values():
        plain = spec.as_dict()
        assert GeneratorSpec.from_dict(plain) == spec
        assert GeneratorSpec.from_dict({**plain, "resolutions": list(spec.resolutions)}) == spec


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"encoder": "lstm"}, "encoder 'lstm' is not known"),
        ({"decoder": None}, "decoder None is not known"),
        ({"fuser": "mean"}, "fuser 'mean' is not known"),
        ({"resolutions": (32,)}, "resolutions"),
        ({"resolutions": 64}, "resolutions 64"),
        ({"resolutions": [128, 64]}, "resolutions"),
        ({"decoder": "cmu", "resolutions": (64, 128)}, "gives one resolution"),
        ({"n_filters": 0}, "n_filters is 0"),
        ({"n_filters": True}, "n_filters is True"),
        ({"embedding_dim": 30}, "a multiple of 8"),
        ({"width": 0}, "width is 0"),
        ({"width": math.nan}, "width is nan"),
        ({"layers": 3}, "unknown in a generator's description: layers"),
        ([], "is a mapping"),
    ],
)
def test_descriptions_of_nothing_are_refused_in_one_line(values: dict, said: str) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        GeneratorSpec.from_dict(values)
    assert "\n" not in str(caught.value)


def test_width_scales_channels_to_multiples_of_eight() -> None:
    assert [scaled(c, 1.0) for c in (3, 576, 864)] == [3, 576, 864]
    assert [scaled(c, 0.25) for c in (16, 576, 864)] == [8, 144, 216]
    generator = small()
    widths = {m.out_channels for m in generator.modules() if isinstance(m, nn.Conv1d)}
    assert max(widths) < 50
    for part in generator.decoder.blocks:
        assert part.conv.out_channels % 8 == 0


@pytest.mark.parametrize("kind", KINDS)
def test_channels_last_and_bfloat16_agree(kind: str) -> None:
    generator = small(kind).eval()
    settle(generator)
    x = log_mels(generator.spec)
    with torch.inference_mode():
        plain = generator(x)
        with torch.autocast("cpu", torch.bfloat16):
            embedding = generator.embed(x)
            rough = generator.decode(embedding)
        assert embedding.dtype == torch.float32
        torch.testing.assert_close(embedding.norm(dim=1), torch.ones(3))
        turned = generator.to(memory_format=torch.channels_last)(x)
    for a, b, c in zip(plain, turned, rough, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
        assert (a - c).abs().mean() < 0.05 * a.std()


@pytest.mark.parametrize("kind", ["paper", "cmu"])
def test_graph_has_no_breaks(kind: str) -> None:
    """What torch.compile sees is one graph, also of other lengths."""
    torch._dynamo.reset()
    generator = small(kind).eval()
    compiled = torch.compile(generator, backend="eager", fullgraph=True)
    with torch.inference_mode():
        for frames in (100, 101, 125):
            x = log_mels(generator.spec, 2, frames)
            for a, b in zip(compiled(x), generator(x), strict=True):
                torch.testing.assert_close(a, b)


@pytest.mark.parametrize("px", [64, 128])
def test_discriminators_are_table_11(px: int) -> None:
    # 4 × 4 convolutions without bias, batch norm; linear to 1024, linear to the outputs.
    trunk = 16 * (3 * 64 + 64 * 128 + 128 * 256) + 2 * (64 + 128 + 256) + 257 * 1024
    if px == 128:
        trunk += 16 * 256 * 512 + 2 * 512 + 256 * 1024
    pictures = torch.randn(2, 3, px, px)
    real, whose = ImageDiscriminator(px), IdentityClassifier(px, 7)
    assert size(real) == trunk + 1025 * 2
    assert size(whose) == trunk + 1025 * 7
    features = {}
    for i, block in enumerate(real.blocks):
        block.register_forward_hook(lambda _m, _i, out, i=i: features.update({i: out}))
    assert real(pictures).shape == (2, 2)
    assert whose(pictures).shape == (2, 7)
    shapes = [tuple(f.shape[1:]) for f in features.values()]
    assert shapes == [(64 * 2**i, px >> (i + 1), px >> (i + 1)) for i in range(3 + (px == 128))]
    assert all((f >= 0).all() for f in features.values())


@pytest.mark.parametrize("px", [64, 128])
def test_released_discriminators_are_those_of_the_released_code(px: int) -> None:
    # 4 × 4 convolutions with bias, batch norm between them.
    sizes = [3, 64, 128, 256, *([512] if px == 128 else [])]
    convs = sum(16 * a * b + b for a, b in itertools.pairwise(sizes))
    trunk, last = convs + 2 * sum(sizes[1:-1]), sizes[-1]
    pictures = torch.randn(2, 3, px, px)
    patch, whose = PatchDiscriminator(px), IdentityDiscriminator(px, 7)
    assert size(patch) == trunk + last + 1
    assert size(whose) == trunk + (last + 1) * 1024 + 1025 * (1 + 7)
    assert patch.trunk(pictures).shape == (2, last, 6, 6)
    logits = patch(pictures)
    assert logits.shape == (2 * 36, 2)
    assert not logits[:, 0].any()
    real, identity = whose(pictures)
    assert (real.shape, identity.shape) == ((2, 2), (2, 7))
    assert (whose.trunk(pictures) < 0).any(), "no ReLU after the last convolution"
    slopes: list[torch.Tensor] = []
    patch.trunk.convs[1].register_forward_pre_hook(lambda _m, given: slopes.append(given[0]))
    patch(pictures)
    normed = patch.trunk.norms[0](patch.trunk.convs[0](pictures))
    torch.testing.assert_close(slopes[0], torch.where(normed > 0, normed, 0.1 * normed))


@pytest.mark.parametrize("frames", [63, 64])
def test_the_released_inception_module_normalises_each_branch_before_it_is_trimmed(
    frames: int,
) -> None:
    torch.manual_seed(0)
    module = ReleasedInceptionModule(5, 16)
    plain = InceptionModule(5, 16)
    plain.load_state_dict(module.state_dict())
    x = torch.randn(3, 5, frames)
    found, joined = module(x), plain(x)
    branches = [conv(x) for conv in module.convs]
    for number, branch in enumerate(branches):
        mean, var = branch.mean((0, 2)), branch.var((0, 2), unbiased=False)
        normed = (branch - mean[:, None]) / (var[:, None] + 1e-5).sqrt()
        rows = slice(4 * number, 4 * number + 4)
        torch.testing.assert_close(found[:, rows], normed.clamp(min=0)[..., :32])
        torch.testing.assert_close(module.norm.running_mean[rows], 0.1 * mean)
    assert torch.equal(found[:, 4:], joined[:, 4:])
    assert torch.allclose(found[:, :4], joined[:, :4], atol=1e-6) == (frames == 63)
    assert module.norm.num_batches_tracked == 1
    assert torch.equal(module.eval()(x), fresh(module, plain)(x))


def fresh(module: InceptionModule, plain: InceptionModule) -> InceptionModule:
    """``plain`` with the weights and statistics of ``module``, in evaluation mode."""
    plain.load_state_dict(module.state_dict())
    return plain.eval()


def test_frozen_norms_keep_their_statistics_and_learn_their_scale() -> None:
    generator = freeze_norms(small("released")).train()
    before = copy.deepcopy(generator.state_dict())
    loss = sum(picture.square().mean() for picture in generator(log_mels(generator.spec)))
    loss.backward()
    for name, value in generator.state_dict().items():
        assert torch.equal(value, before[name]), name
    for module in generator.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert not module.training
            assert module.weight.grad is not None
    assert generator.training


def test_discriminators_of_other_sizes_are_refused() -> None:
    for kind in (ImageDiscriminator, PatchDiscriminator):
        with pytest.raises(ModelError, match="64 or 128 px, not 32"):
            kind(32)


def test_colours_go_to_the_unit_range_and_back() -> None:
    black, white = torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2)
    for c in range(3):
        expected = (1.0 - IMAGENET_MEAN[c]) / IMAGENET_STD[c]
        torch.testing.assert_close(from_unit(white)[0, c], torch.full((2, 2), expected))
        expected = -IMAGENET_MEAN[c] / IMAGENET_STD[c]
        torch.testing.assert_close(from_unit(black)[0, c], torch.full((2, 2), expected))
    wild = torch.randn(2, 3, 4, 4) * 5.0
    torch.testing.assert_close(from_unit(to_unit(wild)), wild)
    assert to_unit(wild).min() < 0.0
    clamped = to_unit(wild, clamped=True)
    assert clamped.min() == 0.0
    assert clamped.max() == 1.0


def test_colours_made_under_inference_take_gradients_later() -> None:
    with torch.inference_mode():
        to_unit(torch.zeros(1, 3, 2, 2, dtype=torch.float64))
    x = torch.zeros(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    to_unit(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad[0, :, 0, 0], torch.tensor(IMAGENET_STD).double())
