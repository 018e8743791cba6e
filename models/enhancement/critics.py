"""The discriminators of GFPGAN's fine-tuning, and VGG-19 of its perceptual loss.

The paper of AVP-GAN names them only; layouts follow the text of GFPGAN and StyleGAN2. The published
checkpoint holds none of them, so discriminators start from random weights.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from models.sf2f.colour import from_unit
from models.weight_files import fill, read_checkpoint

SLOPE = 0.2
"""Of LeakyReLU."""
STD_GROUP = 4
"""Pictures over which the last level takes a standard deviation (StyleGAN2)."""


class DownBlock(nn.Module):
    """Residual block to half the side (StyleGAN2's discriminator)."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_in, 3, padding=1)
        self.conv2 = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.skip = nn.Conv2d(channels_in, channels, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, channels_in, h, w) to (n, channels, h / 2, w / 2)."""
        out = F.leaky_relu(self.conv1(x), SLOPE)
        out = F.leaky_relu(self.conv2(F.avg_pool2d(out, 2)), SLOPE)
        return (out + self.skip(F.avg_pool2d(x, 2))) / 2**0.5


class WholeFaceCritic(nn.Module):
    """D of equation 8: StyleGAN2's residual discriminator down to 4 × 4."""

    def __init__(self, side_px: int, width: float = 1.0) -> None:
        """``side_px``: a power of 2, at least 8; ``width``: factor of the channels."""
        super().__init__()
        sides = [side_px >> level for level in range(side_px.bit_length() - 2)]
        channels = [max(4, int(min(512, 16384 // side) * width)) for side in sides]
        self.first = nn.Conv2d(3, channels[0], 1)
        self.blocks = nn.Sequential(*(DownBlock(a, b) for a, b in pairwise(channels)))
        self.last = nn.Conv2d(channels[-1] + 1, channels[-1], 3, padding=1)
        self.hidden = nn.Linear(channels[-1] * 16, channels[-1])
        self.out = nn.Linear(channels[-1], 1)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return logits (n, 1) of RGB (n, 3, side, side), -1 to 1."""
        x = self.blocks(F.leaky_relu(self.first(pictures), SLOPE))
        x = F.leaky_relu(self.last(torch.cat([x, _deviation(x)], dim=1)), SLOPE)
        return self.out(F.leaky_relu(self.hidden(x.flatten(1)), SLOPE))


def _deviation(x: torch.Tensor) -> torch.Tensor:
    """Standard deviation over groups of pictures, averaged, as a map (n, 1, h, w)."""
    count = len(x)
    group = next(size for size in range(min(STD_GROUP, count), 0, -1) if count % size == 0)
    groups = x.view(group, count // group, *x.shape[1:])
    spread = (groups.var(dim=0, unbiased=False) + 1e-8).sqrt().mean(dim=(1, 2, 3))
    return spread.repeat(group).view(count, 1, 1, 1).expand(count, 1, *x.shape[2:])


class PartCritic(nn.Module):
    """D_ROI of equation 9: a small discriminator of one eye or the mouth."""

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        a, b, c = (max(4, int(size * width)) for size in (64, 128, 256))
        self.shallow = nn.Sequential(_unit(3, a, 1), _unit(a, b, 2), _unit(b, b, 1))
        self.deep = nn.Sequential(_unit(b, c, 2), _unit(c, c, 1))
        self.out = nn.Conv2d(c, 1, 3, padding=1)

    def forward(self, part: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return logits (n, 1, h / 4, w / 4) and two maps, of RGB (n, 3, h, w), -1 to 1."""
        shallow = self.shallow(part)
        deep = self.deep(shallow)
        return self.out(deep), [shallow, deep]


def _unit(channels_in: int, channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, 3, stride, padding=1), nn.LeakyReLU(SLOPE)
    )


VGG_LEVELS = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))
"""Channels and convolutions of VGG-19's five levels."""
VGG_TAPS = {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1.0, "conv4_4": 1.0, "conv5_4": 1.0}
"""The last convolution of each level, before its ReLU, and its weight (GFPGAN)."""


class VggFeatures(nn.Module):
    """VGG-19's convolutions, frozen; names are those of torchvision's file."""

    def __init__(self, width: float = 1.0) -> None:
        """``width``: factor of the channels; 1 as published (20,024,384 parameters)."""
        super().__init__()
        layers: list[nn.Module] = []
        channels_in, self._taps = 3, []
        for channels, count in VGG_LEVELS:
            for _ in range(count):
                layers += [nn.Conv2d(channels_in, int(channels * width), 3, padding=1), nn.ReLU()]
                channels_in = int(channels * width)
            self._taps.append(len(layers) - 2)
            layers.append(nn.MaxPool2d(2))
        self.features = nn.ModuleList(layers)
        self.eval().requires_grad_(False)

    def forward(self, unit_pictures: torch.Tensor) -> list[torch.Tensor]:
        """Return the maps of :data:`VGG_TAPS`, of RGB (n, 3, px, px), 0 to 1, px at least 16."""
        x, maps = from_unit(unit_pictures), []
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in self._taps:
                maps.append(x)
            if number == self._taps[-1]:
                break
        return maps


def load_vgg(path: Path) -> VggFeatures:
    """VGG-19 of torchvision's file, whose classifier is left out. Raises ModelError."""
    tensors = {k: v for k, v in read_checkpoint(path).items() if not k.startswith("classifier.")}
    network = VggFeatures()
    fill(network, tensors, path, "torchvision's VGG-19")
    return network
