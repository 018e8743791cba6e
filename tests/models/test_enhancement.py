"""GFPGAN from a checkpoint of the right names and shapes, its geometry, and its critics."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.enhancement import gfpgan
from models.enhancement.critics import PartCritic, VggFeatures, WholeFaceCritic, load_vgg
from models.enhancement.gfpgan import FaceEnhancer, build_network, load_enhancer, load_network
from models.errors import ModelError
from models.geometry import ALIGNED_LEFT_EYE, ALIGNED_RIGHT_EYE
from models.registry import registry
from models.resampling import cut_box
from models.store import ModelStore
from tests.helpers.tiny_gfpgan import TINY_SIDE, save_tiny_gfpgan


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_gfpgan(tmp_path_factory.mktemp("gfpgan") / "tiny.pth")


def faces(count: int, px: int = 64) -> torch.Tensor:
    return torch.rand(count, 3, px, px, generator=torch.Generator().manual_seed(5))


def dot(px: int, at: tuple[float, float]) -> torch.Tensor:
    """A bright Gaussian spot at fractions of the side, on black, (1, 3, px, px)."""
    centres = (torch.arange(px) + 0.5) / px
    row = torch.exp(-(((centres - at[1]) / 0.03) ** 2))
    column = torch.exp(-(((centres - at[0]) / 0.03) ** 2))
    return (row[:, None] * column).expand(1, 3, px, px)


def centre(picture: torch.Tensor) -> tuple[float, float]:
    """Centre of brightness, fractions of the side."""
    light = picture[0, 0].double()
    at = (torch.arange(len(light)) + 0.5) / len(light)
    return float((light.sum(0) * at).sum() / light.sum()), float(
        (light.sum(1) * at).sum() / light.sum()
    )


def test_eyes_are_taken_to_the_template_of_ffhq_and_back() -> None:
    eyes = [gfpgan.to_ffhq(dot(64, eye), 512) for eye in (ALIGNED_LEFT_EYE, ALIGNED_RIGHT_EYE)]
    left, right = (centre(eye) for eye in eyes)
    assert right[0] - left[0] == pytest.approx(0.246, abs=1e-3)
    assert (left[0] + right[0]) / 2 == pytest.approx(0.5, abs=1e-3)
    assert left[1] == pytest.approx(0.469, abs=1e-3)
    assert right[1] == pytest.approx(0.469, abs=1e-3)
    assert centre(gfpgan.from_ffhq(eyes[0])) == pytest.approx(ALIGNED_LEFT_EYE, abs=1e-3)


def test_a_box_that_shrinks_much_is_averaged() -> None:
    stripes = torch.zeros(1, 3, 64, 64)
    stripes[..., ::2] = 1.0
    shrunk = cut_box(stripes, (0.0, 0.0, 1.0, 1.0), 15)
    assert shrunk[..., 1:-1].sub(0.5).abs().max() < 0.06
    whole = cut_box(stripes, (0.0, 0.0, 1.0, 1.0), 64)
    torch.testing.assert_close(whole, stripes)


def test_a_checkpoint_is_loaded_by_its_own_sizes_and_enhances(checkpoint: Path) -> None:
    enhance = load_enhancer(checkpoint)
    assert (enhance.side_px, enhance.name) == (TINY_SIDE, "tiny")
    enhanced = enhance(faces(3, px=32))
    assert enhanced.shape == (3, 3, TINY_SIDE, TINY_SIDE)
    assert 0 <= enhanced.min() < enhanced.max() <= 1
    assert (enhanced[0] - enhanced[1]).abs().max() > 1e-3  # the input matters


def test_a_picture_is_enhanced_the_same_whatever_is_beside_it(checkpoint: Path) -> None:
    enhance = load_enhancer(checkpoint)
    torch.testing.assert_close(enhance(faces(3))[1:2], enhance(faces(3)[1:2]), rtol=0, atol=0)


def test_batches_of_several_give_what_one_gives(checkpoint, monkeypatch) -> None:
    alone = load_enhancer(checkpoint)(faces(5))
    monkeypatch.setattr(gfpgan, "CPU_BATCH", 4)
    torch.testing.assert_close(load_enhancer(checkpoint)(faces(5)), alone, rtol=1e-4, atol=1e-5)


def test_missing_weights_are_named_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        load_enhancer(store=ModelStore(tmp_path, mirror=""))
    assert str(caught.value) == (
        "weights 'gfpgan_v1_4' are missing: run `hqvox models pull gfpgan_v1_4`"
    )


def test_the_store_hands_the_published_file_over(tmp_path: Path) -> None:
    entry = replace(registry()["gfpgan_v1_4"], sha256=None, size_bytes=None)
    save_tiny_gfpgan(tmp_path / entry.file)
    store = ModelStore(tmp_path, mirror="", entries={"gfpgan_v1_4": entry})
    assert load_enhancer(store=store).name == "gfpgan_v1_4"


def lacks_a_tensor(state: dict) -> None:
    del state["params_ema"]["toRGB.0.bias"]


def lacks_the_decoder(state: dict) -> None:
    del state["params_ema"]["stylegan_decoder.constant_input.weight"]


def lacks_the_key(state: dict) -> None:
    state["params"] = state.pop("params_ema")


def is_misshapen(state: dict) -> None:
    state["params_ema"]["final_linear.bias"] = torch.zeros(3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lacks_a_tensor, r"lacks toRGB\.0\.bias"),
        (lacks_the_decoder, r"lacks 'stylegan_decoder\.constant_input\.weight'"),
        (lacks_the_key, "lacks params_ema"),
        (is_misshapen, r"misshapen final_linear\.bias \(3,\)"),
    ],
)
def test_another_file_is_one_line(checkpoint, tmp_path, change, message) -> None:
    state = torch.load(checkpoint, weights_only=True)
    change(state)
    torch.save(state, tmp_path / "wrong.pth")
    with pytest.raises(ModelError, match=message) as caught:
        load_network(tmp_path / "wrong.pth")
    assert "\n" not in str(caught.value)


def test_without_spandrel_the_package_is_named(checkpoint, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "spandrel.architectures.GFPGAN", None)
    with pytest.raises(ModelError, match=r"pip install 'hqvox\[enhance\]'"):
        load_network(checkpoint)


@pytest.mark.slow(seconds=20)
def test_the_published_size_enhances_64_px_to_512(tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = build_network()
    names = network.state_dict()
    assert tuple(names["stylegan_decoder.style_convs.12.modulated_conv.weight"].shape) == (
        1, 64, 128, 3, 3,
    )  # fmt: skip
    torch.save({"params_ema": names}, tmp_path / "GFPGANv1.4.pth")
    del network, names
    enhance = load_enhancer(tmp_path / "GFPGANv1.4.pth")
    enhanced = enhance(faces(1))
    assert enhanced.shape == (1, 3, 512, 512)
    assert bool(enhanced.isfinite().all())
    from spandrel import ModelLoader

    described = ModelLoader().load_from_file(tmp_path / "GFPGANv1.4.pth")
    assert described.architecture.id == "GFPGAN"


def test_an_enhancer_on_a_missing_device_is_one_line(checkpoint: Path) -> None:
    with pytest.raises(ModelError, match="device 'cuda:9' cannot be used"):
        FaceEnhancer(load_network(checkpoint), device="cuda:9")


def test_critics_have_their_shapes() -> None:
    assert WholeFaceCritic(64, width=0.1)(faces(6)).shape == (6, 1)
    logits, maps = PartCritic(width=0.1)(faces(2, px=80))
    assert logits.shape == (2, 1, 20, 20)
    assert [tuple(m.shape) for m in maps] == [(2, 12, 40, 40), (2, 25, 20, 20)]
    published = WholeFaceCritic(512)
    assert published.first.out_channels == 32
    assert published.last.in_channels == 513


def test_a_face_critic_sees_the_spread_of_its_batch() -> None:
    torch.manual_seed(3)
    critic = WholeFaceCritic(16, width=0.1)
    one = faces(1, px=16)
    same, other = critic(one.expand(4, -1, -1, -1)), critic(torch.cat([one, faces(3, px=16) * 0.1]))
    assert float((same[0] - other[0]).abs().detach()) > 1e-6


def test_vgg_reads_torchvisions_file_and_gives_five_levels(tmp_path: Path) -> None:
    from torchvision.models import vgg19

    with torch.device("meta"):
        theirs = vgg19()
    torch.manual_seed(4)
    tensors = {
        name: torch.randn(value.shape) * 0.02 for name, value in theirs.state_dict().items()
        if name.startswith("features.")
    } | {"classifier.0.bias": torch.zeros(4096)}  # fmt: skip
    torch.save(tensors, tmp_path / "vgg.pth")
    network = load_vgg(tmp_path / "vgg.pth")
    assert sum(value.numel() for value in network.parameters()) == 20_024_384
    picture = faces(1, px=32)
    maps = network(picture)
    assert [tuple(m.shape[1:]) for m in maps] == [
        (64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 2, 2),
    ]  # fmt: skip
    reference = vgg19(weights=None).features.eval()
    reference.load_state_dict(
        {k.removeprefix("features."): v for k, v in tensors.items() if k.startswith("features")}
    )
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.no_grad():
        expected = reference[:33]((picture - mean) / std)  # up to conv4_4 and its ReLU and pool
        np.testing.assert_allclose(
            torch.nn.functional.max_pool2d(maps[3].relu(), 2)[0].numpy(),
            reference[:28]((picture - mean) / std)[0].numpy(), rtol=1e-4, atol=1e-5,
        )  # fmt: skip
    assert expected.shape[1] == 512


def test_vgg_is_frozen() -> None:
    network = VggFeatures(width=1 / 16)
    assert not any(value.requires_grad for value in network.parameters())
