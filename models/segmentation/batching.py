"""Running a mask network on crops of any size, on any device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.errors import ModelError
from models.protocols import Photo

Probability = Callable[[nn.Module, torch.Tensor], torch.Tensor]
"""Maps a network and RGB (n, 3, side, side) in 0 to 1 to person probability (n, side, side)."""

CHUNK = 1
"""Crops that go through the network at once on a CPU; more no longer fit its caches."""
CUDA_CHUNK = 64


def resample(crop: Photo, side: int) -> Photo:
    """Return a crop (height, width, 3) as (side, side, 3): averaging down, bicubic up."""
    height, width = crop.shape[:2]
    if (height, width) == (side, side):
        return crop
    how = cv2.INTER_AREA if min(height, width) >= side else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(crop, (side, side), interpolation=how), np.uint8)


class Runner:
    """A network on its device.

    ``fast`` is bfloat16 autocast and channels-last memory; ``channels_last`` that memory alone,
    in which depthwise convolutions run faster on a CPU.
    """

    def __init__(
        self, network: nn.Module, device: str, fast: bool, channels_last: bool = False
    ) -> None:
        try:
            self._device = torch.device(device)
            network = network.to(self._device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ModelError(f"device {device!r} cannot be used ({reason}); try 'cpu'") from None
        wanted = fast or channels_last
        self._layout = torch.channels_last if wanted else torch.contiguous_format
        self._network = network.to(memory_format=self._layout)
        self._fast = fast

    @torch.inference_mode()
    def __call__(
        self, crops: Sequence[Photo], side: int, probability: Probability
    ) -> NDArray[np.float32]:
        """Return probabilities, float32 (n, side, side), for uint8 RGB crops of any size.

        Raises ValueError where a crop is not uint8 (height, width, 3).
        """
        for crop in crops:
            if crop.dtype != np.uint8 or crop.ndim != 3 or crop.shape[2] != 3 or not crop.size:
                raise ValueError(f"a crop is uint8 (h, w, 3), not {crop.dtype} {crop.shape}")
        masks = np.empty((len(crops), side, side), np.float32)
        chunk = CUDA_CHUNK if self._device.type == "cuda" else CHUNK
        for start in range(0, len(crops), chunk):
            pixels = np.stack([resample(c, side) for c in crops[start : start + chunk]])
            rgb = torch.from_numpy(pixels).to(self._device).permute(0, 3, 1, 2)
            rgb = (rgb.float() / 255).contiguous(memory_format=self._layout)
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._fast):
                part = probability(self._network, rgb)
            masks[start : start + len(pixels)] = part.float().cpu().numpy()
        return masks
