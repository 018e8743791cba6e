"""What a release will hold: who, which faces, in which part; decided before anything is written.

A build and an import both make a :class:`Plan`, from which :mod:`hqvox.release.write` writes the
release. Here is the plan of a build.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hqvox.config.build import BuildConfig, ReleaseConfig
from hqvox.errors import HqvoxError
from hqvox.release.layout import face_file, folder_names
from hqvox.release.leaks import Leak, Prints, check_limits, find_leaks
from hqvox.release.manifest import MEASURED, released_values
from hqvox.release.pictures import CropSource, StoredCrop
from hqvox.release.select import (
    Review,
    Selection,
    doubted_faces,
    ranked_faces,
    read_review,
    select_auto,
    select_reviewed,
)
from hqvox.release.speech import Voices
from hqvox.release.split import SplitPlan, make_split
from hqvox.runner.lookup import Key, joined_rows
from hqvox.workspace.layout import Workspace
from hqvox.workspace.tables import Row
from pipelines.chain import COLUMNS_OF

AUTO, REVIEW, IMPORT = "auto", "review", "import"
"""How faces were selected: by quality, by people, or by the makers of an imported dataset."""
_PIXELS = ("shard", "aligned_offset", "aligned_bytes", "mask_offset", "mask_bytes")


@dataclass(frozen=True)
class Face:
    """A face to be released."""

    stem: str
    """Of its files' name."""
    values: Row
    """Its row of the manifest, but for the person, the files and the selection."""
    source: CropSource
    """Of its pictures."""


@dataclass(frozen=True)
class Plan:
    """What will be released, and what not, and why."""

    selection: str
    """:data:`AUTO`, :data:`REVIEW` or :data:`IMPORT`."""
    identities: list[Row]
    """Rows of ``identities.parquet``, with ``shard``, in the workspace's order."""
    faces: dict[str, list[Face]]
    """Of each identity, its faces, best first."""
    split: SplitPlan
    voices: Voices
    on_leak: str
    """Faces in two splits, handled by ``leaks.policy``."""
    sheet_columns: int
    """Faces beside each other on the contact sheets."""
    too_few: list[Row] = field(default_factory=list)
    """``identity_id``, ``name``, ``faces``, ``utterances`` of those with too few faces."""
    without_speech: list[Row] = field(default_factory=list)
    """Likewise, of those that have the faces but no speech."""
    unassigned: list[Row] = field(default_factory=list)
    """Likewise, of those that the split file does not name."""
    leaks: list[Row] = field(default_factory=list)
    """Faces left out because they are in another part of the split too."""
    doubted: int = 0
    """Faces left out because their mask is doubtful; people who choose faces see it themselves."""
    review: Review | None = None
    """What people decided; None where they did not choose the faces."""

    @property
    def speech_only(self) -> list[Row]:
        """Those of ``too_few`` that have speech."""
        return [row for row in self.too_few if row["utterances"]]


def with_folders(identities: Sequence[Row]) -> list[Row]:
    """Identities of a workspace, all of them, with the names of their folders in a release."""
    names = folder_names(identities)
    return [
        row | dict(zip(("subset_folder", "folder"), names[row["identity_id"]], strict=True))
        for row in identities
    ]


def plan_release(
    workspace: Workspace, config: BuildConfig, split: str, voices: Voices, *, auto: bool
) -> Plan:
    """Select faces, split, and check the split.

    ``split``: see :func:`hqvox.release.split.make_split`. Where there are ``voices``, only people
    who have some are released. ``auto``: the best faces by quality, else those that people chose.
    Raises HqvoxError where nobody can be released, where ``release.on_leak`` is ``refuse`` and a
    photograph is in two parts, and where people are to decide and nobody has.
    """
    everyone = with_folders(workspace.identities().to_pylist())
    spoken = voices.of_identity
    ranked = ranked_faces(workspace)
    kept = sum(map(len, ranked.values()))
    if auto:
        doubted = doubted_faces(workspace, config.release.min_mask_certainty)
        ranked = {i: [key for key in keys if key not in doubted] for i, keys in ranked.items()}
    left_out = kept - sum(map(len, ranked.values()))
    review = None if auto else _reviewed(workspace, config, everyone)

    def select(identities: Sequence[Row], without: Collection[Key]) -> Selection:
        if review is None:
            return select_auto(identities, ranked, config.release, without)
        return select_reviewed(identities, ranked, review.chosen, config.release, without)

    selection = select(everyone, ())
    _check_somebody(workspace, selection, config.release, review)
    silent = [] if not spoken else [i for i in selection.faces if i not in spoken]
    of_id = {row["identity_id"]: row for row in everyone}
    voiced = [row for row in everyone if row["identity_id"] in selection.faces]
    voiced = [row for row in voiced if not spoken or row["identity_id"] in spoken]
    if not voiced:
        raise HqvoxError(
            f"{workspace.url}: none of the {len(selection.faces):,} identities with enough faces "
            "has speech; index their audio with `hqvox speech`, or release the faces alone with "
            "--no-speech"
        )
    made = make_split(voiced, split)
    members = [row for row in voiced if row["identity_id"] in made.parts]
    final, leaks, rows = _without_leaks(workspace, members, select, made.parts, config.release)
    if not final.faces:
        raise HqvoxError(
            f"{workspace.url}: nobody is left when faces that are in two splits are dropped "
            f"({len(leaks)}); choose another --split"
        )

    def brief(rows: Sequence[Row]) -> list[Row]:
        return [
            {
                "identity_id": row["identity_id"],
                "name": row["name"],
                "faces": len(ranked[row["identity_id"]]),
                "utterances": spoken.get(row["identity_id"], (0, 0.0))[0],
            }
            for row in rows
        ]

    released = []
    faces = {}
    for row in members:
        identity_id = row["identity_id"]
        if identity_id in final.faces:
            utterances, seconds = spoken.get(identity_id, (None, None))
            released.append(
                row
                | {
                    "split": made.parts[identity_id],
                    "faces_kept": len(ranked[identity_id]),
                    "utterances": utterances,
                    "seconds": seconds,
                }
            )
            faces[identity_id] = [
                _face(row, rows[key], number) for number, key in enumerate(final.faces[identity_id])
            ]
    return Plan(
        AUTO if review is None else REVIEW,
        released,
        faces,
        made,
        voices,
        config.release.on_leak,
        config.release.max_faces,
        too_few=brief([*selection.dropped, *final.dropped]),
        without_speech=brief([of_id[i] for i in silent]),
        unassigned=brief(made.unassigned),
        leaks=leaks,
        doubted=left_out,
        review=review,
    )


def _face(identity: Row, face: Row, number: int) -> Face:
    place = {name: face[name] for name in _PIXELS}
    source = StoredCrop(place, face_file(identity, "masked", str(number)))
    return Face(str(number), released_values(face), source)


def _reviewed(workspace: Workspace, config: BuildConfig, identities: Sequence[Row]) -> Review:
    review = read_review(workspace, config, identities)
    if review is None:
        raise HqvoxError(
            f"{workspace.url}: nobody has reviewed this build yet; add --auto to take the "
            f"{config.release.min_faces} to {config.release.max_faces} best of each identity, or "
            f"review it with `hqvox review {workspace.url}`"
        )
    return review


def _check_somebody(
    workspace: Workspace, selection: Selection, config: ReleaseConfig, review: Review | None
) -> None:
    if selection.faces:
        return
    if review is not None:
        raise HqvoxError(
            f"{workspace.url}: no identity has {config.min_faces} chosen faces in the build "
            f"({len(review.dropped):,} dropped, {len(review.disputed):,} disputed, "
            f"{len(review.undecided):,} undecided, {len(review.lost):,} with faces that are gone); "
            f"go on with `hqvox review {workspace.url}`"
        )
    most = max(selection.kept.values(), default=0)
    remedy = "--set release.min_faces=1 takes fewer; " if most > 0 else ""
    raise HqvoxError(
        f"{workspace.url}: no identity has {config.min_faces} faces that every stage kept (the "
        f"most is {most}); {remedy}`hqvox status {workspace.url}` shows where they are refused"
    )


def _without_leaks(
    workspace: Workspace,
    members: Sequence[Row],
    select: Callable[[Sequence[Row], Collection[Key]], Selection],
    parts: Mapping[str, str],
    config: ReleaseConfig,
) -> tuple[Selection, list[Row], dict[Key, Row]]:
    """Select, drop faces that are in two splits, and select again until there are none."""
    known: dict[Key, Row] = {}
    dropped: set[Key] = set()
    dropped_rows: list[Row] = []
    while True:
        selection = select(members, dropped)
        keys = selection.keys()
        _read_faces(workspace, members, [key for key in keys if key not in known], known)
        leaks = find_leaks(
            Prints([known[key] for key in keys]),
            [parts[key[0]] for key in keys],
            **check_limits(config),
        )
        if not leaks:
            return selection, dropped_rows, known
        if config.on_leak == "refuse":
            raise HqvoxError(_refusal(workspace, leaks, keys, parts))
        for leak in leaks:
            dropped.add(keys[leak.row])
            dropped_rows.append(_leak_row(leak, keys, parts))


def _read_faces(
    workspace: Workspace, members: Sequence[Row], keys: Collection[Key], known: dict[Key, Row]
) -> None:
    columns = {
        stage: [c for c in names if c in MEASURED or c.startswith(("aligned_", "mask_"))]
        for stage, names in COLUMNS_OF.items()
    }
    shard_of = {row["identity_id"]: row["shard"] for row in members}
    wanted: dict[str, list[Key]] = {}
    for key in keys:
        wanted.setdefault(shard_of[key[0]], []).append(key)
    for shard, in_shard in wanted.items():
        rows = joined_rows(workspace, shard, in_shard, columns)
        for key, row in zip(in_shard, rows, strict=True):
            known[key] = row


def _leak_row(leak: Leak, keys: Sequence[Key], parts: Mapping[str, str]) -> Row:
    def face(key: Key) -> dict[str, Any]:
        return {
            "identity_id": key[0], "candidate": key[1], "face": key[2], "split": parts[key[0]]
        }  # fmt: skip

    dropped, kept = face(keys[leak.row]), face(keys[leak.other])
    return {"kind": leak.kind, "distance": leak.distance, "dropped": dropped, "same_as": kept}


def _refusal(
    workspace: Workspace, leaks: Sequence[Leak], keys: Sequence[Key], parts: Mapping[str, str]
) -> str:
    first = _leak_row(leaks[0], keys, parts)
    faces = [
        f"{face['identity_id']}, photo {face['candidate']} ({face['split']})"
        for face in (first["dropped"], first["same_as"])
    ]
    return (
        f"{workspace.url}: {len(leaks)} released faces would be in two splits, first "
        f"{faces[0]} and {faces[1]}: {first['kind']}; set release.on_leak=drop, which leaves them "
        "out of the evaluation, or choose another --split"
    )
