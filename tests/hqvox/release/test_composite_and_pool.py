"""The fast way onto white agrees with the reference; workers that die are told of."""

from __future__ import annotations

import os

import cv2
import numpy as np
import pytest

from hqvox.errors import HqvoxError
from hqvox.imaging.composite import composite_on_white, composite_on_white_fast
from hqvox.release.pool import in_order


def person(side: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A crop of smooth colours with a soft, wavy disc of another colour in front; its mask."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((side, side)) / side - 0.5
    wave = 0.3 + 0.02 * np.sin(9 * np.arctan2(y, x))
    alpha = np.clip((wave - np.hypot(x, y)) * side / 4 + 0.5, 0, 1)
    colours = [
        np.asarray(cv2.resize(rng.uniform(0, 255, (4, 4, 3)), (side, side)), float) for _ in "ab"
    ]
    mixed = alpha[..., None] * colours[0] + (1 - alpha[..., None]) * colours[1]
    noisy = np.clip(mixed + rng.normal(0, 2, mixed.shape), 0, 255)
    return noisy.round().astype(np.uint8), (alpha * 255).round().astype(np.uint8)


@pytest.mark.parametrize("side", [123, 256, 505])
def test_both_ways_onto_white_agree(side: int) -> None:
    aligned, alpha = person(side)
    fast = composite_on_white_fast(aligned, alpha).astype(int)
    reference = composite_on_white(aligned, alpha).astype(int)
    soft = (alpha > 0) & (alpha < 255)
    assert soft.any()
    assert (fast[~soft] == reference[~soft]).all()
    apart = np.abs(fast - reference)[soft]
    assert apart.mean() < 2
    assert np.percentile(apart, 99) < 12


@pytest.mark.parametrize(("value", "shown"), [(0, 255), (255, 40)])
def test_masks_without_an_edge_are_exact(value: int, shown: int) -> None:
    aligned = np.full((40, 40, 3), 40, np.uint8)
    out = composite_on_white_fast(aligned, np.full((40, 40), value, np.uint8))
    assert (out == shown).all()
    assert (aligned == 40).all()


@pytest.mark.parametrize("side", [1, 3, 17])
def test_tiny_crops_do_not_break_it(side: int) -> None:
    aligned, alpha = person(side)
    assert composite_on_white_fast(aligned, np.maximum(alpha, 1)).shape == (side, side, 3)


# Workers run functions of light modules here: they would import this one with all its networks.


def test_results_come_in_order() -> None:
    assert list(in_order(abs, range(-20, 0), 2)) == list(range(20, 0, -1))
    assert list(in_order(abs, [], 2)) == []


def test_a_worker_that_dies_is_one_clear_line() -> None:
    with pytest.raises(HqvoxError, match="a worker process died"):
        list(in_order(os._exit, [9] * 6, 2))
