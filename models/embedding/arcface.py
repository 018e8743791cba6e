"""``arcface_r50``: ArcFace embeddings by IResNet-50, the metric of AVP-GAN.

Deng et al. 2019 (ArcFace), section 3.1; names and shapes are those of ``backbone.pth`` as
github.com/deepinsight/insightface (``recognition/arcface_torch``) trains it, so that file fits as
it is. Those weights are for research without commercial use.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from models.geometry import ALIGNED_LEFT_EYE, ALIGNED_RIGHT_EYE, IPD_PER_SIDE, eye_centres
from models.inference import BatchRunner, Precision, warp_crop
from models.protocols import Photo
from models.resampling import Box
from models.weight_files import fill, read_checkpoint

INPUT_PX = 112
EMBEDDING_DIM = 512
FIVE_POINTS_XY = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ]
)
"""Eyes, nose tip and mouth corners of the mean face in the 112 × 112 crop (insightface)."""


class IResidualUnit(nn.Module):
    """Batch norm first, no ReLU after the sum: the "improved" residual unit of ArcFace."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.prelu = nn.PReLU(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.downsample = (
            nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )
            if stride != 1 or channels_in != channels
            else None
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, channels_in, h, w) to (n, channels, h / stride, w / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        return self.bn3(self.conv2(x)) + shortcut


def _layer(channels_in: int, channels: int, units: int) -> nn.Sequential:
    rest = [IResidualUnit(channels, channels, 1) for _ in range(units - 1)]
    return nn.Sequential(IResidualUnit(channels_in, channels, 2), *rest)


class IResNet50(nn.Module):
    """Input RGB (n, 3, 112, 112), -1 to 1; 43,590,848 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu = nn.PReLU(64)
        self.layer1 = _layer(64, 64, 3)
        self.layer2 = _layer(64, 128, 4)
        self.layer3 = _layer(128, 256, 14)
        self.layer4 = _layer(256, 512, 3)
        self.bn2 = nn.BatchNorm2d(512)
        self.fc = nn.Linear(512 * 7 * 7, EMBEDDING_DIM)
        self.features = nn.BatchNorm1d(EMBEDDING_DIM)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return L2-normalised embeddings (n, 512)."""
        return self.features_of(x)[-1]

    def features_of(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the maps after levels 2 to 4, (n, 128 | 256 | 512, h, w), and the embeddings."""
        shallow = self.layer1(self.prelu(self.bn1(self.conv1(x))))
        two = self.layer2(shallow)
        three = self.layer3(two)
        four = self.layer4(three)
        flat = self.fc(self.bn2(four).flatten(1))
        return [two, three, four, F.normalize(self.features(flat).float(), dim=1)]


def five_points(landmarks_xy: NDArray[np.floating]) -> NDArray[np.float64]:
    """Eye centres, nose tip and mouth corners (5, 2), left in the image first, of 68 landmarks."""
    points = np.asarray(landmarks_xy, dtype=np.float64)
    return np.vstack([eye_centres(points), points[30], points[48], points[54]])


def similarity_transform(
    source_xy: NDArray[np.float64], target_xy: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Least-squares similarity transform, 2 × 3, from source to target points (n, 2).

    No reflection. With points as complex numbers it is a linear regression z -> a z + b. Raises
    ValueError where all source points coincide.
    """
    source = source_xy[:, 0] + 1j * source_xy[:, 1]
    target = target_xy[:, 0] + 1j * target_xy[:, 1]
    centred = source - source.mean()
    spread = float((np.abs(centred) ** 2).sum())
    if not spread > 0:
        raise ValueError("all points coincide")
    a = (np.conj(centred) * (target - target.mean())).sum() / spread
    b = target.mean() - a * source.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def arcface_box() -> Box:
    """The 112 × 112 crop as a box in HQ-VoxCeleb's aligned picture.

    The box that takes the eyes' fixed places there to those of :data:`FIVE_POINTS_XY`: their
    middle, and their distance. The crop's pixel centres are at integers.
    """
    left, right = (FIVE_POINTS_XY[:2] + 0.5) / INPUT_PX
    side = IPD_PER_SIDE / float(np.hypot(*(right - left)))
    x, y = np.add(ALIGNED_LEFT_EYE, ALIGNED_RIGHT_EYE) / 2 - (left + right) / 2 * side
    return float(x), float(y), float(x + side), float(y + side)


def load_arcface(path: Path) -> IResNet50:
    """The published backbone, in evaluation mode, on the CPU. Raises ModelError."""
    network = IResNet50()
    fill(network, read_checkpoint(path), path, "insightface's IResNet-50")
    return network.eval()


class ArcFace:
    """512-d embedding, L2-normalised; a ``FaceEmbedder``."""

    name = "arcface_r50"
    dim = EMBEDDING_DIM
    same_person_cosine = 0.32
    """Not measured here, since the weights cannot be had offline: the cosine distance of 0.68 that
    the deepface package uses for ArcFace. Measure with ``benchmarks/identity.py --network``."""

    def __init__(
        self, weights: Path, device: str = "cpu", precision: Precision = "float32"
    ) -> None:
        """Read the published backbone; ModelError where it is not that or the device is not."""
        self._network = load_arcface(weights)
        self._run = BatchRunner(self._network, device, precision)

    def crop(self, photo: Photo, landmarks_xy: NDArray[np.float32]) -> Photo:
        """Cut the five-point aligned crop, RGB uint8 (112, 112, 3), black outside the photo."""
        matrix = similarity_transform(five_points(landmarks_xy), FIVE_POINTS_XY)
        return warp_crop(photo, matrix, (INPUT_PX, INPUT_PX))

    def __call__(self, crops: Sequence[Photo]) -> NDArray[np.float32]:
        """Return embeddings float32 (n, 512) of crops made by ``crop``."""
        if not len(crops):
            return np.zeros((0, self.dim), np.float32)
        return self._run(crops, lambda x: self._network((x - 127.5) / 127.5), INPUT_PX)
