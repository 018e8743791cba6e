"""Resampling and the mirror image: what networks and stages share."""

from __future__ import annotations

import cv2
import numpy as np

from models.geometry import LEFT_EYE, MIRRORED, RIGHT_EYE, reduced


def test_a_reduced_picture_maps_to_the_same_output() -> None:
    ramp = np.tile(np.arange(120, dtype=np.uint8), (90, 1))
    transform = np.array([[0.2, 0.0, 3.0], [0.0, 0.2, 2.0]])
    small, matrix = reduced(ramp, transform, (40, 18))
    assert small.shape == (18, 40)
    out = np.asarray(cv2.warpAffine(small, matrix, (26, 18)), float)
    # The ramp's value is its x: output x shows what lies at (x - 3) / 0.2 in the picture.
    columns = np.arange(6, 24)
    np.testing.assert_allclose(out[9, columns], (columns - 3) / 0.2, atol=1)


def test_a_reduced_picture_averages_what_it_leaves_out() -> None:
    stripes = np.zeros((80, 80), np.uint8)
    stripes[:, ::4] = 200
    small, _ = reduced(stripes, np.eye(2, 3), (20, 20))
    assert (small == 50).all()


def test_mirroring_twice_gives_the_same_points_and_swaps_the_eyes() -> None:
    assert (MIRRORED[MIRRORED] == np.arange(68)).all()
    assert set(MIRRORED[LEFT_EYE]) == set(range(68)[RIGHT_EYE])
