"""`hqvox train` and `hqvox runs` as a user meets them: one line for each mistake."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from hqvox.cli import app
from hqvox.errors import HqvoxError
from hqvox.release.read import Release
from hqvox.trainer import loop as training_loop
from hqvox.trainer import step as training_step
from hqvox.trainer.recipes import load_train_config
from hqvox.trainer.runs import hold
from hqvox.trainer.sweep import read_sweep
from hqvox.workspace.layout import Workspace
from hqvox.workspace.outputs import read_outputs
from tests.helpers.tiny_release import make_tiny_release, write_checksums
from tests.helpers.training_runs import SMALL

SETTINGS = [part for s in SMALL for part in ("--set", s)]
SHORT = ["--set", "stage1.iterations=2", "--set", "stage2.iterations=1"]


@pytest.fixture
def hqvox(cache_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs a command; returns its exit code and all that it printed."""
    monkeypatch.setenv("HQVOX_CACHE", str(cache_dir))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["hqvox", *map(str, arguments)])
        code = 0
        try:
            app.main()
        except SystemExit as end:
            code = int(end.code or 0)
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


def test_train_then_resume_then_list(
    hqvox, tiny: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "runs" / "first"
    given = ["train", "sf2f-64-tiny", "--data", tiny.url, "--out", out, *SETTINGS]
    code, said = hqvox(*given, *SHORT)
    assert code == 0, said
    assert "best cosine:" in said
    assert f"hqvox evaluate {out}/checkpoints/last.pt --data {tiny.url}" in said
    code, said = hqvox(*given, *SHORT)
    assert code == 1
    assert "continue it with --resume" in said
    code, said = hqvox(*given[:6], "--resume", "--set", "stage2.iterations=2")
    assert code == 0, said
    monkeypatch.setenv("COLUMNS", "40")  # a pipe cuts nothing off
    code, said = hqvox("runs", tmp_path)
    assert code == 0
    assert str(out) in said
    assert "recall_10" in said
    assert "first" in said
    assert "finished" in said
    assert "4/4" in said


def test_a_run_is_in_the_register_of_its_releases_workspace(
    hqvox, tiny: Release, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path / "w")
    workspace.storage.write("hqvox.yaml", b"format: 1\n")
    data = shutil.copytree(tiny.url, tmp_path / "w/releases/v1")
    given = ["train", "sf2f-64-tiny", "--data", data, "--out", tmp_path / "run", *SETTINGS, *SHORT]
    assert hqvox(*given, "--dry-run")[0] == 0
    assert read_outputs(workspace) == []
    code, said = hqvox(*given)
    assert code == 0, said
    (output,) = read_outputs(workspace)
    assert (output.kind, output.release) == ("training run", "v1")
    assert output.path == str(tmp_path / "run")


def test_ctrl_c_saves_and_says_how_to_go_on(
    hqvox, tiny: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = training_step.TrainStep.__call__

    def interrupted(self, batch):
        os.kill(os.getpid(), signal.SIGINT)
        return call(self, batch)

    out = tmp_path / "out"
    given = ["train", "sf2f-64-tiny", "--data", tiny.url, "--out", out, *SETTINGS, *SHORT]
    with monkeypatch.context() as patch:
        patch.setattr(training_step.TrainStep, "__call__", interrupted)
        code, said = hqvox(*given)
    assert code == 130
    assert "stopped after step 1 of 3, and saved; go on with: hqvox train sf2f-64-tiny" in said
    assert "--resume" in said
    assert hqvox(*given, "--resume")[0] == 0


NO_WEIGHTS = ("--set", "loss.perceptual.network=dlib_resnet")


def test_a_dry_run_checks_and_writes_nothing(hqvox, tiny: Release, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, said = hqvox(
        "train", "sf2f-64-tiny", "--data", tiny.url, "--out", out, *SETTINGS, "--dry-run"
    )
    assert code == 0, said
    assert "6 people, 18 faces, 12 utterances" in said
    assert "dry run" in said
    assert not out.exists()
    read_as = {line.split("  ")[0]: line.strip() for line in said.splitlines()}
    assert "at most 4" in read_as["stage 2"]
    assert read_as["stage 2"].endswith("neither"), "SETTINGS change it"
    assert read_as["evaluation"].endswith("paper")
    assert read_as["critics"].endswith("paper")
    released = ["train", "sf2f-64-released", "--data", tiny.url, "--out", out, *NO_WEIGHTS]
    code, said = hqvox(*released, "--dry-run")
    assert code == 0, said
    read_as = {line.split("  ")[0]: line.strip() for line in said.splitlines()}
    for part in ("networks", "critics", "learning rate", "stage 2", "pictures", "evaluation"):
        assert read_as[part].endswith("released code"), part
    # Without FaceNet's weights the readings are shown all the same, and then what is missing.
    code, said = hqvox(*released[:-2], "--dry-run")
    assert code == 1
    assert "hqvox models pull facenet_vggface2" in said.splitlines()[-1]
    shown = {line.split("  ")[0]: line.strip() for line in said.splitlines()}
    assert shown["critics"].endswith("released code")
    given = ["train", "sf2f-64-tiny", "--data", tiny.url, *SETTINGS, "--dry-run", "--out"]
    code, said = hqvox(*given, out, "--set", "stage1.encoder_weights=nowhere.pt")
    assert code == 1
    assert "nowhere.pt" in said
    (tmp_path / "letter.txt").write_text("mine")
    assert "not empty" in hqvox(*given, tmp_path)[1]


def test_a_sweep_trains_every_point_and_goes_on(
    hqvox, tiny: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, out = tmp_path / "grid.yaml", tmp_path / "sweep"
    grid.write_text("optimiser.learning_rate: [1e-4, 0.002]\nstage1.batch_size: [2, 4]\n")
    small = [part for s in SMALL if "batch_size" not in s for part in ("--set", s)]
    given = ["train", "sf2f-64-tiny", "--data", tiny.url, "--out", out, *small, *SHORT]
    code, said = hqvox(*given, "--sweep", grid, "--dry-run")
    assert (code, "4 points" in said, out.exists()) == (0, True, False)

    call, steps = training_step.TrainStep.__call__, 0

    def interrupted(self, batch):
        nonlocal steps
        steps += 1
        if steps == 5:  # of three steps a point: in the middle of the second
            os.kill(os.getpid(), signal.SIGINT)
        return call(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(training_step.TrainStep, "__call__", interrupted)
        code, said = hqvox(*given, "--sweep", grid)
    assert code == 130
    assert f"--sweep {grid}" in said
    first, second = "learning_rate=1e-4,batch_size=2", "learning_rate=1e-4,batch_size=4"
    assert sorted(path.name for path in out.iterdir()) == [first, second]
    before = (out / first / "log.jsonl").read_bytes()
    train = training_loop.train
    with monkeypatch.context() as patch:
        patch.setattr(
            training_loop, "train",
            lambda *given, **options: fail(train, *given, **options),
        )  # fmt: skip
        code, said = hqvox(*given, "--sweep", grid)
    assert code == 1
    assert "1 of 4 points failed, first learning_rate=0.002,batch_size=2: loss is not" in said
    assert (out / first / "log.jsonl").read_bytes() == before
    rows = list(csv.DictReader((out / "sweep.csv").open(encoding="utf-8")))
    assert [row["state"] for row in rows] == ["finished", "finished", "failed", "finished"]
    assert [row["stage1.batch_size"] for row in rows] == ["2", "4", "2", "4"]
    assert rows[1]["step"] == "3/3"
    assert float(rows[3]["cosine"]) <= 1
    with hold(out / second):
        code, said = hqvox(*given, "--sweep", grid)
    assert code == 0, said
    assert "another process is training it" in said
    code, said = hqvox(*given, "--set", "seed=7", "--sweep", grid)
    assert code == 1
    assert "started with other settings: seed" in said


def fail(train, config, *given, **options):
    """Train, but for one point of the sweep."""
    if (config.optimiser.learning_rate, config.stage1.batch_size) == (0.002, 2):
        raise HqvoxError("loss is not finite")
    return train(config, *given, **options)


def test_the_papers_grid_is_table_14() -> None:
    grid = read_sweep("table-14")
    configs = [load_train_config("sf2f-64", point.settings) for point in grid.points]
    values = {(c.optimiser.learning_rate, c.stage1.batch_size) for c in configs}
    rates, sizes = (1e-4, 2e-4, 5e-4, 1e-3), (64, 128, 256, 512)
    assert values == {(rate, size) for rate in rates for size in sizes}
    assert len({point.name for point in grid.points}) == len(values) == 16


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty; write a setting and its values"),
        ("stage1.batch_size: 4", "stage1.batch_size has no list of values"),
        ("stage1.batch_size: [4, 4]", "batch_size=4 is there twice"),
        ("stage1.batch_size: [4, zero]", "grid.yaml: batch_size=zero: --set stage1.batch_size"),
        (
            "optimiser.learning_rate: [1e-4, 0.0001]",
            "learning_rate=1e-4 and learning_rate=0.0001 are the same; give each value once",
        ),
        (f"stage1.encoder_weights: [{'é' * 130}]", "too long for a folder's name"),
        ("stage1.batch_sise: [4]", "stage1.batch_sise"),
        ("a: [", "grid.yaml:1"),
    ],
)
def test_a_sweep_that_cannot_be_is_one_line(hqvox, tiny, tmp_path: Path, text, why) -> None:
    (tmp_path / "grid.yaml").write_text(text)
    given = ["train", "sf2f-64-tiny", "--data", tiny.url, "--out", tmp_path / "out"]
    code, said = hqvox(*given, "--sweep", tmp_path / "grid.yaml")
    assert code == 1
    assert why in said
    assert not (tmp_path / "out").exists()


def test_a_sweep_takes_no_resume_and_needs_its_file(hqvox, tiny, tmp_path: Path) -> None:
    given = ["train", "sf2f-64-tiny", "--data", tiny.url, "--out", tmp_path / "out"]
    assert "leave --resume out" in hqvox(*given, "--sweep", "table-14", "--resume")[1]
    assert "name a file, or table-14" in hqvox(*given, "--sweep", "table-15")[1]


def test_mistakes_are_one_line_each(hqvox, tiny: Release, tmp_path: Path) -> None:
    mute = make_tiny_release(tmp_path / "mute")
    (tmp_path / "mute/speech/index.parquet").unlink()
    write_checksums(tmp_path / "mute")
    alone = make_tiny_release(tmp_path / "alone", train=1, val=0, test=0)
    lost = make_tiny_release(tmp_path / "lost", seed=3)
    next((tmp_path / "lost").rglob("masked_faces/*/1.jpg")).unlink()
    (tmp_path / "letter").mkdir()
    (tmp_path / "letter/mine.txt").write_text("keep")
    (tmp_path / "bad.pt").write_bytes(b"no checkpoint")
    out = tmp_path / "out"
    cases: dict[str, list[object]] = {
        "no voices": ["--data", mute.url, "--out", out],
        "1 identity": ["--data", alone.url, "--out", out],
        "missing": ["--data", lost.url, "--out", out],
        "not empty": ["--data", tiny.url, "--out", tmp_path / "letter"],
        "no release here": ["--data", tmp_path / "nothing", "--out", out],
        "device 'cuda:77' cannot be used": [
            "--data",
            tiny.url,
            "--out",
            out,
            "--device",
            "cuda:77",
        ],
        "not a checkpoint": ["--data", tiny.url, "--out", out, "--from", tmp_path / "bad.pt"],
        "hqvox models pull facenet_vggface2": [
            *("--data", tiny.url, "--out", out, "--set", "loss.perceptual.weight=1"),
            *("--set", "loss.perceptual.network=facenet_vggface2"),
        ],
    }
    for message, arguments in cases.items():
        code, said = hqvox("train", "sf2f-64-tiny", *SETTINGS, *arguments)
        assert code == 1, message
        assert message in said, said
        assert said.strip().count("\n") == 0, said
        assert said.count("hqvox models pull") <= 1, said
        assert not out.exists() or os.listdir(out) == [".lock"], message
    code, said = hqvox("runs", tmp_path / "letter")
    assert code == 1
    assert "no run of `hqvox train` here" in said
