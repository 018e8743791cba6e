"""Near-duplicates within an identity: the same photo in another size, crop or compression.

Two photos are one where their bytes agree, or their 64-bit perceptual hashes (DCT of the grey
picture, ``imagehash.phash``) are at most ``max_distance_bits`` apart; chains of such pairs form
one cluster. The largest photo of a cluster stays.
"""

from __future__ import annotations

from collections.abc import Sequence

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hqvox.imaging.codec import UndecodableError
from hqvox.workspace.tables import Row
from models.protocols import Photo
from pipelines.stage import Pixels, Stage

_BLOCK = 1024


def perceptual_hash(photo: Photo) -> int:
    """64-bit perceptual hash of an RGB photo, as an unsigned integer."""
    bits = imagehash.phash(Image.fromarray(photo)).hash.reshape(-1)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def clusters(
    photo_ids: Sequence[str], hashes: Sequence[int | None], max_distance_bits: int
) -> NDArray[np.int32]:
    """Cluster number of each photo: single linkage over equal ids and near hashes.

    A photo without a hash joins only photos with its very bytes.
    """
    n = len(photo_ids)
    sources: list[NDArray[np.intp]] = []
    targets: list[NDArray[np.intp]] = []
    ids = np.unique(np.asarray(photo_ids, dtype=object).astype(str), return_inverse=True)[1]
    first = np.zeros(ids.max() + 1 if n else 0, dtype=np.intp)
    first[ids[::-1]] = np.arange(n)[::-1]
    sources.append(np.arange(n))
    targets.append(first[ids])

    hashed = np.array([i for i, value in enumerate(hashes) if value is not None], dtype=np.intp)
    values = np.array([value for value in hashes if value is not None], dtype=">u8")
    bits = np.unpackbits(values.view(np.uint8).reshape(-1, 8), axis=1)
    signs = bits.astype(np.float32) * 2 - 1
    for start in range(0, len(hashed), _BLOCK):
        distance = (64 - signs[start : start + _BLOCK] @ signs.T) / 2
        near_from, near_to = np.nonzero(distance <= max_distance_bits)
        sources.append(hashed[near_from + start])
        targets.append(hashed[near_to])
    rows, columns = np.concatenate(sources), np.concatenate(targets)
    graph = coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(n, n))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int32)


def _size_order(row: Row) -> tuple[int, int, int]:
    pixels = (row["width_px"] or 0) * (row["height_px"] or 0)
    return -pixels, -(row["photo_bytes"] or 0), row["candidate"]


class DuplicatesStage(Stage):
    """Keeps one photo, the largest, of each cluster of near-duplicates."""

    name = "duplicates"
    reads = ("photo_id", "width_px", "height_px", "photo_bytes")
    writes = ("phash", "duplicate_of")
    reasons = ("duplicate",)
    reads_photos = True
    compares = True
    version = 1

    def measure(self, rows: Sequence[Row], pixels: Pixels) -> list[Row]:
        """Hash each photo; one that cannot be decoded has no hash and goes on."""
        for row in rows:
            row["duplicate_of"] = None
            try:
                photo, _ = pixels.working(row)
                row["phash"] = perceptual_hash(photo)
            except UndecodableError:
                row["phash"] = None
        return list(rows)

    def compare(self, rows: Sequence[Row]) -> None:
        """Mark all but the largest photo of each cluster (pixels, then bytes, then order)."""
        if not rows:
            return
        labels = clusters(
            [row["photo_id"] for row in rows],
            [row["phash"] for row in rows],
            self.config.max_distance_bits,
        )
        best: dict[int, Row] = {}
        for row, label in zip(rows, labels.tolist(), strict=True):
            if label not in best or _size_order(row) < _size_order(best[label]):
                best[label] = row
        for row, label in zip(rows, labels.tolist(), strict=True):
            if best[label] is not row:
                row["duplicate_of"] = best[label]["candidate"]
                row["reason"] = "duplicate"
