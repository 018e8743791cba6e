"""Running networks over many pictures: the device, batches of one size, and the crops in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.errors import ModelError
from models.geometry import reduced
from models.protocols import Photo

Precision = Literal["float32", "bfloat16"]
"""``bfloat16`` also means channels-last memory, and is meant for CUDA. Embeddings agree with
float32's to a cosine of 0.99 or better."""


def warp_crop(photo: Photo, matrix: NDArray[np.float64], size_px: tuple[int, int]) -> Photo:
    """Cut a crop of (width, height) out of a photo by a 2 × 3 matrix from photo to crop pixels.

    Bilinear; a photo much larger than the crop is first reduced by area, so that fine texture does
    not alias. Black outside the photo.
    """
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    factor = int(1.0 / scale + 1e-6) if 0 < scale < 1 else 1
    if factor > 1:
        # Only the area that the crop sees, cut where whole blocks of factor × factor begin.
        width, height = size_px
        corners = np.array([[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]])
        seen = (corners - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
        low = np.maximum(np.floor(seen.min(axis=0)).astype(int) - factor, 0)
        high = np.ceil(seen.max(axis=0)).astype(int) + 2 * factor
        area = photo[low[1] : max(high[1], 0), low[0] : max(high[0], 0)]
        rows, columns = area.shape[0] // factor, area.shape[1] // factor
        if rows and columns:
            area = area[: rows * factor, : columns * factor]
            from_area = np.column_stack([matrix[:, :2], matrix[:, 2] + matrix[:, :2] @ low])
            photo, matrix = reduced(area, from_area, (columns, rows))
    return np.asarray(
        cv2.warpAffine(np.ascontiguousarray(photo), matrix, size_px, flags=cv2.INTER_LINEAR),
        dtype=np.uint8,
    )


def pick_device(name: str | None = None, gpu: int = 0) -> torch.device:
    """Return the torch device ``name``, such as ``cpu``, ``cuda`` or ``cuda:1``.

    ``name`` None: a GPU where there is one, else the CPU. ``gpu``: the number of the GPU that
    ``cuda`` without a number means. Raises ModelError where the device is unknown or missing.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", gpu)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(
            f"device {name!r} cannot be used ({reason}); name another one, for example cpu"
        ) from error
    return device


def on_device(network: nn.Module, device: str) -> nn.Module:
    """Put a network on a device, frozen and in evaluation mode.

    Raises ModelError where the device is unknown or missing.
    """
    return network.eval().requires_grad_(False).to(pick_device(device))


def fill_batch(rows: torch.Tensor, size: int) -> torch.Tensor:
    """Return ``rows``, (n, …) with n at most ``size``, followed by zeros: (size, …).

    Convolutions round differently for another batch size. With batches of one size a row's result
    has the same bits on the CPU, whatever else is in its batch.
    """
    filled = rows.new_zeros(size, *rows.shape[1:])
    filled[: len(rows)] = rows
    return filled


class BatchRunner:
    """Runs a network over RGB crops, a batch of constant size at a time; see :func:`fill_batch`."""

    def __init__(self, network: nn.Module, device: str, precision: Precision) -> None:
        """Put ``network`` on ``device`` in evaluation mode; ModelError where it is missing."""
        if precision not in ("float32", "bfloat16"):
            raise ModelError(f"precision {precision!r} is unknown; use float32 or bfloat16")
        self._bfloat16 = precision == "bfloat16"
        layout = torch.channels_last if self._bfloat16 else torch.contiguous_format
        self.network = on_device(network, device).to(memory_format=layout)
        self.device = next(self.network.parameters()).device
        self._layout = layout
        self._batch_size = 8 if self.device.type == "cpu" else 64

    def __call__(
        self, crops: Sequence[Photo], forward: Callable[[torch.Tensor], torch.Tensor], side_px: int
    ) -> NDArray[np.float32]:
        """Return the rows that ``forward`` gives for crops uint8 (side, side, 3).

        ``forward`` gets float32 RGB (n, 3, side, side), 0 to 255, on the device. Raises ModelError
        for a crop of another shape.
        """
        for crop in crops:
            if np.shape(crop) != (side_px, side_px, 3):
                raise ModelError(
                    f"a crop of shape {np.shape(crop)} where ({side_px}, {side_px}, 3) is needed"
                )
        size = self._batch_size
        rows = []
        with torch.inference_mode():
            for start in range(0, len(crops), size):
                some = crops[start : start + size]
                batch = fill_batch(torch.from_numpy(np.stack(some).astype(np.uint8)), size)
                pixels = batch.to(self.device).permute(0, 3, 1, 2).float()
                pixels = pixels.contiguous(memory_format=self._layout)
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bfloat16):
                    rows.append(forward(pixels)[: len(some)].float().cpu().numpy())
        return np.concatenate(rows) if rows else np.zeros((0, 0), np.float32)


PersonProbability = Callable[[nn.Module, torch.Tensor], torch.Tensor]
"""Maps a network and RGB (n, 3, side, side) in 0 to 1 to person probability (n, side, side)."""

CPU_MASKS, GPU_MASKS = 1, 64
"""Crops that a mask network sees at once; on a CPU more do not fit into its caches."""


def resample(crop: Photo, side: int) -> Photo:
    """Return a crop (height, width, 3) as (side, side, 3): averaging down, bicubic up."""
    height, width = crop.shape[:2]
    if (height, width) == (side, side):
        return crop
    how = cv2.INTER_AREA if min(height, width) >= side else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(crop, (side, side), interpolation=how), np.uint8)


class MaskRunner:
    """Runs a mask network over crops of any size, on its device.

    ``fast`` is bfloat16 autocast and channels-last memory; ``channels_last`` that memory alone,
    in which depthwise convolutions run faster on a CPU.
    """

    def __init__(
        self, network: nn.Module, device: str, fast: bool, channels_last: bool = False
    ) -> None:
        """Put ``network`` on ``device``. Raises ModelError where it is unknown or missing."""
        self._device = pick_device(device)
        last = fast or channels_last
        self._layout = torch.channels_last if last else torch.contiguous_format
        self._network = network.to(self._device).to(memory_format=self._layout)
        self._fast = fast

    @torch.inference_mode()
    def __call__(
        self, crops: Sequence[Photo], side: int, probability: PersonProbability
    ) -> NDArray[np.float32]:
        """Return probabilities, float32 (n, side, side), for uint8 RGB crops of any size.

        Raises ValueError where a crop is not uint8 (height, width, 3).
        """
        for crop in crops:
            if crop.dtype != np.uint8 or crop.ndim != 3 or crop.shape[2] != 3 or not crop.size:
                raise ValueError(f"a crop is uint8 (h, w, 3), not {crop.dtype} {crop.shape}")
        masks = np.empty((len(crops), side, side), np.float32)
        size = GPU_MASKS if self._device.type == "cuda" else CPU_MASKS
        for start in range(0, len(crops), size):
            pixels = np.stack([resample(c, side) for c in crops[start : start + size]])
            rgb = torch.from_numpy(pixels).to(self._device).permute(0, 3, 1, 2)
            rgb = (rgb.float() / 255).contiguous(memory_format=self._layout)
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._fast):
                batch = probability(self._network, rgb)
            masks[start : start + len(pixels)] = batch.float().cpu().numpy()
        return masks
