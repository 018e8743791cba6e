"""Two processes that share every batch train what one trains."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hqvox.release.read import Release
from hqvox.trainer import checkpoint
from hqvox.trainer.loop import train
from models.sf2f.generator import build_generator
from models.sf2f.spec import GeneratorSpec
from tests.helpers.training_runs import SMALL, log_without_times, small_config

SETTINGS = ("speed.bfloat16=false", "cadence.log_every=1", "model.resolutions=[64, 128]")
STAGE_1 = ("stage1.iterations=1", "stage2.iterations=0")
STAGE_2 = ("stage1.iterations=0", "stage2.iterations=1")
PROCESS = """
import sys
from pathlib import Path
from hqvox.release.read import Release
from hqvox.trainer.loop import train
from hqvox.trainer.recipes import load_train_config
release, out, start, *settings = sys.argv[1:]
config = load_train_config(settings.pop(0), settings)
train(config, Release(release), Path(out), device="cpu", start=Path(start) if start else None)
"""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def train_with_two(
    release: Release,
    out: Path,
    cache: Path,
    start: Path | None,
    *settings: str,
    recipe: str = "sf2f-64-tiny",
) -> None:
    """As torchrun starts them."""
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    shared |= {"MASTER_PORT": str(free_port()), "HQVOX_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    code = [
        sys.executable,
        "-c",
        PROCESS,
        release.url,
        str(out),
        str(start or ""),
        recipe,
        *SMALL,
        *settings,
    ]
    both = [
        subprocess.Popen(
            code,
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in both:
        _, errors = process.communicate(timeout=1200)
        assert process.returncode == 0, errors


@pytest.mark.slow(seconds=30)
def test_two_processes_train_what_one_does(
    tiny: Release, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HQVOX_CACHE", str(cache_dir))
    start: Path | None = None
    for stage, iterations in ((1, STAGE_1), (2, STAGE_2)):
        one, two = tmp_path / f"one-{stage}", tmp_path / f"two-{stage}"
        settings = (*SETTINGS, *iterations)
        train(small_config(*settings), tiny, one, device="cpu", start=start)
        train_with_two(tiny, two, cache_dir, start, *settings)
        mine, theirs = log_without_times(one), log_without_times(two)
        assert theirs[0]["terms"] == pytest.approx(mine[0]["terms"], rel=1e-4)
        pair = [checkpoint.read(out / "checkpoints/last.pt") for out in (one, two)]
        assert_same_gradients(*pair)
        assert_same_statistics(*pair)
        start = one / "checkpoints/last.pt"


def assert_same_gradients(one: dict[str, Any], two: dict[str, Any]) -> None:
    """Adam's first moment is a tenth of the gradient after the first step.

    Within 5 %: batch norm over four pictures, layer upon layer, makes that of rounding; statistics
    or gradients of half a batch would be off by half. Gradients that are 0 but for rounding, as of
    what batch norm takes away again, are measured by the largest.
    """
    for name, adam in one["optimisers"].items():
        other = two["optimisers"][name]["state"]
        assert adam["state"].keys() == other.keys()
        largest = max(moments["exp_avg"].norm() for moments in adam["state"].values())
        for key, moments in adam["state"].items():
            gradient, theirs = moments["exp_avg"], other[key]["exp_avg"]
            allowed = 0.05 * max(gradient.norm(), 0.01 * largest)
            assert (gradient - theirs).norm() < allowed, (name, key)


def assert_same_statistics(one: dict[str, Any], two: dict[str, Any]) -> None:
    """Batch norm's, of the whole batch: those of a half would be off by a quarter."""
    for network in ("generator", *one["critics"]):
        of = [state.get(network) or state["critics"][network] for state in (one, two)]
        names = [name for name in of[0] if "running" in name]
        assert names
        for name in names:
            torch.testing.assert_close(of[1][name], of[0][name], rtol=1e-3, atol=1e-4)


@pytest.mark.slow(seconds=20)
def test_two_processes_train_avp_gan_as_one_does(
    tiny: Release, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The power iteration of spectral normalisation moves alike, and a frozen encoder stays."""
    monkeypatch.setenv("HQVOX_CACHE", str(cache_dir))
    torch.manual_seed(5)
    spec = GeneratorSpec("cmu", "none", n_filters=40, embedding_dim=16, width=0.05)
    torch.save(build_generator(spec).encoder.state_dict(), tmp_path / "voice.pt")
    settings = (
        "speed.bfloat16=false",
        "cadence.log_every=1",
        "model.n_filters=40",
        "data.front_end=sf2f",
        "stage1.crop_frames=[60,90]",
        "stage1.iterations=2",
        f"stage1.encoder_weights={tmp_path / 'voice.pt'}",
    )
    recipe = "avp-gan-64-tiny"
    train(small_config(*settings, recipe=recipe), tiny, tmp_path / "one", device="cpu")
    train_with_two(tiny, tmp_path / "two", cache_dir, None, *settings, recipe=recipe)
    one, two = (checkpoint.read(tmp_path / name / "checkpoints/last.pt") for name in ("one", "two"))
    logs = [log_without_times(tmp_path / name)[0]["terms"] for name in ("one", "two")]
    for term in ("discriminator_64", "classifier_64"):
        # Noise on the embeddings differs by process; faces that are told apart do not.
        assert logs[1][term] == pytest.approx(logs[0][term], rel=0.1)
    for name, value in one["critics"]["classifier_64"].items():
        theirs = two["critics"]["classifier_64"][name]
        torch.testing.assert_close(theirs, value, rtol=1e-3, atol=1e-4)
    for name, value in torch.load(tmp_path / "voice.pt", weights_only=True).items():
        assert torch.equal(two["generator"][f"encoder.{name}"], value), name
