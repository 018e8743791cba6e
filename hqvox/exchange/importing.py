"""The imports of datasets: list, link, measure, pack the voices, write the release."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from hqvox.config.build import BuildConfig
from hqvox.errors import HqvoxError
from hqvox.exchange.measured import Measured, eye_distance, read_measured, would_refuse
from hqvox.exchange.pickles import from_elsewhere, pack_pickles
from hqvox.exchange.pictures import COPIED, CUT_OUT, PublishedCrop
from hqvox.exchange.tree import PersonFolder, Picture, Tree, nfc
from hqvox.exchange.workspace import placed, prepare
from hqvox.release.layout import check_name
from hqvox.release.leaks import KEEP_LEAKS
from hqvox.release.manifest import released_values
from hqvox.release.pictures import WrittenFace
from hqvox.release.plan import IMPORT, Face, Plan
from hqvox.release.pool import cores
from hqvox.release.speech import Voices, read_voices
from hqvox.release.split import SplitPlan, check_split, make_split, read_split_file, split_by_file
from hqvox.release.write import Written, check_new, write_plan
from hqvox.runner.build import plan_build, run_build
from hqvox.runner.lookup import Key
from hqvox.runner.worker import Event, Progress
from hqvox.workspace.layout import Workspace
from hqvox.workspace.tables import Row
from models.store import ModelStore

BY_SEED = "seed:0"
"""The split where neither the tree nor the order names one, and there are no metadata."""
EYE_TOLERANCE = 0.02
"""Of the crop's side; eyes farther than that from where HQ-VoxCeleb has them are counted."""
_SHEET_COLUMNS = 7
_PIXELS = ("shard", "transform", "mask_offset", "mask_bytes")

OnProgress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and of how much."""


@dataclass(frozen=True)
class Order:
    """What is asked of an import."""

    name: str
    """Of the release."""
    metadata: Sequence[Path] = ()
    """VoxCeleb's files: ids, gender, nationality, and the official split."""
    split: str | None = None
    """As of `hqvox release`; None: the tree's own."""
    speech: bool = True
    workers: int | None = None
    """Processes; None: one per core; 0: in this one."""


def import_tree(
    tree: Tree,
    root: str,
    order: Order,
    on_progress: OnProgress = lambda what, done, total: None,
) -> Written:
    """Import a tree into the workspace ``root``, made where it is not there yet.

    An interrupted import continues when the same command runs again. ``problems`` of the result
    has a line for each file that was not taken. Raises HqvoxError where the workspace is of
    something else, the release exists, shards failed, nobody is left, or the split cannot be made.
    """
    check_name(order.name)
    _check_split(order.split, tree.split)
    workspace = prepare(root, tree, order.metadata)
    with workspace.lock():
        check_new(workspace, order.name)
        people = placed(workspace, tree)
        _measure(workspace, order.workers, on_progress)
        refused: list[str] = []
        if order.speech and any(f.mels for _, f in people) and not from_elsewhere(workspace):
            refused = pack_pickles(
                workspace, people, lambda done, total: on_progress("pickles", done, total)
            ).refused
        measured = read_measured(workspace, people, tree.aligned)
        config = workspace.config()
        plan = plan_import(tree, people, measured, read_voices(workspace, order.speech), order)
        written = write_plan(
            workspace,
            plan,
            order.name,
            config,
            None if order.workers is None else max(1, order.workers),
            on_progress,
            partial(_import_info, config, measured),
        )
    problems = [*tree.problems, *measured.problems, *written.problems, *refused]
    return replace(written, problems=problems)


def _measure(workspace: Workspace, workers: int | None, on_progress: OnProgress) -> None:
    config, store = workspace.config(), ModelStore()
    jobs = plan_build(workspace, config, store)
    if not jobs:
        return
    shards = workspace.shards()
    total, done = sum(len(shards[job.shard]) for job in jobs), 0

    def take(event: Event) -> None:
        nonlocal done
        if isinstance(event, Progress):
            done += 1
            on_progress("people measured", done, total)

    on_progress("people measured", done, total)
    count = cores() if workers is None else workers
    result = run_build(workspace, config, jobs, workers=count, on_event=take)
    if result.failed:
        first = result.failed[0]
        raise HqvoxError(
            f"{len(result.failed)} of {len(jobs)} shards failed, first {first.job.shard}: "
            f"{first.error}; traces are in {workspace.storage.shown('failed')}; run the same "
            "command again to retry them"
        )


def plan_import(
    tree: Tree,
    people: Sequence[tuple[Row, PersonFolder]],
    measured: Measured,
    voices: Voices,
    order: Order,
) -> Plan:
    """The plan of an import: every face that was measured, in the split as published.

    ``people``: as :func:`hqvox.exchange.workspace.placed` gives them. Raises HqvoxError where
    nobody is left, or the split cannot be made.
    """
    faces = measured.faces
    spoken = voices.of_identity
    ready = [
        row
        for row, _ in people
        if faces[row["identity_id"]] and (not spoken or row["identity_id"] in spoken)
    ]
    if not ready:
        raise HqvoxError(
            f"{tree.root}: nobody has a picture that can be used"
            + (" and a voice; --no-speech takes the faces alone" if spoken else "; see above")
        )
    split = _choose_split(ready, order.split, tree.split, bool(order.metadata))
    identities = []
    for row in ready:
        identity_id = row["identity_id"]
        if identity_id in split.parts:
            utterances, seconds = spoken.get(identity_id, (None, None))
            identities.append(
                row
                | {
                    "split": split.parts[identity_id],
                    "faces_kept": len(faces[identity_id]),
                    "utterances": utterances,
                    "seconds": seconds,
                }
            )
    unassigned = {row["identity_id"] for row in split.unassigned}
    released = {row["identity_id"] for row in identities}
    brief = [
        {
            "identity_id": row["identity_id"],
            "name": row["name"],
            "faces": len(faces[row["identity_id"]]),
            "utterances": len(folder.mels),
        }
        for row, folder in people
        if row["identity_id"] not in released
    ]
    left = [row for row in brief if row["identity_id"] not in unassigned]
    return Plan(
        IMPORT,
        identities,
        {row["identity_id"]: [_face(*face) for face in faces[row["identity_id"]]]
         for row in identities},
        split,
        voices,
        KEEP_LEAKS,
        _SHEET_COLUMNS,
        too_few=[row for row in left if not row["faces"]],
        without_speech=[row for row in left if row["faces"]],
        unassigned=[row for row in brief if row["identity_id"] in unassigned],
    )  # fmt: skip


def _face(picture: Picture, measured: Row) -> Face:
    size_px = measured["width_px"], measured["height_px"]
    values = released_values(measured) | {
        "source": IMPORT,
        # Of the published crop, the longer one; our own crop of it is not released.
        "crop_side_px": max(size_px),
        "transform": None,
        "outside_fraction": None,
    }
    place = {name: measured[name] for name in _PIXELS}
    source = PublishedCrop(picture.masked, picture.origin, size_px, place)
    return Face(picture.stem, values, source)


def _import_info(
    config: BuildConfig, measured: Measured, rows: list[Row], faces: list[WrittenFace]
) -> dict[str, dict[str, Any]]:
    """The section ``import`` of ``release.json``. ``rows``: of the manifest."""
    with_landmarks = [row for row in rows if row["landmarks_xy"] is not None]
    of_key = {_key(row): row for pairs in measured.faces.values() for _, row in pairs}
    refused = would_refuse([of_key[_key(row)] for row in rows], config, ModelStore())
    return {
        "import": {
            "masked_made_here": sum(face.made_from.get("masked") == CUT_OUT for face in faces),
            "masked_is_origin": sum(face.made_from.get("masked") == COPIED for face in faces),
            "origin_is_masked": sum(face.made_from.get("origin") == COPIED for face in faces),
            "no_face_found": len(rows) - len(with_landmarks),
            "eyes_elsewhere": sum(eye_distance(row) > EYE_TOLERANCE for row in with_landmarks),
            "would_refuse": dict(sorted(refused.items())),
        }
    }


def _key(row: Row) -> Key:
    return row["identity_id"], row["candidate"], row["face"]


def _check_split(asked: str | None, published: Path | None) -> None:
    """Raise HqvoxError where the split cannot be read: before hours of measuring, not after."""
    if asked is not None:
        check_split(asked)
    elif published is not None:
        read_split_file(published)


def _choose_split(
    people: Sequence[Row], asked: str | None, published: Path | None, official: bool
) -> SplitPlan:
    """The split of ``people``: as asked for; else the published file's; else by rule or seed.

    ``official``: whether VoxCeleb's metadata is known, by whose order the official split goes.
    Raises HqvoxError where a split cannot be made.
    """
    if asked is not None:
        return make_split(people, asked)
    if published is None:
        return make_split(people, "official" if official else BY_SEED)
    # Names in one Unicode form, as those of the folders are.
    entries = [replace(e, identity=nfc(e.identity)) for e in read_split_file(published)]
    return split_by_file(published, entries, people)
