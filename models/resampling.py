"""Cutting a fixed box out of aligned pictures, differentiably."""

from __future__ import annotations

from functools import cache

import torch

Box = tuple[float, float, float, float]
"""Left, top, right, bottom as fractions of a picture's side; may reach outside of it."""


def cut_box(pictures: torch.Tensor, box: Box, side_px: int) -> torch.Tensor:
    """Cut a box out of pictures (n, 3, h, w) and resample it to (n, 3, side, side), float32.

    Bilinear, by one matrix for each axis: the same on every device, and its gradients need no
    atomic sums. Where the box shrinks by two or more it is averaged, as interpolation alone would
    alias. Outside the picture its border is repeated.
    """
    left, top, right, bottom = box
    height, width = pictures.shape[-2:]
    rows = _resampling(height, top, bottom, side_px, pictures.device)
    columns = _resampling(width, left, right, side_px, pictures.device)
    with torch.autocast(pictures.device.type, enabled=False):
        return (rows @ pictures.float()) @ columns.T


@cache
def _resampling(side: int, low: float, high: float, out: int, device: torch.device) -> torch.Tensor:
    """Weights (out, side) from a side's pixels to those of a box from low to high."""
    with torch.inference_mode(False):  # They are cached, and gradients pass through them later.
        centres = low + (high - low) * (torch.arange(out, device=device) + 0.5) / out
        at = (centres * side - 0.5).clamp(0, side - 1)
        distance = (at[:, None] - torch.arange(side, device=device)).abs()
        reach = (high - low) * side / out
        if reach < 2:
            return (1 - distance).clamp(min=0)
        weights = (1 - distance / reach).clamp(min=0)
        return weights / weights.sum(dim=1, keepdim=True)
