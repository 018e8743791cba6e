"""Which of an identity's faces are the identity: the largest consistent cluster of embeddings.

A crawl for one name finds that person, bystanders, and people of the same name. Only the right
person appears in photo after photo, so the core is the cluster of mutually similar faces that
covers the most photos. Pure array code.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

_MAX_ROUNDS = 10
"""Rounds of adding and removing faces after clustering; real identities need one to three."""


@dataclass(frozen=True)
class IdentityCore:
    """The core of one identity's faces.

    ``core``: bool (n,), True for faces of the core; the others are someone else.
    ``similarity``: float32 (n,), -1 to 1, mean cosine of a face to the faces of the core, itself
    left out; on the scale of the threshold. A core of one face alone has similarity 1.
    ``has_majority``: whether the core covers more than half of the photos and no other cluster
    covers as many. Without a majority the core is only the largest of several candidates, and does
    not show who the identity is.
    """

    core: NDArray[np.bool_]
    similarity: NDArray[np.float32]
    has_majority: bool


def identity_core(
    embeddings: ArrayLike, threshold: float, photos: Sequence[Hashable] | None = None
) -> IdentityCore:
    """Find the core of one identity's faces.

    ``embeddings``: (n, d), any length but zero, n may be 0. ``threshold``: cosine above which two
    faces are the same person, a ``FaceEmbedder``'s ``same_person_cosine``. ``photos``: what photo
    each face is in, n labels; None where every face is a photo of its own.

    Faces are joined by average linkage, which neither chains through one look-alike, as single
    linkage does, nor breaks at one bad pair, as complete linkage does. Clusters are compared by
    photos covered, then by mean similarity within, then by their first face. The largest is then
    refined: a face belongs while its mean cosine to the others of the core reaches the threshold.
    Two faces of one photo both belong only where they also match each other (a collage of one
    person); otherwise the one closer to the core does.

    Raises ValueError for embeddings that are not finite (n, d) or are zero, or photos of another
    length.
    """
    cosine = _cosines(embeddings)
    n = len(cosine)
    labels = list(range(n)) if photos is None else list(photos)
    if len(labels) != n:
        raise ValueError(f"{len(labels)} photos for {n} embeddings")
    if n == 0:
        return IdentityCore(np.zeros(0, bool), np.zeros(0, np.float32), False)
    number: dict[Hashable, int] = {}
    photo = np.array([number.setdefault(label, len(number)) for label in labels])

    core = _refine(_largest(cosine, photo, np.ones(n, bool), threshold), cosine, photo, threshold)
    covered = _photos_in(core, photo)
    runner_up = 0
    if not core.all():
        runner_up = _photos_in(_largest(cosine, photo, ~core, threshold), photo)
    has_majority = 2 * covered > len(np.unique(photo)) and covered > runner_up
    return IdentityCore(core, _similarity(core, cosine).astype(np.float32), has_majority)


def _cosines(embeddings: ArrayLike) -> NDArray[np.float64]:
    """Pairwise cosines, (n, n)."""
    rows = np.asarray(embeddings, dtype=np.float64)
    if rows.ndim != 2 or not np.isfinite(rows).all():
        raise ValueError(f"embeddings must be finite numbers (n, d), not of shape {rows.shape}")
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    if not (length > 0).all():
        raise ValueError("an embedding is zero: it has no direction to compare")
    rows = rows / length
    return np.clip(rows @ rows.T, -1.0, 1.0)


def _photos_in(faces: NDArray[np.bool_], photo: NDArray[np.intp]) -> int:
    return len(np.unique(photo[faces]))


def _largest(
    cosine: NDArray[np.float64],
    photo: NDArray[np.intp],
    among: NDArray[np.bool_],
    threshold: float,
) -> NDArray[np.bool_]:
    """The average-linkage cluster of the faces ``among`` that covers the most photos."""
    faces = np.flatnonzero(among)
    if len(faces) == 1:
        return among.copy()
    near = cosine[np.ix_(faces, faces)]
    # Average linkage of 1 - cosine never gets below 0 but for rounding.
    distance = squareform(np.maximum(1.0 - near, 0.0), checks=False)
    cluster = fcluster(linkage(distance, "average"), 1.0 - threshold, "distance")

    def rank(label: int) -> tuple[int, float, int]:
        members = np.flatnonzero(cluster == label)
        within = round(float(near[np.ix_(members, members)].mean()), 9)
        return len(np.unique(photo[faces[members]])), within, -int(members[0])

    best = max(np.unique(cluster).tolist(), key=rank)
    result = np.zeros(len(cosine), bool)
    result[faces[cluster == best]] = True
    return result


def _similarity(core: NDArray[np.bool_], cosine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean cosine of every face to the core's faces, itself left out."""
    others = core.sum() - core
    total = cosine[:, core].sum(axis=1) - np.where(core, np.diag(cosine), 0.0)
    return np.where(others > 0, total / np.maximum(others, 1), 1.0)


def _refine(
    core: NDArray[np.bool_],
    cosine: NDArray[np.float64],
    photo: NDArray[np.intp],
    threshold: float,
) -> NDArray[np.bool_]:
    """Add faces that match the core and remove those that do not, until nothing changes."""
    for _ in range(_MAX_ROUNDS):
        similarity = _similarity(core, cosine)
        refined = _one_person_per_photo(
            similarity >= threshold, similarity, cosine, photo, threshold
        )
        if not refined.any() or (refined == core).all():
            break
        core = refined
    return core


def _one_person_per_photo(
    accepted: NDArray[np.bool_],
    similarity: NDArray[np.float64],
    cosine: NDArray[np.float64],
    photo: NDArray[np.intp],
    threshold: float,
) -> NDArray[np.bool_]:
    """Of several accepted faces of one photo keep the best and those that match it directly."""
    kept = accepted.copy()
    for name in np.unique(photo[accepted]):
        faces = np.flatnonzero(accepted & (photo == name))
        best = faces[np.argmax(similarity[faces])]
        kept[faces] = cosine[best, faces] >= threshold
        kept[best] = True
    return kept
