"""A finished build written by hand, without any network: every stage table, every reason, pixels.

Faces are drawn with a few ellipses. What happens to a photo depends on its number alone, so a test
knows every count: see :data:`FATES`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import yaml
from numpy.typing import NDArray

from hqvox.config.build import BuildConfig
from hqvox.imaging.codec import encode_png
from hqvox.imaging.pictures import encode_jpeg
from hqvox.runner.plan import Fingerprints
from hqvox.speech.pack import PackWriter
from hqvox.workspace.identities import to_table
from hqvox.workspace.layout import TAR_OF, Workspace
from hqvox.workspace.shards import ShardWriter
from hqvox.workspace.tables import COLUMNS, UTTERANCES, stage_schema
from models.geometry import aligned_transform, eye_centres
from models.store import ModelStore
from pipelines.chain import COLUMNS_OF, STAGE_NAMES, Stages

KEPT = ("quality", None)
FATES: tuple[tuple[str, str | None], ...] = (
    KEPT,
    ("download", "not_an_image"),
    ("duplicates", "duplicate"),  # of candidate 0
    ("landmarks", "no_face"),
    KEPT,  # with a second face, someone_else
    ("pupils", "pupils_too_close"),
    ("pose", "turned_away"),
    ("pose", "tilted"),
    ("lighting", "uneven_light"),
    ("emotion", "not_neutral"),
    ("align", "out_of_frame"),
    ("segment", "not_segmented"),
    KEPT,
    KEPT,
)
"""Where the photo of each number ends, and why; later numbers are kept."""
TWO_FACES = 4
WIDTH, HEIGHT = 240, 300

Row = dict[str, Any]


def face_landmarks(x: float, y: float, ipd_px: float) -> NDArray[np.float32]:
    """68 plausible points of a frontal face whose eyes' middle is at (x, y)."""
    angle = np.linspace(np.pi * 0.97, np.pi * 0.03, 17)
    jaw = np.stack([1.15 * np.cos(angle), 0.1 + 1.55 * np.sin(angle)], 1)
    brows = [(side * (0.2 + 0.14 * i), -0.33) for side in (-1, 1) for i in range(5)]
    brows[:5] = brows[:5][::-1]
    nose = [(0, 0.15 * i) for i in range(4)] + [(0.1 * (i - 2), 0.62) for i in range(5)]
    circle = np.linspace(np.pi, -np.pi, 6, endpoint=False)
    ring = np.stack([np.cos(circle), -0.5 * np.sin(circle)], 1)
    eyes = [np.array([side * 0.5, 0.0]) + 0.17 * ring for side in (-1, 1)]
    around = np.linspace(np.pi, -np.pi, 12, endpoint=False)
    lips = np.stack([0.38 * np.cos(around), 1.0 - 0.14 * np.sin(around)], 1)
    inner = np.linspace(np.pi, -np.pi, 8, endpoint=False)
    lips_in = np.stack([0.3 * np.cos(inner), 1.0 - 0.03 * np.sin(inner)], 1)
    points = np.concatenate([jaw, brows, nose, *eyes, lips, lips_in])
    return (points * ipd_px + (x, y)).astype(np.float32)


def draw_photo(seed: int, faces: Sequence[NDArray[np.float32]]) -> NDArray[np.uint8]:
    """An RGB photo of the given faces."""
    rng = np.random.default_rng(seed)
    base = rng.integers(60, 200, 3)
    photo = np.full((HEIGHT, WIDTH, 3), base, np.uint8)
    photo[:, :, 0] = np.linspace(40, 220, WIDTH)[None].astype(np.uint8)
    skin = tuple(int(v) for v in rng.integers((180, 130, 100), (240, 190, 160)))
    for points in faces:
        (left, right), size = eye_centres(points), float(np.ptp(points[36:48, 0]))
        middle = ((left + right) / 2 + (0, 0.35 * size)).round().astype(int).tolist()
        cv2.ellipse(photo, middle, (round(size * 0.8), round(size * 1.1)), 0, 0, 360, skin, -1)
        for eye in (left, right):
            cv2.circle(photo, eye.round().astype(int).tolist(), max(2, round(size * 0.06)), 30, -1)
        cv2.polylines(photo, [points[48:60].round().astype(int)], True, (150, 40, 40), 2)
    return photo


def make_build(
    root: Path | str,
    photos: Path,
    names: Sequence[str] = ("Ada Lovelace", "Bedřich Ω", "Few Faces", "Nobody"),
    photos_per_identity: int = 14,
    ids: Sequence[str] = (),
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> Workspace:
    """Write a finished workspace; the third identity keeps two faces, the fourth has no photos.

    ``ids``: of the identities; by default ``id0``, ``id1`` and so on. ``settings``: sections of the
    configuration.
    """
    for name in names:
        (photos / name).mkdir(parents=True)
    rows = [
        {
            "identity_id": ids[number] if ids else f"id{number}",
            "name": name,
            "subset": "custom",
            "gender": None,
            "nationality": None,
            "row": number,
            "folder": name.replace(" ", "%20"),
        }
        for number, name in enumerate(names)
    ]
    text = yaml.safe_dump({"discover": {"photos": str(photos)}, **settings})
    workspace = Workspace.create(root, text, to_table(rows))
    for shard, identities in workspace.shards().items():
        writers = {
            kind: ShardWriter(workspace.storage, workspace.tar_name(stage, shard))
            for kind, stage in TAR_OF.items()
        }
        tables: dict[str, list[Row]] = {stage: [] for stage in STAGE_NAMES}
        for identity in identities:
            count = {2: 2, 3: 0}.get(identity["row"], photos_per_identity)
            for candidate in range(count):
                fate = FATES[candidate] if candidate < len(FATES) else KEPT
                fate = KEPT if count == 2 else fate
                _photo(photos, identity, candidate, fate, tables, writers)
        for writer in writers.values():
            writer.commit()
        config = workspace.config()
        commit(workspace, config, shard, tables)
    return workspace


def commit(
    workspace: Workspace, config: BuildConfig, shard: str, tables: dict[str, list[Row]]
) -> None:
    """Write the stage tables with the fingerprints that the configuration gives."""
    store = ModelStore()
    prints = Fingerprints(Stages(config, store))
    records = prints.of(workspace.shards()[shard])
    for stage, record in zip(STAGE_NAMES, records, strict=True):
        schema = stage_schema(COLUMNS_OF[stage])
        workspace.write_stage(stage, shard, pa.Table.from_pylist(tables[stage], schema), record)


def pack_voices(build: Workspace, spoken: Mapping[str, int]) -> None:
    """Pack utterances of noise, as many of each identity; one more of each is refused."""
    rng = np.random.default_rng(0)
    for shard, identities in build.shards().items():
        writer = PackWriter(build, shard, 40)
        for row in identities:
            identity_id = row["identity_id"]
            for number in range(spoken.get(identity_id, -1) + 1):
                frames = 120 + 10 * number
                own = dict.fromkeys(UTTERANCES.names) | {
                    "identity_id": identity_id,
                    "video": "v",
                    "utterance": f"{number}",
                    "path": f"{identity_id}/v/{number}.wav",
                    "seconds": frames / 100,
                    "sha256": f"{number:064x}",
                }
                if number == spoken[identity_id]:
                    writer.add(own | {"reason": "no_voice", "seconds": 0.0}, None)
                else:
                    writer.add(own, rng.normal(row["row"], 2, (frames, 40)).astype(np.float32))
        writer.commit({})


def _photo(
    photos: Path,
    identity: Row,
    candidate: int,
    fate: tuple[str, str | None],
    tables: dict[str, list[Row]],
    writers: dict[str, ShardWriter],
) -> None:
    reason = fate[1]
    seed = 1000 * identity["row"] + candidate
    ipd_px = 12.0 if reason == "pupils_too_close" else 36.0 + candidate
    faces = [face_landmarks(120, 130, ipd_px)]
    if candidate == TWO_FACES and reason is None:
        faces.append(face_landmarks(200, 60, 34))
    pixels = draw_photo(seed, [] if reason == "no_face" else faces)
    data = b"no picture" if reason == "not_an_image" else encode_jpeg(pixels, 90)
    (photos / identity["name"] / f"{candidate}.jpg").write_bytes(data)
    photo_id = hashlib.sha256(data).hexdigest()
    shared = _measurements(identity, candidate, photo_id, reason)
    if reason != "not_an_image":
        shared["photo_offset"], shared["photo_bytes"] = writers["photo"].add(photo_id, data)
    for number, points in enumerate(faces):
        end = fate if number == 0 else ("identity", "someone_else")
        row = shared | {"landmarks_xy": points.reshape(-1).tolist(), "faces_in_photo": len(faces)}
        low, high = points.min(0), points.max(0)
        row["box_xyxy"] = [*low.tolist(), *high.tolist()]
        _crop(row, points, pixels, number, photo_id, writers)
        for index, stage in enumerate(STAGE_NAMES[: STAGE_NAMES.index(end[0]) + 1]):
            before_faces = index < STAGE_NAMES.index("landmarks")
            if before_faces and number:
                continue
            faceless = before_faces or (stage == "landmarks" and end[0] == "landmarks")
            key = {
                "identity_id": identity["identity_id"],
                "candidate": candidate,
                "face": None if faceless else number,
                "reason": end[1] if stage == end[0] else None,
            }
            tables[stage].append({name: row.get(name) for name in COLUMNS_OF[stage]} | key)


def _measurements(identity: Row, candidate: int, photo_id: str, reason: str | None) -> Row:
    quality = round(0.9 - 0.05 * candidate, 3)
    neutral = 0.1 if reason == "not_neutral" else 0.8
    values: Row = {
        "url": f"{identity['folder']}/{candidate}.jpg",
        "source": "folder",
        "rank": candidate,
        "photo_id": photo_id,
        "media_type": "image/jpeg",
        "width_px": WIDTH,
        "height_px": HEIGHT,
        "photo_bytes": 10,
        "phash": (identity["row"] * 0x9E3779B97F4A7C15 + candidate) % 2**64,  # people far apart
        "duplicate_of": 0 if reason == "duplicate" else None,
        "face_score": 1.5,
        "ipd_px": 12.0 if reason == "pupils_too_close" else 36.0 + candidate,
        "yaw_deg": 21.5 if reason == "turned_away" else 1.0,
        "pitch_deg": -14.0 if reason == "tilted" else 2.0,
        "roll_deg": 0.0,
        "asymmetry": 0.3 if reason == "turned_away" else 0.02,
        "light_ratio": 2.5 if reason == "uneven_light" else 1.1,
        "light_gradient": 1.0,
        "overexposed_fraction": 0.0,
        "underexposed_fraction": 0.0,
        "emotion": "happiness" if reason == "not_neutral" else "neutral",
        "emotion_probabilities": [("neutral", neutral), ("happiness", 1 - neutral)],
        "mouth_opening": 0.01,
        "embedding": _embedding(identity["row"]),
        "core_similarity": 0.97,
        "outside_fraction": 0.4 if reason == "out_of_frame" else 0.0,
        "person_fraction": 0.6,
        "face_coverage": 0.5 if reason == "not_segmented" else 1.0,
        "edge_confidence": 0.8,
        "sharpness": quality,
        "compression": 0.1,
        "quality": quality,
    }
    assert set(values) <= set(COLUMNS)
    return values


def _embedding(person: int) -> list[float]:
    """A unit vector that is its own, all faces of one person the same."""
    vector = np.random.default_rng(person).standard_normal(16)
    return (vector / np.linalg.norm(vector)).tolist()


def _crop(
    row: Row,
    points: NDArray[np.float32],
    pixels: NDArray[np.uint8],
    face: int,
    photo_id: str,
    writers: dict[str, ShardWriter],
) -> None:
    matrix, side = aligned_transform(eye_centres(points))
    side_px = round(side)
    crop = cv2.warpAffine(pixels, matrix, (side_px, side_px), borderMode=cv2.BORDER_REPLICATE)
    alpha = np.zeros((side_px, side_px), np.uint8)
    cv2.ellipse(alpha, (side_px // 2, side_px * 5 // 8), (side_px // 3, side_px // 2), 0, 0, 360,
                255, -1)  # fmt: skip
    row["transform"] = matrix.reshape(-1).tolist()
    row["crop_side_px"] = side_px
    name = f"{photo_id}-{face}.png"
    row["aligned_offset"], row["aligned_bytes"] = writers["aligned"].add(
        name, encode_png(crop[:, :, ::-1])
    )
    row["mask_offset"], row["mask_bytes"] = writers["mask"].add(name, encode_png(alpha))
