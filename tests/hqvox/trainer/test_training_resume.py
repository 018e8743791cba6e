"""A run that is interrupted, however, and resumed is bit for bit the run that was not."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from hqvox.cli.train import run_config
from hqvox.errors import HqvoxError
from hqvox.release.read import Release
from hqvox.trainer import checkpoint
from hqvox.trainer.loop import Evaluated, Event, Stepped, train
from hqvox.trainer.runs import hold, read_info
from tests.helpers.tiny_release import make_tiny_release
from tests.helpers.training_runs import differences, log_without_times, small_config

ITERATIONS = ("stage1.iterations=8", "stage2.iterations=4", "cadence.evaluate_every=5")


@pytest.fixture(autouse=True)
def _cache(cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HQVOX_CACHE", str(cache_dir))


@pytest.fixture(scope="module")
def undisturbed(tiny: Release, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HQVOX_CACHE", str(cache_dir))
        assert train(small_config(*ITERATIONS), tiny, out).state == "finished"
    return out


def signal_after(step: int, number: int = signal.SIGTERM) -> Callable[[Event], None]:
    def on_event(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == step:
            os.kill(os.getpid(), number)

    return on_event


class Killed(BaseException):
    """Ends a run without giving it a chance to save."""


def die_after(step: int, kind: type) -> Callable[[Event], None]:
    def on_event(event: Event) -> None:
        if isinstance(event, kind) and event.step == step:
            raise Killed

    return on_event


def assert_same_run(one: Path, other: Path) -> None:
    assert log_without_times(one) == log_without_times(other)
    assert sorted(os.listdir(one / "checkpoints")) == sorted(os.listdir(other / "checkpoints"))
    for name in os.listdir(one / "checkpoints"):
        pair = [checkpoint.read(folder / "checkpoints" / name) for folder in (one, other)]
        for state in pair:
            state["config"].pop("cadence")
        assert differences(*pair) == [], name
    for name in os.listdir(one / "samples"):
        assert (one / "samples" / name).read_bytes() == (other / "samples" / name).read_bytes()


@pytest.mark.parametrize("step", [1, 8, 10])
def test_stopped_by_a_signal_and_resumed(
    tiny: Release, undisturbed: Path, tmp_path: Path, step: int
) -> None:
    config = small_config(*ITERATIONS)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    outcome = train(config, tiny, tmp_path, on_event=signal_after(step))
    # The event comes when the step is done and before the next begins, where the signal is seen.
    assert outcome.state == "stopped"
    assert outcome.step in (step, step + 1)
    assert outcome.signal == signal.SIGTERM
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert train(config, tiny, tmp_path, resume=True).state == "finished"
    assert_same_run(undisturbed, tmp_path)


@pytest.mark.parametrize(("step", "kind"), [(1, Stepped), (7, Stepped), (5, Evaluated)])
def test_killed_and_resumed(
    tiny: Release, undisturbed: Path, tmp_path: Path, step: int, kind: type
) -> None:
    config = small_config(*ITERATIONS, "cadence.checkpoint_every=2")
    with pytest.raises(Killed):
        train(config, tiny, tmp_path, on_event=die_after(step, kind))
    assert train(config, tiny, tmp_path, resume=True).state == "finished"
    assert_same_run(undisturbed, tmp_path)


def test_with_the_perceptual_loss_and_noise_too(tiny: Release, tmp_path: Path) -> None:
    config = small_config(
        "loss.perceptual.weight=100",
        "model.encoder=plain_released",
        "stage1.iterations=3",
        "stage2.iterations=0",
    )
    train(config, tiny, tmp_path / "one")
    train(config, tiny, tmp_path / "other", on_event=signal_after(1))
    assert train(config, tiny, tmp_path / "other", resume=True).state == "finished"
    assert_same_run(tmp_path / "one", tmp_path / "other")


FALLING = (
    "stage1.iterations=8",
    "stage2.iterations=2",
    "stage2.learning_rate=1e-4",
    "stage2.restart_critics=true",
    "optimiser.schedule.kind=linear",
    "optimiser.schedule.begin=4",
    "optimiser.schedule.freeze_norms=true",
    "cadence.evaluate_every=5",
    "cadence.checkpoint_every=1",
)


@pytest.fixture(scope="module")
def falling(tiny: Release, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose rate falls and whose batch norm is frozen from step 4 on."""
    out = tmp_path_factory.mktemp("runs") / "falling"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HQVOX_CACHE", str(cache_dir))
        assert train(small_config(*FALLING), tiny, out).state == "finished"
    return out


@pytest.mark.parametrize("step", [4, 6, 9])
def test_with_a_schedule_too(tiny: Release, falling: Path, tmp_path: Path, step: int) -> None:
    """Killed just before the rate falls, while it falls, and in stage 2."""
    config = small_config(*FALLING)
    with pytest.raises(Killed):
        train(config, tiny, tmp_path, on_event=die_after(step + 1, Stepped))
    assert checkpoint.read(tmp_path / "checkpoints/last.pt")["step"] == step
    assert train(config, tiny, tmp_path, resume=True).state == "finished"
    assert_same_run(falling, tmp_path)


def test_a_run_whose_rate_falls_is_not_extended(tiny: Release, tmp_path: Path) -> None:
    """It would have fallen otherwise; before it falls, a run may still be extended."""
    first = FALLING[2:]
    config = small_config("stage1.iterations=8", "stage2.iterations=0", *first)
    for at, allowed in ((4, True), (6, False)):
        out = tmp_path / str(at)
        with pytest.raises(Killed):
            train(config, tiny, out, on_event=die_after(at + 1, Stepped))
        longer = small_config("stage1.iterations=9", "stage2.iterations=0", *first)
        if allowed:
            assert train(longer, tiny, out, resume=True).step == 9
        else:
            with pytest.raises(HqvoxError, match=r"from step 4 on, so stage1\.iterations stays"):
                train(longer, tiny, out, resume=True)


NEWER = {
    "optimiser": ("schedule",),
    "stage2": ("learning_rate", "restart_critics"),
    "loss.perceptual": ("clamp",),
    "data": ("resize", "drop_last"),
    "": ("evaluation",),
}
"""Keys that runs of earlier versions do not have."""


def test_a_run_of_an_earlier_version_is_resumed(
    tiny: Release, undisturbed: Path, tmp_path: Path
) -> None:
    config = small_config(*ITERATIONS, "cadence.checkpoint_every=2")
    with pytest.raises(Killed):
        train(config, tiny, tmp_path, on_event=die_after(7, Stepped))
    last = tmp_path / "checkpoints/last.pt"
    content = checkpoint.read(last)
    written = yaml.safe_load((tmp_path / "config.yaml").read_text())
    for settings in (content["config"], written):
        for path, names in NEWER.items():
            section = settings
            for part in filter(None, path.split(".")):
                section = section[part]
            for name in names:
                del section[name]
    checkpoint.save(last, content)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(written))
    resumed = run_config("sf2f-64-tiny", tmp_path, [], resume=True)
    assert train(resumed, tiny, tmp_path, resume=True).state == "finished"
    pair = [checkpoint.read(out / "checkpoints/last.pt") for out in (undisturbed, tmp_path)]
    assert differences(*({k: v for k, v in state.items() if k != "config"} for state in pair)) == []


def test_a_run_of_a_newer_version_is_one_line(tiny: Release, tmp_path: Path) -> None:
    config = small_config("stage1.iterations=1", "stage2.iterations=0")
    train(config, tiny, tmp_path)
    last = tmp_path / "checkpoints/last.pt"
    content = checkpoint.read(last)
    content["config"]["optimiser"]["momentum"] = 0.5
    checkpoint.save(last, content)
    with pytest.raises(HqvoxError, match=r"setting optimiser\.momentum is not one of"):
        train(config, tiny, tmp_path, resume=True)


def test_a_run_can_be_extended(tiny: Release, undisturbed: Path, tmp_path: Path) -> None:
    short = ("stage1.iterations=8", "stage2.iterations=0", "cadence.evaluate_every=5")
    train(small_config(*short), tiny, tmp_path)
    train(small_config(*ITERATIONS), tiny, tmp_path, resume=True)
    pair = [checkpoint.read(out / "checkpoints/last.pt") for out in (undisturbed, tmp_path)]
    assert differences(*pair) == []
    assert log_without_times(undisturbed) == log_without_times(tmp_path)


def test_resuming_what_has_not_begun_begins(tiny: Release, tmp_path: Path) -> None:
    config = small_config("stage1.iterations=1", "stage2.iterations=0")
    assert train(config, tiny, tmp_path / "new", resume=True).step == 1


def test_resuming_what_is_finished_changes_nothing(tiny: Release, undisturbed: Path) -> None:
    before = (undisturbed / "checkpoints/last.pt").read_bytes()
    outcome = train(small_config(*ITERATIONS), tiny, undisturbed, resume=True)
    assert (outcome.state, outcome.step) == ("finished", 12)
    assert (undisturbed / "checkpoints/last.pt").read_bytes() == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["loss.l1.weight=5"], r"started with other settings: loss.l1.weight 10.0 not 5.0; leave"),
        (["seed=3", "optimiser.betas=[0.5, 0.9]"], r"optimiser.betas .* not .*, seed 0 not 3"),
        (["stage1.iterations=9"], "stage 2 has begun, so stage1.iterations stays 8"),
        (["stage2.iterations=3"], "12 iterations are done, more than the 11"),
    ],
    ids=["weight", "several", "stage-1", "fewer"],
)
def test_a_run_goes_on_with_its_own_settings_only(
    tiny: Release, undisturbed: Path, settings: list[str], message: str
) -> None:
    before = read_info(undisturbed)
    with pytest.raises(HqvoxError, match=message) as error:
        train(small_config(*ITERATIONS, *settings), tiny, undisturbed, resume=True)
    assert "\n" not in str(error.value)
    assert read_info(undisturbed) == before


def test_a_run_goes_on_with_its_own_data_only(undisturbed: Path, tmp_path: Path) -> None:
    other = make_tiny_release(tmp_path / "other", seed=5)
    with pytest.raises(HqvoxError, match="not the release that this run was started with"):
        train(small_config(*ITERATIONS), other, undisturbed, resume=True)


def test_a_checkpoint_of_another_recipe_is_refused(tiny: Release, undisturbed: Path) -> None:
    config = small_config("stage1.iterations=8", recipe="voice2face-64-tiny")
    message = "a checkpoint of recipe sf2f-64-tiny, not voice2face-64-tiny"
    with pytest.raises(HqvoxError, match=message):
        train(config, tiny, undisturbed, resume=True)


@pytest.mark.parametrize("lost", ["stage", "optimisers", "generator"])
def test_a_checkpoint_without_all_that_is_needed_is_one_line(
    tiny: Release, undisturbed: Path, tmp_path: Path, lost: str
) -> None:
    shutil.copytree(undisturbed, tmp_path / "run")
    last = tmp_path / "run/checkpoints/last.pt"
    content = checkpoint.read(last)
    for left in (None, {} if lost != "stage" else "two"):
        checkpoint.save(last, {**content, lost: left})
        with pytest.raises(HqvoxError, match=rf"last\.pt: damaged.*{lost}|last\.pt: .*another"):
            train(small_config(*ITERATIONS), tiny, tmp_path / "run", resume=True)


def test_a_folder_is_not_trained_into_twice(
    tiny: Release, undisturbed: Path, tmp_path: Path
) -> None:
    config = small_config(*ITERATIONS)
    with pytest.raises(HqvoxError, match="already holds a run; continue it with --resume"):
        train(config, tiny, undisturbed)
    (tmp_path / "letter.txt").write_text("mine")
    for resume in (False, True):
        with pytest.raises(HqvoxError, match="not empty, and no run"):
            train(config, tiny, tmp_path, resume=resume)
    with hold(tmp_path / "held"), pytest.raises(HqvoxError, match="a training is running here"):
        train(config, tiny, tmp_path / "held")
