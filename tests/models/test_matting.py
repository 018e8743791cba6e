from __future__ import annotations

import cv2
import numpy as np
import pytest

from models.segmentation.matting import matte

N = 96


def scene(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A red disc with fine strands on a green ground, and its true alpha."""
    rng = np.random.default_rng(seed)
    big = np.zeros((8 * N, 8 * N), np.uint8)
    cv2.circle(big, (4 * N, 4 * N), 2 * N, 255, -1)
    for angle in np.linspace(0, 2 * np.pi, 16):
        tip = np.array([np.cos(angle), np.sin(angle)]) * 2.5 * N + 4 * N
        cv2.line(big, (4 * N, 4 * N), tuple(tip.astype(int).tolist()), 255, 16)
    alpha = cv2.resize(big, (N, N), interpolation=cv2.INTER_AREA)[..., None] / np.float32(255)
    grid = np.indices((N, N))[1][..., None] / N
    person = np.array([0.7, 0.2, 0.1]) + 0.2 * grid
    behind = np.array([0.1, 0.5, 0.3]) - 0.1 * grid
    picture = person * alpha + behind * (1 - alpha) + rng.normal(0, 0.005, (N, N, 3))
    return picture.astype(np.float32), alpha[..., 0]


def test_strands_are_found_in_a_blurred_mask():
    picture, truth = scene()
    blurred = cv2.GaussianBlur(truth, (0, 0), 3)
    alpha = matte(picture, blurred)
    unknown = (blurred > 0.25) & (blurred < 0.9)
    assert alpha.dtype == np.float32
    assert np.abs(alpha - truth)[unknown].mean() < 0.5 * np.abs(blurred - truth)[unknown].mean()


def test_certain_pixels_are_0_or_1_and_the_same_input_gives_the_same_bits():
    picture, truth = scene(1)
    blurred = cv2.GaussianBlur(truth, (0, 0), 4)
    alpha = matte(picture, blurred)
    assert (alpha[blurred < 0.2] == 0).all()
    assert (alpha[blurred > 0.96] == 1).all()
    assert np.array_equal(alpha, matte(picture, blurred))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_mask_without_an_outline_stays_as_it_is(value):
    picture, truth = scene(2)
    assert (matte(picture, np.full_like(truth, value)) == value).all()


def test_a_flat_picture_keeps_to_the_mask():
    ramp = np.tile(np.linspace(0, 1, N, dtype=np.float32), (N, 1))
    alpha = matte(np.full((N, N, 3), 0.5, np.float32), ramp)
    assert (np.diff(alpha, axis=1) > -1e-3).all()
    assert alpha[:, : N // 5].max() == 0
    assert alpha[:, -3:].min() == 1


def test_a_picture_of_which_nothing_is_certain_is_solved_too():
    picture, truth = scene(3)
    alpha = matte(picture, np.full_like(truth, 0.5))
    assert np.allclose(alpha, 0.5, atol=0.01)
