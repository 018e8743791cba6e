from __future__ import annotations

import cv2
import numpy as np
import pytest

from hqvox.config.build import AlignConfig, SegmentConfig
from hqvox.imaging.composite import composite_on_white
from pipelines.align import AlignStage
from pipelines.segment import (
    SegmentStage,
    clean,
    edge_confidence,
    face_hull,
    inside_photo,
    own_territory,
    refine,
)
from tests.helpers.stage_fakes import (
    STORE,
    FakeMasker,
    MemoryPixels,
    box_of,
    face_points,
    face_row,
    plain_photo,
)

N = 64


def disc(x: float, y: float, r: float, n: int = N) -> np.ndarray:
    grid_y, grid_x = np.indices((n, n))
    return np.clip(r - np.hypot(grid_x - x, grid_y - y) + 0.5, 0, 1).astype(np.float32)


def run(probability: np.ndarray, points: np.ndarray | None = None, **columns: object):
    points = face_points(200, 190, 50) if points is None else points
    pixels = MemoryPixels(plain_photo())
    (row,) = AlignStage(AlignConfig(max_outside_fraction=1.0), STORE).process(
        [face_row(points, **columns)], pixels
    )
    stage = SegmentStage(SegmentConfig(), STORE)
    stage.masker = FakeMasker(probability)
    (row,) = stage.process([row | {"reason": None}], pixels)
    return row, pixels.masks[0]


def person() -> np.ndarray:
    mask = disc(32, 36, 22)
    mask[44:, 8:56] = 1
    return mask


def test_a_clear_person_passes_and_the_mask_is_as_large_as_the_crop():
    row, alpha = run(person())
    assert row["reason"] is None
    assert alpha.shape == (row["crop_side_px"],) * 2
    assert alpha.dtype == np.uint8
    assert row["face_coverage"] == pytest.approx(1)
    assert row["person_fraction"] == pytest.approx(person().mean(), abs=0.02)
    assert row["person_fraction"] == pytest.approx(alpha.mean() / 255)


def test_a_face_left_out_is_not_segmented():
    row, _ = run(person() * (np.arange(N)[:, None] > 36))
    assert row["face_coverage"] < 0.9
    assert row["reason"] == "not_segmented"


def test_a_vague_outline_is_not_segmented():
    vague = cv2.GaussianBlur(person(), (0, 0), 9)
    row, _ = run(np.clip(vague, 0.4, 0.6))
    assert row["edge_confidence"] < 0.3
    assert row["reason"] == "not_segmented"


def test_nobody_in_the_picture():
    row, _ = run(np.zeros((N, N), np.float32))
    assert (row["reason"], row["edge_confidence"]) == ("not_segmented", 0.0)


def test_edge_confidence_is_high_for_a_sharp_outline():
    assert edge_confidence(person()) > 0.8


def test_holes_in_the_face_are_filled_and_other_pieces_dropped():
    mask = person()
    hull = disc(32, 34, 12) > 0.5
    mask[34:38, 30:34] = 0.1  # an eye, taken for background
    mask[4:12, 54:62] = 0.9  # somebody far behind
    cleaned = clean(mask, hull, np.ones((N, N), bool))
    assert cleaned[hull].min() > 0.5
    assert cleaned[4:12, 54:62].max() == 0
    assert cleaned[60, 32] == 1


def test_a_gap_between_arm_and_body_stays_background():
    mask = person()
    mask[46:60, 10:24] = 0
    assert clean(mask, disc(32, 34, 12) > 0.5, np.ones((N, N), bool))[53, 17] == 0


def test_two_people_side_by_side_are_parted_midway():
    own, other = np.array([10.0, 20, 20, 32]), np.array([40.0, 20, 50, 32])
    territory = own_territory(own, other[None], N)
    assert territory[26, :30].all()
    assert not territory[26, 31:].any()
    assert territory[60, 20]
    assert not territory[55, 50]
    assert own_territory(own, np.zeros((0, 4)), N).all()
    assert own_territory(own, own[None] + 1, N).all(), "the same face found twice"


def test_the_neighbour_is_cut_out_of_the_mask():
    points = face_points(200, 190, 50)
    beside = points + np.array([110, 0])
    whole = np.ones((N, N), np.float32)
    whole[:8] = 0
    alone, _ = run(whole)
    row, alpha = run(whole, points, other_boxes_xyxy=box_of(beside))
    side = row["crop_side_px"]
    assert row["reason"] is None
    assert alpha[side // 2, side // 2] == 255
    assert alpha[side // 2, -5] == 0
    assert row["person_fraction"] < alone["person_fraction"] - 0.1


def test_what_lies_outside_of_the_photo_is_not_the_person():
    row, alpha = run(np.ones((N, N), np.float32), face_points(200, 330, 50))
    beyond = int((row["outside_fraction"]) * len(alpha))
    assert beyond > 20
    assert (alpha[-beyond + 2 :] == 0).all()
    assert (alpha[: -beyond - 2] == 255).all()


def test_inside_photo_matches_the_area():
    inside = inside_photo(np.array([[1.0, 0, 10], [0, 1, 0]]), (50, 80), 80)
    assert inside.mean() == pytest.approx(50 / 80)
    assert inside[:, :10].max() == 0


def test_edges_follow_the_picture_at_its_own_resolution():
    """The network's outline is off by a few pixels of the crop; the picture shows the true one."""
    truth = disc(256, 256, 150, 512) > 0.5
    crop = np.where(truth[..., None], (200, 150, 120), (30, 60, 120)).astype(np.uint8)
    rough = cv2.resize(disc(256, 256, 154, 512), (N, N), interpolation=cv2.INTER_AREA)
    plain = cv2.resize(rough, (512, 512), interpolation=cv2.INTER_LINEAR)
    refined = refine(crop, rough)
    assert np.abs(refined - truth).mean() < 0.5 * np.abs(plain - truth).mean()
    assert refined.min() >= 0
    assert refined.max() <= 1


def test_small_crops_get_the_mask_averaged_down():
    assert refine(plain_photo(0, 16, 16), person()).shape == (16, 16)


def test_hull_covers_the_landmarks():
    points = face_points(32, 25, 16)
    hull = face_hull(points, N)
    x, y = points[30].round().astype(int)
    assert hull[y, x]
    assert not hull[1, 1]


def test_white_shows_no_trace_of_the_old_background():
    """Composite of a known mix: skin on green must become skin on white, also within the edge."""
    alpha = cv2.GaussianBlur(disc(100, 100, 60, 200), (0, 0), 3)
    skin, green = np.array([200.0, 150, 120]), np.array([20.0, 200, 40])
    mixed = alpha[..., None] * skin + (1 - alpha[..., None]) * green
    expected = alpha[..., None] * skin + (1 - alpha[..., None]) * 255
    code = np.rint(alpha * 255).astype(np.uint8)
    out = composite_on_white(np.rint(mixed).astype(np.uint8), code).astype(float)
    assert np.abs(out - expected).max() < 6
    assert (out[code == 0] == 255).all()
    assert (out[code == 255] == np.rint(mixed)[code == 255]).all()


def test_networks_follow_the_configuration():
    assert "pspnet_voc" in SegmentStage(SegmentConfig(network="pspnet_voc"), STORE).networks
