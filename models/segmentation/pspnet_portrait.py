"""``pspnet_portrait``: person masks of aligned crops by our own small PSPNet, bundled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.protocols import Photo
from models.segmentation.batching import Runner, resample
from models.segmentation.portrait_net import NETWORK_PX, load_network
from models.segmentation.refine import guided_filter

REFINE_RADIUS_PX = 6
REFINE_EPSILON = 1e-3


class PortraitMasker:
    """Person probability in crops whose eyes stand where HQ-VoxCeleb has them.

    The network sees the crop and its mirror image; the mean of both, upsampled, is refined along
    the edges of the picture.
    """

    name = "pspnet_portrait"
    input_px = 256

    def __init__(
        self, weights: Path, device: str = "cpu", fast: bool = False, refine: bool = True
    ) -> None:
        """Load ``weights``; ``fast`` runs bfloat16 and channels-last (meant for CUDA).

        ``refine`` switches the edge-aware step, which runs on the CPU.
        """
        self._run = Runner(load_network(weights), device, fast)
        self._refine = refine

    def __call__(self, crops: Sequence[Photo]) -> NDArray[np.float32]:
        """Return person probability, float32 (n, 256, 256), 0 to 1, for square RGB crops."""
        masks = self._run(crops, self.input_px, self._probability)
        if not self._refine:
            return masks
        for crop, mask in zip(crops, masks, strict=True):
            guide = resample(crop, self.input_px).astype(np.float32) / np.float32(255)
            mask[:] = guided_filter(guide, mask, REFINE_RADIUS_PX, REFINE_EPSILON)
        return masks

    @staticmethod
    def _probability(network: nn.Module, rgb: torch.Tensor) -> torch.Tensor:
        small = nn.functional.interpolate(
            rgb, (NETWORK_PX, NETWORK_PX), mode="bilinear", antialias=True
        )
        logits = network(small) + network(small.flip(3)).flip(3)
        large = nn.functional.interpolate(logits.float() / 2, rgb.shape[2:], mode="bilinear")
        return large[:, 0].sigmoid()
