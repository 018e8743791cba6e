"""``dlib_resnet``: 128-d embeddings by dlib's face recognition network, run by torch.

A ResNet of 29 convolutions, trained by dlib's author with a metric loss on about three million
faces; the file comes inside the PyPI package ``face_recognition_models``. dlib cuts the crops.
torch gives the same numbers as dlib's own build without BLAS or CUDA, several times faster and on
any device. The structure is that of dlib's example ``dnn_face_recognition_ex.cpp``; the parameters
are read from dlib's own serialisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import dlib
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from models.errors import ModelError
from models.inference import BatchRunner, Precision
from models.protocols import Photo

EMBEDDING_DIM = 128
INPUT_PX = 150
MEAN_RGB = (122.782, 117.001, 104.298)
"""Mean colour that dlib subtracts before it divides by 256."""

UNITS = ((32, 3, False), (64, 4, True), (128, 3, True), (256, 3, True), (256, 1, True))
"""Channels and number of residual units of each level, and whether its first unit halves."""


def _grow(x: torch.Tensor, channels: int, height: int, width: int) -> torch.Tensor:
    """Zeros after the last channel, row and column, as dlib adds tensors of unequal size."""
    return F.pad(x, (0, width - x.shape[3], 0, height - x.shape[2], 0, channels - x.shape[1]))


class DlibUnit(nn.Module):
    """Two 3 × 3 convolutions around a shortcut; dlib's ``affine`` is folded into them."""

    def __init__(self, channels_in: int, channels: int, halve: bool) -> None:
        super().__init__()
        stride, padding = (2, 0) if halve else (1, 1)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self._halve = halve

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, channels_in, h, w) to (n, channels, h', w')."""
        shortcut = F.avg_pool2d(x, 2) if self._halve else x
        x = self.conv2(F.relu(self.conv1(x)))
        size = [max(a, b) for a, b in zip(x.shape[1:], shortcut.shape[1:], strict=True)]
        return F.relu(_grow(x, *size) + _grow(shortcut, *size))


class DlibFaceNetwork(nn.Module):
    """Input RGB (n, 3, 150, 150), 0 to 255, as ``dlib.get_face_chip`` cuts it."""

    mean: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 32, 7, stride=2)
        units = []
        channels_in = 32
        for channels, count, halve in UNITS:
            for i in range(count):
                units.append(DlibUnit(channels_in, channels, halve and i == 0))
                channels_in = channels
        self.units = nn.Sequential(*units)
        self.fc = nn.Linear(channels_in, EMBEDDING_DIM, bias=False)
        self.register_buffer("mean", torch.tensor(MEAN_RGB).view(1, 3, 1, 1))

    def convolutions(self) -> list[nn.Conv2d]:
        """All convolutions, in dlib's order."""
        return [module for module in self.modules() if isinstance(module, nn.Conv2d)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return L2-normalised embeddings (n, 128)."""
        x = F.relu(self.conv((x - self.mean) / 256.0))
        x = self.units(F.max_pool2d(x, 3, stride=2))
        return F.normalize(self.fc(x.mean(dim=(2, 3))).float(), dim=1)


def read_network(path: Path) -> DlibFaceNetwork:
    """Return the network with the parameters of dlib's file, in evaluation mode.

    dlib writes the layers from input to output, each as its name followed by one tensor: for a
    convolution the filters and then their biases, for ``affine`` the factors and then the offsets.
    Raises ModelError where a layer is not found.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    network = DlibFaceNetwork()
    at = 0
    with torch.no_grad():
        for conv in network.convolutions():
            count, filters = conv.weight.numel(), conv.out_channels
            numbers, at = _tensor(content, at, b"con_4", (count + filters, 1, 1, 1), path)
            affine, at = _tensor(content, at, b"affine_", (2 * filters, 1, 1, 1), path)
            factor, offset = affine[:filters], affine[filters:]
            weight = numbers[:count].reshape(conv.weight.shape) * factor[:, None, None, None]
            conv.weight.copy_(torch.from_numpy(weight))
            assert conv.bias is not None
            conv.bias.copy_(torch.from_numpy(numbers[count:] * factor + offset))
        # The last layer's name is followed by its two sizes, and then the tensor.
        inputs = network.fc.in_features
        name = b"fc_2" + _integers(EMBEDDING_DIM, inputs)
        matrix, at = _tensor(content, at, name, (inputs, EMBEDDING_DIM, 1, 1), path)
        network.fc.weight.copy_(torch.from_numpy(matrix.reshape(-1, EMBEDDING_DIM).T))
    return network.eval()


def _tensor(
    content: bytes, start: int, name: bytes, shape: tuple[int, ...], path: Path
) -> tuple[NDArray[np.float32], int]:
    """The numbers of the next tensor of a layer of that name, flat, and where they end."""
    header = _integers(2, *shape)  # 2 is the version of dlib's format
    at = content.find(name + header, start)
    begin = at + len(name) + len(header)
    end = begin + 4 * int(np.prod(shape))
    if at < 0 or end > len(content):
        raise ModelError(
            f"{path} is not dlib's face recognition network: a layer {name[:4]!r} of "
            f"{shape} is missing; reinstall face_recognition_models"
        )
    numbers = np.frombuffer(content[begin:end], "<f4").astype(np.float32)
    if not np.isfinite(numbers).all():
        raise ModelError(f"{path}: a layer {name[:4]!r} has numbers that are not finite")
    return numbers, end


def _integers(*numbers: int) -> bytes:
    """Positive integers as dlib writes them: the length in bytes, then the bytes, lowest first."""
    coded = [n.to_bytes((n.bit_length() + 7) // 8, "little") for n in numbers]
    return b"".join(bytes([len(code)]) + code for code in coded)


class DlibResnet:
    """128-d embedding of a face chip, L2-normalised; a ``FaceEmbedder``."""

    name = "dlib_resnet"
    dim = EMBEDDING_DIM
    same_person_cosine = 0.915
    """Chosen and measured by ``benchmarks/identity.py`` on photographs of LFW, by people: the
    highest cosine at which ``identity_core`` refuses at most 2 % of right faces of the tuning half.
    (dlib's own advice, a distance of 0.6 between embeddings of mean length 1.41, is 0.91.)"""

    def __init__(
        self, weights: Path, device: str = "cpu", precision: Precision = "float32"
    ) -> None:
        """Read dlib's file; ModelError where it is another or the device is missing."""
        self._network = read_network(weights)
        self._run = BatchRunner(self._network, device, precision)

    def crop(self, photo: Photo, landmarks_xy: NDArray[np.float32]) -> Photo:
        """Cut dlib's face chip, RGB uint8 (150, 150, 3), from landmarks (68, 2) in photo pixels.

        dlib fits a similarity transform to its mean face with 25 % padding; what lies outside the
        photo is black.
        """
        points = [dlib.point(round(float(x)), round(float(y))) for x, y in landmarks_xy]
        left, top = np.floor(np.min(landmarks_xy, axis=0)).astype(int).tolist()
        right, bottom = np.ceil(np.max(landmarks_xy, axis=0)).astype(int).tolist()
        shape = dlib.full_object_detection(dlib.rectangle(left, top, right, bottom), points)
        return dlib.get_face_chip(np.ascontiguousarray(photo), shape, size=INPUT_PX)

    def __call__(self, crops: Sequence[Photo]) -> NDArray[np.float32]:
        """Return embeddings float32 (n, 128) of chips made by ``crop``."""
        if not len(crops):
            return np.zeros((0, self.dim), np.float32)
        return self._run(crops, self._network, INPUT_PX)
