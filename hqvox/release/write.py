"""Writing a release from its plan: pictures, voices, tables, datasheet, checksums.

A release appears complete or not at all. The same plan gives the same bytes, on however many
processes: nothing written here holds a time of writing or a path of the machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

import hqvox
from hqvox.config.build import BuildConfig
from hqvox.errors import HqvoxError
from hqvox.release.datasheet import datasheet, takedown_contact
from hqvox.release.layout import (
    DATASHEET_FILE,
    FOLDER,
    FORMAT,
    IDENTITIES_FILE,
    INFO,
    LICENCES_FILE,
    MANIFEST_FILE,
    SPLIT_FILE,
    check_name,
    face_file,
)
from hqvox.release.leaks import KEEP_LEAKS, Prints, check_limits, find_leaks
from hqvox.release.manifest import IDENTITIES, MANIFEST, licences_csv
from hqvox.release.pictures import FaceTask, WrittenFace, pages, write_page
from hqvox.release.plan import AUTO, IMPORT, Plan, plan_release
from hqvox.release.pool import cores, in_order
from hqvox.release.speech import read_voices, summary, to_json, write_speech
from hqvox.release.split import PARTS, check_split, split_file
from hqvox.release.target import Target
from hqvox.runner.build import photos_gone, plan_build
from hqvox.workspace.layout import Workspace
from hqvox.workspace.parquet import parquet_bytes
from hqvox.workspace.tables import Row
from models.store import ModelStore
from pipelines.chain import STAGE_NAMES
from pipelines.download import RESERVED, DownloadStage

_OF_THE_MACHINE = {"runner", "download", "discover", "review"}
"""Sections of the configuration that say how and where, and may hold paths; not the dataset's."""

OnProgress = Callable[[str, int, int], None]
"""Called with what is being written (``faces``, ``utterances``), how many are done, of how many."""


@dataclass(frozen=True)
class Written:
    """A release that was written."""

    folder: str
    plan: Plan
    identities: list[Row]
    """Rows of ``identities.parquet``."""
    info: dict[str, Any]
    """``release.json``."""
    contact: str
    """For takedown requests, as the datasheet names it; empty where nobody is named."""
    problems: list[str] = field(default_factory=list)
    """A line for each picture that was not used."""

    @property
    def images(self) -> int:
        """Released faces."""
        return sum(row["images"] for row in self.identities)


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
    """Write release ``name`` of a build.

    Raises HqvoxError where the release exists, or the build is not up to date. ``auto``: take the
    best faces by quality, whatever people decided; else take their choice. ``split``:
    ``official``, ``initials``, ``seed:N``, or the path of a file. ``speech``: release the
    identities that have faces and speech, where the workspace has any; else faces alone.
    ``workers``: processes, by default one per core; 1 works in this one.
    """
    check_new(workspace, name)
    check_split(split)
    with workspace.lock():
        _check_up_to_date(workspace, config)
        voices = read_voices(workspace, speech)
        plan = plan_release(workspace, config, split, voices, auto=auto)
        return write_plan(workspace, plan, name, config, workers, on_progress)


def check_new(workspace: Workspace, name: str) -> None:
    """Raise HqvoxError unless a release of that name can be written."""
    check_name(name)
    folder, storage = f"{FOLDER}/{name}", workspace.storage
    if storage.exists(f"{folder}/{INFO}") or (storage.local and storage.exists(folder)):
        raise HqvoxError(
            f"{storage.shown(folder)}: this release exists, and releases never change; "
            "choose another name"
        )


def _check_up_to_date(workspace: Workspace, config: BuildConfig) -> None:
    gone = photos_gone(workspace, config)
    if gone:
        raise HqvoxError(gone)
    jobs = plan_build(workspace, config, ModelStore())
    if jobs:
        raise HqvoxError(
            f"{workspace.url}: the build is not up to date ({len(jobs)} of "
            f"{len(workspace.shards())} shards; {STAGE_NAMES[jobs[0].first]}: {jobs[0].why}); "
            f"run `hqvox build {workspace.url}` first"
        )


def write_plan(
    workspace: Workspace,
    plan: Plan,
    name: str,
    config: BuildConfig,
    workers: int | None,
    on_progress: OnProgress,
    more_info: Callable[[list[Row], list[WrittenFace]], dict[str, Any]] | None = None,
) -> Written:
    """Write release ``name``; the caller holds the workspace's lock.

    ``more_info``: gives further sections of ``release.json`` by the manifest's rows and the faces
    as written. Raises HqvoxError where no face could be written, or the disk refuses.
    """
    processes = workers or cores()
    with Target(workspace.storage, name) as target:
        faces, problems = _write_pictures(workspace, plan, config, target, processes, on_progress)
        rows = [row for row, _ in faces]
        if not rows:
            raise HqvoxError(f"{workspace.url}: no picture can be used: {problems[-1]}")
        images = Counter(row["identity_id"] for row in rows)
        identities = [
            row | {"images": images[row["identity_id"]]}
            for row in plan.identities
            if images[row["identity_id"]]
        ]
        utterances = None
        if plan.voices.index is not None:
            utterances = write_speech(
                workspace, plan.voices.index, identities, target, processes, on_progress
            )
        more = {} if more_info is None else more_info(rows, [face for _, face in faces])
        info = _info(workspace, plan, config, identities, rows, utterances, more)
        _write_tables(identities, rows, info, config, target)
        target.finish()
    folder = workspace.storage.shown(f"{FOLDER}/{name}")
    return Written(folder, plan, identities, info, takedown_contact(config), problems)


def _write_pictures(
    workspace: Workspace,
    plan: Plan,
    config: BuildConfig,
    target: Target,
    processes: int,
    on_progress: OnProgress,
) -> tuple[list[tuple[Row, WrittenFace]], list[str]]:
    """Write both crops of every face and the contact sheets.

    Returns the rows of the manifest, each with the face as written, and a line for each picture
    that was not used.
    """
    people = []
    for identity in plan.identities:
        tasks = tuple(
            FaceTask(
                face_file(identity, "masked", face.stem),
                face_file(identity, "origin", face.stem),
                face.source,
            )
            for face in plan.faces[identity["identity_id"]]
        )
        people.append((f"{identity['name']} · {identity['split']}", tasks))
    quality = config.release.jpeg_quality
    todo = pages(workspace.url, target.sink, people, plan.sheet_columns, quality)
    total, done = sum(page.faces for page in todo), 0
    on_progress("faces", 0, total)
    written: list[list[WrittenFace | str]] = []
    for page, done_page in zip(todo, in_order(write_page, todo, processes), strict=True):
        target.written(done_page.sums)
        written += done_page.faces
        done += page.faces
        on_progress("faces", done, total)
    rows: list[tuple[Row, WrittenFace]] = []
    problems: list[str] = []
    for identity, (_, tasks), results in zip(plan.identities, people, written, strict=True):
        faces = plan.faces[identity["identity_id"]]
        for face, task, result in zip(faces, tasks, results, strict=True):
            if isinstance(result, str):
                problems.append(result)
                continue
            problems += result.problems
            rows.append((_manifest_row(plan, identity, face.values, task, result), result))
    return rows, problems


def _manifest_row(
    plan: Plan, identity: Row, values: Row, task: FaceTask, written: WrittenFace
) -> Row:
    review = plan.review
    person = {key: identity[key] for key in ("identity_id", "name", "subset", "split")}
    return (
        values
        | person
        | {
            "masked_file": task.masked_file,
            "origin_file": task.origin_file,
            "masked_sha256": written.masked_sha256,
            "origin_sha256": written.origin_sha256,
            "selection": plan.selection,
            "reviewed": review is not None,
            "reviewer": None if review is None else review.reviewers[identity["identity_id"]],
        }
    )


def _info(
    workspace: Workspace,
    plan: Plan,
    config: BuildConfig,
    identities: Sequence[Row],
    faces: Sequence[Row],
    utterances: pa.Table | None,
    more: dict[str, Any],
) -> dict[str, Any]:
    """``release.json``. ``faces``: rows of the manifest; ``more``: further sections."""
    people_of = Counter(row["split"] for row in identities)
    images_of = Counter(row["split"] for row in faces)
    info: dict[str, Any] = {
        "format": FORMAT,
        "hqvox": hqvox.__version__,
        "selection": plan.selection,
        "reviewed": plan.review is not None,
        "review": None if plan.review is None else plan.review.summary(),
        "split": plan.split.how,
        "identities": len(identities),
        "identities_of_parts": {part: people_of[part] for part in PARTS},
        "images": len(faces),
        "images_of_parts": {part: images_of[part] for part in PARTS},
        "speech": None if utterances is None else summary(utterances),
        "no_speech_because": plan.voices.missing or None,
        "dropped": plan.too_few,
        "faces_without_speech": plan.without_speech,
        "speech_without_faces": plan.speech_only,
        "not_in_split_file": plan.unassigned,
        "unknown_in_split_file": plan.split.unknown,
        "leaks": _leaks(plan, config, faces),
        **more,
        "weights": stage_weights(workspace),
        "config": _settings(plan, config),
    }
    if plan.selection == AUTO:
        info["doubtful_masks_left_out"] = plan.doubted
    if plan.selection != IMPORT:
        info["reservations"] = reservations_kept(workspace, config)
    else:
        # The form of earlier imports, so that an import made again has the same bytes.
        del info["review"]
        info["no_speech_because"] = info.pop("no_speech_because")
    return info


def reservations_kept(workspace: Workspace, config: BuildConfig) -> dict[str, Any]:
    """What the crawl kept to, and how many candidates it refused for that, by reason."""
    refused: Counter[str] = Counter()
    for shard in workspace.shards():
        table = workspace.read_stage(DownloadStage.name, shard, ["reason"])
        reasons = [] if table is None else table["reason"].to_pylist()
        refused.update(reason for reason in reasons if reason in RESERVED)
    download = config.download
    return {
        "crawled": config.discover.remote,
        "robots": download.robots,
        "opt_out": list(download.opt_out),
        "respect": list(config.policy.respect),
        "refused": dict(sorted(refused.items())),
    }


def _leaks(plan: Plan, config: BuildConfig, faces: Sequence[Row]) -> dict[str, Any]:
    limits = check_limits(config.release)
    leaks: dict[str, Any] = {"policy": plan.on_leak, **limits, "dropped_faces": plan.leaks}
    if plan.on_leak == KEEP_LEAKS:
        leaks["kept_faces"] = [
            {
                "kind": leak.kind,
                "distance": leak.distance,
                "file": faces[leak.row]["masked_file"],
                "same_as": faces[leak.other]["masked_file"],
            }
            for leak in find_leaks(Prints(faces), [row["split"] for row in faces], **limits)
        ]
    return leaks


def _settings(plan: Plan, config: BuildConfig) -> dict[str, Any]:
    """The sections of the configuration that say what the dataset is."""
    # Imports have always told the section review; their bytes stay the same.
    imported = plan.selection == IMPORT
    left_out = _OF_THE_MACHINE - {"review"} | {"policy"} if imported else _OF_THE_MACHINE
    settings = config.model_dump(mode="json", exclude=left_out)
    settings["discover"] = {"limit": config.discover.most}
    return settings


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


def _write_tables(
    people: Sequence[Row],
    faces: Sequence[Row],
    info: dict[str, Any],
    config: BuildConfig,
    target: Target,
) -> None:
    manifest = pa.Table.from_pylist(faces, MANIFEST)
    identities = pa.Table.from_pylist(
        [{name: row[name] for name in IDENTITIES.names} for row in people], IDENTITIES
    )
    target.write(MANIFEST_FILE, parquet_bytes(manifest))
    target.write(IDENTITIES_FILE, parquet_bytes(identities))
    target.write(SPLIT_FILE, to_json(split_file(people)))
    target.write(LICENCES_FILE, licences_csv(manifest))
    target.write(DATASHEET_FILE, datasheet(manifest, identities, info, config).encode())
    target.write(INFO, to_json(info))
