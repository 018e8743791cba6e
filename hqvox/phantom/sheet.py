"""The contact sheet of phantoms that the README shows.

python -m hqvox.phantom.sheet --out docs/images/phantoms.jpg
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from hqvox.phantom.faces import Light, Pose, Scene, render_face
from hqvox.phantom.scenery import BACKDROPS
from hqvox.phantom.world import cast

COLUMNS, ROWS, SIDE_PX = 6, 3, 256
# one per tile of the lower rows: yaw, pitch, roll, expression, light azimuth, key, ambient
_TILES = (
    (22, 0, 0, "neutral", 14, 0.72, 0.46), (0, 0, 0, "happiness", -14, 0.72, 0.46),
    (-32, 4, 0, "neutral", 20, 0.72, 0.46), (0, 14, 0, "neutral", 10, 0.72, 0.46),
    (0, 0, 0, "surprise", 14, 0.72, 0.46), (0, -13, 4, "slight_smile", -14, 0.72, 0.46),
    (0, 0, 0, "neutral", 78, 1.15, 0.10), (3, 0, 14, "neutral", 14, 0.72, 0.46),
    (0, 0, 0, "anger", -14, 0.72, 0.46), (15, 0, -6, "happiness", 14, 0.72, 0.46),
    (0, 0, 0, "sadness", -24, 0.72, 0.46), (-12, 0, 0, "slight_smile", 14, 0.9, 0.3),
)  # fmt: skip


def make_sheet(seed: int = 7) -> NDArray[np.uint8]:
    """Return the sheet, uint8 RGB: one row of neutral faces, then poses, expressions and light."""
    people = cast(seed, COLUMNS * ROWS)
    tiles = []
    for i, person in enumerate(people):
        yaw, pitch, roll, mood, azimuth, key, ambient = (
            (0, 0, 0, "neutral", (-12, 12)[i % 2], 0.72, 0.46)
            if i < COLUMNS
            else _TILES[i - COLUMNS]
        )
        scene = Scene(
            pose=Pose(float(yaw), float(pitch), float(roll), (0.5, 0.45), 100.0, mood),
            width=2 * SIDE_PX,
            height=2 * SIDE_PX,
            light=Light(azimuth_deg=float(azimuth), elevation_deg=26, key=key, ambient=ambient),
            backdrop=BACKDROPS[i % len(BACKDROPS)],
        )
        image = render_face(person, scene, np.random.default_rng([seed, i])).image
        tiles.append(cv2.resize(image, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA))
    rows = [np.hstack(tiles[r * COLUMNS : (r + 1) * COLUMNS]) for r in range(ROWS)]
    return np.vstack(rows)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Write a contact sheet of phantom faces.")
    parser.add_argument("--out", type=Path, required=True, help="JPEG file to write")
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    _, data = cv2.imencode(
        ".jpg", make_sheet(arguments.seed)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 84]
    )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_bytes(data.tobytes())


if __name__ == "__main__":
    main()
