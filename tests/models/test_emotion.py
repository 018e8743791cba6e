"""Emotion classifiers: numerical agreement, wrong files, known answers, training."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from models.emotion import WEIGHTS, load
from models.emotion import mini_xception as mx
from models.emotion import neutral_net as nn_
from models.errors import ModelError
from models.protocols import Faces
from models.store import ModelStore
from models.training.emotion import evaluate
from models.training.emotion.augment import MARGIN, augment
from models.training.emotion.data import (
    LabelledFaces,
    find_faces,
    in_split,
    load_faces,
    read_labels,
    read_photo,
    split_of,
)
from models.training.emotion.metrics import interval, lowest_threshold, precision_recall, recall_at
from models.training.emotion.train import Examples, Recipe, class_index, fit, save
from tests.helpers.mini_xception_reference import REFERENCE, inputs

HDF5 = "fer2013_mini_XCEPTION.102-0.66.hdf5"

KNOWN = {
    "Donald_Rumsfeld_0061.jpg": "neutral",
    "Scott_Sullivan_0002.jpg": "neutral",
    "Sheldon_Silver_0001.jpg": "neutral",
    "Martin_Bandier_0001.jpg": "happiness",
    "Reese_Witherspoon_0002.jpg": "happiness",
    "Ashlea_Talbot_0001.jpg": "happiness",
    "Anastasia_Myskina_0002.jpg": "other",
    "Thad_Matta_0001.jpg": "other",
}
"""Plain expressions of people whom the shipped weights were not trained on."""


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(cache_dir=tmp_path / "cache", offline=True)


def write_keras(path: Path, change: dict[str, tuple[int, ...] | None] | None = None) -> Path:
    """Write an HDF5 with the published names and shapes; ``change`` replaces or drops some."""
    rng = np.random.default_rng(5)
    layers = mx._keras_layers()
    with h5py.File(path, "w") as file:
        for key, value in mx.MiniXception().state_dict().items():
            if key.endswith("num_batches_tracked"):
                continue
            name = mx._dataset_name(key, layers)
            shape = (change or {}).get(name, mx._keras_shape(tuple(value.shape), name))
            if shape is not None:
                # Statistics that neither blow the values up nor let them die out.
                values = (
                    rng.uniform(0.7, 1.3, shape) if "b" in name[:1] else rng.normal(0, 0.2, shape)
                )
                file[f"model_weights/{name}"] = values.astype(np.float32)
    return path


def pattern_face(seed: int = 0, side: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """A picture, and 68 points laid out as a face is."""
    rng = np.random.default_rng(seed)
    photo = cv2.resize(rng.integers(0, 256, (20, 20, 3)).astype(np.uint8), (side, side))
    points = rng.uniform(0.25, 0.75, (68, 2)) * side
    points[36:42] = np.array([0.4, 0.45]) * side + rng.uniform(-4, 4, (6, 2))
    points[42:48] = np.array([0.6, 0.45]) * side + rng.uniform(-4, 4, (6, 2))
    return photo, points.astype(np.float32)


# The paper's classifier


@pytest.mark.real_data
def test_mini_xception_agrees_with_keras(real_data_dir: Path) -> None:
    classifier = mx.MiniXceptionClassifier(real_data_dir / "weights" / HDF5)
    expected = np.array(json.loads(REFERENCE.read_text())["probabilities"])
    assert np.ptp(expected, axis=0).max() > 0.5
    np.testing.assert_allclose(classifier(list(inputs())), expected, atol=1e-5)


def test_same_max_pool_pads_bottom_and_right() -> None:
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert mx._same_max_pool(x).flatten().tolist() == [10, 11, 14, 15]
    odd = torch.arange(25.0).reshape(1, 1, 5, 5)
    assert mx._same_max_pool(odd).flatten().tolist() == [6, 8, 9, 16, 18, 19, 21, 23, 24]


def test_mini_xception_crop_is_the_widened_box(tmp_path: Path) -> None:
    classifier = mx.MiniXceptionClassifier(write_keras(tmp_path / "w.hdf5"))
    photo = np.zeros((300, 300, 3), np.uint8)
    photo[60:240, 80:220] = 255
    points = np.zeros((68, 2), np.float32)
    inside = classifier.crop(photo, np.array([100, 100, 200, 200], np.float32), points)
    assert inside.shape == (64, 64)
    assert inside.min() == 1
    wider = classifier.crop(photo, np.array([98, 98, 202, 202], np.float32), points)
    assert wider[:, 0].max() < 1
    with pytest.raises(ModelError, match="outside the photo"):
        classifier.crop(photo, np.array([400, 10, 450, 60], np.float32), points)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"conv2d_3/conv2d_3_1/kernel:0": (1, 1, 8, 17)}, r"conv2d_3_1/kernel:0 is float32 \(1"),
        ({"batch_normalization_9/batch_normalization_9_1/gamma:0": None}, "no dataset batch_norm"),
    ],
)
def test_mini_xception_refuses_other_datasets(tmp_path: Path, change, says: str) -> None:
    with pytest.raises(ModelError, match=says) as caught:
        mx.MiniXceptionClassifier(write_keras(tmp_path / "w.hdf5", change))
    assert "\n" not in str(caught.value)


def test_mini_xception_refuses_additional_datasets(tmp_path: Path) -> None:
    path = write_keras(tmp_path / "w.hdf5")
    with h5py.File(path, "a") as file:
        file["model_weights/dense_1/kernel:0"] = np.zeros(3, np.float32)
    with pytest.raises(ModelError, match="unknown dataset dense_1"):
        mx.MiniXceptionClassifier(path)


def test_mini_xception_reads_no_other_file(tmp_path: Path) -> None:
    path = write_keras(tmp_path / "w.hdf5")
    name = "model_weights/conv2d_3/conv2d_3_1/kernel:0"
    (tmp_path / "secret").write_bytes(bytes(100_000))
    with h5py.File(path, "a") as file:
        shape = file[name].shape
        del file[name]
        source = [(str(tmp_path / "secret"), 0, h5py.h5f.UNLIMITED)]
        file.create_dataset(name, shape=shape, dtype="f4", external=source)
    with pytest.raises(ModelError, match="conv2d_3_1/kernel:0 lies in another file"):
        mx.MiniXceptionClassifier(path)


def test_mini_xception_refuses_truncated_and_foreign_files(tmp_path: Path) -> None:
    path = write_keras(tmp_path / "w.hdf5")
    path.write_bytes(path.read_bytes()[:50_000])
    with pytest.raises(ModelError, match="not a readable HDF5"):
        mx.MiniXceptionClassifier(path)
    path.write_bytes(pickle.dumps({"weights": 1}))
    with pytest.raises(ModelError, match="not a readable HDF5"):
        mx.MiniXceptionClassifier(path)
    with h5py.File(path, "w") as file:
        file["weights"] = np.zeros(3)
    with pytest.raises(ModelError, match="no group 'model_weights'"):
        mx.MiniXceptionClassifier(path)


# Our own classifier


def our_weights(path: Path, threshold: float = 0.4) -> Path:
    torch.manual_seed(3)
    save(nn_.NeutralNet(), threshold, "a test", path)
    return path


def test_hqvox_neutral_loads_what_training_writes(tmp_path: Path) -> None:
    classifier = nn_.HqvoxNeutral.from_file(our_weights(tmp_path / "w.safetensors", 0.4321))
    assert classifier.neutral_threshold == pytest.approx(0.4321)
    photo, points = pattern_face()
    result = classifier([classifier.crop(photo, np.zeros(4, np.float32), points)])
    assert result.shape == (1, 3)
    assert result.sum() == pytest.approx(1, abs=1e-5)
    assert classifier([]).shape == (0, 3)


@pytest.mark.parametrize(
    ("tamper", "says"),
    [
        (lambda state: state.pop("stem.0.weight"), "no tensor stem.0.weight"),
        (lambda state: state.update(extra=torch.zeros(2)), "unknown tensor extra"),
        (lambda state: state.update({"head.1.bias": torch.zeros(7)}), r"head.1.bias is .*\(7,\)"),
        (
            lambda state: state.update({"head.1.bias": torch.full((96,), float("nan"))}),
            "not finite",
        ),
    ],
)
def test_hqvox_neutral_refuses_other_tensors(tmp_path: Path, tamper, says: str) -> None:
    path = our_weights(tmp_path / "w.safetensors")
    state = load_file(path)
    tamper(state)
    save_file(state, path, metadata={"format": nn_.METADATA_FORMAT, "neutral_threshold": "0.5"})
    with pytest.raises(ModelError, match=says) as caught:
        nn_.HqvoxNeutral.from_file(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({}, "format"),
        ({"format": nn_.METADATA_FORMAT}, "no number"),
        ({"format": nn_.METADATA_FORMAT, "neutral_threshold": "1.5"}, "not between 0 and 1"),
    ],
)
def test_hqvox_neutral_refuses_other_metadata(tmp_path: Path, metadata, says: str) -> None:
    path = our_weights(tmp_path / "w.safetensors")
    save_file(load_file(path), path, metadata=metadata)
    with pytest.raises(ModelError, match=says):
        nn_.HqvoxNeutral.from_file(path)


class _Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


def test_a_pickle_is_refused_and_does_not_run(tmp_path: Path) -> None:
    marker, path = tmp_path / "ran", tmp_path / "w.safetensors"
    for write in (
        lambda: path.write_bytes(pickle.dumps(_Payload(marker))),
        lambda: torch.save({"stem": _Payload(marker)}, path),
        lambda: path.write_bytes(b"\x10\x00"),
    ):
        write()
        with pytest.raises(ModelError, match="not a readable safetensors"):
            nn_.HqvoxNeutral.from_file(path)
    assert not marker.exists()
    pickle.loads(pickle.dumps(_Payload(marker)))
    assert marker.exists()


def test_crop_is_aligned_whatever_turn_and_scale(tmp_path: Path) -> None:
    photo, points = pattern_face(1, 600)
    photo = cv2.GaussianBlur(photo, (0, 0), 6)
    straight = nn_.aligned_grey(photo, points)
    matrix = np.array([[0.45, 0.2, 40.0], [-0.2, 0.45, 200.0]])
    turned = cv2.warpAffine(photo, matrix, (600, 600), flags=cv2.INTER_AREA)
    moved = (points @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)
    error = np.abs(nn_.aligned_grey(turned, moved).astype(int) - straight)
    assert error.mean() < 2
    np.testing.assert_allclose(
        nn_.normalised_landmarks(moved), nn_.normalised_landmarks(points), atol=1e-5
    )
    eyes = nn_.normalised_landmarks(points)
    between = eyes[42:48].mean(axis=0) - eyes[36:42].mean(axis=0)
    np.testing.assert_allclose(between, [nn_.IPD_FRACTION, 0], atol=1e-5)


def test_reduced_large_photo_lands_where_the_small_one_does() -> None:
    photo, points = pattern_face(2, 200)
    photo = cv2.GaussianBlur(photo, (0, 0), 3)
    large = cv2.resize(photo, (2000, 2000), interpolation=cv2.INTER_CUBIC)
    error = nn_.aligned_grey(large, points * 10 + 4.5).astype(int) - nn_.aligned_grey(photo, points)
    assert np.abs(error).mean() < 1


def test_crop_ignores_colour_and_light() -> None:
    photo, points = pattern_face(3)
    photo = (photo // 2 + 40).astype(np.uint8)
    plain = nn_.normalise_light(nn_.aligned_grey(photo, points))
    grey = np.repeat(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    without = nn_.normalise_light(nn_.aligned_grey(grey, points))
    np.testing.assert_allclose(plain, without, atol=0.02)
    ramp = np.linspace(0.75, 1.25, 300)[None, :, None]
    lit = nn_.normalise_light(nn_.aligned_grey((photo * ramp).astype(np.uint8), points))
    assert np.abs(lit - plain).mean() < 0.1 * np.abs(plain).mean()


def test_crop_refuses_impossible_landmarks() -> None:
    photo, points = pattern_face()
    with pytest.raises(ModelError, match="no distance between its eyes"):
        nn_.aligned_grey(photo, np.zeros_like(points))
    with pytest.raises(ModelError, match="outside the photo"):
        nn_.aligned_grey(photo, points + 5000)


def test_mirroring_twice_changes_nothing_and_once_swaps_sides() -> None:
    _, points = pattern_face()
    values = np.concatenate(
        [np.arange(nn_.N_PIXELS), nn_.normalised_landmarks(points).ravel()]
    ).astype(np.float32)
    batch = torch.from_numpy(values[None])
    once = nn_.mirrored(batch)
    torch.testing.assert_close(nn_.mirrored(once), batch)
    assert once[0, 0] == nn_.INPUT_PX - 1
    left_eye = batch[0, nn_.N_PIXELS :].reshape(68, 2)[36]
    torch.testing.assert_close(
        once[0, nn_.N_PIXELS :].reshape(68, 2)[45], left_eye * torch.tensor([-1.0, 1.0])
    )


@pytest.mark.parametrize("name", sorted(WEIGHTS))
def test_results_do_not_depend_on_the_batch(name: str, tmp_path: Path) -> None:
    if name == "hqvox_neutral":
        classifier = nn_.HqvoxNeutral.from_file(our_weights(tmp_path / "w.safetensors"))
    else:
        classifier = mx.MiniXceptionClassifier(write_keras(tmp_path / "w.hdf5"))
    crops = []
    for seed in range(7):
        photo, points = pattern_face(seed)
        crops.append(classifier.crop(photo, np.array([60, 60, 240, 240], np.float32), points))
    together = classifier(crops)
    assert np.ptp(together, axis=0).max() > 1e-4
    apart = np.concatenate([classifier([crop]) for crop in crops])
    np.testing.assert_allclose(together, apart, atol=1e-5)
    np.testing.assert_allclose(together[::-1], classifier(crops[::-1]), atol=1e-5)
    np.testing.assert_allclose(together.sum(axis=1), 1, atol=1e-5)


def test_load_names_the_known_networks(store: ModelStore) -> None:
    with pytest.raises(ModelError, match="hqvox_neutral, mini_xception_fer2013"):
        load("deepface", store)


# Shipped weights on real faces


@pytest.mark.real_data
def test_known_answers(real_data_dir: Path, store: ModelStore) -> None:
    from models.landmarks import load as load_landmarker

    data = real_data_dir / "expressions"
    wanted = set(KNOWN)
    labels = [row for row in read_labels(data) if row[0] in wanted]
    faces = find_faces(data, load_landmarker("dlib68", store), labels)
    assert len(faces) == len(KNOWN)
    assert {split_of(str(who)) for who in faces.identity} == {"test"}
    classifier = load("hqvox_neutral", store)
    probability = evaluate.probabilities(data, faces, classifier)
    for image, row in zip(faces.image, probability, strict=True):
        assert classifier.classes[int(row.argmax())] == KNOWN[str(image)], (image, row)
        neutral = row[classifier.classes.index("neutral")] >= classifier.neutral_threshold
        assert neutral == (KNOWN[str(image)] == "neutral")


def test_shipped_weights_are_small_and_know_their_threshold(store: ModelStore) -> None:
    path = store.path("hqvox_neutral")
    assert path.stat().st_size <= 2_000_000
    assert 0.2 < nn_.HqvoxNeutral.from_file(path).neutral_threshold < 0.9


# Data, metrics, training


def test_split_keeps_identities_whole_and_shares() -> None:
    sides = [split_of(f"person {i}") for i in range(4000)]
    shares = {name: sides.count(name) / 4000 for name in ("train", "val", "test")}
    assert shares == pytest.approx({"train": 0.70, "val": 0.12, "test": 0.18}, abs=0.03)
    assert sides != [split_of(f"person {i}", seed=1) for i in range(4000)]
    faces = some_faces(["a", "b", "a", "c"])
    parts = [in_split(faces, name) for name in ("train", "val", "test")]
    assert sum(len(part) for part in parts) == 4
    assert sum("a" in part.identity for part in parts) == 1


def some_faces(identities: list[str]) -> LabelledFaces:
    n = len(identities)
    return LabelledFaces(
        np.array([f"{i}.png" for i in range(n)]),
        np.array(identities),
        np.array(["neutral", "fear"] * n)[:n],
        np.zeros((n, 4), np.float32),
        np.zeros((n, 68, 2), np.float32),
        np.zeros(n, bool),
    )


class _Landmarker:
    """Finds two faces in bright pictures, the second larger; none in dark ones."""

    name = "fixed"

    def __call__(self, photos):
        boxes = np.array([[0, 0, 5, 5], [0, 0, 9, 9]], np.float32)
        points = np.zeros((2, 68, 2), np.float32)
        points[1] = 7
        n = [2 if photo.mean() > 50 else 0 for photo in photos]
        return [Faces(boxes[:k], np.arange(k, dtype=np.float32)[::-1], points[:k]) for k in n]


def test_faces_are_found_cached_and_checked(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name, value in (("a.png", 200), ("b.png", 10)):
        cv2.imwrite(str(tmp_path / "images" / name), np.full((20, 20, 3), value, np.uint8))
    (tmp_path / "labels.csv").write_text(
        "image,identity,expression\na.png,Ann,neutral\nb.png,Bob,fear\n"
    )
    cache = tmp_path / "faces.npz"
    faces = load_faces(tmp_path, _Landmarker(), cache)
    assert list(faces.image) == ["a.png"]
    assert faces.landmarks_xy[0, 0, 0] == 7
    again = load_faces(tmp_path, _Landmarker(), cache)
    np.testing.assert_array_equal(again.box_xyxy, faces.box_xyxy)
    side = split_of("Ann")
    others = [name for name in ("train", "val", "test") if name != side]
    assert len(load_faces(tmp_path, _Landmarker(), cache, (side,))) == 1
    assert len(load_faces(tmp_path, _Landmarker(), None, (side,))) == 1
    assert len(load_faces(tmp_path, _Landmarker(), cache, others)) == 0
    (tmp_path / "labels.csv").write_text("image,identity,expression\na.png,Ann,anger\n")
    with pytest.raises(ModelError, match="other labels"):
        load_faces(tmp_path, _Landmarker(), cache)
    (tmp_path / "labels.csv").write_text("image,who,expression\n")
    with pytest.raises(ModelError, match="no column 'identity'"):
        read_labels(tmp_path)
    with pytest.raises(ModelError, match="not a readable picture"):
        read_photo(tmp_path / "labels.csv")
    with pytest.raises(ModelError, match="cannot be read"):
        read_labels(tmp_path / "nowhere")


def test_metrics_on_a_case_worked_by_hand() -> None:
    scores = np.array([0.9, 0.8, 0.8, 0.6, 0.5, 0.1])
    positive = np.array([True, True, False, True, False, True])
    assert recall_at(scores, positive, 1.0) == 0.25
    assert recall_at(scores, positive, 0.75) == 0.75
    assert lowest_threshold(scores, positive, 0.75) == pytest.approx(0.55)
    assert precision_recall(scores >= 0.6, positive) == (0.75, 0.75)
    assert np.isnan(precision_recall(scores > 1, positive)[0])


def test_interval_holds_the_value_and_counts_people_not_faces() -> None:
    rng = np.random.default_rng(0)
    positive = rng.random(400) < 0.5
    accepted = np.where(rng.random(400) < 0.8, positive, ~positive)
    many = interval(accepted, positive, np.arange(400).astype(str))
    for value, (low, high) in zip(precision_recall(accepted, positive), many, strict=True):
        assert low < value < high < low + 0.15
    copies = interval(np.tile(accepted, 9), np.tile(positive, 9), np.tile(np.arange(400), 9))
    np.testing.assert_allclose(copies, many, atol=0.02)


def test_augmentation_varies_and_is_reproducible() -> None:
    photo, points = pattern_face()
    grey = nn_.aligned_grey(photo, points, MARGIN)
    shape = nn_.normalised_landmarks(points)
    draws = [augment(grey, shape, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert draws[0].shape == (nn_.N_VALUES,)
    assert draws[0].dtype == np.float32
    np.testing.assert_array_equal(draws[0], draws[1])
    assert np.abs(draws[0] - draws[2]).mean() > 0.05
    for seed in range(30):
        assert np.isfinite(augment(grey, shape, np.random.default_rng(seed))).all()


def synthetic_examples() -> Examples:
    """Faces whose mouth is a bright bar high, a bar low, or no bar at all."""
    rng = np.random.default_rng(0)
    side = round(nn_.INPUT_PX * nn_.OVERSAMPLING * MARGIN) * 2 + nn_.INPUT_PX * nn_.OVERSAMPLING
    expressions = np.array(["neutral", "happiness", "sadness", "fear"] * 9)
    label = class_index(expressions)
    grey = rng.normal(120, 8, (len(label), side, side))
    for i, kind in enumerate(label):
        if kind < 2:
            grey[i, (70, 120)[kind] :][:12, 50:130] = 220
    points = rng.normal(0, 0.2, (len(label), 68, 2)).astype(np.float32)
    return Examples(np.clip(grey, 0, 255).astype(np.uint8), points, label)


def test_training_learns_and_is_deterministic() -> None:
    examples = synthetic_examples()
    assert set(examples.label) == {0, 1, 2}
    recipe = Recipe(epochs=6, batch=12)
    losses: list[float] = []
    first = fit(examples, recipe, lambda epoch, loss, network: losses.append(loss))
    assert losses[-1] < 0.8 * losses[0]
    second = fit(examples, recipe).state_dict()
    for key, value in first.state_dict().items():
        assert torch.equal(value, second[key]), key
    other = fit(examples, Recipe(epochs=1, batch=16, seed=1)).state_dict()
    assert not torch.equal(other["stem.0.weight"], second["stem.0.weight"])
