"""Accuracy of the stages on real photographs of a few people.

    python benchmarks/stages.py --photos PHOTOS [--sheet results.png]

``--photos`` holds one folder per person; folders whose name begins with ``_`` are left out (they
show several people). One photograph of a stranger is added to every folder with at least three
photographs. Pose, light and expression are measured but refuse nothing. It prints:

- the photographs in which a face was detected;
- the distance of the eye centres detected again on the aligned crop from their target, as a share
  of the crop's side, and how many lie within 1.5 %;
- the shares of strangers and of right faces refused as ``someone_else``.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import yaml

from hqvox.imaging.codec import decode_png
from hqvox.imaging.composite import composite_on_white
from hqvox.runner.build import plan_build, run_build
from hqvox.runner.lookup import joined_rows, shard_keys
from hqvox.workspace import identities
from hqvox.workspace.layout import Workspace
from models.geometry import ALIGNED_LEFT_EYE, ALIGNED_RIGHT_EYE, eye_centres
from models.landmarks import load
from models.store import ModelStore
from pipelines.chain import STAGE_NAMES

MIN_PHOTOS = 3
WITHIN = 0.015
PLANTED = "planted"
TILE_PX = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--until", choices=STAGE_NAMES, default="quality", help="last stage to run")
    parser.add_argument("--sheet", type=Path, help="write crops and masked crops as one PNG")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder) / "photos"
        plant(arguments.photos, photos)
        workspace = build(photos, Path(folder) / "build", arguments.until)
        frame = pd.DataFrame(
            row
            for shard in workspace.shards()
            for row in joined_rows(workspace, shard, shard_keys(workspace, shard))
        )
        frame["planted"] = frame["url"].str.contains(PLANTED)
        report_faces(frame)
        report_alignment(frame, workspace)
        report_identity(frame)
        if arguments.sheet:
            draw(frame, workspace, arguments.sheet)


def plant(source: Path, target: Path) -> None:
    """Copy the people's folders; those with enough photographs get one of the next person."""
    people = sorted(p for p in source.iterdir() if p.is_dir() and not p.name.startswith("_"))
    for i, person in enumerate(people):
        shutil.copytree(person, target / person.name)
        if len(list(person.iterdir())) >= MIN_PHOTOS:
            stranger = sorted(people[(i + 1) % len(people)].iterdir())[0]
            shutil.copy(stranger, target / person.name / f"zz-{PLANTED}{stranger.suffix}")


def build(photos: Path, root: Path, until: str) -> Workspace:
    """Run the stages with the default networks, refusing only what cannot be gone on with."""
    measure_only = {
        name: {"enabled": False} for name in ("pupils", "pose", "lighting", "emotion", "align")
    }
    settings = {"format": 1, "discover": {"photos": str(photos)}, **measure_only}
    table = identities.to_table(identities.read_folders(photos))
    workspace = Workspace.create(str(root), yaml.safe_dump(settings), table)
    config, store = workspace.config(), ModelStore()
    with workspace.lock():
        jobs = plan_build(workspace, config, store, target=until)
        result = run_build(workspace, config, jobs, workers=0)
    assert not result.failed, result.failed
    return workspace


def report_faces(frame: pd.DataFrame) -> None:
    photos = frame[~frame["planted"]].groupby(["identity_id", "candidate"])["landmarks_xy"]
    found = photos.apply(lambda column: column.notna().any())
    print(f"face found in {found.sum()} of {len(found)} photographs")


def report_alignment(frame: pd.DataFrame, workspace: Workspace) -> None:
    """Find the eyes anew on every aligned crop and compare with the released geometry."""
    landmarker = load("dlib68", ModelStore())
    target = np.array([ALIGNED_LEFT_EYE, ALIGNED_RIGHT_EYE])
    distances, missed = [], 0
    for row in aligned_rows(frame):
        crop = decode_png(workspace.pixels("aligned", row))
        faces = landmarker([crop])[0]
        if not len(faces):
            missed += 1
            continue
        eyes = (eye_centres(faces.landmarks_xy) + 0.5) / len(crop)
        each = np.linalg.norm(eyes - target, axis=-1).max(axis=-1)
        distances.append(float(each.min()))
    values = np.array(distances)
    print(
        f"eye centres found anew on {len(values)} of {len(values) + missed} crops: "
        f"{(values <= WITHIN).mean():.1%} of them within {WITHIN:.1%} of the side, "
        f"median {np.median(values):.2%}, worst {values.max():.2%}"
    )


def report_identity(frame: pd.DataFrame) -> None:
    """Judged faces: the planted strangers, and the best face of every right photograph."""
    judged = frame[frame["embedding"].notna()]
    stranger = judged["reason"].isin(["someone_else", "no_majority"])
    planted = judged["planted"]
    print(f"planted strangers refused: {(stranger & planted).sum()} of {planted.sum()}")
    # A right photograph is refused where none of its faces is taken for the person.
    right = (~stranger[~planted]).groupby(
        [judged["identity_id"][~planted], judged["candidate"][~planted]]
    )
    refused = int((~right.any()).sum())
    print(
        f"right photographs refused: {refused} of {right.ngroups} ({refused / right.ngroups:.1%})"
    )


def aligned_rows(frame: pd.DataFrame) -> list[dict]:
    return frame[frame["aligned_bytes"].notna()].to_dict("records")


def draw(frame: pd.DataFrame, workspace: Workspace, path: Path) -> None:
    """Every aligned crop beside itself on white, eight pairs of them a row."""
    tiles = []
    for row in aligned_rows(frame):
        crop = decode_png(workspace.pixels("aligned", row))
        pair = [crop]
        if pd.notna(row["mask_bytes"]):
            mask = decode_png(workspace.pixels("mask", row), cv2.IMREAD_GRAYSCALE)
            pair.append(composite_on_white(crop, mask))
        size = (TILE_PX, TILE_PX)
        pair = [cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in pair]
        tiles.append(np.hstack([*pair, np.zeros_like(pair[0])][:2]))
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % 4)
    rows = [np.hstack(tiles[i : i + 4]) for i in range(0, len(tiles), 4)]
    cv2.imwrite(str(path), np.vstack(rows)[:, :, ::-1])


if __name__ == "__main__":
    main()
