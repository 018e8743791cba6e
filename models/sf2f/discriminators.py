"""The image discriminator and the identity classifier: of table 11, and of the released code."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from models.errors import ModelError
from models.sf2f.spec import scaled

CHANNELS = (64, 128, 256, 512)
"""Three at 64 px; at 128 px one convolution more (appendix D.3), doubling on."""
HIDDEN = 1024


def _sizes(px: int, width: float) -> list[int]:
    """Channels of the picture and after each convolution. Raises ModelError for other sides."""
    if px not in (64, 128):
        raise ModelError(f"discriminators are for 64 or 128 px, not {px}")
    return [3, *(scaled(channels, width) for channels in CHANNELS[: px.bit_length() - 4])]


class DownBlock(nn.Module):
    """4 × 4 convolution of stride 2, batch norm, ReLU; no bias, which the norm would remove."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 4, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, channels_in, w, w) to (n, channels_out, w / 2, w / 2)."""
        return F.relu(self.norm(self.conv(x)))


class _Trunk(nn.Module):
    """Table 11: blocks, average, two linear layers; returns logits, as the loss has the softmax."""

    def __init__(self, px: int, outputs: int, width: float) -> None:
        super().__init__()
        sizes = _sizes(px, width)
        self.blocks = nn.ModuleList(DownBlock(before, after) for before, after in pairwise(sizes))
        hidden = scaled(HIDDEN, width)
        self.hidden = nn.Linear(sizes[-1], hidden)
        self.out = nn.Linear(hidden, outputs)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Map ImageNet-normalised RGB (n, 3, px, px) to logits (n, outputs)."""
        x = pictures
        for block in self.blocks:
            x = block(x)
        x = x.mean(dim=(2, 3))
        logits: torch.Tensor = self.out(F.relu(self.hidden(x)))
        return logits


class ImageDiscriminator(_Trunk):
    """D_real: logits (n, 2) of class 0 = generated, class 1 = real."""

    def __init__(self, px: int, width: float = 1.0) -> None:
        super().__init__(px, 2, width)


class IdentityClassifier(_Trunk):
    """D_id: logits (n, n_identities) of whose face it is."""

    def __init__(self, px: int, n_identities: int, width: float = 1.0) -> None:
        super().__init__(px, n_identities, width)


SLOPE = 0.1
"""Of the released critics' leaky ReLU."""


class _ReleasedTrunk(nn.Module):
    """4 × 4 convolutions of stride 2 without padding; batch norm and leaky ReLU between them.

    Neither follows the last convolution. 64 px become 6 × 6 × 256, 128 px 6 × 6 × 512.
    """

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 4, 2) for a, b in pairwise(sizes))
        self.norms = nn.ModuleList(nn.BatchNorm2d(size) for size in sizes[1:-1])

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Map ImageNet-normalised RGB (n, 3, px, px) to features (n, c, 6, 6)."""
        x = self.convs[0](pictures)
        for norm, conv in zip(self.norms, self.convs[1:], strict=True):
            x = conv(F.leaky_relu(norm(x), SLOPE))
        return x


class PatchDiscriminator(nn.Module):
    """D_real of the released code: one logit for each of 6 × 6 patches."""

    def __init__(self, px: int, width: float = 1.0) -> None:
        super().__init__()
        sizes = _sizes(px, width)
        self.trunk = _ReleasedTrunk(sizes)
        self.real = nn.Conv2d(sizes[-1], 1, 1)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Map ImageNet-normalised RGB (n, 3, px, px) to logits (36 n, 2), class 1 = real."""
        return two_logits(self.real(self.trunk(pictures)).reshape(-1, 1))


class IdentityDiscriminator(nn.Module):
    """D_id of the released code: a linear layer without ReLU, and heads for identity and real."""

    def __init__(self, px: int, n_identities: int, width: float = 1.0) -> None:
        super().__init__()
        sizes = _sizes(px, width)
        self.trunk = _ReleasedTrunk(sizes)
        hidden = scaled(HIDDEN, width)
        self.hidden = nn.Linear(sizes[-1], hidden)
        self.real = nn.Linear(hidden, 1)
        self.identity = nn.Linear(hidden, n_identities)

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits (n, 2), class 1 = real, and logits (n, n_identities)."""
        features = self.hidden(self.trunk(pictures).mean(dim=(2, 3)))
        return two_logits(self.real(features)), self.identity(features)


def two_logits(score: torch.Tensor) -> torch.Tensor:
    """Put a 0 before scores (n, 1): (n, 2).

    Their softmax cross-entropy is the binary cross-entropy of the score.
    """
    return torch.cat([torch.zeros_like(score), score], dim=1)
