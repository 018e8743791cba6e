"""Cost of a release: seconds to write 8,000 faces with voices, and to verify them.

    python benchmarks/release.py                     8,000 faces, a process per core
    python benchmarks/release.py --faces 800 --workers 1

The workspace is made first and not timed: crops and masks of 24 phantom faces at the paper's mean
resolution (sides from 260 to 1,060 px, mean 505 px), stored repeatedly under 2,667 identities, with
utterances of noise of four seconds.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import yaml
from rich.console import Console

from build import processor
from hqvox.imaging.codec import encode_png
from hqvox.phantom.faces import Light, Pose, Scene, render_face
from hqvox.phantom.scenery import BACKDROPS
from hqvox.phantom.world import cast
from hqvox.release.read import Release
from hqvox.release.verify import verify_release
from hqvox.release.write import write_release
from hqvox.runner.plan import Fingerprints
from hqvox.speech.pack import PackWriter
from hqvox.workspace.identities import to_table
from hqvox.workspace.layout import TAR_OF, Workspace
from hqvox.workspace.shards import ShardWriter
from hqvox.workspace.tables import UTTERANCES, Row, stage_schema
from models.geometry import IPD_PER_SIDE, aligned_transform, eye_centres
from models.store import ModelStore
from pipelines.chain import COLUMNS_OF, STAGE_NAMES, Stages

CROPS = 24
FACES_PER_IDENTITY = 3
FRAMES = 400
SIDES_PX = (260, 330, 380, 420, 460, 500, 560, 1060)
"""Of the crops, in turn: about 505 in the mean, with one large, as photographs are."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", type=int, default=8000)
    parser.add_argument("--utterances", type=int, default=20, help="of each identity")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        crops = make_crops()
        side = np.mean([crop["side_px"] for crop in crops])
        workspace = make_workspace(
            Path(folder), arguments.faces // FACES_PER_IDENTITY, arguments.utterances, crops
        )
        wall, cpu = time.perf_counter(), cpu_seconds()
        written = write_release(
            workspace, "v1", workspace.config(), auto=True, workers=arguments.workers
        )
        wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
        console.print(
            f"{written.images:,} faces, {side:.0f} px in the mean, and "
            f"{written.info['speech']['utterances']:,} utterances released in {wall:.1f} s "
            f"({cpu:.1f} s of processor time, {arguments.workers} processes, "
            f"{processor()}, {os.cpu_count()} cores)"
        )
        assert not written.plan.leaks, written.plan.leaks[0]
        wall, cpu = time.perf_counter(), cpu_seconds()
        checks = verify_release(Release(workspace, "v1"))
        wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
        assert not any(check.failures for check in checks), checks
        console.print(f"verified in {wall:.1f} s ({cpu:.1f} s of processor time)")


def cpu_seconds() -> float:
    """Processor time of this process and of those that it started and that have ended."""
    own, children = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def make_crops() -> list[Row]:
    """Aligned crops and masks of phantoms, as a build stores them."""
    crops = []
    for number, person in enumerate(cast(5, CROPS)):
        side = SIDES_PX[number % len(SIDES_PX)]
        size = round(side * 1.3)
        scene = Scene(
            Pose(eyes_xy=(0.5, 0.45), ipd_px=side * IPD_PER_SIDE),
            size,
            size,
            Light(azimuth_deg=10, elevation_deg=26, key=0.72, ambient=0.46),
            backdrop=BACKDROPS[number % len(BACKDROPS)],
        )
        photo = render_face(person, scene, np.random.default_rng(number))
        landmarks = photo.truth.landmarks_xy
        matrix, exact = aligned_transform(eye_centres(landmarks))
        side_px = round(exact)
        mask = cv2.GaussianBlur(photo.truth.mask.astype(np.float32) * 255, (0, 0), side / 300)
        aligned, alpha = (
            cv2.warpAffine(p, matrix, (side_px, side_px), borderMode=cv2.BORDER_REPLICATE)
            for p in (photo.image[:, :, ::-1], mask)
        )
        crops.append(
            {
                "side_px": side_px,
                "aligned": encode_png(aligned),
                "mask": encode_png(np.rint(alpha).astype(np.uint8)),
                "transform": matrix.reshape(-1).tolist(),
                "landmarks_xy": landmarks.reshape(-1).tolist(),
            }
        )
    return crops


def make_workspace(folder: Path, people: int, utterances: int, crops: list[Row]) -> Workspace:
    """A finished build and packed speech."""
    rows = []
    for number in range(people):
        (folder / "photos" / f"{number:05d}").mkdir(parents=True)
        rows.append(
            {
                "identity_id": f"id{number:05d}",
                "name": f"Person {number}",
                "subset": "vox1" if number % 6 == 0 else "vox2",
                "gender": "mf"[number % 2],
                "nationality": ("USA", "UK", "Norway")[number % 3],
                "row": number,
                "folder": f"{number:05d}",
            }
        )
    text = yaml.safe_dump({"discover": {"photos": str(folder / "photos")}})
    workspace = Workspace.create(folder / "work", text, to_table(rows))
    config, store = workspace.config(), ModelStore()
    prints = Fingerprints(Stages(config, store))
    rng = np.random.default_rng(0)
    for shard, identities in workspace.shards().items():
        tars = {
            kind: ShardWriter(workspace.storage, workspace.tar_name(stage, shard))
            for kind, stage in TAR_OF.items()
        }
        faces = [
            make_face(identity, candidate, crops, tars, rng)
            for identity in identities
            for candidate in range(FACES_PER_IDENTITY)
        ]
        for tar in tars.values():
            tar.commit()
        write_tables(workspace, shard, faces, prints.of(identities))
        pack(workspace, shard, identities, utterances, rng)
    return workspace


def make_face(
    identity: Row, candidate: int, crops: list[Row], tars: dict[str, ShardWriter], rng: object
) -> Row:
    """A kept face's columns; its pixels go to the tars."""
    number = FACES_PER_IDENTITY * identity["row"] + candidate
    crop = crops[number % len(crops)]
    embedding = rng.standard_normal(128).astype(np.float32)
    face = {
        "identity_id": identity["identity_id"],
        "candidate": candidate,
        "face": 0,
        "url": f"{identity['folder']}/{candidate}.jpg",
        "source": "folder",
        "photo_id": f"{number:064x}",
        "phash": int(rng.integers(2**63)),
        "embedding": (embedding / np.linalg.norm(embedding)).tolist(),
        "landmarks_xy": crop["landmarks_xy"],
        "transform": crop["transform"],
        "crop_side_px": crop["side_px"],
        "quality": 0.5,
    }
    for kind in ("aligned", "mask"):
        place = tars[kind].add(f"{number}.png", crop[kind])
        face[f"{kind}_offset"], face[f"{kind}_bytes"] = place
    return face


def write_tables(workspace: Workspace, shard: str, faces: list[Row], records: list[Row]) -> None:
    """Commit the stage tables."""
    for stage, record in zip(STAGE_NAMES, records, strict=True):
        faceless = STAGE_NAMES.index(stage) < STAGE_NAMES.index("landmarks")
        rows = [face | {"face": None} for face in faces] if faceless else faces
        schema = stage_schema(COLUMNS_OF[stage])
        table = pa.Table.from_pylist(
            [{name: row.get(name) for name in schema.names} for row in rows], schema
        )
        workspace.write_stage(stage, shard, table, record)


def pack(
    workspace: Workspace, shard: str, identities: list[Row], utterances: int, rng: object
) -> None:
    """Pack utterances of noise."""
    writer = PackWriter(workspace, shard, 40)
    noise = rng.normal(11, 3, (FRAMES, 40)).astype(np.float32)
    for identity in identities:
        for number in range(utterances):
            row = dict.fromkeys(UTTERANCES.names) | {
                "identity_id": identity["identity_id"],
                "video": "video",
                "utterance": f"{number:05d}",
                "path": f"{identity['identity_id']}/{number}.wav",
                "seconds": FRAMES / 100,
                "sha256": f"{number:064x}",
            }
            writer.add(row, noise)
    writer.commit({})


if __name__ == "__main__":
    main()
