"""What must not be in two splits: a photograph, a near-copy of it, a near-copy of a face.

Each identity is in one split by construction. Photographs need not be: two people can be in one
picture, or one picture can be filed under two names. Where a face of an evaluation split is also in
a split that ranks higher, it is dropped: train keeps its faces, and test keeps them against val.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hqvox.config.build import ReleaseConfig
from hqvox.workspace.tables import Row

KEEPS = ("train", "test", "val")
"""The splits by rank; of two that share a photograph, the first keeps it."""
KEEP_LEAKS = "keep"
"""``leaks.policy`` of an imported release: leaks are listed, and stay as published."""
SAME_PHOTO, NEAR_PHOTO, NEAR_FACE = "same_photo", "near_photo", "near_face"
_PRODUCTS = 1 << 24
"""Dot products held at a time: 64 MB."""


@dataclass(frozen=True)
class Leak:
    """A face that is also in another split."""

    row: int
    """Of the face to drop."""
    other: int
    """Row of the face that it is a copy of."""
    kind: str
    distance: float
    """Bits between perceptual hashes; cosine of embeddings for ``near_face``; 0: the same bytes."""


class Prints:
    """By what copies of many faces are recognised: hashes, perceptual hashes, embeddings."""

    def __init__(self, rows: Sequence[Row]) -> None:
        """``rows``: with ``photo_id``, ``phash`` and ``embedding``, of which any may be null."""
        self.photo_ids = [row["photo_id"] for row in rows]
        hashes = [row["phash"] for row in rows]
        self.hashed = np.array([value is not None for value in hashes], dtype=bool)
        self.signs = _signs([value or 0 for value in hashes])
        lengths = {len(row["embedding"]) for row in rows if row["embedding"]}
        self.dim = max(lengths, default=0)
        self.embedded = np.array([len(row["embedding"] or ()) == self.dim > 0 for row in rows])
        blank = [0.0] * self.dim
        vectors = [row["embedding"] if known else blank for row, known in zip(rows, self.embedded)]  # noqa: B905
        self.embeddings = np.array(vectors, dtype=np.float32).reshape(len(rows), self.dim)


def find_leaks(
    prints: Prints, parts: Sequence[str], max_photo_distance_bits: int, min_face_similarity: float
) -> list[Leak]:
    """Every face to drop, once, with the nearest picture of which it is a copy.

    ``parts``: train, val or test of each face. Without these faces no two splits share anything.
    """
    of_part = np.asarray(parts, dtype=object)
    kept = np.flatnonzero(of_part == KEEPS[0])
    all_leaks: list[Leak] = []
    for part in KEEPS[1:]:
        faces = np.flatnonzero(of_part == part)
        leaks = _between(prints, faces, kept, max_photo_distance_bits, min_face_similarity)
        all_leaks += leaks
        dropped = np.array([leak.row for leak in leaks], dtype=np.intp)
        kept = np.concatenate([kept, np.setdiff1d(faces, dropped)])
    return sorted(all_leaks, key=lambda leak: leak.row)


def check_limits(config: ReleaseConfig) -> dict[str, Any]:
    """The limits as :func:`find_leaks` takes them and ``release.json`` states them."""
    return {
        "max_photo_distance_bits": config.max_photo_distance_bits,
        "min_face_similarity": config.min_face_similarity,
    }


def _between(
    prints: Prints,
    rows: NDArray[np.intp],
    kept: NDArray[np.intp],
    max_bits: int,
    min_similarity: float,
) -> list[Leak]:
    leaks: dict[int, Leak] = {}
    first: dict[str, int] = {}
    for row in kept.tolist():
        first.setdefault(prints.photo_ids[row], row)
    for row in rows.tolist():
        photo_id = prints.photo_ids[row]
        if photo_id is not None and photo_id in first:
            leaks[row] = Leak(row, first[photo_id], SAME_PHOTO, 0.0)
    bits = prints.signs.shape[1]
    photos = rows[prints.hashed[rows]], kept[prints.hashed[kept]]
    for row, other, dot in _nearest(prints.signs, *photos):
        distance = (bits - dot) / 2
        if distance <= max_bits:
            leaks.setdefault(row, Leak(row, other, NEAR_PHOTO, float(distance)))
    faces = rows[prints.embedded[rows]], kept[prints.embedded[kept]]
    for row, other, cosine in _nearest(prints.embeddings, *faces):
        if cosine >= min_similarity:
            leaks.setdefault(row, Leak(row, other, NEAR_FACE, round(cosine, 4)))
    return list(leaks.values())


def _nearest(
    vectors: NDArray[np.float32], rows: NDArray[np.intp], others: NDArray[np.intp]
) -> Iterator[tuple[int, int, float]]:
    """For each of ``rows``, the one of ``others`` with the greatest dot product, and the product.

    A product of matrices, block by block: 8,000 faces take a fraction of a second.
    """
    if not len(others):
        return
    against = vectors[others].T
    size = max(1, _PRODUCTS // len(others))
    for start in range(0, len(rows), size):
        block = rows[start : start + size]
        dots = vectors[block] @ against
        best = dots.argmax(axis=1)
        for row, column, dot in zip(block, best, dots[np.arange(len(block)), best], strict=True):
            yield int(row), int(others[column]), float(dot)


def _signs(hashes: Sequence[int]) -> NDArray[np.float32]:
    """64-bit hashes as rows of 64 times -1 or 1: their dot product gives how many bits agree."""
    values = np.array(hashes, dtype=">u8")
    bits = np.unpackbits(values.view(np.uint8).reshape(-1, 8), axis=1)
    return bits.astype(np.float32) * 2 - 1
