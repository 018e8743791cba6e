"""The paper's emotion classifier: mini-XCEPTION trained on FER2013, from its Keras weight file.

Source: Arriaga, Valdenegro-Toro, Plöger, "Real-time Convolutional Neural Networks for Emotion and
Gender Classification" (2017), reference [46] of SF2F; weights of github.com/oarriaga/
face_classification, MIT. The network is rebuilt in PyTorch and reads the published HDF5.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import h5py
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from models.errors import ModelError
from models.inference import pick_device
from models.protocols import Photo

INPUT_PX = 64
BOX_OFFSET_PX = (20, 40)
"""The published code widens the detector's box by this much on each side, across and down."""

KERAS_BN_EPS = 1e-3
"""Keras' default, which the file's configuration states for every layer."""


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=KERAS_BN_EPS)


class SeparableConv(nn.Module):
    """Depthwise 3 × 3 then pointwise 1 × 1, both without bias, 'same' padding."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False)
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, inputs, h, w) to (n, outputs, h, w)."""
        return self.pointwise(self.depthwise(x))


class Block(nn.Module):
    """One residual module: two separable convolutions and a strided 1 × 1 shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=2, bias=False)
        self.shortcut_bn = _batch_norm(outputs)
        self.conv1 = SeparableConv(inputs, outputs)
        self.bn1 = _batch_norm(outputs)
        self.conv2 = SeparableConv(outputs, outputs)
        self.bn2 = _batch_norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, inputs, h, w) to (n, outputs, ceil(h / 2), ceil(w / 2))."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return _same_max_pool(y) + self.shortcut_bn(self.shortcut(x))


def _same_max_pool(x: Tensor) -> Tensor:
    """3 × 3 max-pool of stride 2 with Keras' 'same' padding: bottom and right get the odd pixel."""
    pads = []
    for size in (x.shape[-1], x.shape[-2]):
        total = max((-(-size // 2) - 1) * 2 + 3 - size, 0)
        pads += [total // 2, total - total // 2]
    return F.max_pool2d(F.pad(x, pads, value=float("-inf")), 3, stride=2)


class MiniXception(nn.Module):
    """The network: grey (n, 1, 64, 64) in −1…1 to logits (n, 7)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, bias=False)
        self.bn1 = _batch_norm(8)
        self.conv2 = nn.Conv2d(8, 8, 3, bias=False)
        self.bn2 = _batch_norm(8)
        self.blocks = nn.ModuleList([Block(8, 16), Block(16, 32), Block(32, 64), Block(64, 128)])
        self.head = nn.Conv2d(128, 7, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, 7) in the order of ``MiniXceptionClassifier.classes``."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        for block in self.blocks:
            x = block(x)
        return self.head(x).mean(dim=(2, 3))


def _keras_layers() -> dict[str, str]:
    """Map our module paths to Keras layer names, as the file numbers them."""
    names = {"conv1": "conv2d_1", "bn1": "batch_normalization_1"}
    names |= {"conv2": "conv2d_2", "bn2": "batch_normalization_2", "head": "conv2d_7"}
    for i in range(4):
        names[f"blocks.{i}.shortcut"] = f"conv2d_{3 + i}"
        names[f"blocks.{i}.shortcut_bn"] = f"batch_normalization_{3 + 3 * i}"
        for j in (1, 2):
            names[f"blocks.{i}.conv{j}"] = f"separable_conv2d_{2 * i + j}"
            names[f"blocks.{i}.bn{j}"] = f"batch_normalization_{3 + 3 * i + j}"
    return names


_BATCH_NORM_KEYS = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


def _dataset_name(key: str, layers: dict[str, str]) -> str:
    """Return the HDF5 dataset that holds the parameter ``key`` of our state dict."""
    module, leaf = key.rsplit(".", 1)
    if module.endswith((".depthwise", ".pointwise")):
        module, part = module.rsplit(".", 1)
        weight = f"{part}_kernel"
    elif layers[module].startswith("batch_normalization"):
        weight = _BATCH_NORM_KEYS[leaf]
    else:
        weight = {"weight": "kernel", "bias": "bias"}[leaf]
    layer = layers[module]
    return f"{layer}/{layer}_1/{weight}:0"


def _to_torch_order(array: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """Turn a Keras kernel (h, w, in, out), or depthwise (h, w, in, 1), into PyTorch's order."""
    if array.ndim != 4:
        return array
    return array.transpose(2, 3, 0, 1) if "depthwise" in name else array.transpose(3, 2, 0, 1)


def _keras_shape(shape: tuple[int, ...], name: str) -> tuple[int, ...]:
    if len(shape) != 4:
        return shape
    a, b, h, w = shape
    return (h, w, a, b) if "depthwise" in name else (h, w, b, a)


def read_keras_weights(path: Path) -> dict[str, Tensor]:
    """Read the published HDF5 into a state dict of ``MiniXception``.

    Every dataset under ``model_weights`` must be there with its shape, and none besides; else
    ModelError names the first that is wrong. Optimizer state in the file is ignored.
    """
    layers = _keras_layers()
    template = {
        key: tuple(value.shape)
        for key, value in MiniXception().state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    wanted = {_dataset_name(key, layers): key for key in template}
    state: dict[str, Tensor] = {}
    try:
        with h5py.File(path, "r") as file:
            group = file.get("model_weights")
            if not isinstance(group, h5py.Group):
                raise ModelError(f"{path}: not a Keras model: it has no group 'model_weights'")
            names: set[str] = set()
            group.visititems(
                lambda name, item: names.add(name) if isinstance(item, h5py.Dataset) else None
            )
            if missing := sorted(wanted.keys() - names):
                raise ModelError(f"{path}: not FER2013 mini-XCEPTION: no dataset {missing[0]}")
            if extra := sorted(names - wanted.keys()):
                raise ModelError(f"{path}: not FER2013 mini-XCEPTION: unknown dataset {extra[0]}")
            for name, key in wanted.items():
                dataset, shape = group[name], _keras_shape(template[key], name)
                if dataset.shape != shape or dataset.dtype != np.float32:
                    raise ModelError(
                        f"{path}: dataset {name} is {dataset.dtype} {dataset.shape}, "
                        f"FER2013 mini-XCEPTION has float32 {shape}"
                    )
                if dataset.external:  # its values would come from any file of the machine
                    raise ModelError(f"{path}: dataset {name} lies in another file")
                values = np.ascontiguousarray(_to_torch_order(dataset[()], name))
                if not np.isfinite(values).all():
                    raise ModelError(f"{path}: dataset {name} holds values that are not finite")
                state[key] = torch.from_numpy(values)
    except (OSError, RuntimeError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{path}: not a readable HDF5 file, fetch it again ({reason})") from error
    return state


class MiniXceptionClassifier:
    """``mini_xception_fer2013``: seven expressions from a grey face, as the paper filters them."""

    name = "mini_xception_fer2013"
    classes: tuple[str, ...] = (
        "anger",
        "disgust",
        "fear",
        "happiness",
        "sadness",
        "surprise",
        "neutral",
    )
    neutral_threshold: float = 0.36
    """The paper takes the class of highest probability. This threshold replaces that: it
    accepts as many of the 4,300 training and validation faces of ``models.training.emotion.data``
    as taking the highest does (799, give or take one); ``python -m
    models.training.emotion.evaluate`` prints both."""

    def __init__(self, weights: Path, device: str = "cpu") -> None:
        """Load the published HDF5; raise ModelError where it is not that file."""
        self._device = pick_device(device)
        self._network = MiniXception()
        # num_batches_tracked has no counterpart in Keras and no influence on inference.
        self._network.load_state_dict(read_keras_weights(weights), strict=False)
        self._network.eval().to(self._device)

    def crop(
        self, photo: Photo, box_xyxy: NDArray[np.float32], landmarks_xy: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Cut as the published code does: the widened box, grey, 64 × 64, −1…1.

        ``photo`` RGB uint8; ``box_xyxy`` (4,) pixels; the landmarks are not used. The box is
        widened by 20 px on either side and 40 px above and below, and clipped to the photo.
        Returns float32 (64, 64).
        """
        height, width = photo.shape[:2]
        left, top, right, bottom = (int(v) for v in box_xyxy)
        dx, dy = BOX_OFFSET_PX
        x0, x1 = max(left - dx, 0), min(right + dx, width)
        y0, y1 = max(top - dy, 0), min(bottom + dy, height)
        if x1 <= x0 or y1 <= y0:
            raise ModelError(f"face box {left},{top},{right},{bottom} lies outside the photo")
        grey = cv2.cvtColor(np.ascontiguousarray(photo[y0:y1, x0:x1]), cv2.COLOR_RGB2GRAY)
        small = cv2.resize(grey, (INPUT_PX, INPUT_PX), interpolation=cv2.INTER_LINEAR)
        return np.asarray(small.astype(np.float32) / 255 * 2 - 1, np.float32)

    @torch.inference_mode()
    def __call__(self, crops: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return probabilities, float32 (n, 7), of crops (64, 64) in −1…1."""
        if not len(crops):
            return np.zeros((0, len(self.classes)), np.float32)
        batch = torch.from_numpy(np.stack(crops)[:, None]).to(self._device, torch.float32)
        return self._network(batch).softmax(dim=1).float().cpu().numpy()
