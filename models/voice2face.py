"""voice2face, the baseline of the papers: its decoder, and its discriminators.

Discriminator and identity classifier are two heads on one trunk, trained together. Both the
authors' release ("cmu") and SF2F's re-implementation are here. The voice encoders are
``models.sf2f.encoders``' plain ones.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from models.errors import ModelError
from models.sf2f.colour import from_signed, to_unit
from models.sf2f.discriminators import two_logits
from models.sf2f.spec import scaled

DISCRIMINATOR_CHANNELS = (32, 64, 128, 256, 512)
SLOPE = 0.2
"""Slope of the leaky ReLU between the convolutions."""
CMU_FEATURES = 64
HIDDEN = 1024


class SharedDiscriminator(nn.Module):
    """What both kinds share: ``trunk`` to features, and the heads ``real`` and ``identity``.

    ``real`` has one output, see ``two_logits``.
    """

    def __init__(self, features: int, n_identities: int, bias: bool) -> None:
        super().__init__()
        self.real = nn.Linear(features, 1, bias=bias)
        self.identity = nn.Linear(features, n_identities, bias=bias)

    def trunk(self, pictures: torch.Tensor) -> torch.Tensor:
        """Map ImageNet-normalised RGB (n, 3, px, px) to features (n, d)."""
        raise NotImplementedError

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits (n, 2), class 1 = real, and logits (n, n_identities)."""
        features = self.trunk(pictures)
        return two_logits(self.real(features)), self.identity(features)


class CmuDiscriminator(SharedDiscriminator):
    """As the authors released it, for 64 px: 1 × 1, four 4/2/1, a 4/1/0 to 64; heads without bias.

    The network works in -1 to 1; pictures come ImageNet-normalised, as everywhere here.
    """

    def __init__(self, px: int, n_identities: int, width: float = 1.0) -> None:
        super().__init__(CMU_FEATURES, n_identities, bias=False)
        if px != 64:
            raise ModelError(f"the authors' discriminator is for 64 px, not {px}")
        sizes = [scaled(channels, width) for channels in DISCRIMINATOR_CHANNELS]
        self.convs = nn.ModuleList([nn.Conv2d(3, sizes[0], 1)])
        self.convs.extend(nn.Conv2d(before, after, 4, 2, 1) for before, after in pairwise(sizes))
        self.convs.append(nn.Conv2d(sizes[-1], CMU_FEATURES, 4))

    def trunk(self, pictures: torch.Tensor) -> torch.Tensor:
        """Map ImageNet-normalised RGB (n, 3, 64, 64) to features (n, 64)."""
        return _convolve(self.convs, to_unit(pictures) * 2.0 - 1.0).flatten(1)


class Sf2fVoice2faceDiscriminator(SharedDiscriminator):
    """As SF2F's code re-implements it: 1 × 1, three 4/2/1, a 4/1/0 to 512, average, linear 1024."""

    def __init__(self, px: int, n_identities: int, width: float = 1.0) -> None:
        hidden = scaled(HIDDEN, width)
        super().__init__(hidden, n_identities, bias=True)
        if px not in (64, 128):
            raise ModelError(f"discriminators are for 64 or 128 px, not {px}")
        sizes = [scaled(channels, width) for channels in DISCRIMINATOR_CHANNELS]
        self.convs = nn.ModuleList([nn.Conv2d(3, sizes[0], 1)])
        self.convs.extend(
            nn.Conv2d(before, after, 4, 2, 1) for before, after in pairwise(sizes[:-1])
        )
        self.convs.append(nn.Conv2d(sizes[-2], sizes[-1], 4))
        self.hidden = nn.Linear(sizes[-1], hidden)

    def trunk(self, pictures: torch.Tensor) -> torch.Tensor:
        """Map ImageNet-normalised RGB (n, 3, px, px) to features (n, 1024)."""
        features: torch.Tensor = self.hidden(_convolve(self.convs, pictures).mean(dim=(2, 3)))
        return features


def _convolve(convs: nn.ModuleList, x: torch.Tensor) -> torch.Tensor:
    """Apply convolutions with a leaky ReLU between them, none after the last."""
    x = convs[0](x)
    for conv in convs[1:]:
        x = conv(F.leaky_relu(x, SLOPE))
    return x


DECODER_CHANNELS = (1024, 512, 256, 128, 64, 32)
"""Channels from 4 px on; the last is for 128 px only, which the authors do not have."""


class DeconvolutionDecoder(nn.Module):
    """Transposed convolutions with ReLU: 4/1/0 to 4 × 4, then 4/2/1 each, a 1 × 1 to RGB.

    No batch norm, as in both the authors' code and SF2F's. ``signed``: the
    network works in -1 to 1, as the authors train it, and its pictures are converted.
    """

    def __init__(self, dim: int, px: int, width: float, signed: bool = False) -> None:
        """``px``: side of the picture, 64 or 128."""
        super().__init__()
        count = px.bit_length() - 2
        sizes = [scaled(channels, width) for channels in DECODER_CHANNELS[:count]]
        self.blocks = nn.ModuleList([nn.ConvTranspose2d(dim, sizes[0], 4)])
        self.blocks.extend(
            nn.ConvTranspose2d(before, after, 4, 2, 1) for before, after in pairwise(sizes)
        )
        self.to_rgb = nn.ConvTranspose2d(sizes[-1], 3, 1)
        self.signed = signed

    def forward(self, embedding: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map (n, dim) to one picture (n, 3, px, px), ImageNet-normalised."""
        x = embedding[:, :, None, None]
        for block in self.blocks:
            x = F.relu(block(x))
        x = self.to_rgb(x)
        return (from_signed(x) if self.signed else x,)
