"""GFPGAN's losses against NumPy, its degradation, and fine-tuning a tiny one on a tiny release."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from hqvox.cli.app import app
from hqvox.errors import HqvoxError
from hqvox.trainer.enhancement import losses
from hqvox.trainer.enhancement import train as training
from hqvox.trainer.enhancement.config import DegradationConfig, as_yaml, enhancement_config
from hqvox.trainer.enhancement.degrade import degrade, gaussian
from hqvox.trainer.enhancement.train import FineTuner, Teachers, fine_tune, load_teachers
from models.enhancement.critics import VggFeatures
from models.enhancement.gfpgan import load_enhancer, load_network
from models.errors import ModelError
from models.store import ModelStore
from tests.helpers.tiny_gfpgan import TINY_SIDE, save_tiny_gfpgan

TINY = [
    "critic_width=0.1", "batch_size=2", "learning_rate=0.002", "log_every=5", "save_every=6",
    "identity_network=dlib_resnet",
]  # fmt: skip


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_gfpgan(tmp_path_factory.mktemp("start") / "gfpgan.pth")


@pytest.fixture
def teachers(monkeypatch: pytest.MonkeyPatch) -> Teachers:
    """Tiny VGG-19 and face network of random weights, in place of the published ones."""
    torch.manual_seed(8)
    face = torch.nn.Sequential(
        torch.nn.AdaptiveAvgPool2d(8), torch.nn.Flatten(), torch.nn.Linear(192, 16)
    ).requires_grad_(False)
    tiny = Teachers(
        VggFeatures(width=1 / 16), lambda x: torch.nn.functional.normalize(face(x), dim=1)
    )
    monkeypatch.setattr(training, "load_teachers", lambda config, store, device: tiny)
    return tiny


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_adversarial_losses_are_as_numpy_has_them():
    real, fake = numbers(6, 1), numbers(6, 1, seed=1)
    generator = -np.log(sigmoid(fake.numpy())).mean()
    assert float(losses.generator_adversarial(fake)) == pytest.approx(generator, rel=1e-5)
    critic = -np.log(sigmoid(real.numpy())).mean() - np.log(1 - sigmoid(fake.numpy())).mean()
    assert float(losses.critic_adversarial(real, fake)) == pytest.approx(critic, rel=1e-5)
    assert float(losses.generator_adversarial(torch.full((1, 1), -1e4))) == pytest.approx(1e4)


def test_style_is_the_difference_of_gram_matrices():
    ours = [numbers(2, 3, 4, 5), numbers(2, 6, 2, 2, seed=1)]
    theirs = [numbers(2, 3, 4, 5, seed=2), numbers(2, 6, 2, 2, seed=3)]

    def gram(maps: np.ndarray) -> np.ndarray:
        _, c, h, w = maps.shape
        return np.einsum("nahw,nbhw->nab", maps, maps) / (c * h * w)

    expected = sum(
        weight * np.abs(gram(a.numpy()) - gram(b.numpy())).mean()
        for a, b, weight in zip(ours, theirs, (0.5, 1.0), strict=True)
    )
    assert float(losses.style(ours, theirs)) == pytest.approx(expected, rel=1e-5)


def test_weighted_l1_is_as_numpy_has_it():
    ours, theirs = [numbers(2, 3), numbers(4, seed=1)], [numbers(2, 3, seed=2), numbers(4, seed=3)]
    expected = sum(
        w * np.abs(a.numpy() - b.numpy()).mean()
        for a, b, w in zip(ours, theirs, (0.1, 1.0), strict=True)
    )
    assert float(losses.weighted_l1(ours, theirs, (0.1, 1.0))) == pytest.approx(expected, rel=1e-5)


def test_the_penalty_is_the_squared_slope_of_a_linear_critic():
    weights = numbers(3, 4, 4)
    pictures = numbers(2, 3, 4, 4, seed=1).requires_grad_(True)
    logits = (pictures * weights).sum(dim=(1, 2, 3))
    expected = float((weights**2).sum())
    assert float(losses.r1_penalty(logits, pictures)) == pytest.approx(expected, rel=1e-5)


def test_parts_are_around_the_eyes_and_mouth_of_ffhq():
    px = 512
    rows, columns = torch.meshgrid(torch.arange(px), torch.arange(px), indexing="ij")
    where = torch.stack([columns, rows, rows]).float()[None]
    for name, (x, y, side) in losses.FFHQ_PARTS.items():
        part = losses.part_of(where, name)
        assert part.shape[-2:] == (side, side)
        assert float(part[0, 0].mean()) == pytest.approx(x * px - 0.5, abs=0.6)
        assert float(part[0, 1].mean()) == pytest.approx(y * px - 0.5, abs=0.6)


def test_a_kernel_has_the_deviations_it_was_asked_for():
    kernel = gaussian(2.0, 4.0, 0.0).astype(np.float64)
    at = np.arange(41) - 20
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    assert (kernel.sum(0) * at**2).sum() == pytest.approx(4, rel=0.01)
    assert (kernel.sum(1) * at**2).sum() == pytest.approx(16, rel=0.01)
    turned = gaussian(2.0, 4.0, np.pi / 2)
    np.testing.assert_allclose(turned, kernel.T, atol=1e-6)


def test_bad_copies_lose_detail_and_keep_the_colours():
    rng = np.random.default_rng(3)
    sharp = (rng.random((64, 64, 3)) > 0.5).astype(np.float32)
    bad = degrade(sharp, DegradationConfig(), np.random.default_rng(1))
    assert bad.shape == sharp.shape
    assert bad.dtype == np.float32
    assert bad.std() < 0.8 * sharp.std()
    assert bad.mean() == pytest.approx(sharp.mean(), abs=0.05)
    again = degrade(sharp, DegradationConfig(), np.random.default_rng(1))
    np.testing.assert_array_equal(bad, again)
    mild = DegradationConfig(
        blur_sigma=(0.05, 0.05), downscale=(1.0, 1.0), noise=(0.0, 0.0), jpeg_quality=(100.0, 100.0)
    )
    assert np.abs(degrade(sharp, mild, np.random.default_rng(1)) - sharp).max() < 0.1


def test_the_weights_are_those_of_the_paper_and_every_number_names_its_source():
    config = enhancement_config()
    assert config.loss.model_dump() == {
        "l1": 0.1, "perceptual": 1.0, "adversarial": 0.1, "local": 1.0, "style": 200.0,
        "identity": 10.0,
    }  # fmt: skip
    assert (config.r1_weight, config.r1_every, config.learning_rate) == (10.0, 16, 2e-3)
    assert config.degradation.model_dump() == {
        "blur_sigma": (0.1, 10.0), "downscale": (0.8, 8.0), "noise": (0.0, 20.0),
        "jpeg_quality": (60.0, 100.0),
    }  # fmt: skip
    text = as_yaml(config)
    written = yaml.safe_load(text)
    assert enhancement_config([f"{k}={json.dumps(v)}" for k, v in written.items()]) == config
    for line in text.splitlines():
        if not line.endswith(":"):
            comment = line.partition("#")[2]
            assert any(source in comment for source in ("avp_gan", "gfpgan", "house")), line


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("loss.l2=1", r"loss\.l2: unknown key"),
        ("degradation.noise=[5, 1]", r"degradation\.noise must rise"),
        ("identity_network=vgg", "identity_network"),
    ],
)
def test_wrong_settings_are_one_line(setting, message):
    with pytest.raises(HqvoxError, match=message) as caught:
        enhancement_config([setting])
    assert "\n" not in str(caught.value)


def test_every_term_has_a_gradient_that_lowers_it(start, teachers, monkeypatch):
    """Each loss alone, on one batch, discriminators at rest: a few steps make it smaller."""
    monkeypatch.setattr(FineTuner, "_train_critics", lambda self, restored, real: {})
    torch.manual_seed(1)
    real = torch.nn.functional.interpolate(torch.rand(2, 3, 8, 8), size=TINY_SIDE)
    for name in enhancement_config().loss.model_dump():
        off = [f"loss.{n}={float(n == name)}" for n in enhancement_config().loss.model_dump()]
        config = enhancement_config([*TINY, *off])
        alone = Teachers(
            teachers.vgg if name == "perceptual" else None,
            teachers.identity if name == "identity" else None,
        )
        tuner = FineTuner(load_network(start), config, alone)
        terms = [float(tuner.step(real, real * 0.5)[name]) for _ in range(12)]
        assert sum(terms[-3:]) < 0.99 * sum(terms[:3]), (name, terms)


def test_fine_tuning_lowers_its_loss_on_a_tiny_release(tiny, start, teachers, tmp_path, cache_dir):
    config = enhancement_config([*TINY, "iterations=40", "average_decay=0.8", "batch_size=4"])
    notes: list[str] = []
    tuned = fine_tune(config, tiny, tmp_path / "run", start=start, device="cpu",
                      cache_dir=cache_dir, on_note=notes.append)  # fmt: skip
    assert tuned.faces == 6  # 2 people of val, 3 faces each
    assert tuned.after < 0.8 * tuned.before
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").open()]
    logged = [line["terms"] for line in lines if "terms" in line]
    assert len(logged) == 8
    assert set(logged[0]) == {
        "l1", "perceptual", "adversarial", "local", "style", "identity", "total", "D_face",
        "D_left_eye", "D_right_eye", "D_mouth",
    }  # fmt: skip
    assert logged[-1]["l1"] < logged[0]["l1"]
    assert notes[0].startswith("step 5: l1 ")
    enhance = load_enhancer(tuned.enhancer)
    assert enhance(torch.rand(1, 3, 64, 64)).shape == (1, 3, TINY_SIDE, TINY_SIDE)


def test_a_resumed_fine_tuning_ends_with_the_same_weights(
    tiny, start, teachers, tmp_path, cache_dir
):
    def run(where: str, iterations: int, **options) -> Path:
        config = enhancement_config([*TINY, f"iterations={iterations}", "r1_every=4"])
        folder = tmp_path / where
        return fine_tune(config, tiny, folder, start=start, device="cpu", cache_dir=cache_dir,
                         **options).enhancer  # fmt: skip

    whole = torch.load(run("whole", 8), weights_only=True)
    run("parts", 5)
    parts = torch.load(run("parts", 8, resume=True), weights_only=True)
    for name, value in whole["params_ema"].items():
        torch.testing.assert_close(parts["params_ema"][name], value, rtol=0, atol=0)
    other = enhancement_config([*TINY, "r1_every=4", "learning_rate=0.1"])
    with pytest.raises(HqvoxError, match="has another learning_rate; resume it with the same"):
        fine_tune(other, tiny, tmp_path / "parts", start=start, device="cpu", cache_dir=cache_dir,
                  resume=True)  # fmt: skip


def test_a_loss_that_is_not_finite_stops_with_one_line(tiny, start, teachers, tmp_path, cache_dir):
    config = enhancement_config([*TINY, "iterations=2", "loss.l1=1e39"])
    with pytest.raises(HqvoxError, match="the loss is not finite"):
        fine_tune(config, tiny, tmp_path, start=start, device="cpu", cache_dir=cache_dir)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([], "'vgg19' are missing: run `hqvox models pull vgg19`.*loss.perceptual=0"),
        (["loss.perceptual=0"], "'arcface_r50' are missing: .*identity_network=dlib_resnet"),
    ],
)
def test_missing_networks_are_named_with_the_command(tmp_path, settings, message):
    with pytest.raises(ModelError, match=message):
        load_teachers(enhancement_config(settings), ModelStore(tmp_path, mirror=""), "cpu")


def test_the_command_trains_with_dlib_and_without_vgg(tiny, start, tmp_path, monkeypatch):
    monkeypatch.setenv("HQVOX_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "run"
    arguments = ["train-enhancer", "--data", tiny.url, "--out", str(out), "--from", str(start)]
    settings = [*TINY, "iterations=2", "loss.perceptual=0"]
    arguments += [a for setting in settings for a in ("--set", setting)]
    done = CliRunner().invoke(app, [*arguments, "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert "reconstruction loss of 6 faces" in done.output
    assert str(out / "checkpoints" / "enhancer.pth") in done.output.replace("\n", "")
    taken = CliRunner().invoke(app, arguments)
    assert "already holds a run" in str(taken.exception)
