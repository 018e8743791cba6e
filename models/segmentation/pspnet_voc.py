"""``pspnet_voc``: the PSPNet that SF2F used for its masks, with mmsegmentation's weights.

Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017; weights trained on Pascal VOC 2012 (aug),
published by OpenMMLab as ``pspnet_r50-d8_512x512_20k_voc12aug``. The backbone is ResNetV1c-50: a
stem of three 3 × 3 convolutions, stride on the 3 × 3 convolution of a bottleneck, and dilation
instead of stride in the last two groups, so that features stay at an eighth of the input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from models.errors import ModelError
from models.inference import MaskRunner
from models.protocols import Photo
from models.weight_files import read_torch_file

CLASSES = 21
PERSON = 15
"""Index of "person" among Pascal VOC's classes, background being 0."""
POOLS = (1, 2, 3, 6)
MEAN = (123.675, 116.28, 103.53)
"""RGB, 0 to 255, as the checkpoint's configuration states them; so STD."""
STD = (58.395, 57.12, 57.375)
SKIPPED = ("auxiliary_head.",)
"""Key prefixes of the checkpoint that only training used."""


def _conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU, with the names that mmcv's ConvModule gives them."""
    block = nn.Sequential()
    block.add_module(
        "conv", nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    )
    block.add_module("bn", nn.BatchNorm2d(outputs))
    block.add_module("activate", nn.ReLU(inplace=True))
    return block


class Bottleneck(nn.Module):
    """1 × 1, 3 × 3 (stride and dilation here), 1 × 1 to four times ``width``, and a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int, dilation: int, project: bool) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(
            width, width, 3, stride=stride, padding=dilation, dilation=dilation, bias=False
        )
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = (
            nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )
            if project
            else nn.Identity()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, 4 · width, h / stride, w / stride)."""
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        y = functional.relu(self.bn2(self.conv2(y)), inplace=True)
        return functional.relu(self.bn3(self.conv3(y)) + self.downsample(x), inplace=True)


def _group(inputs: int, width: int, blocks: int, stride: int, dilation: int) -> nn.Sequential:
    # A dilated group's first block keeps half the dilation, as the group before it had it.
    first = Bottleneck(inputs, width, stride, max(1, dilation // 2), project=True)
    rest = [Bottleneck(4 * width, width, 1, dilation, False) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)


class Backbone(nn.Module):
    """ResNetV1c-50 with output stride 8: RGB in, (n, 2048, h / 8, w / 8) out."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, stride in ((3, 32, 2), (32, 32, 1), (32, 64, 1)):
            layers += [
                nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
            ]
        self.stem = nn.Sequential(*layers)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = _group(64, 64, 3, 1, 1)
        self.layer2 = _group(256, 128, 4, 2, 1)
        self.layer3 = _group(512, 256, 6, 1, 2)
        self.layer4 = _group(1024, 512, 3, 1, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the last group's features."""
        x = self.maxpool(self.stem(x))
        y: torch.Tensor = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return y


class DecodeHead(nn.Module):
    """Pyramid pooling, bottleneck, and class scores."""

    def __init__(self) -> None:
        super().__init__()
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(pool), _conv_bn(2048, 512, 1)) for pool in POOLS
        )
        self.bottleneck = _conv_bn(2048 + 512 * len(POOLS), 512, 3)
        self.conv_seg = nn.Conv2d(512, CLASSES, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return class scores (n, 21, h, w) of features (n, 2048, h, w)."""
        pooled = [
            functional.interpolate(module(x), x.shape[2:], mode="bilinear", align_corners=False)
            for module in self.psp_modules
        ]
        scores: torch.Tensor = self.conv_seg(self.bottleneck(torch.cat([x, *pooled], dim=1)))
        return scores


class PSPNetVOC(nn.Module):
    """The whole network; its state dict has the published checkpoint's names."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.decode_head = DecodeHead()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return class scores (n, 21, h, w), upsampled to the normalised input (n, 3, h, w)."""
        scores = self.decode_head(self.backbone(x))
        return functional.interpolate(scores, x.shape[2:], mode="bilinear", align_corners=False)


def load_checkpoint(path: Path) -> PSPNetVOC:
    """Return the network with the checkpoint's weights, in evaluation mode.

    Nothing in the file is executed. Raises ModelError where the file is unreadable, holds other
    objects than tensors and plain values, or a tensor is missing, unknown or of another shape;
    the auxiliary head, which only training used, is known and left out.
    """
    checkpoint = read_torch_file(path)
    state = checkpoint.get("state_dict") if isinstance(checkpoint, Mapping) else None
    if not isinstance(state, Mapping):
        raise ModelError(f"{path}: no 'state_dict' in it; pspnet_voc needs mmsegmentation's file")
    network = PSPNetVOC()
    network.load_state_dict(checked_state(path, state, network.state_dict()))
    return network.eval()


def checked_state(
    path: Path, state: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return the tensors of ``state`` that the network has, every name and shape as ``wanted``.

    Raises ModelError naming the tensors that are missing, unknown or of another shape.
    """
    given = {k: v for k, v in state.items() if not str(k).startswith(SKIPPED)}
    # Counts of training batches are no weights, and old checkpoints lack them.
    counts = {k: v for k, v in wanted.items() if k.endswith("num_batches_tracked")}
    problems = {
        "missing": [k for k in wanted if k not in given and k not in counts],
        "unknown": [str(k) for k in given if k not in wanted],
        "of another shape or type": [
            k
            for k, v in given.items()
            if k in wanted and not (isinstance(v, torch.Tensor) and v.shape == wanted[k].shape)
        ],
    }
    if any(problems.values()):
        listed = "; ".join(
            f"{len(keys)} {what} ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})"
            for what, keys in problems.items()
            if keys
        )
        raise ModelError(f"{path}: not the weights of pspnet_voc: {listed}")
    return {**counts, **given}


class VOCMasker:
    """Person probability by softmax over the 21 classes of Pascal VOC."""

    name = "pspnet_voc"
    input_px = 512
    """The side that the published weights were trained on."""

    def __init__(self, weights: Path, device: str = "cpu", fast: bool = False) -> None:
        """Load ``weights``; ``fast`` runs bfloat16 and channels-last (meant for CUDA)."""
        self._run = MaskRunner(load_checkpoint(weights), device, fast)

    def __call__(self, crops: Sequence[Photo]) -> NDArray[np.float32]:
        """Return person probability, float32 (n, 512, 512), 0 to 1, for square RGB crops."""
        return self._run(crops, self.input_px, self._probability)

    @staticmethod
    def _probability(network: nn.Module, rgb: torch.Tensor) -> torch.Tensor:
        mean = torch.tensor(MEAN, device=rgb.device)[:, None, None]
        std = torch.tensor(STD, device=rgb.device)[:, None, None]
        scores: torch.Tensor = network((rgb * 255 - mean) / std)
        return scores.float().softmax(dim=1)[:, PERSON]
