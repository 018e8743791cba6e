"""Figures and crops of person masks, against known answers."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from models.geometry import ALIGNED_LEFT_EYE, ALIGNED_RIGHT_EYE, aligned_transform
from models.training.segmentation import crops, metrics
from models.training.segmentation.trainset import heads_from_mask


def disc(side: int, radius: float, shift: float = 0.0) -> NDArray[np.bool_]:
    ys, xs = np.mgrid[0:side, 0:side] - (side - 1) / 2
    return np.hypot(xs - shift, ys) <= radius


def test_iou_of_known_masks() -> None:
    left, half = np.zeros((10, 10), bool), np.zeros((10, 10), bool)
    left[:, :4] = True
    half[:, :5] = True
    assert metrics.person_iou(left, half) == pytest.approx(0.8)
    assert metrics.mean_iou(left, half) == pytest.approx((0.8 + 50 / 60) / 2)
    assert metrics.person_iou(left & ~left, left & ~left) == 1.0


def test_boundary_f_counts_points_within_reach() -> None:
    truth = disc(128, 40)
    assert metrics.boundary_f(disc(128, 42), truth, 3) == 1.0
    assert metrics.boundary_f(disc(128, 50), truth, 3) == 0.0
    assert 0.1 < metrics.boundary_f(disc(128, 40, shift=8), truth, 3) < 0.9
    empty = np.zeros_like(truth)
    assert metrics.boundary_f(empty, truth, 3) == 0.0
    assert metrics.boundary_f(empty, empty, 3) == 1.0


def test_tidy_mask_keeps_the_person_and_fills_small_holes() -> None:
    mask = np.where(disc(100, 30), 255, 0).astype(np.uint8)
    spoiled = mask.copy()
    spoiled[48:53, 48:53] = 0
    spoiled[0:6, 0:6] = 255
    assert (crops.tidy_mask(spoiled) == mask).all()
    assert not crops.tidy_mask(np.zeros((9, 9), np.uint8)).any()


def labelled_disc(side: int = 400) -> crops.LabelledPhoto:
    mask = np.where(disc(side, side * 0.3), 255, 0).astype(np.uint8)
    photo = np.full((side, side, 3), 90, np.uint8)
    eyes = np.array([[[side * 0.45, side * 0.5], [side * 0.55, side * 0.5]]])
    return crops.LabelledPhoto("disc.jpg", photo, mask, eyes, np.zeros((1, 128)))


@pytest.mark.parametrize("margin", [1.0, 1.25])
def test_cut_puts_the_eyes_where_the_aligned_crop_has_them(margin: float) -> None:
    labelled = labelled_disc()
    eyes = labelled.eyes_xy[0]
    photo = labelled.photo.copy()
    for x, y in eyes.round().astype(int):
        cv2.circle(photo, (int(x), int(y)), 5, (255, 255, 255), -1)
    marked = crops.LabelledPhoto("x", photo, labelled.mask, labelled.eyes_xy, labelled.embeddings)
    crop = crops.cut(marked, eyes, 250, margin)
    bright = crop.image[..., 0] > 180
    for half, (fx, fy) in ((0, ALIGNED_LEFT_EYE), (1, ALIGNED_RIGHT_EYE)):
        ys, xs = np.nonzero(bright)
        chosen = (xs >= 125) == bool(half)
        expected = [(0.5 + (f - 0.5) / margin) * 250 - 0.5 for f in (fx, fy)]
        assert [xs[chosen].mean(), ys[chosen].mean()] == pytest.approx(expected, abs=1.5)


def test_cut_agrees_with_the_aligned_transform_at_native_size() -> None:
    labelled = labelled_disc()
    matrix, side = aligned_transform(labelled.eyes_xy[0])
    crop = crops.cut(labelled, labelled.eyes_xy[0], round(side))
    expected = cv2.warpAffine(labelled.mask, matrix, (round(side), round(side)))
    assert metrics.person_iou(crop.mask > 127, expected > 127) > 0.99


def test_cut_marks_what_lies_outside_the_photo() -> None:
    labelled = labelled_disc(200)
    crop = crops.cut(labelled, np.array([[20.0, 100.0], [60.0, 100.0]]), 128)
    assert (crop.inside[:, :10] == 0).all()
    assert crop.inside[64, 64] == 255


def test_head_is_guessed_at_the_top_of_a_standing_outline() -> None:
    mask = np.zeros((600, 300), np.uint8)
    cv2.ellipse(mask, (150, 110), (30, 40), 0, 0, 360, 255, -1)
    mask[140:560, 100:200] = 255
    labelled = crops.LabelledPhoto(
        "x", np.zeros((600, 300, 3), np.uint8), mask, np.zeros((0, 2, 2)), np.zeros((0, 128))
    )
    (eyes,) = heads_from_mask(labelled)
    assert np.abs(eyes.mean(axis=0) - (150, 112)).max() < 12


def test_photos_of_one_person_share_a_split() -> None:
    rng = np.random.default_rng(0)
    photos = []
    for i in range(40):
        photo = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        embedding = np.full((1, 128), float(i // 2))
        photos.append(
            crops.LabelledPhoto(
                f"{i}.jpg", photo, np.zeros((64, 64), np.uint8), np.zeros((1, 2, 2)), embedding
            )
        )
    split = crops.split_people(photos)
    assert all(split[f"{i}.jpg"] == split[f"{i + 1}.jpg"] for i in range(0, 40, 2))
    assert len(set(split.values())) > 1
