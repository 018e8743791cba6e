"""The deconvolution decoder of voice2face."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from models.sf2f.colour import from_signed
from models.sf2f.spec import scaled

CHANNELS = (1024, 512, 256, 128, 64, 32)
"""From 4 px on; the last one is for 128 px only, which the authors do not have."""


class DeconvolutionDecoder(nn.Module):
    """Transposed convolutions with ReLU: 4/1/0 to 4 × 4, then 4/2/1 each, a 1 × 1 to RGB.

    No batch norm, as both the authors and SF2F's re-implementation have it. ``signed``: the
    network works in -1 to 1, as the authors train it, and its pictures are converted.
    """

    def __init__(self, dim: int, px: int, width: float, signed: bool = False) -> None:
        """``px``: side of the picture, 64 or 128."""
        super().__init__()
        count = px.bit_length() - 2
        sizes = [scaled(channels, width) for channels in CHANNELS[:count]]
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
