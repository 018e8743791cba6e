"""Voice encoders: normalised log-mel (n, n_filters, t) to features over time (n, dim, t').

Time average and L2 norm, which all encoders share, are the generator's. All halve time five times:
125 frames become 63, 32, 16, 8, 4.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from models.sf2f.spec import scaled

CHANNELS = (256, 384, 576, 864)
"""Of the first four layers (table 9, and the baseline); the fifth has the embedding's."""
KERNELS = (2, 3, 5, 7)
PADDING = (1, 1, 2, 3)


class InceptionModule(nn.Module):
    """Four 1-D convolutions of stride 2 side by side, batch norm, ReLU (table 9).

    The paddings are our reading, as the paper gives none: 1, 1, 2, 3 for kernels 2, 3, 5, 7, all
    trimmed to the shortest, which is ceil(t / 2). Kernel 2 alone is longer, by one, where t is
    even. One batch norm over the joined channels is four side by side, in one call.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        """``channels_out``: of the four together, a multiple of 4."""
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv1d(channels_in, channels_out // 4, kernel, 2, padding, bias=False)
            for kernel, padding in zip(KERNELS, PADDING, strict=True)
        )
        self.norm = nn.BatchNorm1d(channels_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, channels_in, t) to (n, channels_out, ceil(t / 2))."""
        length = (x.shape[-1] + 1) // 2
        joined = torch.cat([conv(x)[..., :length] for conv in self.convs], dim=1)
        return F.relu(self.norm(joined))


class PlainModule(nn.Module):
    """One 1-D convolution of kernel 3 and stride 2, batch norm, ReLU: the baseline's layer."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels_in, channels_out, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm1d(channels_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, channels_in, t) to (n, channels_out, ceil(t / 2))."""
        return F.relu(self.norm(self.conv(x)))


class Encoder(nn.Module):
    """Five layers: modules of one kind, the last one of its own.

    ``noise``: deviation of the Gaussian noise that the generator adds to the normalised embedding
    in training, 0 for none.
    """

    def __init__(
        self, module: type[nn.Module], last: nn.Module, n_filters: int, width: float, noise: float
    ) -> None:
        super().__init__()
        sizes = [n_filters, *(scaled(channels, width) for channels in CHANNELS)]
        self.layers = nn.ModuleList(module(before, after) for before, after in pairwise(sizes))
        self.layers.append(last)
        self.noise = noise

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map log-mels (n, n_filters, t) to features (n, dim, ceil(t / 32))."""
        for layer in self.layers:
            x = layer(x)
        return x


def build_encoder(kind: str, n_filters: int, dim: int, width: float) -> Encoder:
    """Make an encoder of ``models.sf2f.spec.ENCODERS``."""
    before = scaled(CHANNELS[-1], width)
    noise = 0.05 if kind in ("plain_released", "cmu") else 0.0
    if kind == "inception":
        return Encoder(InceptionModule, InceptionModule(before, dim), n_filters, width, noise)
    module = InceptionModule if kind == "inception_released" else PlainModule
    return Encoder(module, nn.Conv1d(before, dim, 3, 2, 1), n_filters, width, noise)
