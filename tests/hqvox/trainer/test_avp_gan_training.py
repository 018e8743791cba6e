"""Training AVP-GAN: equations 12 to 14, algorithm 1's order, resuming with the power iteration."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from hqvox.errors import HqvoxError
from hqvox.release.read import Release
from hqvox.trainer import checkpoint, losses
from hqvox.trainer.batches import BatchSource
from hqvox.trainer.config import TrainConfig
from hqvox.trainer.data import TrainingData
from hqvox.trainer.distributed import ProcessGroup
from hqvox.trainer.loop import Event, Stepped, train
from hqvox.trainer.recipes import load_train_config
from hqvox.trainer.speed import Speed
from hqvox.trainer.state import build_state
from hqvox.trainer.step import TrainStep
from models.sf2f.generator import build_generator
from models.sf2f.spec import GeneratorSpec
from tests.helpers.training_runs import differences, log_without_times

CPU = ProcessGroup(torch.device("cpu"))
HERE = (
    "model.n_filters=40",
    "data.front_end=sf2f",
    "model.width=0.05",
    "model.embedding_dim=16",
    "stage1.batch_size=4",
    "stage1.crop_frames=[60,90]",
    "speed.threads=1",
    "speed.bfloat16=false",
    "cadence.log_every=1",
)


@pytest.fixture(autouse=True)
def _cache(cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HQVOX_CACHE", str(cache_dir))


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of a voice encoder of the small size."""
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("voice") / "encoder.pt"
    spec = GeneratorSpec("cmu", "none", n_filters=40, embedding_dim=16, width=0.05)
    torch.save(build_generator(spec).encoder.state_dict(), path)
    return path


def avp(voice: Path, *settings: str, recipe: str = "avp-gan-64-tiny") -> TrainConfig:
    return load_train_config(recipe, [*HERE, f"stage1.encoder_weights={voice}", *settings])


def log_sigmoid(x: np.ndarray) -> np.ndarray:
    return -np.logaddexp(0, -x)


def log_softmax(x: np.ndarray) -> np.ndarray:
    return x - np.logaddexp.reduce(x, axis=1, keepdims=True)


def test_the_losses_are_equations_12_to_14() -> None:
    """Each of them as a mean to be minimised; of L_G the non-saturating form (algorithm 1)."""
    rng = np.random.default_rng(0)
    real, fake = rng.normal(0, 3, (2, 5))
    identity = rng.normal(0, 3, (5, 7))
    label = rng.integers(0, 7, 5)

    def two(scores: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.stack([np.zeros_like(scores), scores], axis=1))

    l_d = np.mean(np.log(1 / (1 + np.exp(-real)))) + np.mean(np.log(1 - 1 / (1 + np.exp(-fake))))
    assert losses.gan_discriminator(two(real), two(fake)).item() == pytest.approx(-l_d, rel=1e-5)
    l_c = np.mean(
        np.log((np.exp(identity) / np.exp(identity).sum(1, keepdims=True))[range(5), label])
    )
    classified = losses.classifier(torch.from_numpy(identity), torch.from_numpy(label))
    assert classified.item() == pytest.approx(-l_c, rel=1e-5)
    l_g = np.mean(log_softmax(identity)[range(5), label]) + np.mean(log_sigmoid(fake))
    total = classified + losses.gan_generator(two(fake))
    assert total.item() == pytest.approx(-l_g, rel=1e-5)


def test_the_losses_stay_finite_where_the_logarithm_would_not() -> None:
    sure = torch.tensor([[0.0, 300.0], [0.0, -300.0]], requires_grad=True)
    loss = losses.gan_discriminator(sure.flip(0), sure) + losses.gan_generator(sure)
    loss.backward()
    assert loss.item() == pytest.approx(150 + 150 + 150)
    assert sure.grad is not None
    assert sure.grad.isfinite().all()
    assert sure.grad.abs().max() > 0.4, "the generator still learns where D is sure"


def test_one_step_is_algorithm_1(tiny_data: TrainingData, voice: Path) -> None:
    """D, C, then G, on pictures generated once, against the same steps written out."""
    config = avp(voice)
    split = tiny_data.split("train")
    batch = BatchSource(split, config).stage1(0)
    assert not torch.equal(batch.identity, batch.face_identity)
    state = build_state(config, len(split), Speed(), CPU)
    torch.manual_seed(9)
    terms = dict(zip(*step_of(state, config, batch), strict=True))

    other = build_state(config, len(split), Speed(), CPU)
    generator, critics = other.generator, other.critics
    d, c = critics["discriminator_64"], critics["classifier_64"]
    torch.manual_seed(9)
    fake = generator(batch.log_mel)[0]
    real = batch.pictures[0]
    scores = [d(x)[:, 1].detach().double().numpy() for x in (real, fake.detach())]
    # The power iteration moved: what follows is computed as the step does, one forward each.
    loss_d = -(log_sigmoid(scores[0]).mean() + log_sigmoid(-scores[1]).mean())
    assert terms["discriminator_64"] == pytest.approx(loss_d, rel=1e-4)
    logits = c(real).detach().double().numpy()
    loss_c = -log_softmax(logits)[range(4), batch.face_identity.numpy()].mean()
    assert terms["classifier_64"] == pytest.approx(loss_c, rel=1e-4)
    # The generator's terms are by the critics' new weights.
    with torch.no_grad():
        now = state.critics["discriminator_64"].eval()(fake)[:, 1].double().numpy()
        named = state.critics["classifier_64"].eval()(fake).double().numpy()
    assert terms["gan"] == pytest.approx(-log_sigmoid(now).mean(), rel=2e-2)
    expected = -log_softmax(named)[range(4), batch.identity.numpy()].mean()
    assert terms["classifier"] == pytest.approx(expected, rel=2e-2)
    assert terms["total"] == pytest.approx(terms["gan"] + terms["classifier"], rel=1e-5)


def step_of(state, config: TrainConfig, batch) -> tuple[tuple[str, ...], list[float]]:
    step = TrainStep(state, None, [], config, Speed(), CPU)
    return step.names, step(batch).tolist()


def test_the_order_is_an_option(tiny_data: TrainingData, voice: Path) -> None:
    split = tiny_data.split("train")
    moved = {}
    for first in ("critics", "generator"):
        config = avp(voice, f"optimiser.first={first}", "optimiser.learning_rate=0.01")
        batch = BatchSource(split, config).stage1(0)
        state = build_state(config, len(split), Speed(), CPU)
        torch.manual_seed(9)
        moved[first] = dict(zip(*step_of(state, config, batch), strict=True))
    for critic in ("discriminator_64", "classifier_64"):
        # The same pictures, generated before any weights move.
        assert moved["critics"][critic] == pytest.approx(moved["generator"][critic], rel=1e-3)
    assert moved["critics"]["gan"] != pytest.approx(moved["generator"]["gan"], rel=1e-3)


@pytest.mark.parametrize("kind", ["avp_gan", "avp_gan_shared"])
def test_the_voice_encoder_stays_and_the_rest_moves(
    tiny: Release, voice: Path, tmp_path: Path, kind: str
) -> None:
    config = avp(voice, "stage1.iterations=2", f"model.discriminators={kind}")
    train(config, tiny, tmp_path, device="cpu")
    content = checkpoint.read(tmp_path / "checkpoints/last.pt")
    given = torch.load(voice, weights_only=True)
    for name, value in given.items():
        assert torch.equal(content["generator"][f"encoder.{name}"], value), name
    begun = build_state(config, 6, Speed(), CPU)
    assert differences(begun.generator.decoder.state_dict(),
                       {k.removeprefix("decoder."): v for k, v in content["generator"].items()
                        if k.startswith("decoder.")})  # fmt: skip
    names = {"avp_gan": {"discriminator_64", "classifier_64"}, "avp_gan_shared": {"shared_64"}}
    assert content["critics"].keys() == names[kind]
    figures = [line for line in log_without_times(tmp_path) if line["kind"] == "evaluate"]
    assert figures[-1]["figures"]["diversity"] >= 0


def test_a_frozen_encoder_needs_weights(tiny: Release, voice: Path, tmp_path: Path) -> None:
    config = load_train_config("avp-gan-64-tiny", HERE)
    with pytest.raises(HqvoxError, match=r"train voice-embedding.*stage1\.encoder_weights"):
        train(config, tiny, tmp_path / "out", device="cpu")
    state = {"generator": {f"encoder.{k}": v for k, v in
                           torch.load(voice, weights_only=True).items()},
             "normalise": {"kind": "utterance", "front_end": "voice2face"}}  # fmt: skip
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(HqvoxError, match=r"for data\.front_end=voice2face, not sf2f"):
        train(avp(tmp_path / "other.pt"), tiny, tmp_path / "out", device="cpu")


def test_a_stopped_run_resumes_to_the_bit(tiny: Release, voice: Path, tmp_path: Path) -> None:
    """Also the vectors of the power iteration, which move at every forward pass."""
    settings = ("stage1.iterations=6", "cadence.evaluate_every=3")
    config = avp(voice, *settings)
    whole = train(config, tiny, tmp_path / "whole", device="cpu")
    assert whole.state == "finished"

    def stop(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    stopped = train(config, tiny, tmp_path / "parts", device="cpu", on_event=stop)
    assert (stopped.state, stopped.signal) == ("stopped", signal.SIGTERM)
    train(config, tiny, tmp_path / "parts", device="cpu", resume=True)
    pair = [checkpoint.read(tmp_path / name / "checkpoints/last.pt") for name in ("whole", "parts")]
    assert differences(*pair) == []
    moving = [name for name in pair[0]["critics"]["classifier_64"] if name.endswith("._u")]
    assert len(moving) == 4
    assert log_without_times(tmp_path / "whole") == log_without_times(tmp_path / "parts")


def test_the_compiled_path_takes_spectral_normalisation(
    tiny_data: TrainingData, voice: Path
) -> None:
    """Through torch's tracer; the eager backend spares the test a compiler."""
    config = avp(voice)
    split = tiny_data.split("train")
    batch = BatchSource(split, config).stage1(0)
    values = []
    for compiled in (False, True):
        torch.compiler.reset()
        state = build_state(config, len(split), Speed(), CPU)
        torch.manual_seed(9)
        if compiled:
            for network in (state.generator.decoder, *state.critics.values()):
                network.forward = torch.compile(network.forward, backend="eager")
        values.append(step_of(state, config, batch)[1])
        values.append([float(v) for v in
                       state.critics["classifier_64"].state_dict()
                       ["trunk.convs.2.parametrizations.weight.0._u"]])  # fmt: skip
    np.testing.assert_allclose(values[2], values[0], rtol=1e-4)
    np.testing.assert_allclose(values[3], values[1], rtol=1e-4, atol=1e-5)
