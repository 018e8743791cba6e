"""A release with faces and voices in a tenth of a second, for the tests of training.

Four traits of a person show in the face (skin, hair, width, mouth) and sound in the voice (its mean
spectrum), so that something can be learnt from it. Tables have the schemas of real releases.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hqvox.imaging.pictures import encode_jpeg
from hqvox.release.layout import CHECKSUMS, FORMAT, INFO
from hqvox.release.manifest import IDENTITIES, MANIFEST
from hqvox.release.read import Release
from hqvox.release.speech import SPEECH

TRAITS = 4


def make_tiny_release(
    folder: Path,
    train: int = 6,
    val: int = 2,
    test: int = 3,
    *,
    faces: int = 3,
    utterances: int = 2,
    frames: tuple[int, int] = (90, 400),
    filters: int = 40,
    side_px: int = 96,
    seed: int = 0,
) -> Release:
    """Write a release into ``folder``, which must not be there, and open it.

    ``faces``, ``utterances``: per person; ``frames``: shortest and longest utterance.
    """
    rng = np.random.default_rng(seed)
    spectra = rng.normal(0, 2, (TRAITS, filters))
    manifest: list[dict[str, Any]] = []
    people: list[dict[str, Any]] = []
    spoken: list[dict[str, Any]] = []
    voices: list[NDArray[np.float16]] = []
    (folder / "speech").mkdir(parents=True)
    splits = ["train"] * train + ["val"] * val + ["test"] * test
    for number, split in enumerate(splits):
        traits = rng.random(TRAITS)
        who = {"identity_id": f"id{number}", "name": f"Person_{number}", "subset": "vox1"}
        who["split"] = split
        for shot in range(faces):
            file = f"vox1/masked_faces/{who['name']}/{shot}.jpg"
            data = encode_jpeg(draw_face(traits, side_px, rng), 95)
            for kind in ("masked_faces", "origin_faces"):
                path = folder / file.replace("masked_faces", kind)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            origin = file.replace("masked_faces", "origin_faces")
            manifest.append(who | {"masked_file": file, "origin_file": origin})
        for take in range(utterances):
            count = int(rng.integers(*frames, endpoint=True))
            log_mel = 11 + (traits - 0.5) @ spectra + rng.normal(0, 1, (count, filters))
            spoken.append(
                {
                    "identity_id": who["identity_id"],
                    "split": split,
                    "video": "v",
                    "utterance": f"{take}",
                    "file": "speech/00.f16",
                    "offset": sum(map(len, voices)),
                    "frames": count,
                    "seconds": count / 100,
                }
            )
            voices.append(log_mel.astype("<f2"))
        people.append(who | {"images": faces, "utterances": utterances})
    for name, rows, schema in (
        ("manifest", manifest, MANIFEST),
        ("identities", people, IDENTITIES),
        ("speech/index", spoken, SPEECH),
    ):
        full = [dict.fromkeys(schema.names) | row for row in rows]
        pq.write_table(pa.Table.from_pylist(full, schema), folder / f"{name}.parquet")
    stacked = np.concatenate(voices)
    (folder / "speech/00.f16").write_bytes(stacked.tobytes())
    ours = [v for v, row in zip(voices, spoken, strict=True) if row["split"] == "train"]
    trained = np.concatenate([np.zeros((0, filters)), *ours]).astype(np.float64)
    figures = {"mean": trained.mean(), "variance": trained.var()} if len(trained) else {}
    stats = {"filters": filters, "frames": len(trained), **figures}
    (folder / "speech/stats.json").write_text(json.dumps(stats))
    (folder / INFO).write_text(json.dumps({"format": FORMAT, "name": folder.name}))
    write_checksums(folder)
    return Release(folder)


def write_checksums(folder: Path) -> None:
    """Write SHA256SUMS over what is there now."""
    files = sorted(f for f in folder.rglob("*") if f.is_file() and f.name not in (CHECKSUMS, INFO))
    lines = [
        f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.relative_to(folder)}\n" for f in files
    ]
    (folder / CHECKSUMS).write_text("".join(lines))


def draw_face(
    traits: NDArray[np.float64], side_px: int, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """An RGB face on white, eyes where HQ-VoxCeleb's are; each shot differs a little in light."""
    size = 4 * side_px  # Drawn large and reduced, for smooth edges.
    skin, hair, width, mouth = traits
    picture = np.full((size, size, 3), 255, np.uint8)

    def ellipse(x: float, y: float, a: float, b: float, colour: tuple[float, ...]) -> None:
        centre, axes = (round(x * size), round(y * size)), (round(a * size), round(b * size))
        cv2.ellipse(picture, centre, axes, 0, 0, 360, colour, -1)

    ellipse(0.5, 0.45, 0.3 + 0.1 * width, 0.42, (30 + 180 * hair, 20 + 130 * hair, 20 + 60 * hair))
    ellipse(
        0.5, 0.55, 0.22 + 0.1 * width, 0.36, (110 + 140 * skin, 70 + 150 * skin, 50 + 140 * skin)
    )
    for x in (0.380, 0.623):
        ellipse(x, 0.487, 0.035, 0.018, (250, 250, 250))
        ellipse(x, 0.487, 0.016, 0.016, (40, 30, 25))
    ellipse(0.5, 0.76, 0.05 + 0.08 * mouth, 0.02, (150, 50, 50))
    small = cv2.resize(picture, (side_px, side_px), interpolation=cv2.INTER_AREA)
    return np.clip(small * rng.uniform(0.95, 1.05), 0, 255).astype(np.uint8)
