"""``pspnet_portrait``: person masks of aligned crops by our own small PSPNet, bundled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.protocols import Photo
from models.segmentation.batching import Runner
from models.segmentation.portrait_net import load_network

NETWORK_SIDE = 193
"""The network sees every crop at this size, 8 k + 1; chosen on the validation photographs."""


class PortraitMasker:
    """Person probability in crops whose eyes stand where HQ-VoxCeleb has them.

    The network's logits for the crop and its mirror image are averaged.
    """

    name = "pspnet_portrait"
    input_px = 256

    def __init__(self, weights: Path, device: str = "cpu", fast: bool = False) -> None:
        """Load ``weights``; ``fast`` runs bfloat16 and channels-last (meant for CUDA)."""
        self._run = Runner(load_network(weights), device, fast, channels_last=True)

    def __call__(self, crops: Sequence[Photo]) -> NDArray[np.float32]:
        """Return person probability, float32 (n, 256, 256), 0 to 1, for square RGB crops."""
        return self._run(crops, self.input_px, self._probability)

    @staticmethod
    def _probability(network: nn.Module, rgb: torch.Tensor) -> torch.Tensor:
        size = (NETWORK_SIDE, NETWORK_SIDE)
        small = nn.functional.interpolate(rgb, size, mode="bilinear", antialias=True)
        logits = (network(small) + network(small.flip(3)).flip(3)) / 2
        whole = nn.functional.interpolate(logits.float(), rgb.shape[2:], mode="bilinear")
        return whole[:, 0].sigmoid()
