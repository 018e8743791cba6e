"""What the torch embedders share: cutting crops, and running a network over many of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.errors import ModelError
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
        # Only the part that the crop sees, cut where whole blocks of factor × factor begin.
        width, height = size_px
        corners = np.array([[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]])
        seen = (corners - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
        low = np.maximum(np.floor(seen.min(axis=0)).astype(int) - factor, 0)
        high = np.ceil(seen.max(axis=0)).astype(int) + 2 * factor
        part = photo[low[1] : max(high[1], 0), low[0] : max(high[0], 0)]
        rows, columns = part.shape[0] // factor, part.shape[1] // factor
        if rows and columns:
            part = part[: rows * factor, : columns * factor]
            reduced = cv2.resize(part, (columns, rows), interpolation=cv2.INTER_AREA)
            photo = np.asarray(reduced, dtype=np.uint8)
            # Pixel i of the reduced part is centred on pixel low + i * factor + (factor - 1) / 2.
            centre = low + (factor - 1) / 2
            matrix = np.column_stack(
                [matrix[:, :2] * factor, matrix[:, 2] + matrix[:, :2] @ centre]
            )
    return np.asarray(
        cv2.warpAffine(np.ascontiguousarray(photo), matrix, size_px, flags=cv2.INTER_LINEAR),
        dtype=np.uint8,
    )


def on_device(network: nn.Module, device: str) -> nn.Module:
    """Put a network on a device, frozen and in evaluation mode.

    Raises ModelError where the device is unknown or not there.
    """
    try:
        return network.eval().requires_grad_(False).to(torch.device(device))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"device {device!r} cannot be used ({reason}); take cpu") from error


class BatchRunner:
    """Runs a network over RGB crops, a batch at a time, on its device.

    Convolutions of other batch sizes round otherwise, so all batches have one size and the last is
    filled up: on the CPU a face's embedding has the same bits whatever it is batched with.
    """

    def __init__(self, network: nn.Module, device: str, precision: Precision) -> None:
        """Put ``network`` on ``device`` in evaluation mode; ModelError where there is none such."""
        if precision not in ("float32", "bfloat16"):
            raise ModelError(f"precision {precision!r} is unknown; take float32 or bfloat16")
        self._bfloat16 = precision == "bfloat16"
        layout = torch.channels_last if self._bfloat16 else torch.contiguous_format
        self.network = on_device(network, device).to(memory_format=layout)
        self.device = torch.device(device)
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
                batch = np.zeros((size, side_px, side_px, 3), np.uint8)
                count = len(crops[start : start + size])
                batch[:count] = crops[start : start + size]
                pixels = torch.from_numpy(batch).to(self.device).permute(0, 3, 1, 2).float()
                pixels = pixels.contiguous(memory_format=self._layout)
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bfloat16):
                    rows.append(forward(pixels)[:count].float().cpu().numpy())
        return np.concatenate(rows) if rows else np.zeros((0, 0), np.float32)
