"""Writing an imported tree as a release: pictures, voices, tables, datasheet, checksums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

import hqvox
from hqvox.errors import HqvoxError
from hqvox.exchange.measured import Measured, eye_distance, read_measured, would_refuse
from hqvox.exchange.pictures import COPIED, MADE, Drawn, FaceTask, PersonTask, draw_person
from hqvox.exchange.sheet import datasheet
from hqvox.exchange.split import choose_split
from hqvox.exchange.tree import Folder, Tree
from hqvox.imaging.pictures import SheetRow, contact_sheet, encode_jpeg
from hqvox.release.leaks import KEEP_LEAKS, Prints, check_limits, find_leaks
from hqvox.release.licences import LICENCES_FILE, licences_csv
from hqvox.release.manifest import IDENTITIES, MANIFEST, released_values
from hqvox.release.names import check_name
from hqvox.release.pictures import SHEET_IDENTITIES, THUMBNAIL_PX
from hqvox.release.pool import cores, in_order
from hqvox.release.speech import (
    speech_index,
    spoken,
    summary,
    to_json,
    write_speech,
)
from hqvox.release.split import PARTS, Split, split_file
from hqvox.release.target import FOLDER, FORMAT, INFO, Target
from hqvox.release.write import stage_weights
from hqvox.workspace.layout import Workspace
from hqvox.workspace.parquet import parquet_bytes
from hqvox.workspace.tables import Row
from models.store import ModelStore

SOURCE = "import"
"""``source`` and ``selection`` of imported faces."""
EYE_TOLERANCE = 0.02
"""Of the crop's side, beyond which eyes are said to be elsewhere than HQ-VoxCeleb has them."""
_SHEET_COLUMNS = 7

OnProgress = Callable[[str, int, int], None]


@dataclass
class Imported:
    """What an import came to."""

    folder: str
    info: dict[str, Any]
    """``release.json``; the section ``import`` is what this adds to it."""
    problems: list[str] = field(default_factory=list)
    """A line for each file that was not taken."""


def check_new(workspace: Workspace, name: str) -> None:
    """Raise HqvoxError unless a release of that name can be written."""
    check_name(name)
    if workspace.storage.exists(f"{FOLDER}/{name}"):
        raise HqvoxError(
            f"{workspace.storage.path(f'{FOLDER}/{name}')}: this release exists, and releases "
            "never change; choose another --name"
        )


def write_import(
    workspace: Workspace,
    tree: Tree,
    people: Sequence[tuple[Row, Folder]],
    name: str,
    *,
    split: str | None,
    official: bool,
    speech: bool,
    workers: int | None,
    on_progress: OnProgress,
) -> Imported:
    """Write the release. The caller holds the lock, and has run the stages.

    ``people``: as :func:`hqvox.exchange.workspace.placed` gives them. ``split``: as of
    `hqvox release`; None: the tree's ``split.json``, else ``official`` or by seed. Raises
    HqvoxError where nobody is left, or the split cannot be made.
    """
    check_new(workspace, name)
    measured = read_measured(workspace, people)
    problems = [*tree.problems, *measured.problems]
    index = speech_index(workspace) if speech else None
    voices = spoken(index) if index is not None else {}
    faced = [row for row, _ in people if measured.faces[row["identity_id"]]]
    ready = [row for row in faced if not voices or row["identity_id"] in voices]
    if not ready:
        raise HqvoxError(
            f"{tree.root}: nobody has a picture that can be used"
            + (" and a voice; --no-speech takes the faces alone" if voices else "; see above")
        )
    made = choose_split(ready, split, tree.split, official)
    released = [row | {"split": made.parts[row["identity_id"]]} for row in ready
                if row["identity_id"] in made.parts]  # fmt: skip
    count = workers or cores()
    with Target(workspace.storage, name) as target:
        drawn = _draw(workspace, released, measured, target, count, on_progress)
        manifest = _manifest(released, drawn, measured, problems)
        if not manifest.num_rows:
            raise HqvoxError(f"{tree.root}: no picture can be used: {problems[-1]}")
        images = Counter(manifest["identity_id"].to_pylist())
        released = [
            row
            | dict(zip(("utterances", "seconds"),
                       voices.get(row["identity_id"], (None, None)), strict=True))
            | {"images": images[row["identity_id"]], "faces_kept": images[row["identity_id"]]}
            for row in released
            if images[row["identity_id"]]
        ]  # fmt: skip
        utterances = None
        if index is not None and voices:
            utterances = write_speech(workspace, index, released, target, count, on_progress)
        _sheets(released, drawn, target)
        info = _info(workspace, people, released, made, manifest, utterances, measured, drawn)
        info["no_speech_because"] = (
            None if utterances is not None
            else "the workspace has no speech" if speech else "asked for without speech"
        )  # fmt: skip
        identities = pa.Table.from_pylist(
            [{column: row[column] for column in IDENTITIES.names} for row in released], IDENTITIES
        )
        target.write("manifest.parquet", parquet_bytes(manifest))
        target.write("identities.parquet", parquet_bytes(identities))
        target.write("split.json", to_json(split_file(released)))
        target.write(LICENCES_FILE, licences_csv(manifest))
        target.write("DATASHEET.md", datasheet(identities, info, workspace.config()).encode())
        target.write(INFO, to_json(info))
        target.finish()
    return Imported(workspace.storage.path(f"{FOLDER}/{name}"), info, problems)


def _draw(
    workspace: Workspace,
    released: Sequence[Row],
    measured: Measured,
    target: Target,
    workers: int,
    on_progress: OnProgress,
) -> dict[str, list[Drawn | str]]:
    quality = workspace.config().release.jpeg_quality
    tasks = []
    for row in released:
        faces = []
        for picture, face in measured.faces[row["identity_id"]]:
            files = {
                kind: f"{row['subset_folder']}/{kind}_faces/{row['folder']}/{picture.stem}.jpg"
                for kind in ("masked", "origin")
            }
            faces.append(
                FaceTask(
                    picture.masked, picture.origin, face["width_px"],
                    {n: face[n] for n in ("shard", "transform", "mask_offset", "mask_bytes")},
                    files["masked"], files["origin"],
                )
            )  # fmt: skip
        tasks.append(PersonTask(workspace.url, target.sink, quality, tuple(faces)))
    total, done = sum(len(task.faces) for task in tasks), 0
    on_progress("faces", 0, total)
    drawn: dict[str, list[Drawn | str]] = {}
    for row, task, own in zip(released, tasks, in_order(draw_person, tasks, workers), strict=True):
        drawn[row["identity_id"]] = own
        for written in own:
            target.written(written.sums if isinstance(written, Drawn) else {})
        done += len(task.faces)
        on_progress("faces", done, total)
    return drawn


def _manifest(
    released: Sequence[Row],
    drawn: Mapping[str, Sequence[Drawn | str]],
    measured: Measured,
    problems: list[str],
) -> pa.Table:
    rows = []
    for person in released:
        own = {key: person[key] for key in ("identity_id", "name", "subset", "split")}
        identity_id = person["identity_id"]
        faces = measured.faces[identity_id]
        for (_, face), written in zip(faces, drawn[identity_id], strict=True):
            if isinstance(written, str):
                problems.append(written)
                continue
            problems += written.problems
            (masked, masked_sum), (origin, origin_sum) = written.sums.items()
            rows.append(
                released_values(face)
                | own
                | {
                    "masked_file": masked,
                    "origin_file": origin,
                    "masked_sha256": masked_sum,
                    "origin_sha256": origin_sum,
                    "source": SOURCE,
                    "selection": SOURCE,
                    "reviewed": False,
                    "reviewer": None,
                    # Of the published crop; ours of it, which was measured on, is not released.
                    "crop_side_px": face["width_px"],
                    "transform": None,
                    "outside_fraction": None,
                }
            )
    return pa.Table.from_pylist(rows, MANIFEST)


def _sheets(
    released: Sequence[Row], drawn: Mapping[str, Sequence[Drawn | str]], target: Target
) -> None:
    for start in range(0, len(released), SHEET_IDENTITIES):
        rows = []
        for person in released[start : start + SHEET_IDENTITIES]:
            faces = [f for f in drawn[person["identity_id"]] if isinstance(f, Drawn)]
            heading = f"{person['name']} · {person['split']}"
            rows.append(SheetRow(heading, [face.tile for face in faces]))
        sheet = contact_sheet(rows, columns=_SHEET_COLUMNS, side_px=THUMBNAIL_PX)
        number = start // SHEET_IDENTITIES + 1
        target.write(f"contact_sheets/{number:03d}.jpg", encode_jpeg(sheet, 90))


def _info(
    workspace: Workspace,
    people: Sequence[tuple[Row, Folder]],
    released: Sequence[Row],
    made: Split,
    manifest: pa.Table,
    utterances: pa.Table | None,
    measured: Measured,
    drawn: Mapping[str, Sequence[Drawn | str]],
) -> dict[str, Any]:
    config = workspace.config()
    rows = manifest.to_pylist()
    settings = config.model_dump(
        mode="json", exclude={"runner": True, "download": True, "discover": True}
    )
    settings["discover"] = {"limit": config.discover.limit}
    limits = check_limits(config.release)
    leaks = find_leaks(Prints(rows), [row["split"] for row in rows], **limits)
    faces = [f for own in drawn.values() for f in own if isinstance(f, Drawn)]
    there = {row["identity_id"] for row in released}
    kept = {row["identity_id"]: len(measured.faces[row["identity_id"]]) for row, _ in people}
    brief = [
        {
            "identity_id": row["identity_id"],
            "name": row["name"],
            "faces": kept[row["identity_id"]],
            "utterances": len(folder.mels),
        }
        for row, folder in people
        if row["identity_id"] not in there
    ]
    unassigned = {row["identity_id"] for row in made.unassigned}
    left = [row for row in brief if row["identity_id"] not in unassigned]
    found = [row for row in rows if row["landmarks_xy"] is not None]
    parts = [row["split"] for row in released]
    return {
        "format": FORMAT,
        "hqvox": hqvox.__version__,
        "selection": SOURCE,
        "reviewed": False,
        "split": made.how,
        "identities": len(released),
        "identities_of_parts": {part: parts.count(part) for part in PARTS},
        "images": len(rows),
        "images_of_parts": {p: sum(row["split"] == p for row in rows) for p in PARTS},
        "speech": None if utterances is None else summary(utterances),
        "dropped": [row for row in left if not row["faces"]],
        "faces_without_speech": [row for row in left if row["faces"]],
        "speech_without_faces": [r for r in left if not r["faces"] and r["utterances"]],
        "not_in_split_file": [row for row in brief if row["identity_id"] in unassigned],
        "unknown_in_split_file": made.unknown,
        "leaks": {
            "policy": KEEP_LEAKS,
            **limits,
            "dropped_faces": [],
            "kept_faces": [
                {
                    "kind": leak.kind,
                    "distance": leak.distance,
                    "file": rows[leak.row]["masked_file"],
                    "same_as": rows[leak.other]["masked_file"],
                }
                for leak in leaks
            ],
        },
        "import": {
            "masked_made_here": sum(face.masked == MADE for face in faces),
            "masked_is_origin": sum(face.masked == COPIED for face in faces),
            "origin_is_masked": sum(face.origin == COPIED for face in faces),
            "no_face_found": len(rows) - len(found),
            "eyes_elsewhere": sum(eye_distance(row) > EYE_TOLERANCE for row in found),
            "would_refuse": dict(sorted(would_refuse(rows, config, ModelStore()).items())),
        },
        "weights": stage_weights(workspace),
        "config": settings,
    }
