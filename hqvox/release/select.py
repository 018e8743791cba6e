"""Which faces of an identity are released (SF2F §3 and appendix B.1: the 3 to 7 best).

Either people chose them, or they are the best by quality. Decisions of people name faces by
photograph and position (:class:`annotator.log.decisions.FaceRef`), so they still hold after a
rebuild. A chosen face that is no longer a candidate is left out. Where fewer than
``release.min_faces`` of a choice remain, the identity is left out as well. ``release.json`` lists
both. No other face takes the place of one that people chose.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hqvox.config.build import BuildConfig, ReleaseConfig
from hqvox.errors import HqvoxError
from hqvox.runner.lookup import Key, table_keys
from hqvox.workspace.layout import Workspace
from hqvox.workspace.tables import Row
from pipelines.quality import QualityStage
from pipelines.segment import SegmentStage


@dataclass
class Selection:
    """Faces to release of each identity, best first; and the identities that have too few."""

    faces: dict[str, list[Key]] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    """How many faces of each identity the build kept."""
    dropped: list[Row] = field(default_factory=list)
    """Rows of the identities that are left out, in order."""

    def keys(self) -> list[Key]:
        """All faces, in order."""
        return [key for keys in self.faces.values() for key in keys]


def ranked_faces(workspace: Workspace) -> dict[str, list[Key]]:
    """The faces of each identity that the build kept, best quality first."""
    ranked: dict[str, list[Key]] = {}
    for shard, identities in workspace.shards().items():
        table = workspace.read_stage(QualityStage.name, shard, ["quality", "reason"])
        assert table is not None, shard  # the caller checked that the build is up to date
        table = table.filter(table["reason"].is_null())
        of_identity: dict[str, list[tuple[Key, float | None]]] = {}
        for key, quality in zip(table_keys(table), table["quality"].to_pylist(), strict=True):
            of_identity.setdefault(key[0], []).append((key, quality))
        for identity in identities:
            faces = of_identity.get(identity["identity_id"], [])
            ranked[identity["identity_id"]] = best_faces(faces, len(faces))
    return ranked


def doubted_faces(workspace: Workspace, min_certainty: float) -> set[Key]:
    """The faces whose mask the segment stage is not certain of (column ``edge_confidence``)."""
    doubted: set[Key] = set()
    for shard in workspace.shards():
        table = workspace.read_stage(SegmentStage.name, shard, ["edge_confidence", "reason"])
        assert table is not None, shard  # the caller checked that the build is up to date
        certainty = table["edge_confidence"].to_pylist()
        for key, value in zip(table_keys(table), certainty, strict=True):
            if value is not None and value < min_certainty:
                doubted.add(key)
    return doubted


def best_faces(faces: Sequence[tuple[Key, float | None]], limit: int) -> list[Key]:
    """The ``limit`` best of (key, quality) pairs, best first; ties go by the photos' order."""
    ranked = sorted(faces, key=lambda f: (-(f[1] if f[1] is not None else -1.0), f[0]))
    return [key for key, _ in ranked[:limit]]


def select_auto(
    identities: Sequence[Row],
    ranked: Mapping[str, Sequence[Key]],
    config: ReleaseConfig,
    without: Collection[Key] = (),
) -> Selection:
    """Take the best faces of every identity by quality.

    ``identities``: all of the workspace's, in order. ``without``: faces that must not be released;
    the next best replace them.
    """
    selection = Selection()
    for identity in identities:
        identity_id = identity["identity_id"]
        selection.kept[identity_id] = len(ranked[identity_id])
        allowed = [key for key in ranked[identity_id] if key not in without]
        if len(allowed) < config.min_faces:
            selection.dropped.append(identity)
        else:
            selection.faces[identity_id] = allowed[: config.max_faces]
    return selection


def select_reviewed(
    identities: Sequence[Row],
    ranked: Mapping[str, Sequence[Key]],
    chosen: Mapping[str, Sequence[Key]],
    config: ReleaseConfig,
    without: Collection[Key] = (),
) -> Selection:
    """Take the faces that people chose, in their order, and no other.

    ``chosen``: of the identities that people chose faces for. As in :func:`select_auto`,
    ``dropped`` are those with too few faces. Identities that people left out are in neither.
    """
    selection = Selection()
    for identity in identities:
        identity_id = identity["identity_id"]
        selection.kept[identity_id] = len(ranked[identity_id])
        allowed = [key for key in chosen.get(identity_id, ()) if key not in without]
        if len(allowed) >= config.min_faces:
            selection.faces[identity_id] = allowed
        elif identity_id in chosen or len(ranked[identity_id]) < config.min_faces:
            selection.dropped.append(identity)
    return selection


@dataclass
class Review:
    """What people decided on a workspace's identities; each list in the workspace's order."""

    chosen: dict[str, list[Key]] = field(default_factory=dict)
    """Of every identity that can be released, its chosen faces that are in the build, in order."""
    reviewers: dict[str, str] = field(default_factory=dict)
    """Name of the reviewer who chose, by identity id."""
    dropped: dict[str, str] = field(default_factory=dict)
    """Identities that people dropped, with the reason."""
    disputed: list[str] = field(default_factory=list)
    """Identities on which annotators disagree and no lead has decided."""
    undecided: list[str] = field(default_factory=list)
    """Identities with enough candidates on which nobody decided."""
    lost: list[Row] = field(default_factory=list)
    """``identity_id``, ``name``, faces ``chosen``, and ``left`` of them, where those differ."""

    def summary(self) -> dict[str, Any]:
        """Section ``review`` of ``release.json``."""
        return {
            "reviewers": dict(sorted(Counter(self.reviewers.values()).items())),
            "chosen": len(self.chosen),
            "dropped": dict(sorted(Counter(self.dropped.values()).items())),
            "disputed": len(self.disputed),
            "undecided": len(self.undecided),
            "faces_gone": self.lost,
        }


def read_review(
    workspace: Workspace, config: BuildConfig, identities: Sequence[Row]
) -> Review | None:
    """The decisions that hold now; None where nobody has decided on anything.

    Raises HqvoxError where the store cannot be opened, or its packages are not installed.
    """
    from annotator.log.place import nothing_yet

    if nothing_yet(workspace):
        return None
    try:
        from annotator.log.store import open_store
    except ImportError as error:
        raise HqvoxError(
            f"{workspace.url}: reading reviews needs another package: pip install 'hqvox[review]' "
            f"({error}); or release without them, with --auto"
        ) from None
    from annotator.candidates.index import PLACE, open_index
    from annotator.candidates.matching import find_faces

    store = open_store(workspace, config)
    try:
        outcomes = store.state()
    finally:
        store.close()
    if not outcomes:
        return None
    index = open_index(workspace)
    review = Review()
    for identity in identities:
        identity_id = identity["identity_id"]
        outcome = outcomes.get(identity_id)
        rows = index.rows(identity_id, PLACE)
        if outcome is None:
            if len(rows) >= config.release.min_faces:
                review.undecided.append(identity_id)
        elif outcome.holds is None:
            review.disputed.append(identity_id)
        elif outcome.status == "dropped":
            review.dropped[identity_id] = outcome.holds.decision.reason or ""
        else:
            decision = outcome.holds.decision
            keys = [
                (identity_id, row["candidate"], row["face"])
                for row in find_faces(decision.faces, rows)
                if row is not None
            ]
            if len(keys) < len(decision.faces):
                who = {"identity_id": identity_id, "name": identity["name"]}
                review.lost.append(who | {"chosen": len(decision.faces), "left": len(keys)})
            if len(keys) >= config.release.min_faces:
                review.chosen[identity_id] = keys[: config.release.max_faces]
                review.reviewers[identity_id] = decision.annotator
    return review
