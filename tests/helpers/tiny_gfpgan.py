"""A GFPGAN of the published names with few channels, for tests."""

from __future__ import annotations

from pathlib import Path

import torch

from models.enhancement.gfpgan import KEY, build_network

TINY_SIDE = 64


def save_tiny_gfpgan(path: Path, side_px: int = TINY_SIDE) -> Path:
    """Save one with random weights, 100,000 parameters at 64 px, as the published file is."""
    with torch.random.fork_rng():
        torch.manual_seed(9)
        network = build_network(out_size=side_px, num_style_feat=32, narrow=1 / 32)
    torch.save({KEY: network.state_dict()}, path)
    return path
