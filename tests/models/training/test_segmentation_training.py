"""Training the portrait mask: ImageNet's names, the crops, the loss, repeating by seed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hqvox.phantom.samples import write_samples
from models.errors import ModelError
from models.geometry import ALIGNED_LEFT_EYE
from models.segmentation import pspnet_portrait as net
from models.training.segmentation import augment, imagenet, train
from models.training.segmentation.trainset import CANVAS_PX, VAL_PX, TrainSet, phantom_crops

torch.set_num_threads(1)

NAMES = {
    "_conv_stem.weight": ("conv_stem.weight", -1),
    "_bn0.running_mean": ("bn1.running_mean", -1),
    "_blocks.0._project_conv.weight": ("blocks.0.0.conv_pw.weight", 0),
    "_blocks.2._expand_conv.weight": ("blocks.1.1.conv_pw.weight", 1),
    "_blocks.5._bn1.bias": ("blocks.3.0.bn2.bias", 3),
    "_blocks.10._depthwise_conv.weight": ("blocks.4.2.conv_dw.weight", 4),
    "_blocks.15._bn2.running_var": ("blocks.6.0.bn3.running_var", 6),
    "_blocks.16._bn2.weight": (None, -1),
    "_blocks.3._se_reduce.weight": (None, -1),
    "_blocks.0._expand_conv.weight": (None, -1),
    "layer1.0.conv1.weight": (None, -1),
}


def disc(side: int, radius: float) -> NDArray[np.bool_]:
    ys, xs = np.mgrid[0:side, 0:side] - (side - 1) / 2
    return np.hypot(xs, ys) <= radius


def command(folder: Path) -> list[str]:
    """Options of a training on a folder of data."""
    options = {"--data": folder, "--phantoms": folder / "phantoms", "--out": folder / "w"}
    return [str(word) for pair in options.items() for word in pair]


# Where training starts.


def test_stored_names_become_timm_names() -> None:
    assert {key: imagenet.timm_name(key) for key in NAMES} == NAMES


def test_unknown_and_missing_encoder_weights_are_named(tmp_path: Path) -> None:
    path = tmp_path / "lite0.pth"
    torch.save({"_conv_stem.weight": torch.zeros(32, 3, 3, 3), "_fc.bias": torch.zeros(9)}, path)
    (name,) = tensors = imagenet.encoder_tensors(path, stages=5)
    assert name == "conv_stem.weight"
    with pytest.raises(ModelError, match=r"missing \(blocks.0.0.bn1.bias, "):
        net.PortraitNet().start_from_imagenet(tensors)
    torch.save({"_blocks.3._se_reduce.weight": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match=r"unknown weights _blocks\.3\._se_reduce"):
        imagenet.encoder_tensors(path, stages=5)


def test_missing_and_changed_packages_name_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(imagenet, "PACKAGE", "no_such_package_here")
    assert train.main(command(tmp_path)) == 1
    assert "pip install 'hqvox[train]'" in capsys.readouterr().err
    package = tmp_path / "other_package"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / imagenet.FILE).write_bytes(b"other")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(imagenet, "PACKAGE", "other_package")
    with pytest.raises(ModelError, match="pip install --force-reinstall other_package"):
        imagenet.package_file()


needs_imagenet = pytest.mark.skipif(
    importlib.util.find_spec(imagenet.PACKAGE) is None,
    reason=f"the package {imagenet.PACKAGE} is not installed",
)


@needs_imagenet
def test_encoder_gets_the_features_that_imagenet_training_saw(tmp_path: Path) -> None:
    """Batch norm keeps the channel means of training: pictures give the like only if colour
    scale, padding, activation and every weight are as they were."""
    network = train.start(1).eval()
    agreement = {}

    def compare(module: torch.nn.BatchNorm2d, inputs: tuple[torch.Tensor, ...]) -> None:
        seen = torch.stack([inputs[0].mean((0, 2, 3)), module.running_mean])
        agreement[module] = float(torch.corrcoef(seen)[0, 1])

    for module in network.pspnet.encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_pre_hook(compare)
            assert module.eps == 1e-3
    write_samples("masks", tmp_path, 4, 0)
    pictures = np.stack([crop.image for crop in phantom_crops(tmp_path)])
    with torch.inference_mode():
        network(torch.from_numpy(pictures).permute(0, 3, 1, 2)[..., :225, :225] / 255)
    assert len(agreement) > 30
    assert np.median(list(agreement.values())) > 0.7


# Crops, samples and loss.


@pytest.fixture(scope="module")
def synthetic() -> TrainSet:
    rng = np.random.default_rng(1)

    def crop(side: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        mask = disc(side, side * rng.uniform(0.25, 0.35))
        colours = rng.permutation([40.0, 200.0])
        image = np.where(mask[..., None], colours[0], colours[1]) + rng.normal(
            0, 5, (side, side, 3)
        )
        return image.clip(0, 255).astype(np.uint8), np.where(mask, 255, 0).astype(np.uint8)

    made = [crop(CANVAS_PX) for _ in range(8)]
    val = [crop(VAL_PX) for _ in range(3)]
    return TrainSet(
        np.stack([image for image, _ in made]),
        np.stack([mask for _, mask in made]),
        np.full((8, CANVAS_PX, CANVAS_PX), 255, np.uint8),
        np.repeat(np.array([0, 1, 2], np.uint8), [3, 3, 2]),
        np.array([1, 0, 0, 0, 0, 0, 0, 0], np.uint8),
        rng.integers(0, 256, (2, CANVAS_PX, CANVAS_PX, 3), dtype=np.uint8),
        np.array([0, 1], np.uint8),
        np.stack([image for image, _ in val]),
        np.stack([mask for _, mask in val]),
    )


def test_phantoms_come_aligned_with_their_masks(tmp_path: Path) -> None:
    write_samples("masks", tmp_path, 1, 0)
    (crop,) = phantom_crops(tmp_path)
    assert crop.image.shape == (CANVAS_PX, CANVAS_PX, 3)
    eye_row = round((0.5 + (ALIGNED_LEFT_EYE[1] - 0.5) / 1.25) * CANVAS_PX)
    assert (crop.mask[eye_row, CANVAS_PX * 2 // 5 : CANVAS_PX * 3 // 5] == 255).all()
    assert 0.2 < (crop.mask > 127).mean() < 0.9
    assert (phantom_crops(tmp_path)[0].image == crop.image).all()


def test_samples_repeat_by_seed_and_stay_in_range(synthetic: TrainSet) -> None:
    first, again = (train.batch(synthetic, 7, 3, 6, 64) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], train.batch(synthetic, 7, 4, 6, 64)[0])
    for part in first:
        assert float(part.min()) >= 0
        assert float(part.max()) <= 1
    assert first[0].shape == (6, 3, 64, 64)


def test_unknown_surroundings_carry_no_weight(synthetic: TrainSet) -> None:
    inside = np.zeros((CANVAS_PX, CANVAS_PX), np.uint8)
    inside[: CANVAS_PX // 2] = 255
    for known, share in ((True, 1.0), (False, 0.5)):
        made = augment.sample(
            np.random.default_rng(0),
            synthetic.images[0],
            synthetic.masks[0],
            inside,
            synthetic.backgrounds,
            96,
            1.25,
            known,
        )
        assert made.weight.mean() == pytest.approx(share, abs=0.1)


def test_loss_prefers_the_right_mask_and_ignores_unknown_pixels() -> None:
    truth = torch.from_numpy(disc(64, 20)).float()[None]
    weight = torch.ones_like(truth)
    right, wrong = (truth - 0.5) * 10, (0.5 - truth) * 10
    assert train.portrait_loss(right, truth, weight) < 0.1
    assert train.portrait_loss(wrong, truth, weight) > 1
    weight[:, :, :32] = 0
    half_wrong = torch.where(weight > 0, right, wrong)
    assert train.portrait_loss(half_wrong, truth, weight) < 0.1


def test_validation_photographs_can_be_held_out(synthetic: TrainSet) -> None:
    kept = synthetic.without_val()
    assert (kept.images == synthetic.images[1:]).all()
    assert len(kept.masks) == len(kept.inside) == len(kept.kinds) == len(kept.of_val) == 7
    assert (kept.backgrounds == synthetic.backgrounds[:1]).all()
    assert not kept.of_val.any()
    assert not kept.background_of_val.any()
    assert len(kept.val_images) == len(synthetic.val_images)


# Training.


def fresh(seed: int = 1) -> net.PortraitNet:
    torch.manual_seed(seed)
    return net.PortraitNet()


def test_training_learns_the_synthetic_person(synthetic: TrainSet, tmp_path: Path) -> None:
    before = train.validate(fresh(), synthetic, 65)
    out = tmp_path / "w.safetensors"
    score = train.train(fresh(), synthetic, out, [(65, 40)], batch_size=6)
    # Calling everything a person would give 0.28.
    assert score > max(0.5, before)
    stored = net.load_network(out)
    assert train.validate(stored, synthetic, 65) == pytest.approx(score, abs=0.01)


def test_training_leaves_the_early_layers_alone(synthetic: TrainSet, tmp_path: Path) -> None:
    network, start = fresh(), fresh().state_dict()
    train.train(network, synthetic, tmp_path / "w.safetensors", [(65, 2)], batch_size=2)
    early = (
        "pspnet.encoder.conv_stem",
        "pspnet.encoder.bn1",
        "pspnet.encoder.blocks.0",
        "pspnet.encoder.blocks.1",
    )
    for key, value in network.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(value, start[key]) == key.startswith(early), key


def test_training_twice_gives_the_same_weights(synthetic: TrainSet, tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.safetensors" for i in range(2)]
    for path in files:
        train.train(fresh(), synthetic, path, [(65, 2)], batch_size=2)
    assert files[0].read_bytes() == files[1].read_bytes()


@needs_imagenet
def test_training_without_data_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(command(tmp_path)) == 1
    assert "no photographs" in capsys.readouterr().err


def test_a_side_that_the_network_cannot_take_is_refused() -> None:
    with pytest.raises(SystemExit):
        train.main(["--data", "x", "--phantoms", "z", "--out", "y", "--schedule", "160:5"])
