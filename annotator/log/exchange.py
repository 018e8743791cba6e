"""Decisions as JSON lines: export from a workspace, import into another one or after a rebuild.

One line per entry of the log, in its order: ``format`` (1), ``seq``, ``key``, ``time`` (ISO 8601,
UTC), ``role``, ``settles``, ``anew``, and the fields of :class:`annotator.log.decisions.Decision`,
faces as ``{"photo": SHA-256, "face": number, "box": [left, top, right, bottom]}``. Entries are
taken over as they are: their faces are found in the build at hand when they are used, so importing
before or after a rebuild comes to the same, and importing twice changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from annotator.log.access import ROLES, Actor
from annotator.log.decisions import (
    DECISION_COLUMNS,
    FLAG_COLUMNS,
    Decision,
    Entry,
    FaceRef,
)
from annotator.log.rules import check_key
from annotator.log.store import Store
from hqvox.errors import HqvoxError
from hqvox.workspace.layout import Workspace
from hqvox.workspace.takedowns import Takedowns

FORMAT = 1


@dataclass(frozen=True)
class Imported:
    """The result of an import."""

    added: int
    known: int
    """Entries that were in the log already."""
    unknown: dict[str, int]
    """Entries on identities that this workspace does not have, by identity id; left out."""
    taken_down: int
    """Entries on identities that were taken down, or whose choice was too small without the
    photographs that were; left out."""
    identity_ids: frozenset[str]
    """Identities of the entries that are here now, added or known."""


def export_lines(store: Store) -> Iterator[str]:
    """Every entry of the log as a line of JSON, without line ends."""
    for entry in store.entries():
        yield json.dumps(_to_json(entry), ensure_ascii=False, separators=(",", ":"))


def _to_json(entry: Entry) -> dict[str, Any]:
    decision = entry.decision
    return {
        "format": FORMAT,
        "seq": entry.seq,
        "key": entry.key,
        "time": entry.time.astimezone(UTC).isoformat(),
        **{name: getattr(entry, name) for name in FLAG_COLUMNS},
        **{name: getattr(decision, name) for name in DECISION_COLUMNS},
        "faces": [_face_to_json(face) for face in decision.faces],
        "shown": [_face_to_json(face) for face in decision.shown],
    }


def _face_to_json(face: FaceRef) -> dict[str, Any]:
    return {"photo": face.photo_id, "face": face.face, "box": list(face.box_xyxy)}


def parse_lines(lines: Iterable[str], where: str) -> list[Entry]:
    """Undo :func:`export_lines`. Raises HqvoxError naming ``where`` and the line."""
    entries: list[Entry] = []
    decisions: dict[int, Decision] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = _from_json(json.loads(line))
        except HqvoxError as error:
            raise HqvoxError(f"{where}, line {number}: {error}") from None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
            raise HqvoxError(
                f"{where}, line {number}: no entry of a review; `hqvox review export` writes them"
            ) from None
        if entries and entry.seq <= entries[-1].seq:
            raise HqvoxError(
                f"{where}, line {number}: entry {entry.seq} comes after {entries[-1].seq}; keep "
                "the lines in the order that they were written in"
            )
        decision = entry.decision
        undone = None if decision.undoes is None else decisions.get(decision.undoes)
        if undone is not None and (
            undone.kind == "undone" or undone.identity_id != decision.identity_id
        ):
            raise HqvoxError(
                f"{where}, line {number}: entry {entry.seq} cannot undo entry "
                f"{decision.undoes}: that is an undo, or on another identity; export the log again"
            )
        decisions[entry.seq] = decision
        entries.append(entry)
    return entries


def _from_json(record: dict[str, Any]) -> Entry:
    if record["format"] != FORMAT:
        raise HqvoxError(
            f"format {record['format']!r} is not one that this hqvox reads ({FORMAT}); upgrade "
            "with: pip install --upgrade hqvox"
        )
    seq, key, time = record["seq"], record["key"], datetime.fromisoformat(record["time"])
    flags = {name: record[name] for name in FLAG_COLUMNS}
    columns = {name: record[name] for name in DECISION_COLUMNS}
    valid = (
        type(seq) is int
        and seq > 0
        and isinstance(key, str)
        and isinstance(flags["settles"], bool)
        and isinstance(flags["anew"], bool)
        and flags["role"] in ROLES
        and time.tzinfo is not None
        and all(isinstance(columns[n], str) for n in ("comment", "annotator", "fingerprint"))
        and (columns["undoes"] is None or type(columns["undoes"]) is int)
    )
    if not valid:
        raise ValueError
    Actor(columns["annotator"], flags["role"])
    check_key(key)
    faces, shown = (tuple(map(_face_from_json, record[name])) for name in ("faces", "shown"))
    decision = Decision(**columns, faces=faces, shown=shown)
    return Entry(seq, time.astimezone(UTC), decision, key, **flags)


def _face_from_json(record: dict[str, Any]) -> FaceRef:
    left, top, right, bottom = (float(value) for value in record["box"])
    return FaceRef(record["photo"], record["face"], (left, top, right, bottom))


def import_entries(workspace: Workspace, store: Store, entries: Sequence[Entry]) -> Imported:
    """Take entries over that are not in the log yet, with their times and annotators.

    What was taken down from this workspace does not come back this way. Raises HqvoxError where
    an entry undoes one that is not among them.
    """
    people = set(workspace.identities()["identity_id"].to_pylist())
    takedowns = Takedowns.read(workspace)
    known = {entry.key for entry in store.entries(shown=False)}
    unknown: dict[str, int] = {}
    down: set[int] = set()
    taken: list[Entry] = []
    for entry in entries:
        decision = entry.decision
        if takedowns.covers_identity(decision.identity_id) or decision.undoes in down:
            down.add(entry.seq)
        elif decision.identity_id not in people:
            unknown[decision.identity_id] = unknown.get(decision.identity_id, 0) + 1
        else:
            kept = _without(entry, takedowns, store.min_faces)
            if kept is None:
                down.add(entry.seq)
            else:
                taken.append(kept)
    added = store.adopt(taken)
    return Imported(
        added=len(added),
        known=sum(entry.key in known for entry in taken),
        unknown=unknown,
        taken_down=len(down),
        identity_ids=frozenset(entry.decision.identity_id for entry in taken),
    )


def _without(entry: Entry, takedowns: Takedowns, min_faces: int) -> Entry | None:
    """The entry without photographs that were taken down; None where too little is left of it."""
    decision = entry.decision
    faces, shown = (_staying(refs, takedowns) for refs in (decision.faces, decision.shown))
    if len(faces) < len(decision.faces) and len(faces) < min_faces:
        return None
    return replace(entry, decision=replace(decision, faces=faces, shown=shown))


def _staying(refs: Collection[FaceRef], takedowns: Takedowns) -> tuple[FaceRef, ...]:
    return tuple(ref for ref in refs if not takedowns.covers_photo(ref.photo_id))
