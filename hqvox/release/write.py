"""Writing a release: pictures, voices, tables, datasheet, checksums; whole or not at all.

The same build and options give the same bytes, on however many processes: nothing written here
holds a time of writing or a path of the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

import hqvox
from hqvox.config.build import BuildConfig
from hqvox.errors import HqvoxError
from hqvox.release.datasheet import datasheet, takedown_contact
from hqvox.release.leaks import check_limits
from hqvox.release.licences import LICENCES_FILE, licences_csv
from hqvox.release.manifest import IDENTITIES, MANIFEST, released_values
from hqvox.release.names import check_name
from hqvox.release.pictures import Person, draw_page, face_task, pages
from hqvox.release.plan import Plan, plan_release
from hqvox.release.pool import cores, in_order
from hqvox.release.review import Review
from hqvox.release.speech import speech_index, spoken, summary, to_json, write_speech
from hqvox.release.split import PARTS, check_split, split_file
from hqvox.release.target import FOLDER, FORMAT, INFO, Target
from hqvox.runner.build import photos_gone, plan_build
from hqvox.workspace.layout import Workspace
from hqvox.workspace.parquet import parquet_bytes
from hqvox.workspace.tables import Row
from models.store import ModelStore
from pipelines.chain import STAGE_NAMES

DATASHEET = "DATASHEET.md"
MACHINE = {"runner": True, "download": True, "discover": True, "review": True}
"""Sections of the configuration that say how and where, and may hold paths; not the dataset's."""

AUTO, REVIEW = "auto", "review"
"""How faces were selected: by quality alone, or by people."""

_NO_SPEECH = {True: "the workspace has no speech", False: "asked for without speech"}

OnProgress = Callable[[str, int, int], None]
"""Told what is being written (``faces``, ``utterances``), how many are done, and of how many."""


@dataclass(frozen=True)
class Written:
    """What a release came to."""

    folder: str
    plan: Plan
    info: dict[str, Any]
    """``release.json``."""
    contact: str
    """For takedown requests, as the datasheet names it; empty where nobody is named."""

    @property
    def identities(self) -> list[Row]:
        """Rows of ``identities.parquet``."""
        return self.plan.identities

    @property
    def images(self) -> int:
        """Released faces."""
        return sum(row["images"] for row in self.plan.identities)


def write_release(
    workspace: Workspace,
    name: str,
    config: BuildConfig,
    *,
    auto: bool,
    split: str = "official",
    speech: bool = True,
    workers: int | None = None,
    on_progress: OnProgress = lambda what, done, total: None,
) -> Written:
    """Write release ``name``. Raises HqvoxError where it exists, or the build is not up to date.

    ``auto``: take the best faces by quality, whatever people decided; else take their choice.
    ``split``: ``official``, ``seed:N``, or the path of a file. ``speech``: release the identities
    that have faces and speech, where the workspace has any; else faces alone. ``workers``:
    processes, by default one per core; 1 works in this one.
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
        index = speech_index(workspace) if speech else None
        voices = spoken(index) if index is not None else {}
        plan = plan_release(workspace, config, split, voices, auto=auto)
        count = workers or cores()
        with Target(storage, name) as target:
            manifest = _write_pictures(workspace, plan, config, target, count, on_progress)
            utterances = None
            if index is not None and voices:
                utterances = write_speech(
                    workspace, index, plan.identities, target, count, on_progress
                )
            missing = _NO_SPEECH[speech] if utterances is None else ""
            info = _info(workspace, plan, manifest, utterances, missing, config)
            _write_tables(plan, manifest, info, config, target)
            target.finish()
    return Written(storage.path(folder), plan, info, takedown_contact(config))


def _check_up_to_date(workspace: Workspace, config: BuildConfig) -> None:
    gone = photos_gone(workspace, config)
    if gone:
        raise HqvoxError(gone)
    tasks = plan_build(workspace, config, ModelStore())
    if tasks:
        raise HqvoxError(
            f"{workspace.url}: the build is not up to date ({len(tasks)} of "
            f"{len(workspace.shards())} shards; {STAGE_NAMES[tasks[0].first]}: {tasks[0].why}); "
            f"run `hqvox build {workspace.url}` first"
        )


def _write_pictures(
    workspace: Workspace,
    plan: Plan,
    config: BuildConfig,
    target: Target,
    workers: int,
    on_progress: OnProgress,
) -> pa.Table:
    """Write both crops of every face and the contact sheets; return the manifest."""
    people = []
    for identity in plan.identities:
        faces = plan.faces[identity["identity_id"]]
        tasks = tuple(face_task(identity, face, number) for number, face in enumerate(faces))
        people.append(Person(f"{identity['name']} · {identity['split']}", tasks))
    settings = config.release
    todo = pages(workspace.url, target.sink, people, settings.max_faces, settings.jpeg_quality)
    total, done = sum(page.faces for page in todo), 0
    on_progress("faces", done, total)
    for page, sums in zip(todo, in_order(draw_page, todo, workers), strict=True):
        target.written(sums)
        done += page.faces
        on_progress("faces", done, total)
    rows = [
        _manifest_row(identity, face, task, target.sums, plan.review)
        for identity, person in zip(plan.identities, people, strict=True)
        for face, task in zip(plan.faces[identity["identity_id"]], person.faces, strict=True)
    ]
    return pa.Table.from_pylist(rows, MANIFEST)


def _manifest_row(
    identity: Row, face: Row, task: Row, sums: dict[str, str], review: Review | None
) -> Row:
    own = {key: identity[key] for key in ("identity_id", "name", "subset", "split")}
    return (
        released_values(face)
        | own
        | {
            "masked_file": task["masked_file"],
            "origin_file": task["origin_file"],
            "masked_sha256": sums[task["masked_file"]],
            "origin_sha256": sums[task["origin_file"]],
            "selection": AUTO if review is None else REVIEW,
            "reviewed": review is not None,
            "reviewer": None if review is None else review.reviewers[identity["identity_id"]],
        }
    )


def _info(
    workspace: Workspace,
    plan: Plan,
    manifest: pa.Table,
    utterances: pa.Table | None,
    missing: str,
    config: BuildConfig,
) -> dict[str, Any]:
    """``release.json``. ``missing``: why there is no speech."""
    parts = [row["split"] for row in plan.identities]
    images = manifest["split"].to_pylist()
    settings = config.model_dump(mode="json", exclude=MACHINE)
    settings["discover"] = {"limit": config.discover.limit}
    return {
        "format": FORMAT,
        "hqvox": hqvox.__version__,
        "selection": AUTO if plan.review is None else REVIEW,
        "reviewed": plan.review is not None,
        "review": None if plan.review is None else plan.review.summary(),
        "split": plan.split.how,
        "identities": len(plan.identities),
        "identities_of_parts": {part: parts.count(part) for part in PARTS},
        "images": manifest.num_rows,
        "images_of_parts": {part: images.count(part) for part in PARTS},
        "speech": None if utterances is None else summary(utterances),
        "no_speech_because": missing or None,
        "dropped": plan.too_few,
        "faces_without_speech": plan.without_speech,
        "speech_without_faces": plan.speech_only,
        "not_in_split_file": plan.unassigned,
        "unknown_in_split_file": plan.split.unknown,
        "leaks": {
            "policy": config.release.on_leak,
            **check_limits(config.release),
            "dropped_faces": plan.leaks,
        },
        "weights": stage_weights(workspace),
        "config": settings,
    }


def _write_tables(
    plan: Plan, manifest: pa.Table, info: dict[str, Any], config: BuildConfig, target: Target
) -> None:
    rows = [{name: row[name] for name in IDENTITIES.names} for row in plan.identities]
    identities = pa.Table.from_pylist(rows, IDENTITIES)
    target.write("manifest.parquet", parquet_bytes(manifest))
    target.write("identities.parquet", parquet_bytes(identities))
    target.write("split.json", to_json(split_file(plan.identities)))
    target.write(LICENCES_FILE, licences_csv(manifest))
    target.write(DATASHEET, datasheet(manifest, identities, info, config).encode())
    target.write(INFO, to_json(info))


def stage_weights(workspace: Workspace) -> dict[str, Any]:
    """Which weights, by SHA-256, each stage of the build used."""
    shard = next(iter(workspace.shards()))
    used = {}
    for stage in STAGE_NAMES:
        record = workspace.committed(stage, shard)
        weights = record["parts"].get("weights") if record else None
        if weights:
            used[stage] = weights
    return used
