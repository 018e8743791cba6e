"""`hqvox train` and `hqvox runs` as a user meets them: one line for each mistake."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from hqvox.cli import app
from hqvox.release.read import Release
from hqvox.trainer import step as training_step
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
    given = ["train", "sf2f-64-tiny", "--data", tiny.url, *SETTINGS, "--dry-run", "--out"]
    code, said = hqvox(*given, out, "--set", "stage1.encoder_weights=nowhere.pt")
    assert code == 1
    assert "nowhere.pt" in said
    (tmp_path / "letter.txt").write_text("mine")
    assert "not empty" in hqvox(*given, tmp_path)[1]


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
