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


class _Trunk(nn.Module):
    """Table 11: 4 × 4 convolutions of stride 2 with BN and ReLU, average, two linear layers.

    The table's softmax is the loss's: outputs are logits. Convolutions have no bias, which batch
    norm would take away again.
    """

    def __init__(self, px: int, outputs: int, width: float) -> None:
        super().__init__()
        if px not in (64, 128):
            raise ModelError(f"discriminators are for 64 or 128 px, not {px}")
        count = px.bit_length() - 4
        sizes = [3, *(scaled(channels, width) for channels in CHANNELS[:count])]
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 4, 2, 1, bias=False) for before, after in pairwise(sizes)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for channels in sizes[1:])
        hidden = scaled(HIDDEN, width)
        self.hidden = nn.Linear(sizes[-1], hidden)
        self.out = nn.Linear(hidden, outputs)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Map ImageNet-normalised RGB (n, 3, px, px) to logits (n, outputs)."""
        x = pictures
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(norm(conv(x)))
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
