"""Leaving the half precision of autocast."""

from __future__ import annotations

import torch


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """Return a tensor of bfloat16 or float16 as float32; others as they are."""
    return x if x.dtype == torch.float64 else x.float()
