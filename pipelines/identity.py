"""Whether a face is the identity it was found for.

All faces of an identity are embedded; the largest consistent cluster is its core
(:mod:`models.embedding.core`), and who is not part of it is someone else. A single face has
nothing to be compared with and stays, on the word of the source that filed the photo.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

import models.embedding
from hqvox.config.build import IdentityConfig
from hqvox.workspace.tables import Row
from models.embedding.core import identity_core
from models.protocols import FaceEmbedder
from models.store import ModelStore
from pipelines.faces import compute_device, working_faces
from pipelines.stage import Needs, Pixels, Scope, Stage


def judge_faces(rows: Sequence[Row], min_similarity: float) -> None:
    """Set ``core_similarity`` and ``reason`` of all faces of one identity.

    Faces outside the core get ``someone_else``, and so do all but the most similar of several
    faces of one photo. Where no cluster covers more than half of the photos, every face gets
    ``no_majority``: who the identity is must then not be guessed.
    """
    if not rows:
        return
    if len(rows) == 1:
        rows[0]["core_similarity"] = None
        return
    embeddings = np.array([row["embedding"] for row in rows], dtype=np.float32)
    photos = [row["candidate"] for row in rows]
    found = identity_core(embeddings, min_similarity, photos=photos)
    best: dict[int, int] = {}
    for i in np.flatnonzero(found.core).tolist():
        photo = photos[i]
        if photo not in best or found.similarity[i] > found.similarity[best[photo]]:
            best[photo] = i
    for i, row in enumerate(rows):
        row["core_similarity"] = float(found.similarity[i])
        if not found.has_majority:
            row["reason"] = "no_majority"
        elif best.get(photos[i]) != i:
            row["reason"] = "someone_else"


class IdentityStage(Stage):
    """Refuses faces of other people."""

    name: ClassVar[str] = "identity"
    reads: ClassVar[tuple[str, ...]] = ("landmarks_xy",)
    writes: ClassVar[tuple[str, ...]] = ("embedding", "core_similarity")
    reasons: ClassVar[tuple[str, ...]] = ("someone_else", "no_majority")
    needs: ClassVar[Needs] = Needs.PHOTO
    scope: ClassVar[Scope] = Scope.IDENTITY
    version: ClassVar[int] = 1
    config: IdentityConfig
    embedder: FaceEmbedder

    def __init__(self, config: IdentityConfig, store: ModelStore) -> None:
        super().__init__(config, store)
        self.networks = models.embedding.WEIGHTS[config.network]

    def load(self) -> None:
        """Load the embedding network."""
        self.embedder = models.embedding.load(self.config.network, self.store, compute_device())

    def process(self, rows: Sequence[Row], pixels: Pixels) -> list[Row]:
        """Embed all faces at once; the verdict waits for the whole identity."""
        if not rows:
            return []
        crops = [
            self.embedder.crop(photo, points) for photo, _, points in working_faces(rows, pixels)
        ]
        for row, embedding in zip(rows, self.embedder(crops), strict=True):
            row["embedding"] = embedding.tolist()
            row["core_similarity"] = None
        return list(rows)

    def judge(self, rows: Sequence[Row]) -> None:
        """Compare all faces of the identity: ``someone_else``, or ``no_majority`` for all."""
        min_similarity = self.config.min_similarity
        if min_similarity is None:
            min_similarity = self.embedder.same_person_cosine
        judge_faces(rows, min_similarity)
