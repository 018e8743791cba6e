"""The training step of the `-released` recipes is that of the released code.

The step is restated here from the published description in elementary tensor operations in
float64, with nothing of ``models`` or ``hqvox.trainer`` in it but the initial weights. Every loss
and every weight of three steps must agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hqvox.trainer.batches import Batch, FusedBatch
from hqvox.trainer.config import TrainConfig
from hqvox.trainer.data import TrainingData
from hqvox.trainer.distributed import ProcessGroup
from hqvox.trainer.features import FaceNetFeatures, RealFeatures
from hqvox.trainer.recipes import load_train_config
from hqvox.trainer.speed import Speed
from hqvox.trainer.state import State, build_state, enter_stage_2, prepare_step
from hqvox.trainer.step import TrainStep
from models.sf2f.colour import from_unit

PEOPLE, PAIRS = 5, 4
TOLERANCE = 1e-5
SMALL = ("model.width=0.05", "model.embedding_dim=16")
LAST_SIXTH = (
    "stage1.iterations=3",
    "optimiser.schedule.begin=1",
    "optimiser.schedule.every=1",
)
"""Three steps, of which the second is the first of the last sixth."""
Tensors = dict[str, torch.Tensor]


class SmallFaceNet(nn.Module):
    """A fixed random network of FaceNet's shape: three maps and an embedding of length 1."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        sizes = (3, 8, 12, 16)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 5, 4) for a, b in pairwise(sizes))
        self.last_linear = nn.Linear(16, 10, bias=False)

    def features(self, x: torch.Tensor) -> list[torch.Tensor]:
        """As ``InceptionResnetV1.features``, of (n, 3, 140, 140)."""
        maps = []
        for conv in self.convs:
            x = torch.tanh(conv(x))
            maps.append(x)
        return [*maps, F.normalize(self.last_linear(x.mean(dim=(2, 3))), dim=1)]


# The released step, restated.


class Adam:
    """Adam by its formula (Kingma and Ba, algorithm 1), of tensors that need gradients."""

    def __init__(self, weights: Tensors) -> None:
        self.weights, self.steps = weights, 0
        self.first = {name: torch.zeros_like(value) for name, value in weights.items()}
        self.second = {name: torch.zeros_like(value) for name, value in weights.items()}

    def step(self, loss: torch.Tensor, rate: float) -> None:
        """Minimise ``loss`` by one step; the betas are the released code's."""
        names = list(self.weights)
        slopes = torch.autograd.grad(loss, [self.weights[name] for name in names])
        self.steps += 1
        for name, slope in zip(names, slopes, strict=True):
            self.first[name] = 0.9 * self.first[name] + 0.1 * slope
            self.second[name] = 0.999 * self.second[name] + 0.001 * slope**2
            mean = self.first[name] / (1 - 0.9**self.steps)
            size = (self.second[name] / (1 - 0.999**self.steps)).sqrt()
            with torch.no_grad():
                self.weights[name] -= rate * mean / (size + 1e-8)


def batch_norm(x: torch.Tensor, net: Tensors, name: str, rows: slice, train: bool) -> torch.Tensor:
    """Batch norm of the channels ``rows`` of a norm; in training it updates the statistics."""
    shape = (1, -1, *[1] * (x.dim() - 2))
    if train:
        axes = [axis for axis in range(x.dim()) if axis != 1]
        mean, var = x.mean(axes), x.var(axes, unbiased=False)
        count = x.numel() / x.shape[1]
        with torch.no_grad():
            for kind, value in (("mean", mean), ("var", var * count / (count - 1))):
                kept = net[f"{name}.running_{kind}"]
                kept[rows] = 0.9 * kept[rows] + 0.1 * value
    else:
        mean, var = net[f"{name}.running_mean"][rows], net[f"{name}.running_var"][rows]
    scale, shift = net[f"{name}.weight"][rows], net[f"{name}.bias"][rows]
    centred = (x - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt()
    return centred * scale.view(shape) + shift.view(shape)


ALL = slice(None)


def embed(net: Tensors, log_mel: torch.Tensor, train: bool) -> torch.Tensor:
    """(n, 40, t) to (n, dim): four inception blocks, a convolution, the mean over time, length 1.

    Each branch has its own batch norm; after it kernel 2 loses its last step where it has more.
    """
    x = log_mel
    for layer in range(4):
        name = f"encoder.layers.{layer}"
        branches = []
        for number, padding in enumerate((1, 1, 2, 3)):
            y = F.conv1d(x, net[f"{name}.convs.{number}.weight"], stride=2, padding=padding)
            rows = slice(number * y.shape[1], (number + 1) * y.shape[1])
            branches.append(batch_norm(y, net, f"{name}.norm", rows, train).clamp(min=0))
        if branches[0].shape[2] > branches[1].shape[2]:
            branches[0] = branches[0][:, :, :-1]
        x = torch.cat(branches, dim=1)
    x = F.conv1d(x, net["encoder.layers.4.weight"], net["encoder.layers.4.bias"], 2, 1)
    return length_1(x.mean(dim=2))


def fuse(net: Tensors, windows: torch.Tensor) -> torch.Tensor:
    """(n, w, dim) to (n, dim) of length 1."""
    query = windows @ net["fuser.score.weight"].T
    weights = (query @ windows.transpose(1, 2)).softmax(dim=2)
    joined = torch.cat([weights @ windows, query], dim=2)
    return length_1((joined @ net["fuser.combine.weight"].T).mean(dim=1))


def length_1(x: torch.Tensor) -> torch.Tensor:
    return x / x.pow(2).sum(dim=1, keepdim=True).sqrt()


def gate(x: torch.Tensor) -> torch.Tensor:
    half = x.shape[1] // 2
    return x[:, :half] / (1 + (-x[:, half:]).exp())


def decode(net: Tensors, embedding: torch.Tensor, train: bool) -> list[torch.Tensor]:
    """(n, dim) to pictures, low to high."""
    x = embedding @ net["decoder.linear.weight"].T
    x = gate(batch_norm(x, net, "decoder.norm", ALL, train)).view(len(x), -1, 4, 4)
    pictures, block = [], 0
    while f"decoder.blocks.{block}.conv.weight" in net:
        x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        x = F.conv2d(x, net[f"decoder.blocks.{block}.conv.weight"], padding=1)
        x = gate(batch_norm(x, net, f"decoder.blocks.{block}.norm", ALL, train))
        head = f"decoder.heads.{x.shape[3]}"
        if f"{head}.conv.weight" in net:
            y = F.conv2d(x, net[f"{head}.conv.weight"], net[f"{head}.conv.bias"], padding=1)
            y = torch.where(y > 0, y, 0.01 * y)
            pictures.append(F.conv2d(y, net[f"{head}.to_rgb.weight"], net[f"{head}.to_rgb.bias"]))
        block += 1
    return pictures


def trunk(net: Tensors, x: torch.Tensor) -> torch.Tensor:
    """Convolutions 4/2/0, batch norm and leaky ReLU of 0.1 before all but the first."""
    block = 0
    while f"trunk.convs.{block}.weight" in net:
        if block:
            x = batch_norm(x, net, f"trunk.norms.{block - 1}", ALL, True)
            x = torch.where(x > 0, x, 0.1 * x)
        x = F.conv2d(x, net[f"trunk.convs.{block}.weight"], net[f"trunk.convs.{block}.bias"], 2)
        block += 1
    return x


def patches(net: Tensors, pictures: torch.Tensor) -> torch.Tensor:
    """The image discriminator's logit of every patch."""
    return F.conv2d(trunk(net, pictures), net["real.weight"], net["real.bias"])


def identify(net: Tensors, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The identity discriminator's logits: of real, and of every identity."""
    x = trunk(net, pictures).mean(dim=(2, 3)) @ net["hidden.weight"].T + net["hidden.bias"]
    real, identity = (x @ net[f"{h}.weight"].T + net[f"{h}.bias"] for h in ("real", "identity"))
    return real, identity


def cross_entropy(logits: torch.Tensor, label: float) -> torch.Tensor:
    """Mean binary cross-entropy of logits with one label."""
    return (logits.clamp(min=0) - logits * label + (1 + (-logits.abs()).exp()).log()).mean()


def wrong_identity(logits: torch.Tensor, identity: torch.Tensor) -> torch.Tensor:
    chosen = logits.gather(1, identity[:, None])[:, 0]
    return (logits.exp().sum(dim=1).log() - chosen).mean()


def facenet_input(pictures: torch.Tensor) -> torch.Tensor:
    """Clamped to 0 to 255, standardised, cut to the box, 140 × 140 with aligned corners."""
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64)[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64)[:, None, None]
    x = (((pictures * std + mean) * 255).clamp(0, 255) - 127.5) / 128.0
    side = x.shape[3]
    left, top, right, bottom = (int(edge * side) for edge in (0.235, 0.195, 0.765, 0.915))
    x = x[:, :, top : bottom + 1, left : right + 1]
    return matrix(x.shape[2]) @ x @ matrix(x.shape[3]).T


def matrix(size: int) -> torch.Tensor:
    """Linear interpolation from ``size`` to 140 points, both ends on both ends."""
    at = torch.arange(140, dtype=torch.float64) * (size - 1) / 139
    distance = (at[:, None] - torch.arange(size, dtype=torch.float64)).abs()
    return (1 - distance).clamp(min=0)


class Restated:
    """The released code's networks and optimisers, with weights of the state's."""

    def __init__(self, state: State, config: TrainConfig, network: SmallFaceNet) -> None:
        self.nets = {
            name: {key: value.detach().clone() for key, value in net.state_dict().items()}
            for name, net in state.networks().items()
        }
        self.network, self.config = network, config
        self.train, self.fused, self.rate = True, False, 5e-4
        trained = {
            name: {key: self.nets[name][key].requires_grad_() for key, _ in net.named_parameters()}
            for name, net in state.networks().items()
        }
        self.adams = {name: Adam(weights) for name, weights in trained.items()}
        self.restart(lambda key: not key.startswith("fuser."))

    def restart(self, chosen: Callable[[str], bool]) -> None:
        """A new Adam for some of the generator's weights."""
        net = self.nets["generator"]
        weights = {k: v for k, v in net.items() if v.requires_grad and chosen(k)}
        self.adams["generator"] = Adam(weights)

    def step(self, batch: Batch | FusedBatch, rates: dict[str, float]) -> dict[str, float]:
        """One iteration on the highest resolution of a batch; the losses by our names."""
        net = self.nets["generator"]
        if isinstance(batch, FusedBatch):
            count = batch.windows.shape[:2]
            with torch.no_grad():
                windows = embed(net, batch.windows.flatten(0, 1), self.train)
            embedding = fuse(net, windows.view(*count, -1))
        else:
            embedding = embed(net, batch.log_mel, self.train)
        generated = decode(net, embedding, self.train)
        real = [batch.pictures[-1]]
        while real[0].shape[3] > generated[0].shape[3]:
            real.insert(0, real[0][:, :, ::2, ::2])
        losses = self.generator_losses(generated, real, batch.identity)
        weights = self.config.loss
        scale = {"l1": weights.l1.weight, "gan": 1.0, "classifier": 0.05, "classifier_gan": 0.05}
        scale["perceptual"] = 100.0
        losses["total"] = sum((scale[name] * loss for name, loss in losses.items()), start=0.0)
        self.adams["generator"].step(losses["total"], rates["generator"])
        fakes = [picture.detach() for picture in generated]
        for fake, picture in zip(fakes, real, strict=True):
            name = f"discriminator_{fake.shape[3]}"
            critic = self.nets[name]
            losses[name] = cross_entropy(patches(critic, picture), 1) + cross_entropy(
                patches(critic, fake), 0
            )
            self.adams[name].step(losses[name], rates["discriminator"])
        for fake, picture in zip(fakes, real, strict=True):
            name = f"classifier_{fake.shape[3]}"
            critic = self.nets[name]
            told, identity = identify(critic, picture)
            losses[name] = cross_entropy(told, 1) + wrong_identity(identity, batch.identity)
            losses[name] = losses[name] + cross_entropy(identify(critic, fake)[0], 0)
            self.adams[name].step(losses[name], rates["classifier"])
        return {name: loss.item() for name, loss in losses.items()}

    def generator_losses(
        self, generated: list[torch.Tensor], real: list[torch.Tensor], identity: torch.Tensor
    ) -> Tensors:
        """The generator's terms, summed over the resolutions, without their weights."""
        terms: dict[str, list[torch.Tensor]] = {}
        for fake, picture in zip(generated, real, strict=True):
            px = fake.shape[3]
            told, said = identify(self.nets[f"classifier_{px}"], fake)
            patch = patches(self.nets[f"discriminator_{px}"], fake)
            ours = self.network.features(facenet_input(fake))
            with torch.no_grad():
                theirs = self.network.features(facenet_input(picture))
            levels = zip((1 / 16, 1 / 8, 1 / 4, 1.0), ours, theirs, strict=True)
            found = {
                "l1": (fake - picture).abs().mean(),
                "gan": cross_entropy(patch, 1),
                "classifier": wrong_identity(said, identity),
                "classifier_gan": cross_entropy(told, 1),
                "perceptual": sum(w * (a - b).abs().mean() for w, a, b in levels),
            }
            for name, term in found.items():
                terms.setdefault(name, []).append(term)
        return {name: torch.stack(each).sum() for name, each in terms.items()}


# Ours beside it.


class Pair(NamedTuple):
    """Our run in float64, and the restated one with the same weights."""

    state: State
    step: TrainStep
    restated: Restated


def make(data: TrainingData, config: TrainConfig, stage: int = 1) -> Pair:
    group = ProcessGroup(torch.device("cpu"))
    state = build_state(config, PEOPLE, Speed(), group)
    for network in state.networks().values():
        network.double()
    with torch.no_grad():  # pictures that leave 0 to 255 in places, so that the clamp matters
        for name, value in state.generator.named_parameters():
            if "to_rgb" in name:
                value *= 12.0
    if stage == 2:
        state.step = config.stage1.iterations
    small = SmallFaceNet().double()
    features = FaceNetFeatures(small)
    real = [
        RealFeatures(features, data.split("train"), px, cached=False)
        for px in config.model.resolutions
    ]
    restated = Restated(state, config, small)
    if stage == 2:
        enter_stage_2(state, config, Speed())
    return Pair(state, TrainStep(state, features, real, config, Speed(), group), restated)


def pictures(px: int, several: bool) -> tuple[torch.Tensor, ...]:
    high = from_unit(torch.rand(PAIRS, 3, px, px, dtype=torch.float64))
    return (high[:, :, ::2, ::2], high) if several else (high,)


def batches(px: int, several: bool, fused: bool) -> Iterator[Batch | FusedBatch]:
    torch.manual_seed(11)
    for frames in (128, 125, 131):  # even and odd lengths within the encoder
        identity = torch.randint(PEOPLE, (PAIRS,))
        face = torch.zeros(PAIRS, dtype=torch.int64)
        if fused:
            windows = torch.randn(PAIRS, 6, 40, 125, dtype=torch.float64)
            mask = torch.ones(PAIRS, 6, dtype=torch.bool)
            yield FusedBatch(windows, mask, pictures(px, several), identity, face)
        else:
            log_mel = torch.randn(PAIRS, 40, frames, dtype=torch.float64)
            yield Batch(log_mel, pictures(px, several), identity, face, identity)


def assert_same_weights(pair: Pair) -> None:
    for name, network in pair.state.networks().items():
        for key, value in network.state_dict().items():
            # The critics' running statistics depend on the order of two passes, and are not used.
            if "num_batches" in key or (name != "generator" and "running" in key):
                continue
            theirs = pair.restated.nets[name][key].detach()
            torch.testing.assert_close(
                value, theirs, rtol=TOLERANCE, atol=TOLERANCE, msg=lambda m, k=key: f"{k}: {m}"
            )


@pytest.mark.parametrize("recipe", ["sf2f-64-released", "sf2f-128-multires-released"])
def test_three_steps_of_stage_1_with_the_beginning_of_the_last_sixth(
    tiny_data: TrainingData, recipe: str
) -> None:
    """From the second step on the rate falls and the generator's batch norm is frozen."""
    config = load_train_config(
        recipe,
        [*SMALL, *LAST_SIXTH],
    )
    assert config.loss.l1.weight == (100 if len(config.model.resolutions) > 1 else 10)
    assert_same_steps(make(tiny_data, config), config)


def assert_same_steps(pair: Pair, config: TrainConfig) -> None:
    """Three steps of stage 1; from the second on the restated rate falls, its norms are frozen."""
    several = len(config.model.resolutions) > 1
    rates = [5e-4, 5e-4, 5e-4 - (5e-4 - 5e-7) / 2]
    for number, batch in enumerate(batches(config.model.resolutions[-1], several, False)):
        if number == 1:
            pair.restated.train = False
            pair.restated.restart(lambda key: not key.startswith("fuser."))
        rate = {"generator": rates[number], "discriminator": rates[number], "classifier": 5e-4}
        assert_same_step(pair, config, batch, rate)


def assert_same_step(
    pair: Pair, config: TrainConfig, batch: Batch | FusedBatch, rate: dict[str, float]
) -> None:
    expected = pair.restated.step(batch, rate)
    prepare_step(pair.state, config, Speed())
    terms = dict(zip(pair.step.names, pair.step(batch).tolist(), strict=True))
    pair.state.step += 1
    assert terms == pytest.approx(expected, rel=TOLERANCE)
    assert_same_weights(pair)


@pytest.mark.parametrize(
    "setting",
    [
        "loss.perceptual.clamp=false",
        "optimiser.betas=[0.9,0.98]",
        "optimiser.schedule.kind=constant",
        "optimiser.schedule.classifiers=true",
        "optimiser.schedule.freeze_norms=false",
        "loss.classifier.weight=0.06",
    ],
)
def test_another_reading_is_noticed(tiny_data: TrainingData, setting: str) -> None:
    config = load_train_config("sf2f-64-released", [*SMALL, *LAST_SIXTH, setting])
    with pytest.raises(AssertionError):
        assert_same_steps(make(tiny_data, config), config)


def test_three_steps_of_stage_2(tiny_data: TrainingData) -> None:
    config = load_train_config("sf2f-64-released", SMALL)
    pair = make(tiny_data, config, stage=2)
    pair.restated.train = False
    pair.restated.restart(lambda key: key.startswith("fuser."))
    rate = dict.fromkeys(("generator", "discriminator", "classifier"), 1e-4)
    for batch in batches(64, False, True):
        assert_same_step(pair, config, batch, rate)


def test_the_pictures_of_the_test_leave_the_range_that_facenet_sees(
    tiny_data: TrainingData,
) -> None:
    """Else the steps above would agree without the clamp too."""
    pair = make(tiny_data, load_train_config("sf2f-64-released", SMALL))
    batch = next(batches(64, False, False))
    fake = decode(
        pair.restated.nets["generator"],
        embed(pair.restated.nets["generator"], batch.log_mel, True),
        True,
    )[0]
    outside = (facenet_input(fake).abs() >= 0.996).double().mean()
    assert 0.01 < outside < 0.9
