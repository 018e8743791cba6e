"""``facenet_vggface2``: FaceNet embeddings of faces in HQ-VoxCeleb's geometry.

For the build (an embedder of photos) and for training (a differentiable network, and its input made
from generated pictures as SF2F's released code does). The network is Inception-ResNet-v1 (Szegedy
et al. 2016, Inception-v4, section 3.2) in the variant of David Sandberg's FaceNet. Names and shapes
are those of ``20180402-114759-vggface2.pt`` of github.com/timesler/facenet-pytorch (MIT), so that
file fits as it is. 27,910,327 parameters with its 8,631 classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from models.geometry import aligned_transform, eye_centres
from models.inference import BatchRunner, Precision, warp_crop
from models.protocols import Photo
from models.weight_files import fill, read_checkpoint

EMBEDDING_DIM = 512
VGGFACE2_CLASSES = 8631

_Kernel = int | tuple[int, int]


class ConvUnit(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: _Kernel,
        stride: int = 1,
        padding: _Kernel = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(channels_out, eps=1e-3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, channels_in, h, w) to (n, channels_out, h', w')."""
        return F.relu(self.bn(self.conv(x)))


class ResidualUnit(nn.Module):
    """Branches side by side, joined by a 1 × 1 convolution, scaled and added to the input."""

    def __init__(self, channels: int, scale: float, relu: bool, *branches: nn.Module) -> None:
        super().__init__()
        width = 0
        for i, branch in enumerate(branches):
            self.add_module(f"branch{i}", branch)
            last = branch[-1] if isinstance(branch, nn.Sequential) else branch
            assert isinstance(last, ConvUnit)
            width += last.conv.out_channels
        self.conv2d = nn.Conv2d(width, channels, 1)
        self._branch_count = len(branches)
        self._scale = scale
        self._relu = relu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, channels, h, w) to the same shape."""
        branches = [self.get_submodule(f"branch{i}")(x) for i in range(self._branch_count)]
        x = x + self._scale * self.conv2d(torch.cat(branches, dim=1))
        return F.relu(x) if self._relu else x


class Reduction(nn.Module):
    """Branches side by side, each halving the picture, the last one by max-pooling."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        for i, branch in enumerate(branches):
            self.add_module(f"branch{i}", branch)
        self._branch_count = len(branches)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, c, h, w) to (n, c', h / 2, w / 2), rounded down."""
        branches = [self.get_submodule(f"branch{i}")(x) for i in range(self._branch_count)]
        return torch.cat([*branches, F.max_pool2d(x, 3, stride=2)], dim=1)


def _block35() -> ResidualUnit:
    return ResidualUnit(
        256,
        0.17,
        True,
        ConvUnit(256, 32, 1),
        nn.Sequential(ConvUnit(256, 32, 1), ConvUnit(32, 32, 3, padding=1)),
        nn.Sequential(
            ConvUnit(256, 32, 1), ConvUnit(32, 32, 3, padding=1), ConvUnit(32, 32, 3, padding=1)
        ),
    )


def _block17() -> ResidualUnit:
    return ResidualUnit(
        896,
        0.10,
        True,
        ConvUnit(896, 128, 1),
        nn.Sequential(
            ConvUnit(896, 128, 1),
            ConvUnit(128, 128, (1, 7), padding=(0, 3)),
            ConvUnit(128, 128, (7, 1), padding=(3, 0)),
        ),
    )


def _block8(scale: float = 0.20, relu: bool = True) -> ResidualUnit:
    return ResidualUnit(
        1792,
        scale,
        relu,
        ConvUnit(1792, 192, 1),
        nn.Sequential(
            ConvUnit(1792, 192, 1),
            ConvUnit(192, 192, (1, 3), padding=(0, 1)),
            ConvUnit(192, 192, (3, 1), padding=(1, 0)),
        ),
    )


class InceptionResnetV1(nn.Module):
    """FaceNet's network; input standardised RGB (n, 3, h, w), 140 × 140 in SF2F, at least 75."""

    def __init__(self, classes: int = VGGFACE2_CLASSES) -> None:
        super().__init__()
        self.conv2d_1a = ConvUnit(3, 32, 3, stride=2)
        self.conv2d_2a = ConvUnit(32, 32, 3)
        self.conv2d_2b = ConvUnit(32, 64, 3, padding=1)
        self.maxpool_3a = nn.MaxPool2d(3, stride=2)
        self.conv2d_3b = ConvUnit(64, 80, 1)
        self.conv2d_4a = ConvUnit(80, 192, 3)
        self.conv2d_4b = ConvUnit(192, 256, 3, stride=2)
        self.repeat_1 = nn.Sequential(*[_block35() for _ in range(5)])
        self.mixed_6a = Reduction(
            ConvUnit(256, 384, 3, stride=2),
            nn.Sequential(
                ConvUnit(256, 192, 1), ConvUnit(192, 192, 3, padding=1), ConvUnit(192, 256, 3, 2)
            ),
        )
        self.repeat_2 = nn.Sequential(*[_block17() for _ in range(10)])
        self.mixed_7a = Reduction(
            nn.Sequential(ConvUnit(896, 256, 1), ConvUnit(256, 384, 3, stride=2)),
            nn.Sequential(ConvUnit(896, 256, 1), ConvUnit(256, 256, 3, stride=2)),
            nn.Sequential(
                ConvUnit(896, 256, 1), ConvUnit(256, 256, 3, padding=1), ConvUnit(256, 256, 3, 2)
            ),
        )
        self.repeat_3 = nn.Sequential(*[_block8() for _ in range(5)])
        self.block8 = _block8(scale=1.0, relu=False)
        self.dropout = nn.Dropout(0.6)
        self.last_linear = nn.Linear(1792, EMBEDDING_DIM, bias=False)
        self.last_bn = nn.BatchNorm1d(EMBEDDING_DIM, eps=1e-3)
        self.logits = nn.Linear(EMBEDDING_DIM, classes)

    def features(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return what SF2F's perceptual loss compares, by depth.

        The features after the three residual groups, (n, 256, h1, w1), (n, 896, h2, w2) and
        (n, 1792, h3, w3), and the L2-normalised embedding (n, 512).
        """
        x = self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(x)))
        x = self.conv2d_4b(self.conv2d_4a(self.conv2d_3b(self.maxpool_3a(x))))
        first = self.repeat_1(x)
        second = self.repeat_2(self.mixed_6a(first))
        third = self.repeat_3(self.mixed_7a(second))
        pooled = self.dropout(self.block8(third).mean(dim=(2, 3)))
        embedding = self.last_bn(self.last_linear(pooled))
        # Normalised in full precision: under autocast the length would be off by 0.4 %.
        return [first, second, third, F.normalize(embedding.float(), dim=1)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return L2-normalised embeddings (n, 512)."""
        return self.features(x)[-1]


INPUT_PX = 140
FACE_BOX = (0.235, 0.195, 0.765, 0.915)
"""Left, top, right, bottom of the face within the aligned picture, as fractions of its side: the
average VGGFace2 box (SF2F's released code)."""


def face_input(pictures: torch.Tensor) -> torch.Tensor:
    """Make FaceNet's input of aligned pictures, differentiably, as SF2F's released code does.

    ``pictures``: RGB (n, 3, h, w), 0 to 1, faces in HQ-VoxCeleb's geometry. Returns the face box
    (edges rounded down, both included), standardised as (x - 127.5) / 128 on the scale of 0 to
    255, resized bilinearly with aligned corners to (n, 3, 140, 140).
    """
    height, width = pictures.shape[-2:]
    left, top, right, bottom = FACE_BOX
    rows = slice(int(top * height), int(bottom * height) + 1)
    columns = slice(int(left * width), int(right * width) + 1)
    face = (pictures[..., rows, columns] * 255.0 - 127.5) / 128.0
    return F.interpolate(face, size=(INPUT_PX, INPUT_PX), mode="bilinear", align_corners=True)


def load_network(path: Path) -> InceptionResnetV1:
    """Return the network with the published weights, in evaluation mode, on the CPU.

    Raises ModelError where the file is not the VGGFace2 checkpoint by names and shapes.
    """
    network = InceptionResnetV1()
    fill(network, read_checkpoint(path), path, "FaceNet's VGGFace2 checkpoint")
    return network.eval()


class FaceNet:
    """512-d embedding, L2-normalised; a ``FaceEmbedder``."""

    name = "facenet_vggface2"
    dim = EMBEDDING_DIM
    same_person_cosine = 0.6
    """Not measured here, since the weights cannot be had offline: the cosine distance of 0.40 that
    the deepface package uses for FaceNet. Measure with ``benchmarks/identity.py --network``."""

    def __init__(
        self, weights: Path, device: str = "cpu", precision: Precision = "float32"
    ) -> None:
        """Read the published checkpoint; ModelError where it is not that or the device is not."""
        self._network = load_network(weights)
        self._run = BatchRunner(self._network, device, precision)

    def crop(self, photo: Photo, landmarks_xy: NDArray[np.float32]) -> Photo:
        """Cut the face box of the aligned picture, RGB uint8 (140, 140, 3), black outside.

        Landmarks (68, 2) in photo pixels. The same box as ``face_input``, straight from the photo
        so that the photo's resolution is kept.
        """
        matrix, side = aligned_transform(eye_centres(landmarks_xy))
        left, top, right, bottom = (side * edge - 0.5 for edge in FACE_BOX)
        # Corner pixel centres of the crop on the box's corner pixel centres: aligned corners.
        scale = np.diag([(INPUT_PX - 1) / (right - left), (INPUT_PX - 1) / (bottom - top)])
        to_crop = scale @ (matrix - np.array([[0.0, 0.0, left], [0.0, 0.0, top]]))
        return warp_crop(photo, to_crop, (INPUT_PX, INPUT_PX))

    def __call__(self, crops: Sequence[Photo]) -> NDArray[np.float32]:
        """Return embeddings float32 (n, 512) of crops made by ``crop``."""
        if not len(crops):
            return np.zeros((0, self.dim), np.float32)
        return self._run(crops, lambda x: self._network((x - 127.5) / 128.0), INPUT_PX)
