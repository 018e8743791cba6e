"""Person masks: published keys, wrong files, the bundled weights."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hqvox.phantom.samples import write_samples
from models.errors import ModelError
from models.segmentation import WEIGHTS, load
from models.segmentation import pspnet_portrait as net
from models.segmentation import pspnet_voc as voc
from models.segmentation.pspnet_portrait import PortraitMasker
from models.store import ModelStore
from models.training.segmentation import crops, evaluate
from models.training.segmentation.trainset import phantom_crops

torch.set_num_threads(1)

HELD_OUT = ("101", "106", "111", "115", "123", "131")
"""The first photographs with a head, by name, of the test part of data/people."""


# The published checkpoint, written down from mmsegmentation's structure and not from our network.


def published_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}

    def norm(name: str, channels: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (channels,)
        shapes[f"{name}.num_batches_tracked"] = ()

    def conv(name: str, out: int, into: int, kernel: int) -> None:
        shapes[f"{name}.weight"] = (out, into, kernel, kernel)

    for i, (into, out) in enumerate(((3, 32), (32, 32), (32, 64))):
        conv(f"backbone.stem.{3 * i}", out, into, 3)
        norm(f"backbone.stem.{3 * i + 1}", out)
    into = 64
    for layer, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), start=1):
        for block in range(blocks):
            name = f"backbone.layer{layer}.{block}"
            conv(f"{name}.conv1", width, into, 1)
            conv(f"{name}.conv2", width, width, 3)
            conv(f"{name}.conv3", 4 * width, width, 1)
            norm(f"{name}.bn1", width)
            norm(f"{name}.bn2", width)
            norm(f"{name}.bn3", 4 * width)
            if block == 0:
                conv(f"{name}.downsample.0", 4 * width, into, 1)
                norm(f"{name}.downsample.1", 4 * width)
            into = 4 * width
    for i in range(4):
        conv(f"decode_head.psp_modules.{i}.1.conv", 512, 2048, 1)
        norm(f"decode_head.psp_modules.{i}.1.bn", 512)
    conv("decode_head.bottleneck.conv", 512, 4096, 3)
    norm("decode_head.bottleneck.bn", 512)
    conv("decode_head.conv_seg", 21, 512, 1)
    shapes["decode_head.conv_seg.bias"] = (21,)
    conv("auxiliary_head.convs.0.conv", 256, 1024, 3)
    norm("auxiliary_head.convs.0.bn", 256)
    conv("auxiliary_head.conv_seg", 21, 256, 1)
    shapes["auxiliary_head.conv_seg.bias"] = (21,)
    return shapes


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    state = {}
    for name, shape in published_shapes().items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(20000)
        elif name.endswith("running_var"):
            state[name] = torch.rand(shape, generator=generator) + 0.5
        else:
            fan_in = float(np.prod(shape[1:])) or 1.0
            state[name] = torch.randn(shape, generator=generator) / fan_in**0.5
    return state


def save_checkpoint(path: Path, state: dict[str, torch.Tensor]) -> Path:
    meta = {"mmseg_version": "0.5.0", "CLASSES": ["background", "person"], "PALETTE": [[0, 0, 0]]}
    torch.save({"meta": meta, "state_dict": state}, path)
    return path


@pytest.fixture(scope="module")
def voc_file(published: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("voc") / "voc.pth", published)


def test_published_checkpoint_has_the_published_size(published: dict[str, torch.Tensor]) -> None:
    # The file has 196 MB, nearly all of it float32 tensors.
    assert 4 * sum(tensor.numel() for tensor in published.values()) == pytest.approx(
        196e6, rel=0.01
    )


def test_every_published_tensor_lands_where_it_belongs(
    voc_file: Path, published: dict[str, torch.Tensor]
) -> None:
    state = voc.load_checkpoint(voc_file).state_dict()
    assert {k for k in published if not k.startswith("auxiliary_head.")} == set(state)
    assert all(torch.equal(state[k], published[k]) for k in state)


def test_voc_network_is_dilated_to_stride_8() -> None:
    backbone = voc.Backbone().eval()
    with torch.inference_mode():
        assert backbone(torch.zeros(1, 3, 64, 96)).shape == (1, 2048, 8, 12)
    for group, dilations in ((backbone.layer3, [1] + [2] * 5), (backbone.layer4, [2, 4, 4])):
        blocks = [block for block in group if isinstance(block, voc.Bottleneck)]
        assert [block.conv2.dilation[0] for block in blocks] == dilations


def test_voc_masker_gives_the_softmax_of_person(voc_file: Path) -> None:
    masker = voc.VOCMasker(voc_file)
    network = voc.load_checkpoint(voc_file)
    rgb = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    mean, std = torch.tensor(voc.MEAN), torch.tensor(voc.STD)
    with torch.inference_mode():
        got = masker._probability(network, rgb)
        scores = network((rgb * 255 - mean[None, :, None, None]) / std[None, :, None, None])
    expected = scores[0, 15].exp() / scores[0].exp().sum(0)
    assert torch.allclose(got[0], expected, atol=1e-5)
    assert float(got.min()) > 0.0
    assert float(got.max()) < 1.0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.pop("decode_head.bottleneck.conv.weight"), "1 missing (decode_head.bottlen"),
        (lambda s: s.update(extra=torch.zeros(1)), "1 unknown (extra)"),
        (
            lambda s: s.update({"decode_head.conv_seg.bias": torch.zeros(19)}),
            "1 of another shape or type (decode_head.conv_seg.bias)",
        ),
        (lambda s: s.update({"backbone.stem.0.weight": "text"}), "1 of another shape or type"),
    ],
)
def test_wrong_voc_keys_are_named(change, says, published) -> None:
    wanted = {k: v for k, v in published.items() if not k.startswith("auxiliary_head.")}
    assert voc.checked_state(Path("x.pth"), published, wanted).keys() == wanted.keys()
    state = dict(published)
    change(state)
    with pytest.raises(ModelError) as caught:
        voc.checked_state(Path("x.pth"), state, wanted)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_checkpoint_is_one_line(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "other.pth", {"backbone.conv1.weight": torch.zeros(1)})
    with pytest.raises(ModelError, match=r"missing .*; 1 unknown") as caught:
        voc.load_checkpoint(path)
    assert "\n" not in str(caught.value)


class Runs:
    """Unpickling this would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("plain", [True, False])
def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, plain: bool) -> None:
    path, trace = tmp_path / "evil.pth", tmp_path / "made"
    content = {"meta": {}, "state_dict": {"x": Runs(trace)}}
    if plain:
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(ModelError, match="not a torch weight file") as caught:
        voc.load_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert not trace.exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"not weights", b"PK\x03\x04 cut off"])
def test_broken_checkpoint_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.pth"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="not a torch weight file") as caught:
        voc.load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_checkpoint_without_state_dict(tmp_path: Path) -> None:
    torch.save({"weights": {}}, tmp_path / "x.pth")
    with pytest.raises(ModelError, match="no 'state_dict'"):
        voc.load_checkpoint(tmp_path / "x.pth")


# The portrait network's file.


@pytest.fixture(scope="module")
def portrait_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("portrait") / "portrait.safetensors"
    net.save_network(net.PortraitNet(), path)
    return path


def test_portrait_weights_survive_the_file(portrait_file: Path, tmp_path: Path) -> None:
    assert portrait_file.stat().st_size < 12e6
    network = net.load_network(portrait_file)
    net.save_network(network, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == portrait_file.read_bytes()
    assert not network.training


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda t: t.pop("pspnet.encoder.conv_stem.weight"),
            "1 missing (pspnet.encoder.conv_stem.weight)",
        ),
        (lambda t: t.update(extra=torch.zeros(1)), "1 unknown (extra)"),
        (
            lambda t: t.update({"pspnet.encoder.conv_stem.weight": torch.zeros(32, 3, 7, 7)}),
            "1 of another shape (pspnet.encoder.conv_stem.weight)",
        ),
        (
            lambda t: t["pspnet.encoder.conv_stem.weight"].fill_(torch.nan),
            "tensor pspnet.encoder.conv_stem.weight holds values that are not finite floats",
        ),
    ],
)
def test_wrong_portrait_tensors_are_named(change, says, portrait_file, tmp_path: Path) -> None:
    tensors = load_file(portrait_file)
    change(tensors)
    save_file(tensors, tmp_path / "wrong.safetensors")
    with pytest.raises(ModelError) as caught:
        net.load_network(tmp_path / "wrong.safetensors")
    assert says in str(caught.value)


def test_truncated_portrait_file_is_one_line(portrait_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "short.safetensors"
    for share in (0.0, 0.001, 0.5, 0.99):
        content = portrait_file.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(ModelError, match="not a readable safetensors file") as caught:
            net.load_network(path)
        assert "\n" not in str(caught.value)


def test_unknown_names_and_devices_are_refused(portrait_file: Path) -> None:
    with pytest.raises(ModelError, match="known: pspnet_portrait, pspnet_voc"):
        load("deeplab", ModelStore())
    with pytest.raises(ModelError, match="'nowhere' cannot be used"):
        PortraitMasker(portrait_file, device="nowhere")


def test_masks_do_not_depend_on_the_batch(portrait_file: Path) -> None:
    rng = np.random.default_rng(2)
    pictures = [
        rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for side in (100, 256, 400) * 4
    ]
    masker = PortraitMasker(portrait_file)
    together = masker(pictures)
    assert together.shape == (12, masker.input_px, masker.input_px)
    assert together.dtype == np.float32
    for i in (0, 5, 11):
        assert np.abs(masker([pictures[i]])[0] - together[i]).max() < 1e-5
    assert masker([]).shape == (0, masker.input_px, masker.input_px)
    with pytest.raises(ValueError, match="a crop is uint8"):
        masker([np.zeros((8, 8), np.uint8)])


def test_mirrored_crop_gives_the_mirrored_mask(portrait_file: Path) -> None:
    picture = np.random.default_rng(3).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    masker = PortraitMasker(portrait_file)
    mask, mirrored = masker([picture, np.ascontiguousarray(picture[:, ::-1])])
    assert np.abs(mirrored[:, ::-1] - mask).max() < 1e-3


def test_fast_mode_agrees_with_the_plain_one(tmp_path: Path) -> None:
    bundled = ModelStore().path("pspnet_portrait")
    write_samples("masks", tmp_path, 2, 0)
    pictures = [crop.image for crop in phantom_crops(tmp_path)]
    plain = PortraitMasker(bundled)(pictures)
    fast = PortraitMasker(bundled, fast=True)(pictures)
    assert 0 < np.abs(fast - plain).max() < 0.1
    assert np.abs(fast - plain).mean() < 0.005


# The bundled weights on photographs that they were not trained on.


@pytest.mark.real_data
def test_bundled_weights_find_held_out_people(real_data_dir: Path, tmp_path: Path) -> None:
    store = ModelStore()
    finder = crops.HeadFinder(store)
    masker = load("pspnet_portrait", store)
    made = []
    for stem in HELD_OUT:
        folder = real_data_dir / "people"
        labelled = crops.read_labelled(
            folder / "images" / f"{stem}.jpg", folder / "masks" / f"{stem}.png", finder
        )
        made += [crops.cut(labelled, e, evaluate.EVALUATION_PX) for e in crops.head_eyes(labelled)]
    assert len(made) >= len(HELD_OUT)
    for images in ([c.image for c in made], [evaluate.grey(c.image) for c in made]):
        scores = evaluate.scores(evaluate.predict(masker, images), made)
        assert np.mean([s.person for s in scores]) > 0.9
        assert min(s.person for s in scores) > 0.8
    sheet = evaluate.contact_sheet(evaluate.predict(masker, [c.image for c in made]), made)
    assert sheet.shape[1] == 5 * 2 * evaluate.EVALUATION_PX


def test_weights_are_named_for_every_network() -> None:
    registry = ModelStore()
    for names in WEIGHTS.values():
        for name in names:
            assert registry.entry(name).task == "segmentation"
