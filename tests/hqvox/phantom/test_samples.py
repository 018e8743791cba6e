"""Rendered training samples: the same pixels as ever, and read back without loss."""

from __future__ import annotations

import hashlib
import json
import platform
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from hqvox.phantom import samples
from hqvox.phantom.faces import rotation
from hqvox.phantom.samples import RENDERERS, main, write_samples
from models.errors import ModelError
from models.training.phantoms import read_phantoms
from models.training.segmentation import trainset
from models.training.segmentation.trainset import phantom_crops

CROPS = ("cb8cb468a809ff56", "ce3d6c7063a75c0a")
LANDMARKS = ("4226723b369ab7bd", "14d7d31c60198eef")
"""Digests of the first samples that the bundled weights and the face model were trained on."""

only_x86 = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"),
    reason="the digests are of an x86-64 processor with AVX2; others round differently",
)


def digest(*arrays: NDArray[np.generic]) -> str:
    joined = hashlib.sha256()
    for array in map(np.ascontiguousarray, arrays):
        joined.update(str((array.dtype, array.shape)).encode())
        joined.update(array.tobytes())
    return joined.hexdigest()[:16]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("samples")
    for kind in RENDERERS:
        write_samples(kind, root / kind, 2, samples.DEFAULTS[kind][1])
    return {kind: root / kind for kind in RENDERERS}


@only_x86
def test_samples_for_masks_are_those_of_the_bundled_weights(folders: dict[str, Path]) -> None:
    crops = phantom_crops(folders["masks"])
    assert tuple(digest(c.image, c.mask, c.inside) for c in crops) == CROPS


@only_x86
def test_samples_for_landmarks_are_those_of_the_face_model(folders: dict[str, Path]) -> None:
    for number, sample in enumerate(read_phantoms(folders["landmarks"], "landmarks")):
        photo = RENDERERS["landmarks"](samples.DEFAULTS["landmarks"][1], number)
        turn = rotation(sample.yaw_deg, sample.pitch_deg, 0.0)
        arrays = (sample.picture, photo.mask, sample.landmarks_xy, sample.pupils_xy, turn)
        assert digest(*arrays) == LANDMARKS[number]


@pytest.mark.parametrize("kind", tuple(RENDERERS))
def test_a_folder_is_read_back_without_loss(folders: dict[str, Path], kind: str) -> None:
    read = list(read_phantoms(folders[kind], kind))
    assert len(read) == 2
    for number, sample in enumerate(read):
        photo = RENDERERS[kind](samples.DEFAULTS[kind][1], number)
        assert np.array_equal(sample.picture, photo.image)
        assert np.array_equal(sample.pupils_xy, photo.truth.pupils_xy)
        assert np.array_equal(sample.landmarks_xy, photo.truth.landmarks_xy)
        angles = (sample.yaw_deg, sample.pitch_deg, sample.roll_deg)
        assert angles == (photo.truth.yaw_deg, photo.truth.pitch_deg, photo.truth.roll_deg)
        if kind == "masks":
            assert np.array_equal(sample.mask, np.where(photo.mask, 255, 0))
        else:
            assert sample.mask is None


def test_heads_are_as_large_as_the_training_cuts_them() -> None:
    assert (samples.CROP_PX, samples.CROP_MARGIN) == (trainset.CANVAS_PX, trainset.MARGIN)


def test_the_command_writes_the_same_bytes_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        main(["masks", "--out", str(tmp_path / name), "--count", "1", "--seed", "3"])
    files = [{f.name: f.read_bytes() for f in (tmp_path / name).iterdir()} for name in ("a", "b")]
    assert files[0] == files[1]
    assert set(files[0]) == {"00000.png", "00000.mask.png", "truth.json"}
    truth = json.loads(files[0]["truth.json"])
    assert (truth["kind"], truth["count"], truth["seed"]) == ("masks", 1, 3)
    assert "1 of 1 samples" in capsys.readouterr().out


def test_an_impossible_count_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(["masks", "--out", str(tmp_path), "--count", "0"])
    assert not list(tmp_path.iterdir())


def test_a_wrong_folder_names_the_command(folders: dict[str, Path], tmp_path: Path) -> None:
    remedy = r"python -m hqvox\.phantom\.samples landmarks --out"
    with pytest.raises(ModelError, match=rf"no truth\.json; .*{remedy}"):
        read_phantoms(tmp_path, "landmarks")
    with pytest.raises(ModelError, match=rf"does not hold samples of landmarks; .*{remedy}"):
        read_phantoms(folders["masks"], "landmarks")
    (tmp_path / "truth.json").write_text("{")
    with pytest.raises(ModelError, match=rf"cannot be read .*{remedy}"):
        read_phantoms(tmp_path, "landmarks")
    truth = (folders["landmarks"] / "truth.json").read_text()
    (tmp_path / "truth.json").write_text(truth)
    with pytest.raises(ModelError, match=r"00000\.png: missing or not a picture"):
        next(iter(read_phantoms(tmp_path, "landmarks")))
