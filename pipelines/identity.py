"""Whether a face belongs to the identity that its photo was found for.

All faces of an identity are embedded; the largest consistent cluster is its core
(:mod:`models.embedding.core`); a face outside it is someone else. A single face cannot be compared
and is kept: the source said who it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import models.embedding
from hqvox.config.build import IdentityConfig
from hqvox.workspace.measures import section_bounds
from hqvox.workspace.tables import Row
from models.embedding.core import identity_core
from models.protocols import FaceEmbedder
from models.store import ModelStore
from pipelines.faces import compute_device, working_faces
from pipelines.stage import Pixels, Stage


def compare_faces(rows: Sequence[Row], min_similarity: float) -> None:
    """Set ``core_similarity`` and ``reason`` of all faces of one identity.

    Faces outside the core get ``someone_else``, and so do all but the most similar of several
    faces of one photo. Where no cluster covers more than half of the photos, every face gets
    ``no_majority``: the identity is then unknown.
    """
    if not rows:
        return
    if len(rows) == 1:
        rows[0]["core_similarity"] = None
        return
    embeddings = np.array([row["embedding"] for row in rows], dtype=np.float32)
    photos = [row["candidate"] for row in rows]
    cluster = identity_core(embeddings, min_similarity, photos=photos)
    best: dict[int, int] = {}
    for i in np.flatnonzero(cluster.core).tolist():
        photo = photos[i]
        if photo not in best or cluster.similarity[i] > cluster.similarity[best[photo]]:
            best[photo] = i
    for i, row in enumerate(rows):
        row["core_similarity"] = float(cluster.similarity[i])
        if not cluster.has_majority:
            row["reason"] = "no_majority"
        elif best.get(photos[i]) != i:
            row["reason"] = "someone_else"


class IdentityStage(Stage):
    """Refuses faces of other people."""

    name = "identity"
    reads = ("landmarks_xy",)
    writes = ("embedding", "core_similarity")
    reasons = ("someone_else", "no_majority")
    reads_photos = True
    compares = True
    version = 1
    config: IdentityConfig
    embedder: FaceEmbedder

    def __init__(self, config: IdentityConfig, store: ModelStore) -> None:
        super().__init__(config, store)
        self.networks = models.embedding.WEIGHTS[config.network]

    def load(self) -> None:
        """Load the embedding network."""
        self.embedder = models.embedding.load(self.config.network, self.store, compute_device())

    def network_bound(self, setting: str) -> float:
        """The network's threshold for similarity."""
        return self.embedder.same_person_cosine

    def measure(self, rows: Sequence[Row], pixels: Pixels) -> list[Row]:
        """Embed all faces at once; :meth:`compare` needs the whole identity."""
        if not rows:
            return []
        crops = [
            self.embedder.crop(photo, points) for photo, _, points in working_faces(rows, pixels)
        ]
        for row, embedding in zip(rows, self.embedder(crops), strict=True):
            row["embedding"] = embedding.tolist()
            row["core_similarity"] = None
        return list(rows)

    def compare(self, rows: Sequence[Row]) -> None:
        """Compare all faces of the identity: ``someone_else``, or ``no_majority`` for all."""
        compare_faces(rows, section_bounds(self.config, self.network_bound)["core_similarity"])
