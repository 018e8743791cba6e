"""Small pictures of candidates, made ahead: aligned faces on white, as JPEG."""

from __future__ import annotations

import os
import tarfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import cv2
import numpy as np

from hqvox.errors import HqvoxError
from hqvox.imaging.codec import decode_png
from hqvox.imaging.composite import composite_on_white_fast
from hqvox.imaging.pictures import encode_jpeg, fitted
from hqvox.workspace.layout import TAR_OF, Workspace
from hqvox.workspace.tables import Row
from models.protocols import Photo

TILE_PX = (32, 1024)
"""Least and most side of a tile, px."""
_QUALITY = 88


def stored(workspace: Workspace, kind: str, row: Row) -> bytes:
    """Bytes of a row's ``photo``, ``aligned`` or ``mask``, checked to be that row's.

    Raises HqvoxError where they are missing, or another row's because of a rebuild.
    """
    offset, size = int(row[f"{kind}_offset"]), int(row[f"{kind}_bytes"])
    name = row["photo_id"] if kind == "photo" else f"{row['photo_id']}-{row['face']}.png"
    tar = workspace.tar_name(TAR_OF[kind], row["shard"])
    try:
        data = workspace.storage.read(tar, offset - tarfile.BLOCKSIZE, tarfile.BLOCKSIZE + size)
    except (OSError, ValueError):
        data = b""
    header, data = data[: tarfile.BLOCKSIZE], data[tarfile.BLOCKSIZE :]
    if header[:100].rstrip(b"\0") != name.encode() or len(data) != size:
        raise HqvoxError(
            f"{workspace.storage.shown(tar)}: the picture of {row['identity_id']} is not where it "
            "was; the build changed, or a purge removed it: reload the page"
        )
    return data


def masked_crop(workspace: Workspace, row: Row, side_px: int | None = None) -> Photo:
    """The aligned face on white, RGB, at most ``side_px`` on a side. Raises HqvoxError."""
    try:
        crop = decode_png(stored(workspace, "aligned", row))
        alpha = decode_png(stored(workspace, "mask", row), cv2.IMREAD_GRAYSCALE)
    except (cv2.error, ValueError, TypeError):
        tar = workspace.storage.shown(workspace.tar_name("align", row["shard"]))
        raise HqvoxError(
            f"{tar}: a picture of {row['identity_id']} is damaged; delete the file and run "
            f"`hqvox build {workspace.url}`, which makes it again"
        ) from None
    if side_px is not None and max(crop.shape[:2]) > side_px:
        crop = fitted(crop, side_px, side_px)
        alpha = np.asarray(cv2.resize(alpha, crop.shape[1::-1], interpolation=cv2.INTER_AREA))
    return composite_on_white_fast(crop, alpha)


def tile(workspace: Workspace, row: Row, side_px: int) -> bytes:
    """The aligned face on white as JPEG, at most ``side_px`` on a side. Raises HqvoxError."""
    return encode_jpeg(masked_crop(workspace, row, side_px), _QUALITY)


class Prepared:
    """A cache of results by key, computed once, in the background where asked.

    Safe for threads: a thread that asks for a result in progress waits for it. ``most_bytes``: of
    all cached results; the least recently used are dropped first.
    """

    def __init__(self, most_bytes: int, threads: int | None = None) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._kept: OrderedDict[Hashable, bytes] = OrderedDict()
        self._making: dict[Hashable, Future[bytes]] = {}
        self._lock = threading.Lock()
        count = threads or max(2, min(8, os.cpu_count() or 2))
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="tiles")

    def get(self, key: Hashable, make: Callable[[], bytes]) -> bytes:
        """The result of ``make``, from memory where it was made before. Raises what it raises."""
        return self._wanted(key, make, here=True).result()

    def soon(self, key: Hashable, make: Callable[[], bytes]) -> bytes | None:
        """The result of ``make``, or None while it is being made in the background."""
        future = self._wanted(key, make, here=False)
        return future.result() if future.done() and not future.cancelled() else None

    def ahead(self, wanted: Iterable[tuple[Hashable, Callable[[], bytes]]]) -> None:
        """Have results made in the background."""
        for key, make in wanted:
            self._wanted(key, make, here=False)

    def _wanted(self, key: Hashable, make: Callable[[], bytes], *, here: bool) -> Future[bytes]:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                done: Future[bytes] = Future()
                done.set_result(self._kept[key])
                return done
            going = self._making.get(key)
            if going is not None and not (here and going.cancel()):
                return going  # in progress; one that is only queued is computed by who needs it
            if here:
                future: Future[bytes] = Future()
                future.set_running_or_notify_cancel()  # no other thread may cancel it now
            else:
                future = self._pool.submit(self._make, key, make)
            self._making[key] = future
        if here:
            try:
                future.set_result(self._make(key, make))
            except BaseException as error:
                future.set_exception(error)
        return future

    def _make(self, key: Hashable, make: Callable[[], bytes]) -> bytes:
        try:
            data = make()
        except BaseException:
            with self._lock:
                self._making.pop(key, None)
            raise
        with self._lock:
            self._making.pop(key, None)
            if key not in self._kept:
                self._kept[key] = data
                self._bytes += len(data)
            while self._bytes > self._most_bytes and len(self._kept) > 1:
                self._bytes -= len(self._kept.popitem(last=False)[1])
        return data
