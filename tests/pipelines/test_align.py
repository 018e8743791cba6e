from __future__ import annotations

import cv2
import numpy as np
import pytest

from hqvox.config.build import AlignConfig
from models.geometry import ALIGNED_LEFT_EYE, ALIGNED_RIGHT_EYE, apply_transform, eye_centres, warp
from pipelines.align import AlignStage, block_edges, crop_side, outside_fraction
from tests.helpers.stage_fakes import STORE, MemoryPixels, face_points, face_row, plain_photo


def run(points: np.ndarray, photo: np.ndarray, **config: float):
    pixels = MemoryPixels(photo)
    (row,) = AlignStage(AlignConfig(**config), STORE).process([face_row(points)], pixels)
    return row, pixels.crops.get(0)


def dotted(points: np.ndarray, width: int = 500, height: int = 500) -> np.ndarray:
    """A dark photo with a bright Gaussian dot on each eye centre, placed to a fraction of a px."""
    photo = np.zeros((height, width), np.float64)
    y, x = np.indices(photo.shape)
    for centre in eye_centres(points):
        photo += 250 * np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * 2.0**2))
    return np.repeat(np.rint(photo.clip(0, 255)).astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize("roll_deg", [0.0, 25.0, -40.0])
def test_eyes_land_where_the_released_dataset_has_them(roll_deg: float):
    points = face_points(250.3, 250.7, 61.7, roll_deg=roll_deg)
    row, crop = run(points, dotted(points))
    side = row["crop_side_px"]
    assert crop.shape == (side, side, 3)
    assert side == int(np.linalg.norm(np.diff(eye_centres(points), axis=0)) / 0.243)
    grey = crop[..., 0].astype(float)
    for fraction in (ALIGNED_LEFT_EYE, ALIGNED_RIGHT_EYE):
        expected = np.array(fraction) * side - 0.5
        low = np.round(expected).astype(int) - 8
        part = grey[low[1] : low[1] + 17, low[0] : low[0] + 17]
        y, x = np.indices(part.shape)
        found = low + np.array([(part * x).sum(), (part * y).sum()]) / part.sum()
        assert found == pytest.approx(expected, abs=0.15)
    moved = apply_transform(np.reshape(row["transform"], (2, 3)), eye_centres(points))
    assert (moved[0] + 0.5) / side == pytest.approx(ALIGNED_LEFT_EYE, abs=1e-6)


def test_resolution_is_kept_and_never_enlarged():
    row, _ = run(face_points(ipd_px=50.4), plain_photo())
    scale = np.hypot(row["transform"][0], row["transform"][3])
    assert 0.99 < scale <= 1


def test_a_crop_beyond_the_photo_is_out_of_frame():
    inside, _ = run(face_points(250, 250, 60), plain_photo(width=500, height=500))
    assert inside["reason"] is None
    assert inside["outside_fraction"] == pytest.approx(0, abs=1e-6)
    half, crop = run(face_points(0, 250, 60), plain_photo(width=500, height=500))
    assert half["reason"] == "out_of_frame"
    assert half["outside_fraction"] == pytest.approx(0.5, abs=0.02)
    assert crop is not None, "it is measured and kept all the same"
    allowed, _ = run(
        face_points(0, 250, 60), plain_photo(width=500, height=500), max_outside_fraction=0.6
    )
    assert allowed["reason"] is None


def test_outside_fraction_is_the_area():
    identity = np.eye(2, 3)
    assert outside_fraction(identity, 100, plain_photo(width=100, height=75)) == pytest.approx(0.25)
    far = np.array([[1.0, 0, -900], [0, 1, 0]])
    assert outside_fraction(far, 100, plain_photo()) == pytest.approx(1)


def test_failures():
    row, crop = run(np.full((68, 2), 5.0), plain_photo())
    assert (row["reason"], crop, row["transform"]) == ("eyes_coincide", None, None)
    row, crop = run(face_points(ipd_px=2500), plain_photo())
    assert (row["reason"], crop) == ("crop_too_large", None)
    stage = AlignStage(AlignConfig(), STORE)
    rows = [face_row(), face_row(face_points(200, 190, 60), candidate=1)]
    rows = stage.process(rows, MemoryPixels({0: None, 1: plain_photo()}))
    assert [row["reason"] for row in rows] == ["undecodable", None]
    assert set(stage.failures) == {"eyes_coincide", "crop_too_large", "undecodable"}


def test_side_of_a_face():
    assert crop_side(np.full((68, 2), 1.0)) == 0


def test_coarse_compression_shows_and_fine_does_not():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 25, (400, 400, 3))
    photo = np.clip(cv2.GaussianBlur(noise, (0, 0), 3) * 6 + 128, 0, 255).astype(np.uint8)

    def at(quality: int) -> float:
        data = cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        return block_edges(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB), face_points())

    assert block_edges(photo, face_points()) < 0.1
    assert at(95) < 0.15
    assert at(5) > 0.5
    assert at(5) > at(20) > at(80)
    assert block_edges(photo, face_points(ipd_px=3)) == 0


def test_warping_down_averages_and_keeps_pixel_centres():
    photo = np.zeros((80, 80, 3), np.uint8)
    photo[:, ::2] = 200  # finer than the output can show: must come out grey, not striped
    quarter = np.array([[0.25, 0, 0.25 * 0.5 - 0.5], [0, 0.25, 0.25 * 0.5 - 0.5]])
    small = warp(photo, quarter, (20, 20))
    assert np.abs(small.astype(int) - 100).max() <= 1
    ramp = np.repeat(np.arange(80, dtype=np.uint8)[None, :, None], 80, axis=0).repeat(3, axis=2)
    at = warp(ramp, quarter, (20, 20))[10, :, 0].astype(float)
    np.testing.assert_allclose(at[1:-1], (np.arange(20)[1:-1] + 0.5) * 4 - 0.5, atol=0.6)


def test_warping_outside_the_photo_repeats_its_border():
    photo = plain_photo((10, 20, 30), 40, 30)
    far = np.array([[1.0, 0, 500], [0, 1.0, 500]])
    assert (warp(photo, far, (16, 16)) == [10, 20, 30]).all()
