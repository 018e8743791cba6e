"""AVP-GAN (Mao et al. 2024): voice2face with attention and spectral normalisation.

The paper's figures 4 and 5, which hold the layers' sizes, are not in our copy. Its text fits the
networks of voice2face as released: six layers each, of which "the second to fifth" of the generator
and "all but the first and last" of the discriminator are the four that have a kernel of 4, stride 2
and padding 1. So the sizes are voice2face's: the generator has 12,191,875 parameters without
attention, and attention adds 174,592 + 490.

Attention (CBAM, section 3.3, equations 2 to 5) follows every layer but the last, after its
activation. The voice encoder is ``models.sf2f.encoders``' plain one.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from models.errors import ModelError
from models.sf2f.colour import from_signed, to_unit
from models.sf2f.spec import scaled
from models.voice2face import (
    CMU_FEATURES,
    DECODER_CHANNELS,
    DISCRIMINATOR_CHANNELS,
    SLOPE,
    SharedDiscriminator,
)

REDUCTION = 16
"""Of the channels in the channel attention's hidden layer; as in CBAM, AVP-GAN does not say."""
KERNEL = 7
"""Of the spatial attention's convolution (equation 4)."""


class ChannelAttention(nn.Module):
    """A weight for every channel, from its mean and its maximum over the picture (equation 2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // REDUCTION)
        self.reduce = nn.Linear(channels, hidden, bias=False)
        self.expand = nn.Linear(hidden, channels, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, channels, h, w) to weights (n, channels, 1, 1), 0 to 1."""
        pooled = torch.stack([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))])
        scores = self.expand(F.relu(self.reduce(pooled))).sum(dim=0)
        return scores.sigmoid()[:, :, None, None]


class SpatialAttention(nn.Module):
    """A weight for every place, from the mean and maximum of its channels (equation 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, KERNEL, padding=KERNEL // 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, channels, h, w) to weights (n, 1, h, w), 0 to 1."""
        pooled = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
        weights: torch.Tensor = self.conv(pooled).sigmoid()
        return weights


class Cbam(nn.Module):
    """Channel attention, then spatial attention (equations 3 and 5); shapes stay."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channel, self.spatial = ChannelAttention(channels), SpatialAttention()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, channels, h, w) to the same shape."""
        x = self.channel(x) * x
        return self.spatial(x) * x


def _float32(x: torch.Tensor) -> AbstractContextManager[Any]:
    """Where autocast is off; the ``meta`` device has none."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


class NormedConv(nn.Conv2d):
    """4/2/1 convolution for spectral normalisation, whose weight is computed in float32."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, 4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, channels_in, w, w) to (n, channels_out, w / 2, w / 2)."""
        with _float32(x):
            weight = self.weight
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class NormedDeconv(nn.ConvTranspose2d):
    """4/2/1 transposed convolution, as :class:`NormedConv`."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, 4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Map (n, channels_in, w, w) to (n, channels_out, 2 w, 2 w)."""
        with _float32(x):
            weight = self.weight
        return F.conv_transpose2d(x, weight, self.bias, (2, 2), (1, 1))


def _attention(sizes: list[int], attention: bool) -> nn.ModuleList:
    return nn.ModuleList(Cbam(size) if attention else nn.Identity() for size in sizes)


class AvpDecoder(nn.Module):
    """The generator network (figure 4): an embedding to a face of 64 px.

    Transposed convolutions 4/1/0 to 1024 channels, 4/2/1 to 512, 256, 128 and 64, and 1/1/0 to RGB.
    ReLU but after the last, spectral normalisation in the second to fifth. The network works in -1
    to 1, and its pictures are converted.
    """

    def __init__(self, dim: int, width: float, attention: bool) -> None:
        super().__init__()
        self.dim = dim
        sizes = [scaled(channels, width) for channels in DECODER_CHANNELS[:5]]
        self.blocks = nn.ModuleList([nn.ConvTranspose2d(dim, sizes[0], 4)])
        self.blocks.extend(spectral_norm(NormedDeconv(a, b)) for a, b in pairwise(sizes))
        self.attention = _attention(sizes, attention)
        self.to_rgb = nn.ConvTranspose2d(sizes[-1], 3, 1)

    def forward(self, embedding: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map (n, dim) to one picture (n, 3, 64, 64), ImageNet-normalised."""
        x = embedding[:, :, None, None]
        for block, attention in zip(self.blocks, self.attention, strict=True):
            x = attention(F.relu(block(x)))
        return (from_signed(self.to_rgb(x)),)


class AvpTrunk(nn.Module):
    """The discriminator network (figure 5) without its head: a face of 64 px to 64 features.

    Convolutions 1/1/0 to 32 channels, 4/2/1 to 64, 128, 256 and 512, and 4/1/0 to 64. Leaky ReLU
    but after the last, spectral normalisation in all but the first and last.
    """

    def __init__(self, px: int, width: float, attention: bool) -> None:
        super().__init__()
        if px != 64:
            raise ModelError(f"AVP-GAN's discriminator is for 64 px, not {px}")
        sizes = [scaled(channels, width) for channels in DISCRIMINATOR_CHANNELS]
        self.convs = nn.ModuleList([nn.Conv2d(3, sizes[0], 1)])
        self.convs.extend(spectral_norm(NormedConv(a, b)) for a, b in pairwise(sizes))
        self.attention = _attention(sizes, attention)
        self.last = nn.Conv2d(sizes[-1], CMU_FEATURES, 4)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Map ImageNet-normalised RGB (n, 3, 64, 64) to features (n, 64)."""
        x = to_unit(pictures) * 2.0 - 1.0
        for conv, attention in zip(self.convs, self.attention, strict=True):
            x = attention(F.leaky_relu(conv(x), SLOPE))
        features: torch.Tensor = self.last(x).flatten(1)
        return features


class AvpDiscriminator(nn.Module):
    """D: whether a picture is real, on a trunk of its own (algorithm 1)."""

    def __init__(self, px: int, width: float = 1.0, attention: bool = True) -> None:
        super().__init__()
        self.trunk = AvpTrunk(px, width, attention)
        self.real = nn.Linear(CMU_FEATURES, 1, bias=False)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Map ImageNet-normalised RGB (n, 3, 64, 64) to logits (n, 2), class 1 = real.

        The first is 0: softmax cross-entropy of the two is binary cross-entropy of the second.
        """
        score = self.real(self.trunk(pictures))
        return torch.cat([torch.zeros_like(score), score], dim=1)


class AvpClassifier(nn.Module):
    """C: whose face a picture is, on a trunk of its own (algorithm 1)."""

    def __init__(
        self, px: int, n_identities: int, width: float = 1.0, attention: bool = True
    ) -> None:
        super().__init__()
        self.trunk = AvpTrunk(px, width, attention)
        self.identity = nn.Linear(CMU_FEATURES, n_identities, bias=False)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Map ImageNet-normalised RGB (n, 3, 64, 64) to logits (n, n_identities)."""
        logits: torch.Tensor = self.identity(self.trunk(pictures))
        return logits


class AvpSharedDiscriminator(SharedDiscriminator):
    """D and C as two heads on one trunk, as in voice2face's released code."""

    def __init__(
        self, px: int, n_identities: int, width: float = 1.0, attention: bool = True
    ) -> None:
        super().__init__(CMU_FEATURES, n_identities, bias=False)
        self.network = AvpTrunk(px, width, attention)

    def trunk(self, pictures: torch.Tensor) -> torch.Tensor:
        """Map ImageNet-normalised RGB (n, 3, 64, 64) to features (n, 64)."""
        features: torch.Tensor = self.network(pictures)
        return features


STARTING_DEVIATION = 0.1
"""Of a new network's output over its items; see :func:`start_audible`."""
STARTING_VOICES, STARTING_PICTURES = 64, 16


def start_audible(network: nn.Module) -> None:
    """Scale first and last layers of new decoders and trunks until the output depends on the input.

    Spectral normalisation keeps the layers between from making up for what they and attention
    (about 1/4 each at the start) take away: with torch's usual weights, two voices' faces differ by
    1e-4 and a classifier's logits for two faces by 1e-6, and neither had begun to learn after 150
    steps. So biases begin at 0, and random items come out :data:`STARTING_DEVIATION` apart. The
    paper does not say how weights begin. The same is done without attention, so that the two are
    comparable. For training alone: it takes some passes, and weights that are loaded replace it.
    """
    for module in network.modules():
        if isinstance(module, AvpDecoder):
            items = F.normalize(torch.randn(STARTING_VOICES, module.dim), dim=1)
            _scale(module, [*module.blocks, module.to_rgb], items)
        elif isinstance(module, AvpTrunk):
            _scale(module, [*module.convs, module.last], torch.randn(STARTING_PICTURES, 3, 64, 64))


def _scale(network: nn.Module, layers: list[nn.Module], items: torch.Tensor) -> None:
    network.eval()  # the power iteration stays
    with torch.no_grad():
        for layer in layers:
            assert isinstance(layer.bias, nn.Parameter)
            layer.bias.zero_()
        ends = [layers[0].weight, layers[-1].weight]
        for _ in range(4):  # more than one: attention's weights change with the scale
            output = network(items)
            deviation = (output[0] if isinstance(output, tuple) else output).std(dim=0).mean()
            for weight in ends:
                assert isinstance(weight, nn.Parameter)
                weight.mul_((STARTING_DEVIATION / deviation).sqrt())
    network.train()
