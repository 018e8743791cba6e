"""Face networks in the loss: agreement with the build's embedders, gradients, keeping features."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hqvox.errors import HqvoxError
from hqvox.phantom.person import Person
from hqvox.phantom.portraits import portrait
from hqvox.trainer import features
from hqvox.trainer.data import TrainingData
from hqvox.trainer.features import (
    DLIB_BOX,
    DlibFeatures,
    FaceNetFeatures,
    RealFeatures,
    dlib_input,
    load_features,
)
from hqvox.trainer.losses import perceptual
from models.embedding.dlib_resnet import DlibResnet, read_network
from models.embedding.facenet import FaceNet, InceptionResnetV1, face_input
from models.geometry import aligned_transform, eye_centres
from models.landmarks import load as load_landmarker
from models.sf2f.colour import from_unit
from models.store import ModelStore


@pytest.fixture(scope="module")
def store() -> ModelStore:
    return ModelStore()


@pytest.fixture(scope="module")
def dlib(store: ModelStore) -> DlibFeatures:
    return DlibFeatures(read_network(store.path("dlib_resnet")))


@pytest.fixture(scope="module")
def facenet_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of FaceNet's names and shapes with random weights, batch norms not at rest."""
    torch.manual_seed(0)
    network = InceptionResnetV1()
    for name, values in network.state_dict().items():
        if name.endswith(("running_mean", "bn.bias")):
            values.normal_(0, 0.1)
        elif name.endswith(("running_var", "bn.weight")):
            values.uniform_(0.6, 1.4)
    path = tmp_path_factory.mktemp("weights") / "facenet.pt"
    torch.save(network.state_dict(), path)
    return path


def unit(pictures: list[np.ndarray]) -> torch.Tensor:
    """RGB uint8 (h, w, 3) to 0 to 1, (n, 3, h, w)."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


def cosine(a: torch.Tensor, b: np.ndarray) -> np.ndarray:
    return (a.numpy() * b).sum(axis=1)


# The networks.


def test_dlibs_features_end_in_the_builds_embedding(store: ModelStore, dlib: DlibFeatures) -> None:
    rng = np.random.default_rng(0)
    chips = [rng.integers(0, 256, (150, 150, 3), np.uint8) for _ in range(3)]
    theirs = DlibResnet(store.path("dlib_resnet"))(chips)
    maps, ours = dlib.of_chips(unit(chips) * 255)
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-5)
    assert [tuple(m.shape) for m in maps] == [(3, 64, 17, 17), (3, 128, 8, 8), (3, 256, 4, 4)]
    assert ours.shape == (3, dlib.dim)


def test_dlibs_fixed_box_stands_for_its_own_chip(store: ModelStore, dlib: DlibFeatures) -> None:
    """On phantoms: the embedding from the box is nearer to the chip's than other people are."""
    embedder, landmarker = DlibResnet(store.path("dlib_resnet")), load_landmarker("dlib68", store)
    faces = []
    for number in range(6):
        rng = np.random.default_rng(number)
        faces.append(portrait(Person.sample(rng, 1.0, 0.3).face, 160, rng)[0])
    found = landmarker(faces)
    assert all(len(f) for f in found)
    chips = [embedder.crop(face, f.landmarks_xy[0]) for face, f in zip(faces, found, strict=True)]
    theirs = embedder(chips)
    _, ours = dlib.features(unit(faces))
    own = cosine(ours, theirs)
    others = (ours.numpy() @ theirs.T)[~np.eye(6, dtype=bool)]
    assert own.min() > DlibResnet.same_person_cosine
    assert own.min() > others.max()


@pytest.mark.real_data
def test_dlibs_fixed_box_stands_for_its_own_chip_on_photographs(
    store: ModelStore, dlib: DlibFeatures, real_data_dir: Path
) -> None:
    embedder, landmarker = DlibResnet(store.path("dlib_resnet")), load_landmarker("dlib68", store)
    aligned, chips = [], []
    for file in sorted((real_data_dir / "celebrities").glob("[!_]*/*.jpg"))[::4]:
        photo = np.asarray(cv2.imread(str(file), cv2.IMREAD_COLOR_RGB), np.uint8)
        scale = min(1.0, 900 / max(photo.shape[:2]))
        photo = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        for points in landmarker([photo])[0].landmarks_xy[:1]:
            matrix, _ = aligned_transform(eye_centres(points), 256)
            crop = cv2.warpAffine(photo, matrix, (256, 256), borderMode=cv2.BORDER_REPLICATE)
            aligned.append(crop)
            chips.append(embedder.crop(photo, points))
    assert len(chips) >= 8
    own = cosine(dlib.features(unit(aligned))[1], embedder(chips))
    assert own.min() > DlibResnet.same_person_cosine


def test_dlibs_input_is_a_bilinear_sample_of_the_box() -> None:
    pictures = torch.rand(2, 3, 64, 64, dtype=torch.float64).float()
    left, top, right, bottom = DLIB_BOX
    at = (torch.arange(150) + 0.5) / 150
    x, y = 2 * (left + (right - left) * at) - 1, 2 * (top + (bottom - top) * at) - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).expand(2, -1, -1, -1)
    wanted = F.grid_sample(pictures, grid, "bilinear", "border", align_corners=False) * 255
    torch.testing.assert_close(dlib_input(pictures), wanted, atol=2e-3, rtol=0)


def test_facenets_features_end_in_the_builds_embedding(facenet_weights: Path) -> None:
    """Folding the batch norms away changes nothing but rounding."""
    plain = InceptionResnetV1()
    plain.load_state_dict(torch.load(facenet_weights, weights_only=True))
    pictures = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        wanted = plain.eval().features(face_input(pictures))
        ours = FaceNetFeatures(plain)
        maps, embedding = ours.features(pictures)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in ours.network.modules())
    for a, b in zip([*maps, embedding], wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3 * b.abs().max().item(), rtol=0)
    assert [m.shape[1] for m in maps] == [256, 896, 1792]
    assert embedding.shape == (2, ours.dim)
    crops = [np.random.default_rng(i).integers(0, 256, (140, 140, 3), np.uint8) for i in range(2)]
    theirs = FaceNet(facenet_weights)(crops)
    with torch.no_grad():
        alike = ours.network((unit(crops) * 255 - 127.5) / 128)
    np.testing.assert_allclose(alike.numpy(), theirs, atol=1e-4)


def test_missing_weights_are_a_refusal_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HQVOX_MIRROR", raising=False)
    with pytest.raises(HqvoxError) as caught:
        load_features("facenet_vggface2", store=ModelStore(cache_dir=tmp_path, offline=True))
    text = str(caught.value)
    assert "\n" not in text
    assert "hqvox models pull facenet_vggface2" in text
    assert "--set loss.perceptual.network=dlib_resnet" in text


def test_networks_load_by_name_from_the_store(facenet_weights: Path, tmp_path: Path) -> None:
    assert load_features("dlib_resnet").name == "dlib_resnet"

    class Store(ModelStore):
        def path(self, name: str) -> Path:
            return facenet_weights

    assert load_features("facenet_vggface2", store=Store(cache_dir=tmp_path)).dim == 512


# Gradients.


def test_gradients_reach_the_generated_picture_inside_the_box_and_no_weight(
    dlib: DlibFeatures,
) -> None:
    torch.manual_seed(0)
    with torch.inference_mode():
        dlib.features(torch.rand(1, 3, 64, 64))  # what it keeps of this must not spoil what follows
    real = dlib.features(torch.rand(2, 3, 64, 64))
    generated = torch.rand(2, 3, 64, 64, requires_grad=True)
    loss = perceptual(dlib.features(generated), real, (1 / 16, 1 / 8, 1 / 4, 1))
    (gradient,) = torch.autograd.grad(loss, generated)
    left, top, right, bottom = (round(edge * 64) for edge in DLIB_BOX)
    inside = gradient[..., top + 2 : bottom - 2, left + 2 : right - 2]
    assert (inside.abs().sum(dim=1) > 0).float().mean() > 0.99
    assert not gradient[..., : top - 2, :].any()
    assert not gradient[..., : left - 2].any()
    assert not any(p.requires_grad for p in dlib.network.parameters())
    step = 1e-2 * gradient / gradient.abs().max()
    lower = perceptual(dlib.features(generated - step), real, (1 / 16, 1 / 8, 1 / 4, 1))
    assert lower < loss


# Keeping.


def real_features(data: TrainingData, dlib: DlibFeatures, **options: object) -> RealFeatures:
    return RealFeatures(dlib, data.split("train"), 64, **options)  # type: ignore[arg-type]


def recomputed(data: TrainingData, dlib: DlibFeatures, rows: torch.Tensor) -> list[torch.Tensor]:
    pictures = torch.from_numpy(data.faces[64][rows.numpy()]).float() / 255
    with torch.no_grad():
        maps, embedding = dlib.features(pictures)
    return [*maps, embedding]


def all_of(features: tuple[list[torch.Tensor], torch.Tensor]) -> list[torch.Tensor]:
    return [*features[0], features[1]]


@pytest.fixture(scope="module")
def rows(tiny_data: TrainingData) -> torch.Tensor:
    own = np.concatenate(tiny_data.split("train").faces_of)
    return torch.from_numpy(np.random.default_rng(1).permutation(own)[:10])


@pytest.fixture
def pictures(tiny_data: TrainingData, rows: torch.Tensor) -> torch.Tensor:
    return from_unit(torch.from_numpy(tiny_data.faces[64][rows.numpy()]).float() / 255)


def test_kept_features_are_the_recomputed_ones(
    tiny_data: TrainingData, dlib: DlibFeatures, rows: torch.Tensor, pictures: torch.Tensor
) -> None:
    kept = real_features(tiny_data, dlib)
    assert kept.dtype == torch.float32
    seen: list[int] = []
    kept.fill(lambda what, done, total: seen.append(total))
    found = all_of(kept.of(rows, pictures))
    for ours, theirs in zip(found, recomputed(tiny_data, dlib, rows), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)
    assert seen == [18, 18, 18]
    kept.fill(lambda *told: pytest.fail("filled twice"))


def test_features_have_the_same_bits_whenever_they_are_computed(
    tiny_data: TrainingData, dlib: DlibFeatures, rows: torch.Tensor, pictures: torch.Tensor
) -> None:
    """As an exact resume needs: a run that goes on asks for them in another order."""
    all_at_once, little_by_little = real_features(tiny_data, dlib), real_features(tiny_data, dlib)
    all_at_once.fill()
    for part in (rows[7:], rows[:1], rows[:8]):
        little_by_little.of(part, pictures[: len(part)])
    for a, b in zip(
        all_of(all_at_once.of(rows, pictures)), all_of(little_by_little.of(rows, pictures)),
        strict=True,
    ):  # fmt: skip
        assert torch.equal(a, b)


def test_little_memory_keeps_halves_and_less_nothing(
    tiny_data: TrainingData,
    dlib: DlibFeatures,
    rows: torch.Tensor,
    pictures: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = real_features(tiny_data, dlib).bytes
    wanted = recomputed(tiny_data, dlib, rows)
    monkeypatch.setattr(features, "_memory", lambda device: whole * 8 * 0.6)
    halves = real_features(tiny_data, dlib)
    assert (halves.dtype, halves.bytes) == (torch.float16, whole // 2)
    for ours, theirs in zip(all_of(halves.of(rows, pictures)), wanted, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)
    monkeypatch.setattr(features, "_memory", lambda device: whole)
    nothing = real_features(tiny_data, dlib)
    assert (nothing.dtype, nothing.bytes) == (None, 0)
    for ours, theirs in zip(all_of(nothing.of(rows, pictures)), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)
    with pytest.raises(HqvoxError, match=r"features of 18 faces take .*cache_features=auto"):
        real_features(tiny_data, dlib, cached=True)


def test_of_mirrored_pictures_nothing_is_kept(
    tiny_data: TrainingData, dlib: DlibFeatures, rows: torch.Tensor, pictures: torch.Tensor
) -> None:
    real = real_features(tiny_data, dlib, mirrored=True)
    assert real.dtype is None
    _, plain = real.of(rows, pictures)
    _, mirrored = real.of(rows, pictures.flip(3))
    assert (plain - mirrored).abs().max() > 1e-4
    assert not plain.requires_grad
