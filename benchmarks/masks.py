"""How faces look that are cut out: a sheet on white, soft pixels, and the stage's time.

    python benchmarks/masks.py --data DIR [--faces 50] [--sheet sheet.png]

``--data`` is the development data. The faces are those of the photographs of ``celebrities``, and
of people spread over ``expressions``, that every stage can process: limits refuse nobody, except
that at most 35 % of a crop may lie outside its photograph. It prints:

- the share of pixels whose alpha is between 0.05 and 0.95;
- the time of the segment stage per face, on one thread.

The sheet has every face as it is released: on white, with the colours of the person estimated.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch
import yaml

from hqvox.imaging.codec import decode_png
from hqvox.imaging.composite import composite_on_white_fast
from hqvox.runner.build import plan_build, run_build
from hqvox.runner.lookup import joined_rows, shard_keys
from hqvox.workspace import identities
from hqvox.workspace.layout import Workspace
from hqvox.workspace.tables import Row
from models.protocols import Photo
from models.store import ModelStore

SOFT = (0.05, 0.95)
MOST_OUTSIDE = 0.35
TILE_PX = 320
COLUMNS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--faces", type=int, default=50)
    parser.add_argument("--sheet", type=Path, help="write the faces on white as one PNG")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder) / "photos"
        gather(arguments.data, photos, arguments.faces)
        workspace, seconds = build(photos, Path(folder) / "build")
        faces = masked_rows(workspace)
        rows = faces[: arguments.faces]
        masks = [mask(workspace, row) for row in rows]
        alpha = [m / 255 for m in masks]
        soft = [((a > SOFT[0]) & (a < SOFT[1])).mean() for a in alpha]
        print(f"{len(rows)} faces, side {np.median([len(m) for m in masks]):.0f} px in the median")
        print(f"pixels with alpha between {SOFT[0]} and {SOFT[1]}: {np.mean(soft):.1%}")
        print(f"segment stage: {seconds / len(faces):.3f} s per face")
        if arguments.sheet:
            pictures = [
                composite_on_white_fast(decode_png(workspace.pixels("aligned", row)), m)
                for row, m in zip(rows, masks, strict=True)
            ]
            if not cv2.imwrite(str(arguments.sheet), sheet(pictures)[:, :, ::-1]):
                parser.error(f"{arguments.sheet}: cannot be written; give a .png")


def gather(data: Path, target: Path, faces: int) -> None:
    """Copy all photographs of celebrities, and one each of many people of expressions.

    Of these most are cut too tightly: eight times as many are copied as faces are wanted.
    """
    for person in sorted((data / "celebrities").iterdir()):
        if person.is_dir() and not person.name.startswith("_"):
            shutil.copytree(person, target / person.name)
    with open(data / "expressions" / "labels.csv", newline="", encoding="utf-8") as file:
        first = {row["identity"]: row["image"] for row in reversed(list(csv.DictReader(file)))}
    people = sorted(first)
    for identity in people[:: max(1, len(people) // (8 * faces))]:
        folder = target / f"~{identity}"
        folder.mkdir()
        shutil.copy(data / "expressions" / "images" / first[identity], folder)


def build(photos: Path, root: Path) -> tuple[Workspace, float]:
    """Run the stages; also returns the seconds of the segment stage."""
    wide = {name: {"enabled": False} for name in ("pupils", "pose", "lighting", "emotion")}
    settings = {
        "format": 1,
        "discover": {"photos": str(photos)},
        **wide,
        "align": {"max_outside_fraction": MOST_OUTSIDE},
        "segment": {"enabled": False},
    }
    table = identities.to_table(identities.read_folders(photos))
    workspace = Workspace.create(str(root), yaml.safe_dump(settings), table)
    config = workspace.config()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with workspace.lock():
        jobs = plan_build(workspace, config, ModelStore(), target="segment")
        result = run_build(workspace, config, jobs, workers=0)
    assert not result.failed, result.failed
    return workspace, result.stage_seconds["segment"]


def masked_rows(workspace: Workspace) -> list[Row]:
    """The faces that have a mask, one of each photograph, by identity."""
    rows = (
        row
        for shard in workspace.shards()
        for row in joined_rows(workspace, shard, shard_keys(workspace, shard))
        if row["mask_offset"] is not None and not row["reason"]
    )
    best: dict[str, Row] = {}
    for row in rows:
        best.setdefault(row["photo_id"], row)
    return sorted(best.values(), key=lambda row: (row["identity_id"], row["candidate"]))


def mask(workspace: Workspace, row: Row) -> Photo:
    return decode_png(workspace.pixels("mask", row), cv2.IMREAD_GRAYSCALE)


def sheet(pictures: list[Photo]) -> Photo:
    """Faces in rows, each on white in a grey frame."""
    tiles = []
    for picture in pictures:
        tile = cv2.resize(picture, (TILE_PX, TILE_PX), interpolation=cv2.INTER_AREA)
        tiles.append(cv2.copyMakeBorder(tile, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=(128,) * 3))
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % COLUMNS)
    return np.vstack([np.hstack(tiles[i : i + COLUMNS]) for i in range(0, len(tiles), COLUMNS)])


if __name__ == "__main__":
    main()
