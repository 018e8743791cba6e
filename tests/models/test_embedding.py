"""Embedding networks: published names and shapes, input geometry, agreement."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import cv2
import dlib
import numpy as np
import pytest
import torch
import torchvision
from numpy.typing import NDArray
from torch import nn

from models import embedding
from models.embedding.arcface import FIVE_POINTS_XY, IResNet50, similarity_transform
from models.embedding.facenet import INPUT_PX, InceptionResnetV1, face_input, load_network
from models.embedding.vggface2_resnet50 import MEAN_RGB, CaffeResNet50
from models.errors import ModelError
from models.geometry import aligned_transform, eye_centres
from models.inference import BatchRunner, on_device, warp_crop
from models.store import ModelStore


def seeded(network: nn.Module, side_px: int) -> nn.Module:
    """Give a network random weights under which different pictures get different features."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            module.weight.data.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = 1.0
    smooth = nn.functional.interpolate(
        torch.rand((6, 3, 8, 8), generator=generator) * 2 - 1, side_px, mode="bilinear"
    )
    with torch.no_grad():
        network.train()(smooth)
    return network.eval()


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of the published names and shapes with random numbers."""
    folder = tmp_path_factory.mktemp("mirror")
    facenet = seeded(InceptionResnetV1(), 140)
    torch.save(facenet.state_dict(), folder / "20180402-114759-vggface2.pt")
    arcface = seeded(IResNet50(), 112)
    torch.save(arcface.state_dict(), folder / "ms1mv3_arcface_r50_fp16.pth")
    return folder


@pytest.fixture(scope="module")
def store(mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    return ModelStore(tmp_path_factory.mktemp("cache"), mirror=str(mirror), offline=True)


@pytest.fixture(scope="module")
def facenet(mirror: Path) -> InceptionResnetV1:
    return load_network(mirror / "20180402-114759-vggface2.pt")


def noise(n: int, side_px: int) -> list[NDArray[np.uint8]]:
    """Smooth random crops."""
    rng = np.random.default_rng(1)
    small = rng.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
    return [np.asarray(cv2.resize(s, (side_px, side_px)), dtype=np.uint8) for s in small]


def face_points(eye_left: tuple[float, float], ipd_px: float, roll_deg: float = 0.0) -> NDArray:
    """68 points whose eyes, nose tip and mouth corners are where a frontal face has them."""
    points = np.zeros((68, 2))
    angle = np.linspace(0, np.pi, 17)
    points[:17] = np.stack([0.5 - 0.9 * np.cos(angle), 0.1 + 1.5 * np.sin(angle)], axis=1)
    points[17:36] = [0.5, 0.3]
    points[36:42], points[42:48], points[30] = [0, 0], [1, 0], [0.5, 0.6]
    points[48:68], points[48], points[54] = [0.5, 1.2], [0.1, 1.2], [0.9, 1.2]
    cos, sin = np.cos(np.radians(roll_deg)), np.sin(np.radians(roll_deg))
    turned = points @ np.array([[cos, sin], [-sin, cos]])
    return (turned * ipd_px + np.array(eye_left)).astype(np.float32)


def test_facenet_has_the_published_names_shapes_and_size(facenet: InceptionResnetV1) -> None:
    assert sum(p.numel() for p in facenet.parameters()) == 27_910_327
    shapes = {k: tuple(v.shape) for k, v in facenet.state_dict().items()}
    for name, shape in {
        "conv2d_1a.conv.weight": (32, 3, 3, 3),
        "conv2d_4b.bn.running_var": (256,),
        "repeat_1.4.branch2.2.conv.weight": (32, 32, 3, 3),
        "repeat_1.0.conv2d.bias": (256,),
        "mixed_6a.branch1.2.conv.weight": (256, 192, 3, 3),
        "repeat_2.9.branch1.1.conv.weight": (128, 128, 1, 7),
        "mixed_7a.branch2.1.bn.weight": (256,),
        "repeat_3.4.branch1.2.conv.weight": (192, 192, 3, 1),
        "block8.conv2d.weight": (1792, 384, 1, 1),
        "last_linear.weight": (512, 1792),
        "last_bn.running_mean": (512,),
        "logits.weight": (8631, 512),
        "logits.bias": (8631,),
    }.items():
        assert shapes[name] == shape
    assert not facenet.training


def test_facenet_exposes_features_and_lets_gradients_through(facenet: InceptionResnetV1) -> None:
    pictures = torch.rand(2, 3, 64, 64, requires_grad=True)
    features = facenet.features(face_input(pictures))
    assert [tuple(f.shape) for f in features] == [
        (2, 256, 15, 15),
        (2, 896, 7, 7),
        (2, 1792, 3, 3),
        (2, 512),
    ]
    torch.testing.assert_close(features[3].norm(dim=1), torch.ones(2))
    (features[0].mean() + features[3][:, 0].sum()).backward()
    assert pictures.grad is not None
    inside, outside = pictures.grad[..., 12:59, 15:49], pictures.grad[..., :12, :]
    assert (inside.abs().sum(dim=(1, 2, 3)) > 0).all()
    assert (outside == 0).all()


def test_face_input_is_the_box_standardised_and_resized() -> None:
    columns = torch.arange(100.0).expand(1, 3, 100, 100) / 255
    x = face_input(columns)
    assert x.shape == (1, 3, INPUT_PX, INPUT_PX)
    # Columns 23 to 76, both included, with aligned corners.
    torch.testing.assert_close(x[0, 0, 0], (torch.linspace(23, 76, INPUT_PX) - 127.5) / 128)
    rows = face_input(columns.transpose(2, 3))
    torch.testing.assert_close(rows[0, 0, :, 0], (torch.linspace(19, 91, INPUT_PX) - 127.5) / 128)


def test_facenet_crop_of_a_photo_agrees_with_the_box_of_the_aligned_picture(
    store: ModelStore,
) -> None:
    embedder = embedding.load("facenet_vggface2", store)
    photo = cv2.GaussianBlur(np.asarray(noise(1, 900)[0]), (0, 0), 9).astype(np.uint8)
    points = face_points((350, 380), 190, roll_deg=8)
    matrix, _ = aligned_transform(eye_centres(points), side_px=800)
    aligned = warp_crop(photo, matrix, (800, 800))
    pixels = torch.from_numpy(aligned).permute(2, 0, 1)[None] / 255
    expected = face_input(pixels)[0].permute(1, 2, 0).numpy() * 128 + 127.5
    crop = embedder.crop(photo, points)
    assert crop.shape == (INPUT_PX, INPUT_PX, 3)
    assert crop.dtype == np.uint8
    assert np.abs(crop - expected).mean() < 1.0


@pytest.mark.slow
def test_classifier_agrees_with_torchvision_made_caffe_like() -> None:
    ours = CaffeResNet50()
    theirs = torchvision.models.resnet50(num_classes=8631)
    theirs.maxpool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
    for layer in (theirs.layer2, theirs.layer3, theirs.layer4):
        layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)
    seeded(theirs, 224)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(ours.eval()(x), theirs(x), rtol=1e-4, atol=1e-4)


def write_classifier(path: Path, change: Callable[[dict], None] = lambda arrays: None) -> Path:
    network = CaffeResNet50()
    arrays = {k: v.numpy() for k, v in network.state_dict().items() if "num_batches" not in k}
    change(arrays)
    path.write_bytes(pickle.dumps(arrays, protocol=4))
    return path


def test_classifier_from_a_pickle(tmp_path: Path) -> None:
    write_classifier(tmp_path / "resnet50_ft_weight.pkl")
    files = ModelStore(tmp_path / "cache", mirror=str(tmp_path), offline=True)
    classifier = embedding.load_classifier(files)
    pictures = torch.rand(3, 3, 64, 64)
    probability = classifier(pictures)
    assert probability.shape == (3, 8631)
    np.testing.assert_allclose(probability.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(classifier(pictures[1:2])[0], probability[1], atol=1e-5)
    mirrored = embedding.load_classifier(files, channel_order="bgr")
    swapped = (
        pictures.flip(1)
        + (torch.tensor(MEAN_RGB) - torch.tensor(MEAN_RGB).flip(0)).view(3, 1, 1) / 255
    )
    np.testing.assert_allclose(mirrored(swapped), probability, atol=1e-5)
    assert np.abs(mirrored(pictures) - probability).max() > 1e-6


def test_classifier_refuses_other_shapes(tmp_path: Path) -> None:
    def change(arrays: dict) -> None:
        arrays["fc.bias"] = arrays["fc.bias"][:100]

    write_classifier(tmp_path / "resnet50_ft_weight.pkl", change)
    files = ModelStore(tmp_path / "cache", mirror=str(tmp_path), offline=True)
    with pytest.raises(ModelError, match=r"misshapen fc\.bias \(100,\) instead of \(8631,\)"):
        embedding.load_classifier(files)


NETWORKS = [
    ("dlib_resnet", 150),
    ("facenet_vggface2", 140),
    pytest.param("arcface_r50", 112, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "side"), NETWORKS)
def test_embeddings_do_not_depend_on_the_batch(store: ModelStore, name: str, side: int) -> None:
    embedder = embedding.load(name, store)
    crops = noise(5, side)
    together = embedder(crops)
    assert together.dtype == np.float32
    assert together.shape == (5, embedder.dim)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=1e-5)
    # The ninth face is alone in the second batch.
    np.testing.assert_array_equal(
        embedder(crops[::-1] + crops[1:]), together[[4, 3, 2, 1, 0, 1, 2, 3, 4]]
    )
    assert (together @ together.T)[np.triu_indices(5, 1)].max() < 0.99
    assert embedder([]).shape == (0, embedder.dim)
    with pytest.raises(ModelError, match="crop of shape"):
        embedder([crops[0][:50]])


@pytest.mark.parametrize(("name", "side"), NETWORKS)
def test_bfloat16_agrees_within_the_stated_tolerance(
    store: ModelStore, name: str, side: int
) -> None:
    crops = noise(3, side)
    exact = embedding.load(name, store)(crops)
    quick = embedding.load(name, store, precision="bfloat16")(crops)
    np.testing.assert_allclose(np.linalg.norm(quick, axis=1), 1, rtol=1e-5)
    agreement = (exact * quick).sum(axis=1)
    assert (agreement >= 0.99).all(), agreement
    assert (agreement < 1 - 1e-7).any(), "bfloat16 was not used"


def test_arcface_crop_brings_the_five_points_to_their_places(store: ModelStore) -> None:
    rng = np.random.default_rng(0)
    true = np.array([[1.3, -0.4, 12], [0.4, 1.3, -7.0]])
    moved = FIVE_POINTS_XY @ true[:, :2].T + true[:, 2]
    np.testing.assert_allclose(similarity_transform(FIVE_POINTS_XY, moved), true, atol=1e-9)
    noisy = moved + rng.normal(0, 1, moved.shape)
    found = similarity_transform(FIVE_POINTS_XY, noisy)
    cost = np.square(FIVE_POINTS_XY @ found[:, :2].T + found[:, 2] - noisy).sum()
    worse = found + np.array([[0, 0, 0.2], [0, 0, 0]])
    assert cost < np.square(FIVE_POINTS_XY @ worse[:, :2].T + worse[:, 2] - noisy).sum()

    photo = np.zeros((600, 600, 3), np.uint8)
    points = face_points((230, 250), 120, roll_deg=-15)
    for x, y in points[36:48:6]:
        cv2.circle(photo, (round(float(x)), round(float(y))), 14, (255, 255, 255), -1)
    crop = embedding.load("arcface_r50", store).crop(photo, points).astype(float).mean(axis=2)
    left, right = crop[:, :56], crop[:, 56:]
    for half, offset, target in ((left, 0, FIVE_POINTS_XY[0]), (right, 56, FIVE_POINTS_XY[1])):
        ys, xs = np.nonzero(half > 128)
        np.testing.assert_allclose([xs.mean() + offset, ys.mean()], target, atol=4)


def test_warp_crop_reduces_without_aliasing_and_in_place() -> None:
    y, x = np.mgrid[:800, :800]
    ramp = np.repeat(np.round((x + y) / 6.5).astype(np.uint8)[..., None], 3, axis=2)
    matrix = np.array([[0.1, 0.0, -10.0], [0.0, 0.1, -10.0]])
    crop = warp_crop(ramp, matrix, (60, 60))
    ys, xs = np.mgrid[:60, :60]
    error = crop[..., 0] - ((xs + 10) * 10 + (ys + 10) * 10) / 6.5
    assert np.abs(error).max() <= 1
    assert np.abs(error.mean()) < 0.3  # half a block off would be 1.4
    stripes = np.repeat(((x % 2) * 255).astype(np.uint8)[..., None], 3, axis=2)
    assert np.ptp(warp_crop(stripes, matrix, (60, 60))) <= 2
    assert (warp_crop(ramp, np.array([[0.1, 0, 500.0], [0, 0.1, 0]]), (60, 60)) == 0).all()


def test_dlib_network_agrees_with_dlib(store: ModelStore) -> None:
    embedder = embedding.load("dlib_resnet", store)
    photo = noise(1, 400)[0]
    chips = [embedder.crop(photo, face_points((150 + 9 * i, 160), 60 + 5 * i)) for i in range(4)]
    assert chips[0].shape == (150, 150, 3)
    assert chips[0].dtype == np.uint8
    reference = dlib.face_recognition_model_v1(str(store.path("dlib_resnet")))
    expected = np.array(reference.compute_face_descriptor(chips))
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(embedder(chips), expected, atol=2e-6)


def test_dlib_chip_is_level_and_centred(store: ModelStore) -> None:
    photo = np.zeros((500, 500, 3), np.uint8)
    points = face_points((200, 220), 100, roll_deg=20)
    for x, y in points[36:48:6]:
        cv2.circle(photo, (round(float(x)), round(float(y))), 12, (255, 255, 255), -1)
    chip = embedding.load("dlib_resnet", store).crop(photo, points).astype(float).mean(axis=2)
    ys, xs = np.nonzero(chip > 128)
    left, right = xs < 75, xs >= 75
    assert abs(ys[left].mean() - ys[right].mean()) < 6
    assert abs((xs[left].mean() + xs[right].mean()) / 2 - 74.5) < 6


def test_unknown_names_devices_and_precisions_are_one_line(store: ModelStore) -> None:
    with pytest.raises(ModelError, match="dlib_resnet, facenet_vggface2, arcface_r50"):
        embedding.load("face_net", store)
    with pytest.raises(ModelError, match="load_classifier"):
        embedding.load("vggface2_resnet50", store)
    with pytest.raises(ModelError, match="'abacus' cannot be used"):
        on_device(nn.Linear(1, 1), "abacus")
    with pytest.raises(ModelError, match="precision 'float8' is unknown"):
        BatchRunner(nn.Linear(1, 1), "cpu", "float8")  # type: ignore[arg-type]


def test_every_network_names_weights_that_the_registry_knows(store: ModelStore) -> None:
    for names in embedding.WEIGHTS.values():
        for name in names:
            assert store.entry(name).name == name


def test_the_eyes_of_arcfaces_fixed_box_are_where_its_crops_have_them() -> None:
    from models.embedding.arcface import FIVE_POINTS_XY, INPUT_PX, arcface_box
    from models.geometry import ALIGNED_LEFT_EYE, ALIGNED_RIGHT_EYE

    left, top, right, bottom = arcface_box()
    eyes = np.array([ALIGNED_LEFT_EYE, ALIGNED_RIGHT_EYE])
    there = (eyes - [left, top]) / [right - left, bottom - top] * INPUT_PX - 0.5
    # The published eyes differ by 0.2 px in height, a turn that a box does not have.
    np.testing.assert_allclose(there, FIVE_POINTS_XY[:2], atol=0.11)
