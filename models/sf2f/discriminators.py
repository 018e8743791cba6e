"""The image discriminator and the identity classifier of table 11."""

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
        if px not in (64, 128):
            raise ModelError(f"discriminators are for 64 or 128 px, not {px}")
        count = px.bit_length() - 4
        sizes = [3, *(scaled(channels, width) for channels in CHANNELS[:count])]
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
