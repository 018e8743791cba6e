"""Face decoders: an embedding (n, dim) to RGB pictures, one per resolution, no activation."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from models.sf2f.spec import scaled

UP_CHANNELS = (1024, 512, 256, 128, 64, 32, 16)
"""Of UpBlock 1 to 7 (table 10, and halved once more for UpBlock 7); block i ends at 2**i px."""


class UpBlock(nn.Module):
    """Bilinear upsampling, 3 × 3 convolution, ReLU, batch norm (table 10).

    The table prints the convolution with stride 2, which would undo the upsampling: it is 1.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, channels_in, w, w) to (n, channels_out, 2 w, 2 w)."""
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.norm(F.relu(self.conv(x)))


class UpsamplingDecoder(nn.Module):
    """Table 10; with two resolutions as StackGAN++ (figure 8): each a 1 × 1 from its block."""

    def __init__(self, dim: int, resolutions: tuple[int, ...], width: float) -> None:
        super().__init__()
        count = resolutions[-1].bit_length() - 1
        sizes = [dim, *(scaled(channels, width) for channels in UP_CHANNELS[:count])]
        self.blocks = nn.ModuleList(UpBlock(before, after) for before, after in pairwise(sizes))
        self.heads = nn.ModuleDict(
            {str(px): nn.Conv2d(sizes[px.bit_length() - 1], 3, 1) for px in resolutions}
        )

    def forward(self, embedding: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map (n, dim) to pictures (n, 3, px, px), low to high."""
        x = embedding[:, :, None, None]
        pictures = []
        for number, block in enumerate(self.blocks, start=1):
            x = block(x)
            if str(2**number) in self.heads:
                pictures.append(self.heads[str(2**number)](x))
        return tuple(pictures)


class GatedBlock(nn.Module):
    """Nearest upsampling, 3 × 3 convolution, batch norm, gated linear unit (released code)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, 2 * channels_out, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(2 * channels_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, channels_in, w, w) to (n, channels_out, 2 w, 2 w)."""
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return F.glu(self.norm(self.conv(x)), dim=1)


class PictureHead(nn.Module):
    """3 × 3 convolution, leaky ReLU of 0.01, 1 × 1 to RGB (released code)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.to_rgb = nn.Conv2d(channels, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, channels, w, w) to (n, 3, w, w)."""
        return self.to_rgb(F.leaky_relu(self.conv(x), 0.01))


class GatedDecoder(nn.Module):
    """The decoder of the released code: 4 × 4 × dim by a gated linear layer, then gated blocks.

    Its channels halve from the embedding's own dimension on, so ``width`` scales all but those.
    """

    def __init__(self, dim: int, resolutions: tuple[int, ...], width: float) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, 2 * 16 * dim, bias=False)
        self.norm = nn.BatchNorm1d(2 * 16 * dim)
        count = resolutions[-1].bit_length() - 3
        sizes = [dim, *(scaled(dim >> step, width) for step in range(1, count + 1))]
        self.blocks = nn.ModuleList(GatedBlock(before, after) for before, after in pairwise(sizes))
        self.heads = nn.ModuleDict(
            {str(px): PictureHead(sizes[px.bit_length() - 3]) for px in resolutions}
        )

    def forward(self, embedding: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map (n, dim) to pictures (n, 3, px, px), low to high."""
        x = F.glu(self.norm(self.linear(embedding)), dim=1)
        x = x.view(x.shape[0], -1, 4, 4)
        pictures = []
        for number, block in enumerate(self.blocks, start=3):
            x = block(x)
            if str(2**number) in self.heads:
                pictures.append(self.heads[str(2**number)](x))
        return tuple(pictures)
