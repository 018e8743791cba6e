"""Faces and 68 landmarks: dlib on phantoms and photographs, FAN beside the package's own calls."""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hqvox.phantom.faces import FaceIdentity, PhantomPhoto, Pose, Scene, render_face
from models.errors import ModelError
from models.geometry import aligned_transform, eye_centres
from models.landmarks import WEIGHTS, load
from models.landmarks.dlib68 import CROP_BOX_PX, CROP_MARGIN_PX, Dlib68, _level_crop
from models.protocols import Photo
from models.registry import Weights, registry
from models.store import ModelStore


@pytest.fixture(scope="module")
def dlib68() -> Dlib68:
    return Dlib68(ModelStore())


def phantom(seed: int, others: bool = False, **pose: float) -> PhantomPhoto:
    rng = np.random.default_rng(seed)
    main = Pose(eyes_xy=(0.32, 0.42) if others else (0.5, 0.42), ipd_px=70.0, **pose)  # type: ignore[arg-type]
    beside = ((FaceIdentity.sample(rng), Pose(eyes_xy=(0.72, 0.45), ipd_px=60.0)),)
    scene = Scene(main, width=560 if others else 400, others=beside if others else ())
    return render_face(FaceIdentity.sample(rng), scene, rng)


@pytest.mark.parametrize("seed", range(3))
def test_dlib_finds_a_phantom_and_its_points(dlib68: Dlib68, seed: int) -> None:
    photo = phantom(seed)
    (faces,) = dlib68([photo.image])
    assert len(faces) == 1
    off = np.linalg.norm(faces.landmarks_xy[0] - photo.truth.landmarks_xy, axis=-1)
    assert off[17:].mean() < 0.06 * photo.truth.ipd_px
    left, top, right, bottom = faces.boxes_xyxy[0]
    x, y = photo.truth.landmarks_xy[30]
    assert left < x < right
    assert top < y < bottom


def test_dlib_finds_both_of_two_people(dlib68: Dlib68) -> None:
    photo = phantom(5, others=True)
    (faces,) = dlib68([photo.image])
    assert len(faces) == 2
    assert faces.scores[0] >= faces.scores[1]


def test_dlib_treats_every_photo_by_itself(dlib68: Dlib68) -> None:
    photos = [phantom(1).image, np.zeros((90, 120, 3), np.uint8), phantom(2).image]
    together = dlib68(photos)
    assert [len(faces) for faces in together] == [1, 0, 1]
    for photo, faces in zip(photos, together, strict=True):
        (alone,) = dlib68([photo])
        np.testing.assert_array_equal(alone.landmarks_xy, faces.landmarks_xy)
    assert dlib68([]) == []


@pytest.mark.parametrize("shape", [(1, 1), (1, 900), (40, 8), (16, 16)])
def test_dlib_takes_photos_too_small_for_a_face(dlib68: Dlib68, shape: tuple[int, int]) -> None:
    (faces,) = dlib68([np.full((*shape, 3), 128, np.uint8)])
    assert len(faces) == 0


@pytest.mark.parametrize("scale", [0.35, 0.6, 2.5])
def test_dlib_landmarks_scale_with_the_photo(dlib68: Dlib68, scale: float) -> None:
    photo = phantom(4)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    resized = np.asarray(cv2.resize(photo.image, None, fx=scale, fy=scale, interpolation=how))
    (own,), (other,) = dlib68([photo.image])[0].landmarks_xy, dlib68([resized])[0].landmarks_xy
    shift = eye_centres((other + 0.5) / scale - 0.5) - eye_centres(own)
    assert np.abs(shift).max() < 0.03 * photo.truth.ipd_px


def test_dlib_follows_a_tilted_head(dlib68: Dlib68) -> None:
    photo = phantom(3, roll_deg=15.0)
    (points,) = dlib68([photo.image])[0].landmarks_xy
    left, right = eye_centres(points)
    assert np.degrees(np.arctan2(*(right - left)[::-1])) == pytest.approx(15, abs=2)


def test_a_face_that_fills_the_photo_is_found_by_the_last_look(dlib68: Dlib68) -> None:
    photo = phantom(2)
    left, top, right, bottom = photo.truth.box_xyxy.astype(int)
    tight = np.ascontiguousarray(photo.image[top + 14 : bottom - 11, left + 22 : right - 22])
    grey = np.asarray(cv2.cvtColor(tight, cv2.COLOR_RGB2GRAY), np.uint8)
    assert [dlib68._scan(grey, scale) for scale in (1.25, 2.0)] == [[], []]
    (faces,) = dlib68([tight])
    assert len(faces) == 1
    off = np.linalg.norm(
        faces.landmarks_xy[0] + [left + 22, top + 14] - photo.truth.landmarks_xy, axis=-1
    )
    assert off[27:].mean() < 0.1 * photo.truth.ipd_px


@pytest.mark.parametrize("radius", [15.0, 60.0, 200.0])
def test_the_level_crop_is_where_its_matrix_says(radius: float) -> None:
    side = int(radius * 8)
    centre, tilt = np.array([side * 0.45, side * 0.55]), np.radians(20)
    turn = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
    points = np.random.default_rng(0).normal(0, radius / np.sqrt(2), (68, 2)) * [1.0, 0.3]
    points[36:42], points[42:48] = [-radius, 0], [radius, 0]
    points = points @ turn.T + centre
    blob = centre + np.array([0.2, -0.3]) * radius
    y, x = np.mgrid[:side, :side]
    spot = np.exp(-((x - blob[0]) ** 2 + (y - blob[1]) ** 2) / (2 * (radius / 8) ** 2))
    crop, matrix = _level_crop((255 * spot).astype(np.uint8), points)
    assert crop.shape == (CROP_BOX_PX + 2 * CROP_MARGIN_PX,) * 2
    weight = crop.astype(float)
    rows, columns = np.mgrid[: crop.shape[0], : crop.shape[1]]
    seen = [(columns * weight).sum() / weight.sum(), (rows * weight).sum() / weight.sum()]
    np.testing.assert_allclose(seen, matrix[:, :2] @ blob + matrix[:, 2], atol=0.3)


def test_a_file_that_is_no_predictor_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.dat").write_bytes(b"not a predictor")
    entry = Weights("dlib_68", "t", "", "net.dat", "l", (), url="http://x/")
    store = ModelStore(tmp_path / "cache", str(tmp_path), True, {"dlib_68": entry})
    with pytest.raises(ModelError, match="not a dlib shape predictor"):
        load("dlib68", store)


def test_load_names_what_there_is_and_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="known: dlib68, fan"):
        load("dlib", ModelStore(tmp_path))
    with pytest.raises(ModelError, match="hqvox models pull"):
        load("fan", ModelStore(tmp_path, "", offline=True))
    with pytest.raises(ModelError, match="precision"):
        load("dlib68", ModelStore(tmp_path), precision="bfloat16")
    assert {name for names in WEIGHTS.values() for name in names} <= set(registry())


def photographs(real_data_dir: Path, long_px: int = 1300) -> list[tuple[str, Photo]]:
    """Photographs of one person each, at most ``long_px`` a side."""
    photos = []
    for path in sorted((real_data_dir / "celebrities").glob("[A-Z]*/*.jpg")):
        photo = np.asarray(cv2.imread(str(path)), np.uint8)[..., ::-1]
        scale = min(1.0, long_px / max(photo.shape))
        resized = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        photos.append((f"{path.parent.name}/{path.name}", np.asarray(resized, np.uint8)))
    return photos


@pytest.mark.real_data
def test_dlib_finds_a_face_in_every_photograph_and_again_where_it_was_put(
    dlib68: Dlib68, real_data_dir: Path
) -> None:
    photos = photographs(real_data_dir)
    assert len(photos) > 30
    found = dlib68([photo for _, photo in photos])
    assert [name for (name, _), faces in zip(photos, found, strict=True) if not len(faces)] == []
    targets, crops = [], []
    for (_, photo), faces in zip(photos, found, strict=True):
        eyes = eye_centres(faces.landmarks_xy[0])
        side = round(aligned_transform(eyes)[1])
        matrix, _ = aligned_transform(eyes, side)
        crops.append(np.asarray(cv2.warpAffine(photo, matrix, (side, side)), np.uint8))
        targets.append((eyes @ matrix[:, :2].T + matrix[:, 2], side))
    again = [
        np.abs(eye_centres(faces.landmarks_xy[0]) - eyes).max() / side if len(faces) else np.inf
        for faces, (eyes, side) in zip(dlib68(crops), targets, strict=True)
    ]
    assert np.mean(np.array(again) <= 0.015) >= 0.95


# --- FAN: its real weights cannot be had everywhere, so these are random ones of its shapes.


@pytest.fixture(scope="module")
def fan_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from face_alignment.models.fan import FAN

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("fan") / "fan.pth"
    torch.save(FAN(4).state_dict(), path)
    return path


@pytest.fixture
def package_uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the package's own functions as plain Python: compiling them takes half a minute."""
    from face_alignment import utils

    for name in ("_get_preds_fromhm", "transform_np"):
        monkeypatch.setattr(utils, name, getattr(utils, name).py_func)


class FixedBoxes:
    """A detector that knows the answers."""

    reference_scale = 195.0

    def __init__(self, boxes: list[list[list[float]]]) -> None:
        self.boxes = [np.array(b, np.float64).reshape(-1, 5) for b in boxes]

    def __call__(self, photos: Sequence[Photo]) -> list[NDArray[np.float64]]:
        assert len(photos) == len(self.boxes)
        return self.boxes


SPECK, OFF_THE_PHOTO = [0.0, 0.0, 2.0, 2.0, 0.99], [300.0, 0.0, 400.0, 90.0, 0.9]
BOXES = [
    [SPECK, [20.3, 30.1, 120.7, 140.2, 0.6]],
    [],
    [[-15.0, 10.0, 80.0, 118.0, 0.8], OFF_THE_PHOTO],
]


@pytest.fixture(scope="module")
def fan_photos() -> list[Photo]:
    return [
        np.asarray(cv2.resize(phantom(seed).image, size), np.uint8)
        for seed, size in enumerate([(200, 180), (64, 64), (160, 220)])
    ]


@pytest.mark.usefixtures("package_uncompiled")
def test_fan_agrees_with_the_package(fan_weights: Path, fan_photos: list[Photo]) -> None:
    from face_alignment import FaceAlignment, LandmarksType
    from face_alignment.models.fan import FAN

    from models.landmarks.fan import Fan

    detector = FixedBoxes(BOXES)
    found = Fan("fan", fan_weights, detector)(fan_photos)
    assert [len(faces) for faces in found] == [1, 0, 1], "specks and boxes off the photo are left"

    package = FaceAlignment.__new__(FaceAlignment)  # its constructor would download
    package.device, package.dtype, package.flip_input = "cpu", torch.float32, True
    package.landmarks_type, package.max_batch_size = LandmarksType.TWO_D, 1
    package.face_detector = detector
    package.face_alignment_net = FAN(4).eval()
    package.face_alignment_net.load_state_dict(torch.load(fan_weights, weights_only=True))
    for i, box in ((0, BOXES[0][1]), (2, BOXES[2][0])):
        expected = package.get_landmarks_from_image(fan_photos[i], detected_faces=[np.array(box)])
        np.testing.assert_allclose(found[i].landmarks_xy, np.stack(expected), atol=0.1)


@pytest.mark.usefixtures("package_uncompiled")
def test_fan_reads_heatmaps_as_the_package_does() -> None:
    from face_alignment.utils import get_preds_fromhm

    from models.landmarks.fan import decode

    rng = np.random.default_rng(0)
    heatmaps = rng.normal(size=(3, 68, 64, 64)).astype(np.float32)
    corners = rng.integers(0, 4, (3, 40))
    for i, corner in np.ndindex(corners.shape):
        heatmaps[i, corner, -(corners[i, corner] & 1), -(corners[i, corner] >> 1)] = 9
    centres, scales = rng.uniform(50, 500, (3, 2)), rng.uniform(0.3, 4, 3)
    ours = decode(heatmaps, centres, scales)
    for i in range(3):
        _, expected, _ = get_preds_fromhm(heatmaps[i : i + 1], centres[i], scales[i])
        np.testing.assert_allclose(ours[i], expected[0], atol=0.1)


@pytest.mark.slow
def test_fan_does_not_depend_on_the_batch(fan_weights: Path, fan_photos: list[Photo]) -> None:
    from models.landmarks.fan import Fan

    fan = Fan("fan", fan_weights, FixedBoxes(BOXES))
    crops = np.stack([np.asarray(cv2.resize(p, (256, 256)), np.uint8) for p in fan_photos[:2]])
    together = fan.heatmaps(crops)
    alone = np.concatenate([fan.heatmaps(crop[None]) for crop in crops])
    assert np.abs(together - alone).max() <= 1e-5 * max(1.0, np.abs(alone).max())
    assert fan.landmarks([], np.zeros((0, 4))).shape == (0, 68, 2)
    one_by_one = Fan("fan", fan_weights, FixedBoxes(BOXES[2:]))([fan_photos[2]])[0]
    np.testing.assert_array_equal(fan(fan_photos)[2].landmarks_xy, one_by_one.landmarks_xy)


class Malicious:
    """A pickle that would make a folder when loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("harm", ["truncated", "lacking", "misshapen", "malicious", "text"])
def test_fan_refuses_wrong_weights(fan_weights: Path, tmp_path: Path, harm: str) -> None:
    from models.landmarks.fan import Fan

    path, trap = tmp_path / "net.pth", tmp_path / "trap"
    if harm in ("lacking", "misshapen"):
        tensors = torch.load(fan_weights, weights_only=True)
        if harm == "lacking":
            del tensors["m3.b2_plus_1.conv1.weight"]
        else:
            tensors["l3.weight"] = torch.zeros(98, 256, 1, 1)
        torch.save(tensors, path)
    elif harm == "malicious":
        path.write_bytes(pickle.dumps(Malicious(trap)))
    else:
        path.write_bytes(fan_weights.read_bytes()[:1_000_000] if harm == "truncated" else b"hello")
    with pytest.raises(ModelError) as caught:
        Fan("fan", path, FixedBoxes([]))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not trap.exists()


@pytest.mark.parametrize("name", ["s3fd", "retinaface", "yunet", "blazeface", "blazeface_back"])
def test_detectors_refuse_wrong_weights(tmp_path: Path, name: str) -> None:
    from models.landmarks.detectors import load_detector

    entries = {
        key: Weights(key, "t", "", f"{key}.pth", "l", (), url="http://x/")
        for key in (name, f"{name}_anchors")
    }
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / f"{name}.pth")
    (tmp_path / f"{name}_anchors.pth").write_bytes(b"no anchors")
    store = ModelStore(tmp_path / "cache", str(tmp_path), True, entries)
    with pytest.raises(ModelError, match="fetch"):
        load_detector(name, store, "cpu")


@pytest.mark.parametrize("name", ["s3fd", "retinaface"])
def test_detectors_run_on_weights_of_their_shapes(tmp_path: Path, name: str) -> None:
    from face_alignment.detection.retinaface.net_retinaface import RetinaFace
    from face_alignment.detection.sfd.net_s3fd import s3fd

    from models.landmarks.detectors import load_detector

    torch.manual_seed(0)
    network = (s3fd if name == "s3fd" else RetinaFace)()
    torch.save(network.state_dict(), tmp_path / "net.pth")
    entry = Weights(name, "t", "", "net.pth", "l", (), url="http://x/")
    store = ModelStore(tmp_path / "cache", str(tmp_path), True, {name: entry})
    photos = [np.full((64, 80, 3), 90, np.uint8), np.full((70, 64, 3), 10, np.uint8)]
    found = load_detector(name, store, "cpu")(photos)
    assert [boxes.shape[1] for boxes in found] == [5, 5]


@pytest.mark.real_data
def test_fan_with_blazeface_runs_by_name(
    fan_weights: Path, real_data_dir: Path, tmp_path: Path
) -> None:
    entries = dict(registry())
    entries["fan_2d_4"] = Weights("fan_2d_4", "t", "", "fan.pth", "l", (), url="http://x/")
    for path in (real_data_dir / "weights").iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "fan.pth").symlink_to(fan_weights)
    store = ModelStore(tmp_path / "cache", str(tmp_path), offline=True, entries=entries)
    with pytest.raises(ModelError, match="device"):
        load("fan_blazeface", store, "no such device")
    (name, photo), *_ = photographs(real_data_dir, 400)
    (faces,) = load("fan_blazeface", store)([photo])
    assert len(faces) == 1, name
    assert faces.landmarks_xy.shape == (1, 68, 2)


@pytest.mark.real_data
def test_blazeface_finds_portraits_whatever_the_batch(real_data_dir: Path, tmp_path: Path) -> None:
    from models.landmarks.detectors import load_detector

    store = ModelStore(tmp_path, str(real_data_dir / "weights"), offline=True)
    detector = load_detector("blazeface", store, "cpu")
    photos = [photo for _, photo in photographs(real_data_dir, 640)]
    photos.append(np.full((49, 49, 3), 100, np.uint8))
    together = detector(photos)
    assert np.mean([len(boxes) > 0 for boxes in together[:-1]]) > 0.8
    assert len(together[-1]) == 0
    for photo, boxes in list(zip(photos, together, strict=True))[:4]:
        np.testing.assert_array_equal(detector([photo])[0], boxes)
    assert detector([]) == []
