"""One training step: who learns from it, in which order, and that fast paths are the plain one."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from hqvox.errors import HqvoxError
from hqvox.trainer.batches import BatchSource
from hqvox.trainer.config import TrainConfig
from hqvox.trainer.data import TrainingData
from hqvox.trainer.distributed import ProcessGroup
from hqvox.trainer.features import FeatureNetwork, RealFeatures, load_features
from hqvox.trainer.speed import Speed, resolve
from hqvox.trainer.state import State, build_state, enter_stage_2
from hqvox.trainer.step import TrainStep
from models.errors import ModelError
from models.inference import pick_device
from tests.helpers.training_runs import small_config

CPU = ProcessGroup(torch.device("cpu"))
PLAIN = Speed()
CONFIG = small_config("loss.perceptual.weight=100")


@pytest.fixture(scope="module")
def network() -> FeatureNetwork:
    return load_features("dlib_resnet")


def make(
    data: TrainingData,
    network: FeatureNetwork | None,
    config: TrainConfig = CONFIG,
    speed: Speed = PLAIN,
    stage: int = 1,
) -> tuple[State, TrainStep, BatchSource]:
    split = data.split("train")
    state = build_state(config, len(split), speed, CPU)
    if stage == 2:
        enter_stage_2(state, config, speed)
    known = network if config.loss.perceptual.weight else None
    features = [RealFeatures(network, split, px) for px in config.model.resolutions if known]
    return state, TrainStep(state, known, features, config, speed, CPU), BatchSource(split, config)


def weights(state: State) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": value.clone()
        for name, network in state.networks().items()
        for key, value in network.state_dict().items()
    }


def changed(state: State, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in weights(state).items() if not torch.equal(value, before[name])}


def of(names: set[str] | dict[str, torch.Tensor], *parts: str) -> set[str]:
    return {name for name in names if name.startswith(parts)}


@pytest.mark.parametrize("resolutions", ["[64]", "[64, 128]"])
def test_stage_1_moves_everything_but_the_fuser(
    tiny_data: TrainingData, network: FeatureNetwork, resolutions: str
) -> None:
    config = small_config("loss.perceptual.weight=100", f"model.resolutions={resolutions}")
    state, step, source = make(tiny_data, network, config)
    before = weights(state)
    for number in range(2):
        terms = step(source.stage1(number))
    assert torch.isfinite(terms).all()
    assert len(terms) == len(step.names)
    assert changed(state, before) == set(before) - of(before, "generator.fuser")


def test_stage_2_moves_the_fuser_and_the_critics_and_nothing_else(
    tiny_data: TrainingData, network: FeatureNetwork
) -> None:
    state, step, source = make(tiny_data, network, stage=2)
    before = weights(state)
    for number in range(2):
        step(source.stage2(number))
    still = of(before, "generator.encoder", "generator.decoder")  # batch norm's statistics too
    assert any("running_mean" in name for name in still)
    assert changed(state, before) == set(before) - still


def test_the_feature_network_never_moves(tiny_data: TrainingData, network: FeatureNetwork) -> None:
    before = copy.deepcopy(network.network.state_dict())
    _, step, source = make(tiny_data, network)
    step(source.stage1(0))
    after = network.network.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    assert all(p.grad is None for p in network.network.parameters())


@pytest.mark.parametrize(
    ("off", "critics", "terms"),
    [
        ("gan", {"classifier_64"}, {"l1", "classifier", "perceptual"}),
        ("classifier", {"discriminator_64"}, {"l1", "gan", "perceptual"}),
        ("l1", {"discriminator_64", "classifier_64"}, {"gan", "classifier", "perceptual"}),
        ("perceptual", {"discriminator_64", "classifier_64"}, {"gan", "classifier", "l1"}),
    ],
)
def test_a_loss_that_is_off_costs_nothing(
    tiny_data: TrainingData, network: FeatureNetwork, off: str, critics: set[str], terms: set[str]
) -> None:
    config = small_config("loss.perceptual.weight=100", f"loss.{off}.weight=0")
    state, step, source = make(tiny_data, network, config)
    assert set(state.critics) == critics
    assert set(step.names) == {"total", *critics, *terms}
    assert torch.isfinite(step(source.stage1(0))).all()


@pytest.mark.parametrize("recipe", ["voice2face-64-tiny", "voice2face-128-tiny"])
def test_critics_with_a_shared_trunk_step_once(tiny_data: TrainingData, recipe: str) -> None:
    config = small_config("model.discriminators=voice2face", recipe=recipe)
    state, step, source = make(tiny_data, None, config)
    assert list(state.critics) == [f"shared_{config.model.resolutions[0]}"]
    before = weights(state)
    assert torch.isfinite(step(source.stage1(0))).all()
    assert changed(state, before) == set(before)


def test_a_step_is_the_papers_iteration(tiny_data: TrainingData) -> None:
    """Against the same iteration written out: generator, then D_real, then D_id."""
    config = small_config()
    state, step, source = make(tiny_data, None, config)
    twin, _, _ = make(tiny_data, None, config)
    for number in range(2):
        batch = source.stage1(number)
        found = dict(zip(step.names, step(batch).tolist(), strict=True))
        expected = written_out(twin, config, batch)
        assert found == pytest.approx(expected, rel=1e-4)
    mine = weights(state)
    for name, value in weights(twin).items():
        # Two steps move a weight by up to 1e-3. Where a gradient is 0 but for rounding, Adam goes
        # either way, so single weights may differ: hence the mean.
        difference = (mine[name].float() - value.float()).abs().mean()
        assert difference < 1e-4 * max(1, value.float().abs().mean()), name


def written_out(state: State, config: TrainConfig, batch: SimpleNamespace) -> dict[str, float]:
    discriminate, classify = state.critics["discriminator_64"], state.critics["classifier_64"]
    adam, weight = state.optimisers, config.loss
    fake = state.generator(batch.log_mel)[0]
    real = batch.pictures[0]
    terms = {
        "l1": (fake - real).abs().mean(),
        "gan": -discriminate(fake).log_softmax(1)[:, 1].mean(),
        "classifier": torch.nn.functional.cross_entropy(classify(fake), batch.identity),
    }
    total = sum(getattr(weight, name).weight * value for name, value in terms.items())
    adam["generator"].zero_grad()
    total.backward()
    adam["generator"].step()
    fake = fake.detach()
    scores = (
        discriminate(real).log_softmax(1)[:, 1].mean()
        + discriminate(fake).log_softmax(1)[:, 0].mean()
    )
    adam["discriminator_64"].zero_grad()
    (-scores).backward()
    adam["discriminator_64"].step()
    wrong = torch.nn.functional.cross_entropy(classify(real), batch.identity)
    adam["classifier_64"].zero_grad()
    wrong.backward()
    adam["classifier_64"].step()
    own = {"total": total, **terms, "discriminator_64": -scores, "classifier_64": wrong}
    return {name: value.item() for name, value in own.items()}


def run(data: TrainingData, network: FeatureNetwork, speed: Speed, steps: int = 3) -> torch.Tensor:
    _, step, source = make(data, network, CONFIG, speed)
    return torch.stack([step(source.stage1(number)) for number in range(steps)])


TOLERANCES = {"channels_last": (1e-4, 0.02), "fused_adam": (1e-6, 0.02), "bfloat16": (0.02, 0.05)}
"""Largest relative difference of any loss at the first step, and at the two that follow. Adam moves
a weight by the learning rate whichever way a gradient near 0 is rounded, so that one step later
two orders of summation already differ by more. bfloat16 has 8 bits: 0.4 % a number."""


@pytest.mark.parametrize("path", TOLERANCES)
def test_a_fast_path_agrees_with_the_plain_one(
    tiny_data: TrainingData, network: FeatureNetwork, path: str
) -> None:
    plain = run(tiny_data, network, PLAIN)
    fast = run(tiny_data, network, replace(PLAIN, **{path: True}))
    first, later = TOLERANCES[path]
    torch.testing.assert_close(fast[0], plain[0], rtol=first, atol=1e-4)
    torch.testing.assert_close(fast[1:], plain[1:], rtol=later, atol=1e-3)


@pytest.mark.slow(seconds=60)
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_networks_agree_with_the_plain_ones(tiny_data: TrainingData) -> None:
    config = small_config()
    found = []
    for speed in (PLAIN, replace(PLAIN, compile=True)):
        _, step, source = make(tiny_data, None, config, speed)
        found.append(torch.stack([step(source.stage1(number)) for number in range(2)]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("path", ["tf32", "bfloat16", "compile", "cuda_graphs", "channels_last"])
def test_a_fast_path_of_a_gpu_agrees_with_the_plain_one(tiny_data: TrainingData, path: str) -> None:
    group = ProcessGroup(pick_device("cuda"))
    config, split, found = small_config(), tiny_data.split("train"), []
    for speed in (
        PLAIN,
        replace(PLAIN, **{path: True}, compile=path in ("compile", "cuda_graphs")),
    ):
        state = build_state(config, len(split), speed, group)
        step = TrainStep(state, None, [], config, speed, group)
        source = BatchSource(split, config, device=group.device)
        found.append(torch.stack([step(source.stage1(number)) for number in range(3)]).cpu())
    torch.testing.assert_close(found[1], found[0], rtol=0.05, atol=1e-3)


def test_gradients_are_cut_only_where_asked(tiny_data: TrainingData) -> None:
    moved = {}
    for clip in ("null", "1e-12"):
        config = small_config(f"optimiser.clip_norm={clip}", "optimiser.eps=1e-4")
        state, step, source = make(tiny_data, None, config)
        before = weights(state)
        step(source.stage1(0))
        after = weights(state)
        name = "generator.decoder.to_rgb.weight"
        name = name if name in before else max(of(before, "generator.decoder"))
        moved[clip] = (after[name].float() - before[name].float()).abs().max().item()
    assert moved["1e-12"] < 1e-6 < moved["null"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["speed.tf32=true"], "speed.tf32 needs a GPU"),
        (["speed.cuda_graphs=true"], "speed.cuda_graphs needs a GPU"),
    ],
)
def test_what_a_cpu_cannot_do_is_said(settings: list[str], message: str) -> None:
    with pytest.raises(HqvoxError, match=message):
        resolve(small_config(*settings).speed, torch.device("cpu"))


def test_every_path_can_be_switched_off_by_name() -> None:
    names = ("bfloat16", "tf32", "channels_last", "compile", "cuda_graphs", "fused_adam")
    config = small_config(*(f"speed.{name}=false" for name in names))
    for device in ("cpu", "cuda"):
        assert resolve(config.speed, torch.device(device)) == PLAIN
    assert resolve(small_config().speed, torch.device("cuda")).bfloat16


def test_devices_that_are_not_there_are_one_line() -> None:
    for name in ("cuda:99", "tpu", "meta", "nonsense"):
        with pytest.raises(ModelError, match=f"device {name!r} cannot be used"):
            pick_device(name)
    with pytest.raises(HqvoxError, match="--device mps: training runs on cpu or cuda"):
        resolve(small_config().speed, torch.device("mps"))
