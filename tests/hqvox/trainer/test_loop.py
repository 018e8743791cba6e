"""Training as a whole: it learns, stops at what is not finite, and writes what it should."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import pytest
import torch
import yaml

from hqvox.errors import HqvoxError
from hqvox.release.read import Release
from hqvox.trainer import checkpoint, log
from hqvox.trainer.batches import BatchSource
from hqvox.trainer.data import TrainingData
from hqvox.trainer.distributed import ProcessGroup
from hqvox.trainer.loop import Event, Note, Stepped, train
from hqvox.trainer.recipes import load_train_config
from hqvox.trainer.runs import read_info
from hqvox.trainer.speed import Speed
from hqvox.trainer.state import build_state
from hqvox.trainer.step import TrainStep
from tests.helpers.tiny_release import make_tiny_release
from tests.helpers.training_runs import small_config


@pytest.fixture(autouse=True)
def _cache(cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HQVOX_CACHE", str(cache_dir))


def test_four_pairs_are_learnt_by_heart(tiny_data: TrainingData) -> None:
    off = ("loss.gan.weight=0", "loss.classifier.weight=0")
    config = small_config("model.width=0.1", "optimiser.learning_rate=0.01", *off)
    split, group = tiny_data.split("train"), ProcessGroup(torch.device("cpu"))
    state = build_state(config, len(split), Speed(), group)
    step = TrainStep(state, None, [], config, Speed(), group)
    batch = BatchSource(split, config).stage1(0)
    found = [step(batch)[step.names.index("l1")].item() for _ in range(150)]
    assert min(found[-10:]) < 0.25 * found[0]


def test_a_run_writes_all_that_it_promises(tiny: Release, tmp_path: Path) -> None:
    config = small_config("stage1.iterations=4", "stage2.iterations=2")
    events: list[Event] = []
    outcome = train(config, tiny, tmp_path, on_event=events.append)
    assert (outcome.state, outcome.step) == ("finished", 6)
    assert [e.step for e in events if isinstance(e, Stepped)] == [1, 2, 3, 4, 5, 6]
    assert load_train_config(tmp_path / "config.yaml") == config
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["recipe"] == "sf2f-64-tiny"
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["kind"], line["stage"], line["step"]) for line in lines] == [
        ("train", 1, 3),
        ("train", 1, 4),
        ("evaluate", 1, 4),
        ("train", 2, 6),
        ("evaluate", 2, 6),
    ]
    for name in ("4.jpg", "6.jpg"):
        grid = cv2.imread(str(tmp_path / "samples" / name))
        assert grid.shape == (64 * 2 + 4, 64 * 2 + 4, 3)  # two people of val, real and generated
    best = {"l1", "cosine", "recall_1", "recall_5", "recall_10"}
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    fused = {f"best_fused_{name}.pt" for name in best}
    assert names == {"last.pt", *fused, *(f"best_{name}.pt" for name in best)}
    assert list((tmp_path / "tensorboard").glob("events.*"))
    loaded = checkpoint.load_generator(tmp_path / "checkpoints/last.pt")
    assert loaded.generator.fuser is not None
    assert loaded.meta["normalise"]["kind"] == "sf2f"
    assert loaded.meta["features"] is None  # no perceptual loss
    (sitting,) = read_info(tmp_path)["sessions"]
    assert (sitting["state"], sitting["to_step"]) == ("finished", 6)


def test_stage_2_alone_starts_from_a_checkpoint(tiny: Release, tmp_path: Path) -> None:
    train(small_config("stage1.iterations=2", "stage2.iterations=0"), tiny, tmp_path / "one")
    alone = small_config("stage1.iterations=0", "stage2.iterations=2")
    with pytest.raises(HqvoxError, match="name a checkpoint that has them with --from"):
        train(alone, tiny, tmp_path / "two")
    start = tmp_path / "one/checkpoints/last.pt"
    train(alone, tiny, tmp_path / "three", start=start)
    before, after = (
        checkpoint.read(tmp_path / name / "checkpoints/last.pt")["generator"]
        for name in ("one", "three")
    )
    outcome = train(alone, tiny, tmp_path / "three", resume=True)  # needs no --from again
    assert (outcome.state, outcome.step) == ("finished", 2)
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.startswith("fuser.") for name in moved)
    wider = small_config("stage1.iterations=0", "stage2.iterations=2", "model.width=0.1")
    with pytest.raises(HqvoxError, match=r"weights of another model \(width 0.05 not 0.1\)"):
        train(wider, tiny, tmp_path / "four", start=start)


def test_a_loss_that_is_not_finite_stops_the_run(
    tiny: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(
        "stage1.iterations=9", "stage2.iterations=0", "cadence.checkpoint_every=2"
    )
    call = TrainStep.__call__

    def spoiled(step: TrainStep, batch: object) -> torch.Tensor:
        spoiled.count += 1
        return call(step, batch) * (float("nan") if spoiled.count == 5 else 1.0)

    spoiled.count = 0
    monkeypatch.setattr(TrainStep, "__call__", spoiled)
    with pytest.raises(HqvoxError, match=r"step 5: a loss is not finite \(total nan") as error:
        train(config, tiny, tmp_path)
    text = str(error.value)
    assert "\n" not in text
    assert f"{tmp_path / 'checkpoints/last.pt'}, of step 4" in text
    assert checkpoint.read(tmp_path / "checkpoints/last.pt")["step"] == 4
    assert read_info(tmp_path)["sessions"][0]["state"] == "failed"


def test_test_people_choose_no_checkpoint(tmp_path: Path) -> None:
    release = make_tiny_release(tmp_path / "release", train=4, val=0, test=2)
    config, notes = small_config("stage1.iterations=1", "stage2.iterations=0"), []
    train(config, release, tmp_path / "out", on_event=lambda event: notes.append(event))
    assert any("nobody in val" in note.text for note in notes if isinstance(note, Note))
    grid = cv2.imread(str(tmp_path / "out/samples/1.jpg"))
    assert len(grid) == 4 * (64 + 4) - 4  # the four of train


@pytest.mark.filterwarnings("error")
def test_nobody_to_train_on_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    release = make_tiny_release(tmp_path / "release", train=0, val=1, test=1)
    with pytest.raises(HqvoxError, match="no identity in train; training needs two or more"):
        train(small_config(), release, tmp_path / "out")


def test_the_largest_seed_trains(tiny: Release, tmp_path: Path) -> None:
    config = small_config("stage1.iterations=2", "stage2.iterations=0", f"seed={2**63 - 1}")
    assert train(config, tiny, tmp_path).state == "finished"


def test_without_tensorboard_one_line_says_so(
    tiny: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    notes: list[str] = []
    with log.TrainLog(tmp_path, 0, notes.append) as written:
        written.train(1, 1, {"l1": 1.0}, {"steps_per_second": 2.0})
    assert notes == [
        "TensorBoard is not installed, so only log.jsonl is written: pip install 'hqvox[train]'"
    ]
    assert log.read_log(tmp_path)[0]["terms"] == {"l1": 1.0}
