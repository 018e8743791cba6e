from __future__ import annotations

import pytest

from hqvox.config.build import PupilsConfig
from pipelines.pupils import PupilsStage
from tests.helpers.stage_fakes import STORE, MemoryPixels, face_points, face_row, plain_photo


@pytest.mark.parametrize(
    ("ipd_px", "reason"), [(29.9, "pupils_too_close"), (30.1, None), (90.0, None)]
)
def test_limit_is_30_px_of_the_photo(ipd_px: float, reason: str | None):
    stage = PupilsStage(PupilsConfig(), STORE)
    row = face_row(face_points(ipd_px=ipd_px, roll_deg=20))
    (row,) = stage.process([row], MemoryPixels(plain_photo()))
    assert row["ipd_px"] == pytest.approx(ipd_px, rel=1e-3)
    assert row["reason"] == reason


def test_no_rows():
    assert PupilsStage(PupilsConfig(), STORE).process([], MemoryPixels(plain_photo())) == []
