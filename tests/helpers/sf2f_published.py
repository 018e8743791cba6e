"""The released SF2F generator restated: its tensors by its own names, and its plain mathematics.

Written from the published architecture (github.com/BAI-Yeqi/SF2F_PyTorch) in elementary tensor
operations in float64, with nothing of ``models.sf2f`` in it.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F

State = dict[str, torch.Tensor]
CHANNELS = (40, 256, 384, 576, 864)
KERNELS = {2: 1, 3: 1, 5: 2, 7: 3}
"""Kernel size to padding."""
DIM = 512


class Maker:
    """Draws a state dict tensor by tensor; pictures stay of order one, as real ones are."""

    def __init__(self, seed: int) -> None:
        self.state: State = {}
        self._random = torch.Generator().manual_seed(seed)

    def weight(self, name: str, *shape: int, fan_in: int) -> None:
        self.state[name] = self._normal(*shape) * (2.0 / fan_in) ** 0.5

    def bias(self, name: str, size: int) -> None:
        self.state[name] = 0.1 * self._normal(size)

    def norm(self, name: str, size: int) -> None:
        self.state[f"{name}.weight"] = 1.0 + 0.1 * self._normal(size)
        self.state[f"{name}.bias"] = 0.1 * self._normal(size)
        self.state[f"{name}.running_mean"] = 0.1 * self._normal(size)
        self.state[f"{name}.running_var"] = 1.0 + 0.2 * self._normal(size).abs()
        self.state[f"{name}.num_batches_tracked"] = torch.tensor(120_000)

    def _normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self._random)


def inception_encoder(make: Maker) -> None:
    for layer, (before, after) in enumerate(pairwise(CHANNELS)):
        for kernel in KERNELS:
            name = f"encoder.model.{layer}.conv_k{kernel}.model"
            make.weight(f"{name}.0.weight", after // 4, before, kernel, fan_in=before * kernel)
            make.norm(f"{name}.1", after // 4)
    make.weight("encoder.model.4.weight", DIM, 864, 3, fan_in=864 * 3)
    make.bias("encoder.model.4.bias", DIM)


def plain_encoder(make: Maker) -> None:
    for layer, (before, after) in enumerate(pairwise(CHANNELS)):
        make.weight(f"encoder.model.{3 * layer}.weight", after, before, 3, fan_in=before * 3)
        make.norm(f"encoder.model.{3 * layer + 1}", after)
    make.weight("encoder.model.12.weight", DIM, 864, 3, fan_in=864 * 3)
    make.bias("encoder.model.12.bias", DIM)


def fuser(make: Maker) -> None:
    name = "encoder.attn_fuser.attention"
    make.weight(f"{name}.linear_in.weight", DIM, DIM, fan_in=2)  # scores that tell windows apart
    make.weight(f"{name}.linear_out.weight", DIM, 2 * DIM, fan_in=2 * DIM)


def gated_decoder(make: Maker, px: int, multi: bool = False) -> None:
    """``FaceGanDecoder`` of side ``px``; ``multi``: ``FaceGanDecoder_v2``, whose low side it is."""
    make.weight("decoder.fc.0.weight", 16384, DIM, fan_in=1)
    make.norm("decoder.fc.1", 16384)
    stack = "decoder.up_low_layers" if multi else "decoder.up_layers"
    names = [f"{stack}.{index}" for index in range(4 if px == 64 else 5)]
    names += ["decoder.up_mid_layer"] if multi else []
    channels = DIM
    for name in names:
        make.weight(f"{name}.1.weight", channels, channels, 3, 3, fan_in=channels * 3)
        make.norm(f"{name}.2", channels)
        channels //= 2
    heads = (
        {"decoder.gnet_low": 32, "decoder.gnet_mid": 16} if multi else {"decoder.gnet": channels}
    )
    for name, size in heads.items():
        make.weight(f"{name}.0.weight", size, size, 3, 3, fan_in=size * 9)
        make.bias(f"{name}.0.bias", size)
        make.weight(f"{name}.2.weight", 3, size, 1, 1, fan_in=size * 4)
        make.bias(f"{name}.2.bias", 3)


def deconvolution_decoder(make: Maker, px: int) -> None:
    sizes = [DIM, 1024, 512, 256, 128, 64, *([32] if px == 128 else [])]
    for index, (before, after) in enumerate(pairwise(sizes)):
        fan_in = before if index == 0 else before * 4
        make.weight(f"decoder.model.{index}.model.0.weight", before, after, 4, 4, fan_in=fan_in)
        make.bias(f"decoder.model.{index}.model.0.bias", after)
    last = f"decoder.model.{len(sizes) - 1}.model.0"
    make.weight(f"{last}.weight", sizes[-1], 3, 1, 1, fan_in=sizes[-1])
    make.bias(f"{last}.bias", 3)


def checkpoint(state: State, **encoder: object) -> dict[str, object]:
    """What ``train.py`` saves of a generator, with the published recipes' arguments."""
    arguments = {"input_channel": 40, "output_channel": 512, "normalize_embedding": True}
    return {
        "model_state": state,
        "model_kwargs": {
            "encoder_arch": "V2F1DCNN",
            "encoder_kwargs": {**arguments, **encoder},
            "image_size": [64, 64],
        },
        "counters": {"t": 120_000, "epoch": 41},
    }


FUSED = {
    "inception_mode": True,
    "segments_fusion": True,
    "normalize_fusion": True,
    "fuser_kwargs": {"dimensions": 512, "dim_out": 512, "ignore_tanh": True},
}
"""``encoder_kwargs`` of the published fuser recipes."""


def norm(x: torch.Tensor, state: State, name: str) -> torch.Tensor:
    """Batch norm at inference, by its formula; channels are axis 1."""
    shape = (1, -1, *[1] * (x.dim() - 2))
    mean, var, scale, shift = (
        state[f"{name}.{kind}"].view(shape)
        for kind in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + 1e-5).sqrt() * scale + shift


def embed(state: State, log_mel: torch.Tensor) -> torch.Tensor:
    """(n, 40, t) to (n, 512) of length 1."""
    x = log_mel
    if "encoder.model.0.conv_k2.model.0.weight" in state:
        for layer in range(4):
            branches = []
            for kernel, padding in KERNELS.items():
                name = f"encoder.model.{layer}.conv_k{kernel}.model"
                x_out = F.conv1d(x, state[f"{name}.0.weight"], stride=2, padding=padding)
                branches.append(norm(x_out, state, f"{name}.1").clamp(min=0.0))
            if branches[0].shape[-1] > branches[1].shape[-1]:
                branches[0] = branches[0][:, :, :-1]
            x = torch.cat(branches, dim=1)
        last = "encoder.model.4"
    else:
        for layer in range(4):
            x = F.conv1d(x, state[f"encoder.model.{3 * layer}.weight"], stride=2, padding=1)
            x = norm(x, state, f"encoder.model.{3 * layer + 1}").clamp(min=0.0)
        last = "encoder.model.12"
    x = F.conv1d(x, state[f"{last}.weight"], state[f"{last}.bias"], stride=2, padding=1)
    mean = x.sum(dim=2) / x.shape[2]
    return mean / mean.pow(2).sum(dim=1, keepdim=True).sqrt()


def fuse(state: State, embeddings: torch.Tensor) -> torch.Tensor:
    """(w, 512) of one person to (512,) of length 1."""
    name = "encoder.attn_fuser.attention"
    into, out = state[f"{name}.linear_in.weight"], state[f"{name}.linear_out.weight"]
    rows = []
    for window in embeddings:
        query = into @ window
        weights = torch.stack([query @ other for other in embeddings]).exp()
        mix = (weights / weights.sum()) @ embeddings
        rows.append(out @ torch.cat([mix, query]))
    mean = torch.stack(rows).mean(dim=0)
    return mean / mean.pow(2).sum().sqrt()


def decode(state: State, embedding: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """(n, 512) to pictures (n, 3, px, px), low to high."""
    if "decoder.fc.0.weight" not in state:
        x, index = embedding[:, :, None, None], 0
        while f"decoder.model.{index + 1}.model.0.weight" in state:
            name = f"decoder.model.{index}.model.0"
            stride, padding = (1, 0) if index == 0 else (2, 1)
            weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
            x = F.conv_transpose2d(x, weight, bias, stride, padding).clamp(min=0.0)
            index += 1
        name = f"decoder.model.{index}.model.0"
        picture = torch.einsum("nchw,cd->ndhw", x, state[f"{name}.weight"][:, :, 0, 0])
        return (picture + state[f"{name}.bias"][None, :, None, None],)
    x = gate(norm(embedding @ state["decoder.fc.0.weight"].T, state, "decoder.fc.1"))
    x = x.view(-1, DIM, 4, 4)
    if "decoder.gnet.0.weight" in state:
        return (head(state, up(state, x, "decoder.up_layers"), "decoder.gnet"),)
    low = up(state, x, "decoder.up_low_layers")
    mid = up_block(state, low, "decoder.up_mid_layer")
    return head(state, low, "decoder.gnet_low"), head(state, mid, "decoder.gnet_mid")


def gate(x: torch.Tensor) -> torch.Tensor:
    half = x.shape[1] // 2
    return x[:, :half] / (1.0 + (-x[:, half:]).exp())


def up(state: State, x: torch.Tensor, stack: str) -> torch.Tensor:
    index = 0
    while f"{stack}.{index}.1.weight" in state:
        x = up_block(state, x, f"{stack}.{index}")
        index += 1
    return x


def up_block(state: State, x: torch.Tensor, name: str) -> torch.Tensor:
    x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    return gate(norm(F.conv2d(x, state[f"{name}.1.weight"], padding=1), state, f"{name}.2"))


def head(state: State, x: torch.Tensor, name: str) -> torch.Tensor:
    x = F.conv2d(x, state[f"{name}.0.weight"], state[f"{name}.0.bias"], padding=1)
    x = torch.where(x > 0, x, 0.01 * x)
    return F.conv2d(x, state[f"{name}.2.weight"], state[f"{name}.2.bias"])
