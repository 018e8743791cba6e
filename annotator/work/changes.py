"""What changed since people decided: which decisions need another look, and why.

A decision is about faces. A rebuild can remove some of them (another limit, a takedown) or add new
ones (more photographs, a more lenient limit). No change is stored: it follows from the log and the
build, so a new decision on the present candidates ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import pyarrow as pa
import pyarrow.compute as pc

from annotator.candidates.candidates import Candidates, IdentitySummary
from annotator.candidates.matching import find_faces
from annotator.log.decisions import FaceRef
from annotator.log.fold import Outcome
from annotator.log.store import Store
from hqvox.config.build import STAGE_SECTIONS
from hqvox.workspace.layout import Workspace

_AT_ONCE = 500
"""Identities whose decisions are read at a time: databases take so many in a query."""

_STAGES = tuple(STAGE_SECTIONS)[1:]
"""The stages that refuse photographs and faces, in order."""
_Read = Callable[[str, str], pa.Table | None]
"""Reads a stage's table of a shard, by their names."""


@dataclass(frozen=True)
class ChangedDecision:
    """A decision that holds, and what changed since it was made."""

    identity_id: str
    name: str
    seq: int
    """Number of the decision in the log."""
    latest: int
    """Number of the latest decision on the identity: of those that agree, the first one holds."""
    annotator: str
    kind: str
    """``chosen`` or ``dropped``."""
    gone: int
    """Chosen faces whose photograph, or face in it, is not in the build any more."""
    refused: Mapping[str, int]
    """Chosen faces that a stage refuses now, by reason."""
    better: int
    """Candidates that were not there then: of a choice, those of a higher quality than its worst
    face which the machine would now pick; of a drop, all."""

    @property
    def words(self) -> str:
        """The changes in one line."""
        parts = []
        if self.gone:
            parts.append(f"{self.gone} chosen {'face is' if self.gone == 1 else 'faces are'} gone")
        parts += [f"{count} chosen now refused: {why}" for why, count in self.refused.items()]
        if self.better:
            better = "better newcomer" if self.kind == "chosen" else "new candidate"
            parts.append(f"{self.better} {better}{'' if self.better == 1 else 's'}")
        return "; ".join(parts)


def changes_since(
    store: Store, candidates: Candidates, identity_ids: Collection[str] | None = None
) -> list[ChangedDecision]:
    """Of every decision that holds, what changed since, in the workspace's order.

    ``identity_ids``: those to look at; by default all. Those where nothing did are left out, and
    those whose shard is not built now: nothing is known of them.
    """
    outcomes = {
        identity_id: outcome
        for identity_id, outcome in store.state().items()
        if outcome.holds is not None and (identity_ids is None or identity_id in identity_ids)
    }
    unbuilt = set(candidates.unfinished)
    read = lru_cache(maxsize=len(_STAGES))(partial(_stage_rows, candidates.workspace))
    people = [
        person
        for person in candidates.everyone
        if person.identity_id in outcomes and person.shard not in unbuilt
    ]
    changed = []
    for start in range(0, len(people), _AT_ONCE):
        some = people[start : start + _AT_ONCE]
        screens = _screens(store, [outcomes[person.identity_id] for person in some])
        for person in some:
            outcome = outcomes[person.identity_id]
            shown = screens.get(person.identity_id, [])
            change = _change(candidates, outcome, shown, person, read)
            if change is not None:
                changed.append(change)
    return changed


def for_another_look(store: Store, candidates: Candidates) -> dict[str, int]:
    """Identities whose decision needs another look, with ``seq`` of the latest entry.

    What :attr:`annotator.work.queue.Queue.again` takes.
    """
    return {change.identity_id: change.latest for change in changes_since(store, candidates)}


def _change(
    candidates: Candidates,
    outcome: Outcome,
    screens: Sequence[tuple[FaceRef, ...]],
    person: IdentitySummary,
    read: _Read,
) -> ChangedDecision | None:
    assert outcome.holds is not None
    decision = outcome.holds.decision
    rows = candidates.places(decision.identity_id)
    here = find_faces(decision.faces, rows)
    missing = [ref for ref, row in zip(decision.faces, here, strict=True) if row is None]
    known: set[int] = set()
    for shown in screens:
        known |= {id(row) for row in find_faces(shown, rows) if row is not None}
    # Without a record of the shown faces, no candidate can be called new.
    new = [row for row in rows if id(row) not in known] if any(screens) else []
    if decision.kind == "chosen":
        worst = min((row["quality"] or 0.0 for row in here if row is not None), default=0.0)
        picked = {id(row) for row in rows[: candidates.max_faces]}
        new = [row for row in new if id(row) in picked and (row["quality"] or 0.0) > worst]
    if not missing and not new:
        return None
    reasons = _refused(read, person.shard, decision.identity_id, missing) if missing else {}
    gone = len(missing) - sum(reasons.values())
    return ChangedDecision(
        decision.identity_id,
        person.name,
        outcome.holds.seq,
        outcome.latest,
        decision.annotator,
        decision.kind,
        gone,
        reasons,
        len(new),
    )


def _screens(store: Store, outcomes: Sequence[Outcome]) -> dict[str, list[tuple[FaceRef, ...]]]:
    """The faces shown at each decision that counts, which the fold leaves out."""
    counted = {
        entry.seq
        for outcome in outcomes
        for entry in (*outcome.opinions, outcome.settlement)
        if entry is not None
    }
    shown_at: dict[str, list[tuple[FaceRef, ...]]] = {}
    for entry in store.entries(identity_ids=[outcome.identity_id for outcome in outcomes]):
        if entry.seq in counted:
            shown_at.setdefault(entry.decision.identity_id, []).append(entry.decision.shown)
    return shown_at


def _stage_rows(workspace: Workspace, stage: str, shard: str) -> pa.Table | None:
    """A shard's rows of a stage: keys, reason, and what identifies photographs and faces."""
    columns = {"download": ["photo_id"], "landmarks": ["box_xyxy"]}.get(stage, [])
    return workspace.read_stage(stage, shard, [*columns, "reason"])


def _refused(
    read: _Read, shard: str, identity_id: str, refs: Collection[FaceRef]
) -> dict[str, int]:
    """How many of these faces each reason refuses now; removed faces are left out."""
    photos: dict[int, str] = {}
    faces: dict[tuple[int, int], list[float]] = {}
    refused: dict[tuple[int, int | None], str] = {}
    wanted = {ref.photo_id for ref in refs}
    for stage in _STAGES:
        table = read(stage, shard)
        if table is None:
            break
        for row in table.filter(pc.equal(table["identity_id"], identity_id)).to_pylist():
            if stage == "download" and row["photo_id"] in wanted:
                photos[row["candidate"]] = row["photo_id"]
            if row["candidate"] not in photos:
                continue
            if stage == "landmarks" and row["face"] is not None:
                faces[row["candidate"], row["face"]] = row["box_xyxy"]
            if row["reason"] is not None:
                refused[row["candidate"], row["face"]] = row["reason"]
    places = [
        {"photo_id": photos[candidate], "face": face, "box_xyxy": box, "candidate": candidate}
        for (candidate, face), box in faces.items()
    ]
    counts: dict[str, int] = {}
    of_photo = {photo_id: candidate for candidate, photo_id in photos.items()}
    for ref, place in zip(refs, find_faces(list(refs), places), strict=True):
        if place is not None:
            reason = refused.get((place["candidate"], place["face"]))
        else:  # refused before faces were looked for
            reason = refused.get((of_photo.get(ref.photo_id, -1), None))
        if reason is not None:
            counts[reason] = counts.get(reason, 0) + 1
    return dict(sorted(counts.items()))
