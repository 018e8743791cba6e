"""Make a finished workspace of VoxCeleb's size, to measure the review UI on.

    python benchmarks/review_workspace.py big                       7,363 people, 300,000 candidates
    python benchmarks/review_workspace.py small --identities 200 --candidates 8000
    python benchmarks/review_candidates.py big/work                 then: opening it, tiles, memory

Tables are written directly; no network runs. Every candidate has all measures of the stages, and
there are as many refused photographs as candidates. The pixels are those of 160 photographs of 24
phantoms, with crops at the paper's mean resolution (505 px), in one set of tars that all shards
share by hard links. So decoding costs what it would in a real workspace, but reading does not: the
files fit into the page cache, unlike 100 GB.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import yaml
from numpy.typing import NDArray

from hqvox.imaging.codec import encode_png
from hqvox.imaging.pictures import encode_jpeg
from hqvox.phantom.faces import Light, Pose, Scene, render_face
from hqvox.phantom.scenery import BACKDROPS
from hqvox.phantom.world import cast
from hqvox.runner.plan import Fingerprints
from hqvox.workspace.identities import to_table
from hqvox.workspace.layout import TAR_OF, Workspace
from hqvox.workspace.measures import BY_NAME, all_bounds
from hqvox.workspace.shards import ShardWriter
from hqvox.workspace.storage import Storage
from hqvox.workspace.tables import stage_schema
from models.geometry import IPD_PER_SIDE, aligned_transform, eye_centres
from models.store import ModelStore
from pipelines.chain import COLUMNS_OF, STAGE_NAMES, Stages

IDENTITIES, CANDIDATES = 7_363, 300_000
PEOPLE, PICTURES = 24, 160
MOST = 150
"""Candidates of an identity, at most: the photographs of one must all be different."""
SIDES_PX = (260, 330, 380, 420, 460, 500, 560, 1060)
"""Of the crops, in turn: about 505 in the mean, with one large, as photographs are."""
FATES = (
    ("pupils", "pupils_too_close", "ipd_px", (8.0, 30.0)),
    ("pose", "turned_away", "yaw_deg", (5.0, 60.0)),
    ("pose", "tilted", "pitch_deg", (5.0, 30.0)),
    ("lighting", "uneven_light", "light_ratio", (2.0, 6.0)),
    ("emotion", "not_neutral", "happiness", (0.96, 1.0)),
    ("identity", "someone_else", "core_similarity", (0.2, 0.9)),
    ("align", "out_of_frame", "outside_fraction", (0.15, 0.6)),
    ("segment", "not_segmented", "edge_confidence", (0.1, 0.5)),
)
"""Where refused photographs end: stage, reason, the measurement and its span."""
MEASURED: Mapping[str, tuple[float, float]] = {
    "face_score": (0.5, 3.0),
    "ipd_px": (30.0, 250.0),
    "roll_deg": (-15.0, 15.0),
    "light_ratio": (1.0, 2.0),
    "mouth_width": (0.7, 0.92),
    "core_similarity": (0.93, 1.0),
    "compression": (0.0, 0.6),
    "person_fraction": (0.4, 0.8),
    "sharpness": (0.2, 0.8),
    "quality": (0.3, 0.9),
}
"""Spans of what is measured on those that are kept, where a limit alone does not give them."""

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Picture:
    """A photograph of a phantom, and what a build makes of it."""

    photo_id: str
    row: dict[str, Any]
    """Columns of the stages that follow from the pixels."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a new folder")
    parser.add_argument("--identities", type=int, default=IDENTITIES)
    parser.add_argument("--candidates", type=int, default=CANDIDATES)
    arguments = parser.parse_args()
    started = time.perf_counter()
    make_review_workspace(arguments.folder, arguments.identities, arguments.candidates)
    print(f"made in {time.perf_counter() - started:.0f} s: {size_of(arguments.folder)}")


def make_review_workspace(
    folder: Path, identities: int = IDENTITIES, candidates: int = CANDIDATES
) -> Workspace:
    """A finished build with that many kept faces, 1 to :data:`MOST` for each identity."""
    rng = np.random.default_rng(0)
    counts = shared_out(candidates, identities, rng)
    pixels = folder / "pixels"
    pictures = make_pictures(Storage(pixels))
    rows = [
        {
            "identity_id": f"id{10_001 + number}",
            "name": f"Person {number}",
            "subset": "vox1" if number % 6 == 0 else "vox2",
            "gender": "mf"[number % 2],
            "nationality": ("USA", "UK", "Norway")[number % 3],
            "row": number,
            "folder": f"{number:05d}",
        }
        for number in range(identities)
    ]
    for row in rows:
        (folder / "photos" / str(row["folder"])).mkdir(parents=True)
    text = yaml.safe_dump({"discover": {"photos": str((folder / "photos").resolve())}})
    workspace = Workspace.create(folder / "work", text, to_table(rows))
    config, store = workspace.config(), ModelStore()
    prints = Fingerprints(Stages(config, store))
    for shard, members in workspace.shards().items():
        own = [int(counts[row["row"]]) for row in members]
        write_shard(workspace, shard, members, own, pictures, prints.of(members), rng)
        for kind, stage in TAR_OF.items():
            target = Path(workspace.storage.path(workspace.tar_name(stage, shard)))
            target.hardlink_to(pixels / f"{kind}.tar")
    return workspace


def shared_out(total: int, people: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """How many each gets, unevenly, ``total`` together."""
    share = rng.gamma(3.0, 1.0, people)
    counts = np.clip(np.floor(share * total / share.sum()), 1, MOST).astype(np.int64)
    while (rest := total - int(counts.sum())) != 0:
        open_to = np.flatnonzero(counts < MOST if rest > 0 else counts > 1)
        if not len(open_to):
            raise SystemExit(f"{total:,} candidates do not go into {people:,} identities")
        chosen = rng.permutation(open_to)[: abs(rest)]
        counts[chosen] += np.sign(rest)
    return counts


def make_pictures(storage: Storage) -> list[Picture]:
    """Photographs with crops and masks, in one tar of each kind."""
    tars = {kind: ShardWriter(storage, f"{kind}.tar") for kind in TAR_OF}
    pictures = []
    drawn = [draw(number, person) for number, person in enumerate(cast(5, PEOPLE))]
    for number in range(PICTURES):
        photo, landmarks, mask = drawn[number % PEOPLE]
        # The same scene in another light: other pixels, other bytes.
        table = np.clip(np.arange(256) * (1.06 - 0.02 * (number // PEOPLE)), 0, 255)
        data = encode_jpeg(cv2.LUT(photo, table.astype(np.uint8)), 90)
        pictures.append(store_picture(number, data, photo, landmarks, mask, tars))
    for tar in tars.values():
        tar.commit()
    return pictures


def draw(number: int, person: Any) -> tuple[NDArray[np.uint8], NDArray[Any], NDArray[Any]]:
    """A photograph, its landmarks (68, 2), and the person's mask, 0 to 1."""
    side = SIDES_PX[number % len(SIDES_PX)]
    size = round(side * 1.5)
    scene = Scene(
        Pose(eyes_xy=(0.5, 0.45), ipd_px=side * IPD_PER_SIDE),
        size,
        size,
        Light(azimuth_deg=10, elevation_deg=26, key=0.72, ambient=0.46),
        backdrop=BACKDROPS[number % len(BACKDROPS)],
    )
    found = render_face(person, scene, np.random.default_rng(number))
    mask = cv2.GaussianBlur(found.truth.mask.astype(np.float32), (0, 0), side / 300)
    return np.asarray(found.image, np.uint8), found.truth.landmarks_xy, mask


def store_picture(
    number: int,
    data: bytes,
    photo: NDArray[np.uint8],
    landmarks: NDArray[Any],
    mask: NDArray[Any],
    tars: Mapping[str, ShardWriter],
) -> Picture:
    """Cut and store a photograph as the align and segment stages do."""
    matrix, exact = aligned_transform(eye_centres(landmarks))
    side = round(exact)
    crop, alpha = (
        cv2.warpAffine(part, matrix, (side, side), borderMode=cv2.BORDER_REPLICATE)
        for part in (photo, mask)
    )
    photo_id = f"{number:064x}"
    low, high = landmarks.min(axis=0), landmarks.max(axis=0)
    row: dict[str, Any] = {
        "width_px": photo.shape[1],
        "height_px": photo.shape[0],
        "box_xyxy": [*low.tolist(), *high.tolist()],
        "landmarks_xy": landmarks.reshape(-1).tolist(),
        "transform": matrix.reshape(-1).tolist(),
        "crop_side_px": side,
    }
    members = {
        "photo": (photo_id, data),
        "aligned": (f"{photo_id}-0.png", encode_png(crop[:, :, ::-1])),
        "mask": (f"{photo_id}-0.png", encode_png(np.rint(alpha * 255).astype(np.uint8))),
    }
    for kind, (name, stored) in members.items():
        row[f"{kind}_offset"], row[f"{kind}_bytes"] = tars[kind].add(name, stored)
    return Picture(photo_id, row)


def write_shard(
    workspace: Workspace,
    shard: str,
    members: list[dict[str, Any]],
    counts: list[int],
    pictures: list[Picture],
    records: list[dict[str, Any]],
    rng: np.random.Generator,
) -> None:
    """The tables of one shard: as many refused photographs as kept ones."""
    total = 2 * sum(counts)
    candidate = np.concatenate([np.arange(2 * count) for count in counts])
    # Of one identity all kept photographs differ; what was refused may be of any.
    place = np.concatenate([rng.permutation(2 * count) for count in counts])
    kept = place < np.repeat(counts, [2 * count for count in counts])
    order = np.concatenate([np.resize(rng.permutation(len(pictures)), 2 * c) for c in counts])
    first = np.repeat(np.cumsum([0, *counts[:-1]]) * 2, [2 * count for count in counts])
    which = order[first + place]
    fate = np.where(kept, -1, rng.integers(0, len(FATES), total))
    values = {name: rng.uniform(*span, total) for name, span in kept_spans(workspace).items()}
    values["happiness"] = rng.uniform(0, 0.3, total)
    for number, (_, _, name, span) in enumerate(FATES):
        refused = fate == number
        values[name][refused] = rng.uniform(*span, int(refused.sum()))
    columns: dict[str, pa.Array] = {name: pa.array(v, pa.float32()) for name, v in values.items()}
    columns["identity_id"] = pa.array(
        np.repeat([row["identity_id"] for row in members], [2 * count for count in counts])
    )
    columns["candidate"] = pa.array(candidate, pa.int32())
    columns["face"] = pa.array(np.zeros(total), pa.int16())
    columns["photo_id"] = pa.array([pictures[i].photo_id for i in which])
    for name in pictures[0].row:
        columns[name] = pa.array([p.row[name] for p in pictures]).take(pa.array(which))
    columns["phash"] = pa.array(rng.integers(0, 2**63, total), pa.uint64())
    columns["url"] = pa.array([f"{n}.jpg" for n in candidate])
    columns["source"] = pa.array(["folder"] * total)
    columns["faces_in_photo"] = pa.array(np.ones(total), pa.int16())
    columns["emotion_probabilities"] = pa.array(
        [[("neutral", 1 - h), ("happiness", h)] for h in values["happiness"]],
        pa.map_(pa.string(), pa.float32()),
    )
    ends = np.array([STAGE_NAMES.index(stage) for stage, *_ in FATES] + [len(STAGE_NAMES)])[fate]
    reasons = np.array([reason for _, reason, *_ in FATES] + [None], dtype=object)[fate]
    for number, (stage, record) in enumerate(zip(STAGE_NAMES, records, strict=True)):
        here = np.flatnonzero(ends >= number)
        schema = stage_schema(COLUMNS_OF[stage])
        own: dict[str, pa.Array] = {}
        for field in schema:
            found = columns.get(field.name, pa.nulls(total, field.type))
            own[field.name] = found.take(pa.array(here)).cast(field.type)
        if number < STAGE_NAMES.index("landmarks"):
            own["face"] = pa.nulls(len(here), pa.int16())
        reason = np.where(ends[here] == number, reasons[here], None)
        own["reason"] = pa.array(reason, pa.string()).cast(schema.field("reason").type)
        workspace.write_stage(stage, shard, pa.table(own, schema), record)


def kept_spans(workspace: Workspace) -> Mapping[str, tuple[float, float]]:
    """Of each number of the faces, its span over those that are kept."""
    spans = {}
    for name, bound in all_bounds(workspace.config(), ModelStore()).items():
        measure = BY_NAME[name]
        if measure.of == (name,) and measure.limit is not None:
            low = -bound if measure.signed else 0.0
            spans[name] = (low, bound) if measure.limit.upper else (bound, 1.0)
    return spans | MEASURED


def size_of(folder: Path) -> str:
    """What it takes on the disk, files with several names counted once."""
    found = {(s := os.stat(f)).st_ino: s.st_size for f in folder.rglob("*") if f.is_file()}
    return f"{sum(found.values()) / 1e6:,.0f} MB in {len(found):,} files"


if __name__ == "__main__":
    main()
