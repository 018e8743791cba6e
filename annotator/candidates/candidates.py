"""The candidates of annotators: the faces that every stage kept, with their pictures.

Read only, and safe for threads. Identities and faces are named by id and position; no value from a
caller is used in a path unless it is in the workspace's tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from annotator.candidates.index import (
    EXPRESSIONS,
    PLACE,
    Index,
    OnProgress,
    open_index,
    shard_tokens,
)
from annotator.candidates.originals import Original, original, reference
from annotator.candidates.tiles import TILE_PX, Prepared, tile
from annotator.log.decisions import FaceRef
from hqvox.config.build import BuildConfig
from hqvox.errors import HqvoxError
from hqvox.workspace.layout import Workspace
from hqvox.workspace.measures import MEASURES, value_of
from hqvox.workspace.tables import Row

TILE_CACHE_BYTES = 128 << 20


@dataclass(frozen=True)
class IdentitySummary:
    """A person with candidates."""

    identity_id: str
    name: str
    subset: str
    gender: str | None
    nationality: str | None
    candidates: int
    """Faces that every stage kept."""
    certainty: float
    """Certainty of the automatic selection, 0 to 1; see :func:`certainties`."""
    shard: str

    @property
    def shown_name(self) -> str:
        """The name for people: VoxCeleb writes an underscore for each space."""
        return self.name.replace("_", " ")


@dataclass(frozen=True)
class FaceCandidate:
    """A face to choose."""

    ref: FaceRef
    number: int
    """Position among the identity's candidates, best first, from 0."""
    picked: bool
    """Whether the machine would release it: the first ``release.max_faces``."""
    quality: float
    """The composite that ranks, 0 to 1."""
    measures: Mapping[str, float | None]
    """By the names of :data:`hqvox.workspace.measures.MEASURES`."""
    row: Mapping[str, Any]
    """The row of the index: keys, shard, and the columns of the stages."""


class Candidates:
    """The candidates of a workspace."""

    def __init__(
        self,
        workspace: Workspace,
        config: BuildConfig | None = None,
        on_progress: OnProgress = lambda done, total: None,
    ) -> None:
        """Open the workspace's index, bringing it up to date first; see
        :mod:`annotator.candidates.index`.

        ``config``: by default the workspace's; its ``release`` section says how many faces an
        identity needs and gets at most. Raises HqvoxError where a stage's table is damaged.
        """
        self.workspace = workspace
        release = (config or workspace.config()).release
        self.min_faces, self.max_faces = release.min_faces, release.max_faces
        self._index: Index = open_index(workspace, on_progress)
        self._prepared = Prepared(TILE_CACHE_BYTES)
        self._rows = lru_cache(maxsize=256)(self._index.rows)
        certainty = certainties(self._index, self.max_faces)
        people = []
        for row in workspace.identities().to_pylist():
            first, last = self._index.starts.get(row["identity_id"], (0, 0))
            plain = {name: row[name] for name in ("identity_id", "name", "subset", "gender")}
            people.append(
                IdentitySummary(
                    **plain,
                    nationality=row["nationality"],
                    candidates=last - first,
                    certainty=certainty.get(row["identity_id"], 0.0),
                    shard=row["shard"],
                )
            )
        self.everyone: list[IdentitySummary] = people
        """All identities, in the workspace's order, also those that are not reviewed."""
        self.identities: list[IdentitySummary] = [
            person for person in people if person.candidates >= self.min_faces
        ]
        """Those with enough candidates to be released, in the workspace's order."""
        self._people = {person.identity_id: person for person in people}

    @property
    def unfinished(self) -> list[str]:
        """Shards that are not built to the end; their people are missing here."""
        return [s for s in self.workspace.shards() if s not in self._index.fingerprints]

    def changed(self) -> bool:
        """Whether the build changed since this was opened: open it again then."""
        return shard_tokens(self.workspace, self.workspace.shards()) != self._index.tokens

    def summary(self, identity_id: str) -> IdentitySummary:
        """An identity. Raises HqvoxError where the workspace has none of that id."""
        try:
            return self._people[identity_id]
        except KeyError:
            raise HqvoxError(f"{self.workspace.url}: no identity {identity_id!r}") from None

    def faces(self, identity_id: str) -> list[FaceCandidate]:
        """An identity's candidates, best first. Raises HqvoxError where there is no such id."""
        self.summary(identity_id)
        rows = self._rows(identity_id)
        most = self.max_faces if len(rows) >= self.min_faces else 0
        return [
            FaceCandidate(face_ref(row), n, n < most, row["quality"] or 0.0, measures_of(row), row)
            for n, row in enumerate(map(MappingProxyType, rows))
        ]

    def too_few(self) -> list[IdentitySummary]:
        """Identities with fewer candidates than a release needs; they are not reviewed.

        :func:`annotator.limits.too_few.too_few` computes which limits would have kept them.
        Those of shards that are not built are left out.
        """
        built = self._index.fingerprints
        return [p for p in self.everyone if p.candidates < self.min_faces and p.shard in built]

    def places(self, identity_id: str) -> list[Row]:
        """Of every candidate, best first, where it is found and its ``quality``; nothing else."""
        return self._index.rows(self.summary(identity_id).identity_id, PLACE)

    def tile(self, identity_id: str, n: int, px: int) -> bytes:
        """JPEG of a candidate's aligned face on white, at most ``px`` on a side.

        Kept in memory once made. Raises HqvoxError where there is no such candidate, or its
        pixels cannot be read.
        """
        row, side = self._row(identity_id, n), self._side(px)
        return self._prepared.get((identity_id, n, side), partial(tile, self.workspace, row, side))

    def prepare(self, identity_id: str, px: int, count: int | None = None) -> None:
        """Have an identity's first ``count`` tiles (default: all) made in the background."""
        side = self._side(px)
        rows = self._rows(self.summary(identity_id).identity_id)[:count]
        self._prepared.ahead(
            ((identity_id, n, side), partial(tile, self.workspace, row, side))
            for n, row in enumerate(rows)
        )

    def original(self, identity_id: str, n: int) -> Original:
        """The photograph that a candidate is from, with box and landmarks in its pixels.

        Raises HqvoxError where there is no such candidate, or its pixels cannot be read.
        """
        return original(self.workspace, self._row(identity_id, n))

    def reference(self, identity_id: str) -> bytes | None:
        """JPEG of a reference photograph of the identity; None where there is none.

        See :func:`annotator.candidates.originals.reference`.
        """
        return reference(self.workspace, self.summary(identity_id).identity_id)

    def fingerprint(self, identity_id: str) -> str:
        """Fingerprint of the build that the identity's candidates are from; "" where unbuilt."""
        return self._index.fingerprints.get(self.summary(identity_id).shard, "")

    def _row(self, identity_id: str, n: int) -> Row:
        rows = self._rows(self.summary(identity_id).identity_id)
        if not 0 <= n < len(rows):
            raise HqvoxError(f"{identity_id}: no candidate {n}; it has {len(rows)}")
        return rows[n]

    @staticmethod
    def _side(px: int) -> int:
        return min(max(int(px), TILE_PX[0]), TILE_PX[1])


def face_ref(row: Mapping[str, Any]) -> FaceRef:
    """The reference to a row's face that survives a rebuild."""
    left, top, right, bottom = row["box_xyxy"]
    return FaceRef(str(row["photo_id"]), int(row["face"]), (left, top, right, bottom))


def measures_of(row: Mapping[str, Any]) -> dict[str, float | None]:
    """A row's measurements, by the names of :data:`hqvox.workspace.measures.MEASURES`."""
    likely = {name: row[name] for name in EXPRESSIONS}
    known = None if None in likely.values() else likely
    whole = {**row, "emotion_probabilities": known}
    return {measure.name: value_of(whole, measure.name) for measure in MEASURES}


def certainties(index: Index, max_faces: int) -> dict[str, float]:
    """Certainty of the automatic selection of every identity, 0 to 1, by its id.

    Two doubts are measured. *Is it one person?*: the least ``core_similarity`` among the picked
    faces (a face without one counts as -1). *Is the choice clear?*: how much better in quality the
    worst picked face is than the best one left out; where none is left out, how good it is. Each is
    turned into its rank among all identities, from 0 (the most doubtful) to 1, ties sharing their
    mean; the certainty is the lower of the two. So it says who comes first, not how likely an
    error is, and has no threshold to tune.
    """
    if not index.starts:
        return {}
    quality = np.nan_to_num(index.column("quality"), nan=0.0)
    similarity = np.nan_to_num(index.column("core_similarity"), nan=-1.0)
    sameness, margin = [], []
    for first, last in index.starts.values():
        end = min(first + max_faces, last)
        sameness.append(similarity[first:end].min())
        margin.append(quality[end - 1] - (quality[end] if end < last else 0.0))
    lower = np.minimum(_rank(np.array(sameness)), _rank(np.array(margin)))
    return dict(zip(index.starts, lower.tolist(), strict=True))


def _rank(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rank of each value, 0 to 1, ties at their mean; 1 for a single value."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    middle = np.cumsum(count) - (count + 1) / 2
    return np.asarray(middle[place] / (len(values) - 1)) if len(values) > 1 else np.ones(1)
