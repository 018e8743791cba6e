"""Our own emotion classifier, ``hqvox_neutral``: is this face neutral, happy, or something else?

A small residual network sees the aligned grey face with its light normalised; a second branch
sees the 68 landmarks, in units of the interpupillary distance, because the shape of mouth and
brows says much about expression and nothing about colour or light. Trained by
``python -m models.training.emotion.train``; the card beside the weights gives data and figures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from models.errors import ModelError
from models.geometry import MIRRORED, apply_transform, eye_centres, reduced
from models.inference import pick_device
from models.protocols import Photo

CLASSES = ("neutral", "happiness", "other")
INPUT_PX = 64
N_PIXELS = INPUT_PX * INPUT_PX
N_VALUES = N_PIXELS + 2 * 68
"""Length of one crop: pixels row by row, then x, y of each landmark."""

IPD_FRACTION = 0.38
"""Interpupillary distance as a fraction of the crop's side: brows to chin fill the crop."""
EYES_Y = 0.30
"""Height of the eyes as a fraction of the crop's side, from the top."""
OVERSAMPLING = 2
"""The face is resampled at this multiple of its final size, then averaged down."""

LIGHT_SIGMA_PX = 10.0
"""Standard deviation of the neighbourhood whose mean and contrast are divided out."""
LIGHT_FLOOR = 12.0
"""Grey levels added to the local contrast, so that noise in flat skin is not blown up."""

METADATA_FORMAT = "hqvox_neutral/1"


def crop_transform(landmarks_xy: NDArray[np.floating], side_px: int) -> NDArray[np.float64]:
    """Similarity transform, 2 × 3, from photo pixels to the square crop of a given side.

    Raises ModelError where the eye centres coincide.
    """
    left, right = eye_centres(landmarks_xy)
    dx, dy = right - left
    ipd = float(np.hypot(dx, dy))
    if not (math.isfinite(ipd) and ipd > 0):
        raise ModelError("the landmarks of a face have no distance between its eyes")
    scale = IPD_FRACTION * side_px / ipd
    cos, sin = dx / ipd * scale, dy / ipd * scale
    rotation = np.array([[cos, sin], [-sin, cos]])
    target = np.array([0.5 * side_px - 0.5, EYES_Y * side_px - 0.5])
    return np.column_stack([rotation, target - rotation @ ((left + right) / 2)])


def aligned_grey(
    photo: Photo, landmarks_xy: NDArray[np.floating], margin: float = 0.0
) -> NDArray[np.uint8]:
    """Cut the aligned face, oversampled, grey, with a margin as a fraction of its side.

    Returns uint8 (s, s) with s = 128 (1 + 2 margin). Large faces are averaged down before they
    are resampled, so that nothing aliases.
    """
    side = INPUT_PX * OVERSAMPLING
    matrix = crop_transform(landmarks_xy, side)
    pad = round(side * margin)
    matrix[:, 2] += pad
    size = side + 2 * pad
    inverse = cv2.invertAffineTransform(matrix)
    corners = np.array([[0, 0, 1], [size, 0, 1], [0, size, 1], [size, size, 1]]) @ inverse.T
    lo = np.maximum(np.floor(corners.min(axis=0)) - 2, 0).astype(int)
    hi = np.ceil(corners.max(axis=0)).astype(int) + 3
    part = photo[lo[1] : max(hi[1], lo[1] + 1), lo[0] : max(hi[0], lo[0] + 1)]
    if not part.size:
        raise ModelError("the landmarks of a face lie outside the photo")
    grey = np.asarray(cv2.cvtColor(np.ascontiguousarray(part), cv2.COLOR_RGB2GRAY), np.uint8)
    matrix[:, 2] += matrix[:, :2] @ lo
    step = int(1 / np.hypot(matrix[0, 0], matrix[0, 1]))
    if step >= 2:
        shape = (max(grey.shape[1] // step, 1), max(grey.shape[0] // step, 1))
        grey, matrix = reduced(grey, matrix, shape)
    warped = cv2.warpAffine(
        grey, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return warped.astype(np.uint8)


def normalise_light(grey: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Average (128, 128) down to (64, 64) and divide out local brightness and contrast."""
    small = cv2.resize(grey.astype(np.float32), (INPUT_PX, INPUT_PX), interpolation=cv2.INTER_AREA)
    centred = small - cv2.GaussianBlur(small, (0, 0), LIGHT_SIGMA_PX)
    spread = np.sqrt(cv2.GaussianBlur(centred * centred, (0, 0), LIGHT_SIGMA_PX))
    return np.clip(centred / (spread + LIGHT_FLOOR), -3, 3).astype(np.float32)


def normalised_landmarks(landmarks_xy: NDArray[np.floating]) -> NDArray[np.float32]:
    """Landmarks (68, 2) in the crop's frame, centred between the eyes, in units of its side."""
    matrix = crop_transform(landmarks_xy, 1)
    return (apply_transform(matrix, landmarks_xy) - (0.0, EYES_Y - 0.5)).astype(np.float32)


def mirrored(values: Tensor) -> Tensor:
    """Mirror crops (n, 4232) left to right: the pixels, and the landmarks with their indices."""
    pixels = values[:, :N_PIXELS].reshape(-1, INPUT_PX, INPUT_PX).flip(2).flatten(1)
    points = values[:, N_PIXELS:].reshape(-1, 68, 2)[:, torch.from_numpy(MIRRORED)]
    points = points * torch.tensor([-1.0, 1.0], device=values.device)
    return torch.cat([pixels, points.flatten(1)], dim=1)


class Residual(nn.Module):
    """Two 3 × 3 convolutions with batch norm and a shortcut; the first may halve the size."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.shortcut_bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, inputs, h, w) to (n, outputs, h / stride, w / stride)."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut_bn(self.shortcut(x)))


class NeutralNet(nn.Module):
    """The network: crops (n, 4232) to logits (n, 3) in the order of ``CLASSES``."""

    def __init__(self, dropout: float = 0.3) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 24, 5, 2, 2, bias=False), nn.BatchNorm2d(24))
        self.stages = nn.Sequential(
            Residual(24, 32, 2), Residual(32, 64, 2), Residual(64, 96, 2), Residual(96, 160, 1)
        )
        self.geometry = nn.Sequential(
            nn.BatchNorm1d(136),
            nn.Linear(136, 128),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(128, 64),
            nn.GELU(),
        )
        self.head = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(160 + 64, 96), nn.GELU(), nn.Linear(96, len(CLASSES))
        )

    def forward(self, values: Tensor) -> Tensor:
        """Return logits of crops as ``HqvoxNeutral.crop`` makes them."""
        pixels = values[:, :N_PIXELS].reshape(-1, 1, INPUT_PX, INPUT_PX)
        x = self.stages(torch.relu(self.stem(pixels))).mean(dim=(2, 3))
        return self.head(torch.cat([x, self.geometry(values[:, N_PIXELS:])], dim=1))


def read_weights(path: Path) -> tuple[dict[str, Tensor], float]:
    """Read a safetensors file: the state dict of ``NeutralNet`` and the neutral threshold.

    Names, shapes and metadata must be exactly ours, values finite; else ModelError.
    """
    template = {
        key: tuple(value.shape)
        for key, value in NeutralNet().state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{path}: not a readable safetensors file ({reason})") from error
    if missing := sorted(template.keys() - state.keys()):
        raise ModelError(f"{path}: not weights of hqvox_neutral: no tensor {missing[0]}")
    if extra := sorted(state.keys() - template.keys()):
        raise ModelError(f"{path}: not weights of hqvox_neutral: unknown tensor {extra[0]}")
    for key, shape in template.items():
        if tuple(state[key].shape) != shape or not state[key].is_floating_point():
            raise ModelError(
                f"{path}: tensor {key} is {state[key].dtype} {tuple(state[key].shape)}, "
                f"hqvox_neutral has floats {shape}"
            )
        if not bool(torch.isfinite(state[key]).all()):
            raise ModelError(f"{path}: tensor {key} holds values that are not finite")
    if metadata.get("format") != METADATA_FORMAT:
        raise ModelError(f"{path}: format '{metadata.get('format')}' is not {METADATA_FORMAT}")
    try:
        threshold = float(metadata["neutral_threshold"])
    except (KeyError, ValueError) as error:
        raise ModelError(f"{path}: its metadata has no number 'neutral_threshold'") from error
    if not 0 < threshold < 1:
        raise ModelError(f"{path}: neutral_threshold {threshold} is not between 0 and 1")
    return {key: value.float() for key, value in state.items()}, threshold


class HqvoxNeutral:
    """``hqvox_neutral``: probabilities of neutral, happiness and other."""

    name = "hqvox_neutral"
    classes: tuple[str, ...] = CLASSES

    neutral_threshold: float
    """Probability from which a face counts as neutral. Chosen by the training command on its
    validation identities (the card says how) and stored in the weights' metadata."""

    def __init__(
        self, network: NeutralNet, neutral_threshold: float = 0.5, device: str = "cpu"
    ) -> None:
        """Wrap a network, which is moved to the device and set to evaluation mode."""
        self.neutral_threshold = neutral_threshold
        self._device = pick_device(device)
        self._network = network.eval().to(self._device)

    @classmethod
    def from_file(cls, weights: Path, device: str = "cpu") -> HqvoxNeutral:
        """Load the weights; raise ModelError where they are not those of this network."""
        state, threshold = read_weights(weights)
        network = NeutralNet()
        # num_batches_tracked has no influence on inference and is not stored.
        network.load_state_dict(state, strict=False)
        return cls(network, threshold, device)

    def crop(
        self, photo: Photo, box_xyxy: NDArray[np.float32], landmarks_xy: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Cut the aligned grey face and its landmarks; the box is not used.

        ``photo`` RGB uint8; ``landmarks_xy`` (68, 2) pixels. Returns float32 (4232,): 64 × 64
        pixels with light normalised (−3…3), then the landmarks in units of the crop's side.
        Raises ModelError where the landmarks lie outside the photo or the eyes coincide.
        """
        pixels = normalise_light(aligned_grey(photo, landmarks_xy))
        return np.concatenate([pixels.ravel(), normalised_landmarks(landmarks_xy).ravel()])

    @torch.inference_mode()
    def __call__(self, crops: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return probabilities, float32 (n, 3): the mean over each crop and its mirror image."""
        if not len(crops):
            return np.zeros((0, len(CLASSES)), np.float32)
        batch = torch.from_numpy(np.stack(crops)).to(self._device, torch.float32)
        both = self._network(torch.cat([batch, mirrored(batch)])).softmax(dim=1)
        return both.reshape(2, len(crops), len(CLASSES)).mean(dim=0).cpu().numpy()
