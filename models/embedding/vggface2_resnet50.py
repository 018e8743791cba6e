"""``vggface2_resnet50``: the VGGFace2 classifier of SF2F's VGGFace Score.

Cao et al. 2018 (VGGFace2): ResNet-50 in Caffe's form (the stride in the first 1 × 1 convolution,
max-pooling that rounds up), 8,631 identities. Names and shapes are those of
``resnet50_ft_weight.pkl`` named in github.com/cydonia999/VGGFace2-pytorch, so that file fits as it
is; it is a pickle, and is read by ``numpy_pickle``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from models.embedding.numpy_pickle import read_numpy_pickle
from models.errors import ModelError
from models.inference import on_device
from models.weight_files import fill

INPUT_PX = 224
CLASSES = 8631
MEAN_RGB = (131.0912, 103.8827, 91.4953)
"""Mean colour of the training faces, 0 to 255."""

ChannelOrder = Literal["rgb", "bgr"]


class BottleneckUnit(nn.Module):
    """1 × 1 (with the stride), 3 × 3, 1 × 1 convolutions around a shortcut."""

    def __init__(self, channels_in: int, channels: int, stride: int, downsample: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 1, stride, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * channels)
        self.downsample = (
            nn.Sequential(
                nn.Conv2d(channels_in, 4 * channels, 1, stride, bias=False),
                nn.BatchNorm2d(4 * channels),
            )
            if downsample
            else None
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, channels_in, h, w) to (n, 4 * channels, h / stride, w / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.relu(self.bn3(self.conv3(x)) + shortcut)


def _layer(channels_in: int, channels: int, units: int, stride: int) -> nn.Sequential:
    first = BottleneckUnit(channels_in, channels, stride, downsample=True)
    rest = [BottleneckUnit(4 * channels, channels, 1, downsample=False) for _ in range(units - 1)]
    return nn.Sequential(first, *rest)


class CaffeResNet50(nn.Module):
    """Input RGB or BGR (n, 3, 224, 224) less the mean, on the scale of 0 to 255."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _layer(64, 64, 3, stride=1)
        self.layer2 = _layer(256, 128, 4, stride=2)
        self.layer3 = _layer(512, 256, 6, stride=2)
        self.layer4 = _layer(1024, 512, 3, stride=2)
        self.fc = nn.Linear(2048, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (n, 8631)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.max_pool2d(x, 3, stride=2, ceil_mode=True)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean(dim=(2, 3)))


class VggFace2Classifier:
    """Probabilities of the 8,631 identities of VGGFace2's training set."""

    name = "vggface2_resnet50"
    classes = CLASSES

    def __init__(
        self, weights: Path, device: str = "cpu", channel_order: ChannelOrder = "rgb"
    ) -> None:
        """Read the published pickle; ModelError where it is not that.

        ``channel_order``: how pictures are fed. SF2F's released VGGFace Score feeds RGB, hence the
        default, so that scores compare with its tables; the network was trained on BGR, which is
        right for recognising people.
        """
        if channel_order not in ("rgb", "bgr"):
            raise ModelError(f"channel order {channel_order!r} is unknown; take rgb or bgr")
        arrays = read_numpy_pickle(weights)
        self._network = CaffeResNet50()
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        fill(self._network, tensors, weights, "VGGFace2's ResNet-50")
        on_device(self._network, device)
        self._device = device
        self._bgr = channel_order == "bgr"

    def __call__(self, pictures: torch.Tensor, batch_size: int = 32) -> NDArray[np.float32]:
        """Return probabilities, float32 (n, 8631), rows summing to 1.

        ``pictures``: whole pictures, RGB (n, 3, h, w), 0 to 1; the mean is subtracted, then they
        are resized bilinearly with aligned corners to 224 × 224, as SF2F's released code does.
        """
        mean = torch.tensor(MEAN_RGB, device=self._device).view(1, 3, 1, 1)
        rows = []
        with torch.inference_mode():
            for batch in pictures.split(batch_size):
                x = batch.to(self._device).float() * 255.0 - mean
                x = F.interpolate(x, (INPUT_PX, INPUT_PX), mode="bilinear", align_corners=True)
                logits = self._network(x.flip(1) if self._bgr else x)
                rows.append(logits.softmax(dim=1).cpu().numpy())
        return np.concatenate(rows) if len(pictures) else np.zeros((0, CLASSES), np.float32)
