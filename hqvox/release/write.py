"""Writing a release: pictures, manifest, split, checksums; whole or not at all.

The same build and options give the same bytes: nothing written here holds a time or a path of the
machine.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import hqvox
from hqvox.config import BuildConfig
from hqvox.errors import HqvoxError
from hqvox.lookup import joined_rows
from hqvox.pictures import SheetRow, Tile, contact_sheet, encode_jpeg, fitted
from hqvox.release.manifest import IDENTITIES, MANIFEST, MEASURED, image_file, released_values
from hqvox.release.names import check_name, folder_names
from hqvox.release.select import Selection, select_auto
from hqvox.release.split import PARTS, check_split, split_file, split_identities
from hqvox.release.target import FOLDER, INFO, Target
from hqvox.runner.build import plan_build
from hqvox.tables import Row
from hqvox.workspace import Workspace
from models.protocols import Photo
from models.store import ModelStore
from pipelines.chain import COLUMNS_OF, STAGE_NAMES
from pipelines.pixels import decode_png
from pipelines.segment import composite_on_white

SHEET_IDENTITIES = 24
"""Identities on one page of the contact sheets."""
THREADS = 4
"""Encoders; the order of what they make is fixed, so it does not change the result."""

OnProgress = Callable[[int, int], None]
"""Told the faces written and the faces in all."""


@dataclass(frozen=True)
class Written:
    """What a release came to."""

    folder: str
    identities: list[Row]
    """Rows of ``identities.parquet``."""
    dropped: list[Row]
    """``identity_id``, ``name``, ``faces`` of those with too few."""
    images: int


@dataclass(frozen=True)
class _Picture:
    masked: bytes
    origin: bytes
    thumbnail: Photo


def write_release(
    workspace: Workspace,
    name: str,
    config: BuildConfig,
    *,
    auto: bool,
    split: str = "official",
    on_progress: OnProgress = lambda done, total: None,
) -> Written:
    """Write release ``name``. Raises HqvoxError where it exists, or the build is not up to date.

    ``auto``: take the best faces by quality where no person has decided. ``split``: ``official``
    or ``seed:N``.
    """
    check_name(name)
    check_split(split)
    folder = f"{FOLDER}/{name}"
    storage = workspace.storage
    if storage.exists(f"{folder}/{INFO}") or (storage.local and storage.exists(folder)):
        raise HqvoxError(
            f"{storage.path(folder)}: this release exists, and releases never change; "
            "choose another name"
        )
    with workspace.lock():
        _check_up_to_date(workspace, config)
        if not auto:
            raise HqvoxError(
                f"{workspace.url}: nobody has reviewed this build yet; add --auto to take the "
                f"{config.release.min_faces} to {config.release.max_faces} best of each identity"
            )
        selection = select_auto(workspace, config.release)
        if not selection.faces:
            most = max(selection.kept.values(), default=0)
            remedy = "--set release.min_faces=1 takes fewer; " if most > 0 else ""
            raise HqvoxError(
                f"{workspace.url}: no identity has {config.release.min_faces} faces that every "
                f"stage kept (the most is {most}); {remedy}`hqvox status {workspace.url}` shows "
                "where they are refused"
            )
        identities = _identity_rows(workspace, selection, split)
        with Target(storage, name) as target:
            manifest = _write_pictures(
                workspace, selection, identities, config, target, on_progress
            )
            _write_tables(workspace, selection, identities, manifest, config, split, target)
            target.finish()
    return Written(storage.path(folder), identities, _dropped(selection), manifest.num_rows)


def _check_up_to_date(workspace: Workspace, config: BuildConfig) -> None:
    tasks = plan_build(workspace, config, ModelStore())
    if tasks:
        raise HqvoxError(
            f"{workspace.url}: the build is not up to date ({len(tasks)} of "
            f"{len(workspace.shards())} shards; {STAGE_NAMES[tasks[0].first]}: {tasks[0].why}); "
            f"run `hqvox build {workspace.url}` first"
        )


def _identity_rows(workspace: Workspace, selection: Selection, split: str) -> list[Row]:
    everyone = workspace.identities().to_pylist()
    folders = folder_names(everyone)
    released = [row for row in everyone if row["identity_id"] in selection.faces]
    parts = split_identities(released, split)
    rows = []
    for row in released:
        identity_id = row["identity_id"]
        subset_folder, folder = folders[identity_id]
        rows.append(
            row
            | {
                "subset_folder": subset_folder,
                "folder": folder,
                "split": parts[identity_id],
                "images": len(selection.faces[identity_id]),
                "faces_kept": selection.kept[identity_id],
            }
        )
    return rows


def _dropped(selection: Selection) -> list[Row]:
    return [
        {
            "identity_id": row["identity_id"],
            "name": row["name"],
            "faces": selection.kept[row["identity_id"]],
        }
        for row in selection.dropped
    ]


def _write_pictures(
    workspace: Workspace,
    selection: Selection,
    identities: list[Row],
    config: BuildConfig,
    target: Target,
    on_progress: OnProgress,
) -> pa.Table:
    """Write both crops of every face and the contact sheets; return the manifest."""
    total = sum(len(faces) for faces in selection.faces.values())
    tables: list[pa.Table] = []
    sheet: list[SheetRow] = []
    sheets = done = 0
    with ThreadPoolExecutor(THREADS) as pool:
        for identity, faces in _faces(workspace, selection, identities):
            pictures = pool.map(
                lambda face: _picture(workspace, face, config.release.jpeg_quality), faces
            )
            rows, tiles = [], []
            for number, (face, picture) in enumerate(zip(faces, pictures, strict=True)):
                rows.append(_manifest_row(identity, face, number, picture, target))
                tiles.append(Tile(picture.thumbnail))
                done += 1
                on_progress(done, total)
            tables.append(pa.Table.from_pylist(rows, MANIFEST))
            sheet.append(SheetRow(f"{identity['name']} · {identity['split']}", tiles))
            if len(sheet) == SHEET_IDENTITIES or identity is identities[-1]:
                sheets += 1
                page = contact_sheet(sheet, columns=config.release.max_faces)
                target.write(f"contact_sheets/{sheets:03d}.jpg", encode_jpeg(page, 90))
                sheet = []
    return pa.concat_tables(tables)


def _faces(
    workspace: Workspace, selection: Selection, identities: list[Row]
) -> Iterator[tuple[Row, list[Row]]]:
    """Each identity with its faces' joined rows, read shard by shard."""
    columns = {
        stage: [c for c in names if c in MEASURED or c.startswith(("aligned_", "mask_"))]
        for stage, names in COLUMNS_OF.items()
    }
    shards: dict[str, list[Row]] = {}
    for identity in identities:
        shards.setdefault(identity["shard"], []).append(identity)
    for shard, members in shards.items():
        keys = [key for row in members for key in selection.faces[row["identity_id"]]]
        found: dict[str, list[Row]] = {}
        for row in joined_rows(workspace, shard, keys, columns):
            found.setdefault(row["identity_id"], []).append(row)
        for identity in members:
            yield identity, found[identity["identity_id"]]


def _picture(workspace: Workspace, face: Row, quality: int) -> _Picture:
    aligned = decode_png(workspace.pixels("aligned", face))
    alpha = decode_png(workspace.pixels("mask", face), cv2.IMREAD_GRAYSCALE)
    masked = np.asarray(composite_on_white(aligned, alpha), dtype=np.uint8)
    return _Picture(
        encode_jpeg(masked, quality), encode_jpeg(aligned, quality), fitted(masked, 128, 128)
    )


def _manifest_row(identity: Row, face: Row, number: int, picture: _Picture, target: Target) -> Row:
    masked = image_file(identity, "masked_faces", number)
    origin = image_file(identity, "origin_faces", number)
    own = {key: identity[key] for key in ("identity_id", "name", "subset", "split")}
    return (
        released_values(face)
        | own
        | {
            "masked_file": masked,
            "origin_file": origin,
            "masked_sha256": target.write(masked, picture.masked),
            "origin_sha256": target.write(origin, picture.origin),
            "selection": "auto",
            "reviewed": False,
        }
    )


def _write_tables(
    workspace: Workspace,
    selection: Selection,
    identities: list[Row],
    manifest: pa.Table,
    config: BuildConfig,
    split: str,
    target: Target,
) -> None:
    target.write("manifest.parquet", _parquet(manifest))
    rows = [{name: row[name] for name in IDENTITIES.names} for row in identities]
    target.write("identities.parquet", _parquet(pa.Table.from_pylist(rows, IDENTITIES)))
    target.write("split.json", _json(split_file(identities)))
    parts = [row["split"] for row in identities]
    settings = config.model_dump(mode="json", exclude={"runner": True, "discover": {"photos"}})
    info = {
        "format": 1,
        "hqvox": hqvox.__version__,
        "selection": "auto",
        "reviewed": False,
        "split": split,
        "identities": len(identities),
        "identities_of_parts": {part: parts.count(part) for part in PARTS},
        "images": manifest.num_rows,
        "dropped": _dropped(selection),
        "weights": _weights(workspace),
        "config": settings,
    }
    target.write(INFO, _json(info))


def _weights(workspace: Workspace) -> dict[str, Any]:
    """Which weights, by SHA-256, each stage of the build used."""
    shard = next(iter(workspace.shards()))
    used = {}
    for stage in STAGE_NAMES:
        record = workspace.committed(stage, shard)
        weights = record["parts"].get("weights") if record else None
        if weights:
            used[stage] = weights
    return used


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
