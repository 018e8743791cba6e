"""What people decided, found again in the build that is to be released.

Decisions name faces by photograph and place (:class:`annotator.log.decisions.FaceRef`), so they
hold for a build made anew. The one rule for what is no longer there: faces that are no candidates
any more are left out of a choice, and where fewer than ``release.min_faces`` of it remain, so is
the identity. Both are listed. What people left out is never filled up by the machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hqvox.config.build import BuildConfig
from hqvox.errors import HqvoxError
from hqvox.runner.lookup import Key
from hqvox.workspace.layout import Workspace
from hqvox.workspace.tables import Row


@dataclass
class Review:
    """The verdicts on a workspace's identities; each list in the workspace's order."""

    chosen: dict[str, list[Key]] = field(default_factory=dict)
    """Of every identity that can be released, the faces that are there, in the order chosen."""
    reviewers: dict[str, str] = field(default_factory=dict)
    """Whose choice that is, by name."""
    dropped: dict[str, str] = field(default_factory=dict)
    """Identities that people dropped, with the reason."""
    disputed: list[str] = field(default_factory=list)
    """Annotators disagree, and no lead has settled it."""
    undecided: list[str] = field(default_factory=list)
    """With enough candidates, but nobody decided."""
    lost: list[Row] = field(default_factory=list)
    """``identity_id``, ``name``, faces ``chosen``, and ``left`` of them, where those differ."""

    def summary(self) -> dict[str, Any]:
        """What ``release.json`` says of it."""
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
    """The verdicts as they are now; None where nobody has decided on anything.

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
        verdicts = store.state()
    finally:
        store.close()
    if not verdicts:
        return None
    index = open_index(workspace)
    review = Review()
    for identity in identities:
        identity_id = identity["identity_id"]
        verdict = verdicts.get(identity_id)
        rows = index.rows(identity_id, PLACE)
        if verdict is None:
            if len(rows) >= config.release.min_faces:
                review.undecided.append(identity_id)
        elif verdict.holds is None:
            review.disputed.append(identity_id)
        elif verdict.status == "dropped":
            review.dropped[identity_id] = verdict.holds.decision.reason or ""
        else:
            decision = verdict.holds.decision
            keys = [
                (identity_id, row["candidate"], row["face"])
                for row in find_faces(decision.faces, rows)
                if row is not None
            ]
            if len(keys) < len(decision.faces):
                own = {"identity_id": identity_id, "name": identity["name"]}
                review.lost.append(own | {"chosen": len(decision.faces), "left": len(keys)})
            if len(keys) >= config.release.min_faces:
                review.chosen[identity_id] = keys[: config.release.max_faces]
                review.reviewers[identity_id] = decision.annotator
    return review
