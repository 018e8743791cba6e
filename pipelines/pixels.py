"""Pixels for the stages of a chain: read once, decoded once, passed on in memory.

What a stage of the chain stores (photo bytes, aligned crops, masks) goes to its pixel shard and
stays in memory for the stages after it. Crops and masks are stored without loss, so a stage sees
the same pixels from memory and from disk.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import cv2
import numpy as np
from numpy.typing import NDArray

from hqvox.imaging.codec import UndecodableError, decode, decode_png, encode_png
from hqvox.workspace.shards import ShardReader, ShardWriter
from hqvox.workspace.tables import Row
from models.protocols import Photo


class ChainPixels:
    """Implements :class:`pipelines.stage.Pixels` over pixel shards.

    ``readers``/``writers``: open a shard by kind (``photo``, ``aligned``, ``mask``); writers are
    there only for the stages being run. ``cache_mb``: memory for decoded photos of one identity
    beyond the batch in hand, so that stages after a judgement need not decode again.
    """

    def __init__(
        self,
        readers: Callable[[str], ShardReader],
        writers: Mapping[str, ShardWriter],
        working_side_px: int,
        cache_mb: int,
    ) -> None:
        self._open = readers
        self._readers: dict[str, ShardReader] = {}
        self._writers = writers
        self._working_side_px = working_side_px
        self._cache_bytes = cache_mb * 1_000_000
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self.total_seconds = 0.0
        self._batch: dict[str, Photo | UndecodableError] = {}
        self._cached: dict[str, Photo | UndecodableError] = {}
        self._cached_bytes = 0
        self._native: tuple[str, Photo] | None = None
        self._crops: dict[tuple[str, str, int], NDArray[np.uint8]] = {}

    # What the chain calls ----------------------------------------------------------------------

    def begin_identity(self) -> None:
        """Forget the photos of the identity before."""
        self._cached.clear()
        self._cached_bytes = 0
        self._native = None

    def end_batch(self) -> None:
        """Drop the batch's pixels, except photos that still fit the cache.

        The cache keeps the first photos, not the last ones: each stage reads an identity in order,
        so a cache of the last ones would drop each photo just before it is read again.
        """
        for photo_id, photo in self._batch.items():
            size = 0 if isinstance(photo, UndecodableError) else photo.nbytes
            if photo_id not in self._cached and self._cached_bytes + size <= self._cache_bytes:
                self._cached[photo_id] = photo
                self._cached_bytes += size
        self._batch.clear()
        self._crops.clear()

    def take_seconds(self) -> dict[str, float]:
        """Seconds spent reading, decoding, encoding and writing since the last call."""
        taken = dict(self._seconds)
        self._seconds.clear()
        return taken

    def close(self) -> None:
        """Close the shards opened for reading."""
        for reader in self._readers.values():
            reader.close()

    # What stages call --------------------------------------------------------------------------

    def working(self, row: Row) -> tuple[Photo, float]:
        """See :class:`pipelines.stage.Pixels`."""
        key = row["photo_id"]
        photo = self._batch.get(key)
        if photo is None:
            photo = self._cached.get(key)
            if photo is None:
                photo = self._decode(row, self._working_side_px)
            self._batch[key] = photo
        if isinstance(photo, UndecodableError):
            raise photo
        return photo, min(1.0, max(photo.shape[:2]) / max(row["width_px"], row["height_px"]))

    def native(self, row: Row) -> Photo:
        """See :class:`pipelines.stage.Pixels`."""
        if max(row["width_px"], row["height_px"]) <= self._working_side_px:
            return self.working(row)[0]
        key = row["photo_id"]
        if self._native is None or self._native[0] != key:
            photo = self._decode(row, None)
            if isinstance(photo, UndecodableError):
                raise photo
            self._native = (key, photo)
        return self._native[1]

    def aligned(self, row: Row) -> Photo:
        """See :class:`pipelines.stage.Pixels`."""
        return self._crop("aligned", row, cv2.IMREAD_COLOR_RGB)

    def mask(self, row: Row) -> NDArray[np.uint8]:
        """See :class:`pipelines.stage.Pixels`."""
        return self._crop("mask", row, cv2.IMREAD_GRAYSCALE)

    def keep_photo(self, row: Row, data: bytes) -> None:
        """See :class:`pipelines.stage.Pixels`."""
        with self._timed("write"):
            row["photo_offset"], row["photo_bytes"] = self._writers["photo"].add(
                row["photo_id"], data
            )

    def keep_aligned(self, row: Row, crop: Photo) -> None:
        """See :class:`pipelines.stage.Pixels`."""
        self._keep("aligned", row, crop, crop[:, :, ::-1])

    def keep_mask(self, row: Row, alpha: NDArray[np.uint8]) -> None:
        """See :class:`pipelines.stage.Pixels`."""
        self._keep("mask", row, alpha, alpha)

    # -------------------------------------------------------------------------------------------

    def _decode(self, row: Row, max_side_px: int | None) -> Photo | UndecodableError:
        data = self._bytes("photo", row)
        with self._timed("decode"):
            try:
                return decode(data, max_side_px)
            except UndecodableError as error:
                return error

    def _bytes(self, kind: str, row: Row) -> bytes:
        offset, size = row[f"{kind}_offset"], row[f"{kind}_bytes"]
        with self._timed("read"):
            if kind in self._writers:
                return self._writers[kind].read(offset, size)
            if kind not in self._readers:
                self._readers[kind] = self._open(kind)
            return self._readers[kind].read(offset, size)

    def _crop(self, kind: str, row: Row, flag: int) -> NDArray[np.uint8]:
        key = (kind, row["photo_id"], row["face"])
        if key not in self._crops:
            data = self._bytes(kind, row)
            with self._timed("decode"):
                self._crops[key] = decode_png(data, flag)
        return self._crops[key]

    def _keep(self, kind: str, row: Row, pixels: NDArray, stored: NDArray) -> None:
        with self._timed("encode"):
            data = encode_png(stored)
        name = f"{row['photo_id']}-{row['face']}.png"
        with self._timed("write"):
            row[f"{kind}_offset"], row[f"{kind}_bytes"] = self._writers[kind].add(name, data)
        self._crops[kind, row["photo_id"], row["face"]] = pixels

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - started
            self._seconds[what] += seconds
            self.total_seconds += seconds
