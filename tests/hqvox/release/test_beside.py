"""Two releases side by side: the same people, and whose faces are where."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from hqvox.cli.app import app
from hqvox.errors import HqvoxError
from hqvox.imaging.codec import decode
from hqvox.imaging.pictures import fitted
from hqvox.release import beside
from tests.helpers.tiny_release import make_tiny_release


def test_people_of_both_are_side_by_side(tmp_path: Path) -> None:
    this = make_tiny_release(tmp_path / "this", train=3, val=0, test=0, faces=2, seed=1)
    other = make_tiny_release(tmp_path / "other", train=14, val=0, test=0, faces=6, seed=2)
    sheet = np.asarray(beside.beside(this, other))
    columns = 2 * beside.FACES
    assert sheet.shape[1] == 10 + columns * (beside.SIDE_PX + 10)
    tile_height = beside.SIDE_PX + 15 + 10
    assert sheet.shape[0] == 40 + 3 * (24 + tile_height) + 10
    manifests = [release.manifest().to_pylist() for release in (this, other)]
    for person in range(3):
        for column in range(columns):
            side, shot = divmod(column, beside.FACES)
            y = 40 + person * (24 + tile_height) + 24
            x = 10 + column * (beside.SIDE_PX + 10)
            tile = sheet[y + 1 : y + beside.SIDE_PX - 1, x + 1 : x + beside.SIDE_PX - 1]
            rows = [r for r in manifests[side] if r["identity_id"] == f"id{person}"]
            if shot >= len(rows):
                assert (tile[:20, :20] == tile[0, 0]).all(), "no picture"
                continue
            face = decode((this, other)[side].read(rows[shot]["masked_file"]))
            np.testing.assert_array_equal(tile, fitted(face, *[beside.SIDE_PX] * 2)[1:-1, 1:-1])


def test_the_command_writes_the_gallery(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_tiny_release(tmp_path / name, train=2, val=0, test=0, seed=len(name))
    given = ["stats", str(tmp_path / "a")]
    out = tmp_path / "out" / "figure-7.jpg"
    for wrong, why in (
        (["--gallery", str(out)], "name the other dataset"),
        (["--against", str(tmp_path / "b"), "--gallery", "x.png"], "end the name in .jpg"),
    ):
        done = CliRunner().invoke(app, [*given, *wrong])
        assert isinstance(done.exception, HqvoxError)
        assert why in str(done.exception)
    other = ["--against", str(tmp_path / "b"), "--gallery", str(out)]
    done = CliRunner().invoke(app, [*given, *other], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert Image.open(out).size[0] > 1000
