from __future__ import annotations

import numpy as np
import pytest

from hqvox.config.build import LightingConfig
from pipelines.faces import PATCH_SIZE_PX, face_patch
from pipelines.lighting import LightingStage, linear_luminance, measure_light, skin_mask
from tests.helpers.stage_fakes import STORE, MemoryPixels, face_points, face_row, plain_photo


def reason_of(photo: np.ndarray, points: np.ndarray | None = None, **limits: float) -> str | None:
    stage = LightingStage(LightingConfig(**limits), STORE)
    (row,) = stage.process([face_row(points)], MemoryPixels(photo))
    return row["reason"]


def shaded(left: float, right: float, blend_px: float = 40.0) -> np.ndarray:
    """A photo whose linear luminance goes from left to right across the face at x = 200."""
    t = 1 / (1 + np.exp(-(np.arange(400) - 200) / blend_px))
    linear = left * (1 - t) + right * t
    codes = 255 * np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.broadcast_to(np.rint(codes).astype(np.uint8)[None, :, None], (400, 400, 3)).copy()


@pytest.mark.parametrize("skin", [(80, 52, 42), (140, 100, 80), (224, 190, 170)])
def test_even_light_passes_whatever_the_skin(skin: tuple[int, int, int]):
    assert reason_of(plain_photo(skin)) is None


def test_side_light_is_uneven_and_the_ratio_is_that_of_the_light():
    photo = shaded(0.1, 0.6, blend_px=4)
    light = measure_light(photo, face_points())
    assert light is not None
    assert light.light_ratio == pytest.approx(6, rel=0.15)
    assert reason_of(photo) == "uneven_light"
    assert reason_of(shaded(0.3, 0.33)) is None


def test_ratio_does_not_depend_on_how_much_the_skin_reflects():
    dark = measure_light(shaded(0.02, 0.04), face_points())
    light = measure_light(shaded(0.3, 0.6), face_points())
    assert dark is not None
    assert light is not None
    assert dark.light_ratio == pytest.approx(light.light_ratio, rel=0.1)


def test_a_hard_shadow_edge_is_uneven_even_where_both_sides_are_alike():
    photo = plain_photo(150)
    photo[215:] = 60  # across both cheeks
    light = measure_light(photo, face_points())
    assert light is not None
    assert light.light_ratio < 1.2
    assert reason_of(photo) == "uneven_light"


def test_glare_and_darkness():
    assert reason_of(plain_photo(254)) == "over_exposed"
    assert reason_of(plain_photo(8)) == "under_exposed"
    assert reason_of(plain_photo(254), max_overexposed_fraction=1.0) is None


def test_turned_faces_of_any_size_are_measured_at_one_scale():
    for ipd_px in (30.0, 160.0):
        found = face_patch(plain_photo(), face_points(ipd_px=ipd_px, roll_deg=30))
        assert found is not None
        patch, points = found
        assert patch.shape[1::-1] == PATCH_SIZE_PX
        assert points[36:42].mean(axis=0) == pytest.approx([36, 40])
        assert points[42:48].mean(axis=0) == pytest.approx([76, 40])


def test_skin_leaves_out_eyes_brows_and_everything_from_the_lip_down():
    points = face_patch(plain_photo(), face_points())[1]
    mask = skin_mask(points, PATCH_SIZE_PX)
    for index in (19, 24, 37, 44, 33, 51, 57, 8):
        x, y = points[index].round().astype(int)
        assert not mask[y, x]
    cheek = (points[2] + points[31]) / 2
    assert mask[int(cheek[1]), int(cheek[0])]


def test_no_skin_in_view_is_a_failure():
    assert reason_of(plain_photo(), np.full((68, 2), 3.0)) == "no_skin_in_view"
    line = face_points()
    line[:, 1] = 100.0
    assert reason_of(plain_photo(), line) == "no_skin_in_view"


def test_luminance_is_linear():
    grey = linear_luminance(plain_photo([188, 188, 188], 2, 2))
    assert grey == pytest.approx(np.full((2, 2), 0.5), abs=0.01)
