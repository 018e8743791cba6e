from __future__ import annotations

import numpy as np

from hqvox.imaging.drawing import draw_doubt


def test_only_pixels_between_person_and_background_are_tinted():
    picture = np.full((1, 6, 3), 100, np.uint8)
    draw_doubt(picture, np.array([[0, 10, 60, 128, 245, 255]], np.uint8))
    changed = (picture != 100).any(axis=-1)
    assert changed.tolist() == [[False, False, True, True, False, False]]
