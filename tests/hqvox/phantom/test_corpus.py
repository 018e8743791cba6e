"""A corpus to train on: the released tree, eyes in place, resumable, told to the byte."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from hqvox.phantom.corpus import CorpusPlan, make_corpus
from hqvox.phantom.identity import FaceIdentity
from hqvox.phantom.person import TRAITS
from hqvox.phantom.portraits import EYES_XY, portrait

PLAN = CorpusPlan(seed=3, train=1, val=1, test=1, shared=0.8, faces=2, videos=2, utterances=1,
                  seconds=(0.8, 1.2), side_px=48)  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    make_corpus(folder, PLAN, workers=0)
    return folder


def test_the_tree_is_the_released_one(corpus: Path) -> None:
    split = json.loads((corpus / "split.json").read_text("utf-8"))
    assert [len(split["vox1"][part]) for part in ("train", "val", "test")] == [1, 1, 1]
    names = [name for part in split["vox1"].values() for name in part]
    with (corpus / "traits.csv").open(encoding="utf-8", newline="") as table:
        rows = list(csv.DictReader(table))
    assert [row["name"] for row in rows] == names
    for row in rows:
        assert row["name"] in split["vox1"][row["part"]]
        for kind in ("masked_faces", "origin_faces"):
            files = sorted((corpus / "vox1" / kind / row["name"]).iterdir())
            assert [f.name for f in files] == ["0.jpg", "1.jpg"]
            assert cv2.imread(str(files[0])).shape == (48, 48, 3)
        assert len(list((corpus / "wav" / row["identity_id"]).glob("*/00001.wav"))) == 2
        assert np.isfinite([float(row[f"voice_{t.name}"]) for t in TRAITS]).all()


@pytest.mark.slow
def test_a_stopped_run_ends_with_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(made: int, total: int) -> None:
        assert total == PLAN.identities
        if made == 1:
            raise Stopped

    with pytest.raises(Stopped):
        make_corpus(tmp_path, PLAN, workers=0, on_progress=stop)
    assert not (tmp_path / "split.json").exists()
    seen: list[int] = []
    make_corpus(tmp_path, PLAN, workers=1, on_progress=lambda made, total: seen.append(made))
    assert seen == [2, 3]
    assert contents(tmp_path) == contents(corpus)
    make_corpus(tmp_path, PLAN, workers=0, on_progress=lambda *_: pytest.fail("made again"))


def test_another_plan_is_refused(corpus: Path) -> None:
    with pytest.raises(ValueError, match=r"another corpus: shared 0\.8 not 1\.0, train 1 not 3"):
        make_corpus(corpus, CorpusPlan(**(vars(PLAN) | {"train": 3, "shared": 1.0})), workers=0)


@pytest.mark.parametrize(
    ("change", "says"),
    [({"faces": 0}, "faces must be at least 1"), ({"train": -1}, "train must be at least 0"),
     ({"train": 0, "val": 0, "test": 0}, "identities must be at least 1"),
     ({"shared": 1.5}, "shared must be between 0 and 1"), ({"side_px": 8}, "at least 32, not 8"),
     ({"seconds": (2.0, 1.0)}, r"not 2\.0 to 1\.0")],
)  # fmt: skip
def test_impossible_plans_are_refused(change: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        CorpusPlan(**(vars(PLAN) | change))


def test_portraits_are_aligned_on_white() -> None:
    rng = np.random.default_rng(1)
    dark = np.zeros((96, 96))
    for _ in range(4):
        masked, origin = portrait(FaceIdentity.sample(rng), 96, rng)
        assert masked.shape == origin.shape == (96, 96, 3)
        assert (masked[2, [2, -3]] == 255).all()
        assert (masked[50, 48] == origin[50, 48]).all()
        grey = origin.astype(float).mean(axis=2)
        dark += grey < cv2.GaussianBlur(grey, (0, 0), 4) - 6
    for x, y in EYES_XY:
        column, row = round(x * 96), round(y * 96)
        assert dark[row - 2 : row + 3, column - 2 : column + 3].max() >= 3
    with pytest.raises(ValueError, match="at least 32 pixels"):
        portrait(FaceIdentity.sample(rng), 16, rng)


def test_portraits_eyes_are_where_the_landmarks_say(monkeypatch: pytest.MonkeyPatch) -> None:
    import hqvox.phantom.portraits as module

    seen = []
    plain = module._similarity

    def spy(points: np.ndarray, targets: np.ndarray) -> np.ndarray:
        turn = plain(points, targets)
        placed = np.column_stack([points - 0.5, np.ones(2)]) @ turn.T + 0.5
        seen.append(placed - targets)
        return turn

    monkeypatch.setattr(module, "_similarity", spy)
    portrait(FaceIdentity.sample(np.random.default_rng(2)), 64, np.random.default_rng(2))
    np.testing.assert_allclose(seen[0], 0, atol=1e-9)
