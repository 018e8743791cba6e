"""The cache of a release for training: small pictures, decoded and resized once.

<cache>/training/<place>-<checksum>/   of one release: a hash of its URL, one of its SHA256SUMS
  masked_64.npy     uint8 (faces, 3, 64, 64), RGB, faces in the manifest's order; mapped by readers
  masked_bilinear_64.npy    the same, resized by PIL
  utterances.npy    float32 (utterances, 2, filters): mean and deviation, for the recipes that ask
  speech/<n>.f16    the voices of a release on object storage; local ones are mapped in place

A release with other content gets a new folder. Files appear whole or not at all, and of several
runs that start at once one packs while the others wait. The cache is in ``HQVOX_CACHE`` or the
user's cache folder. The release itself is only read.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pooch
from numpy.typing import NDArray
from PIL import Image

from hqvox.errors import HqvoxError
from hqvox.release.layout import CHECKSUMS, FOLDER
from hqvox.release.read import Release, release_names
from hqvox.workspace.covered import Covered, Owner
from hqvox.workspace.locks import file_lock
from hqvox.workspace.storage import Storage, disk_error

OnProgress = Callable[[str, int, int], None]
"""Called with what is being done, how many are done, and of how many."""
Resize = Literal["area", "bilinear"]
"""How pictures are resized: averaged over areas, or by PIL's bilinear filter."""
VERSION = 1
"""Version of the cache's layout and of the resizing; part of the checksum."""
COPY_BYTES = 1 << 24
"""Bytes that are copied at a time."""


def training_cache() -> Path:
    """The folder of everything that training has packed on this machine."""
    return Path(os.environ.get("HQVOX_CACHE") or pooch.os_cache("hqvox")) / "training"


def pack_folder(cache: Path, release: Release, checksum: str) -> Path:
    """The folder of one release with that content. ``cache``: see :func:`training_cache`."""
    return cache / f"{_hash_of_place(release.storage)}-{checksum[:16]}"


def drop_packs(cache: Path, release: Storage, but: Path | None = None) -> None:
    """Remove what was packed of the release at this place, whatever its content was then.

    ``but``: a folder that stays.
    """
    for folder in cache.glob(f"{_hash_of_place(release)}-*"):
        if folder != but:
            shutil.rmtree(folder, ignore_errors=True)


def erase_packs(covered: Covered) -> None:
    """Remove what was packed, on this machine, of the workspace's releases."""
    if not any(shard.rows or shard.identities for shard in covered.shards):
        return
    url = covered.workspace.url.rstrip("/")
    for name in release_names(covered.workspace):
        drop_packs(training_cache(), Storage(f"{url}/{FOLDER}/{name}"))


PACKS = Owner("packed for training", (), erase_packs)
"""In the user's cache folder, outside the workspace."""


def _hash_of_place(release: Storage) -> str:
    return hashlib.sha256(release.path("").encode()).hexdigest()[:16]


class ReleaseCache:
    """The folder of one release in the cache."""

    def __init__(self, release: Release, cache_dir: Path | None = None) -> None:
        """``cache_dir``: by default ``HQVOX_CACHE``, else the user's cache folder."""
        self.cache = training_cache() if cache_dir is None else cache_dir / "training"
        checksum = hashlib.sha256(f"{VERSION}\n".encode() + release.read(CHECKSUMS)).hexdigest()
        self.release = release
        self.folder = pack_folder(self.cache, release, checksum)

    def pictures(
        self,
        files: Sequence[str],
        kind: str,
        sides: Sequence[int],
        on_progress: OnProgress | None,
        resize: Resize = "area",
    ) -> dict[int, NDArray[np.uint8]]:
        """Pictures of the release by side in px: mapped uint8 (files, 3, side, side), RGB.

        ``kind``: their name in the cache; ``resize``: see :data:`Resize`. Raises HqvoxError where
        a file is missing or no picture, or the cache cannot be written.
        """
        shapes = {side: (len(files), 3, side, side) for side in sides}
        name = kind if resize == "area" else f"{kind}_{resize}"
        names = {side: f"{name}_{side}.npy" for side in sides}

        def packed() -> dict[int, NDArray[np.uint8]]:
            arrays = {side: self._mapped(names[side], shapes[side], np.uint8) for side in sides}
            return {side: array for side, array in arrays.items() if array is not None}

        if len(packed()) < len(names):
            with self._locked():
                ready = packed()  # Another run may have packed them meanwhile.
                missing = {side: name for side, name in names.items() if side not in ready}
                if missing:
                    self._pack(files, missing, on_progress, resize)
        pictures = packed()
        assert len(pictures) == len(names), self.folder
        return pictures

    def _pack(
        self,
        files: Sequence[str],
        names: dict[int, str],
        on_progress: OnProgress | None,
        resize: Resize,
    ) -> None:
        storage = Storage(self.folder)
        work = partial(_picture, self.release, sides=tuple(names), resize=resize)
        with ExitStack() as stack:
            sinks = {side: stack.enter_context(storage.writing(n)) for side, n in names.items()}
            pool = stack.enter_context(ThreadPoolExecutor(len(os.sched_getaffinity(0))))
            for side, sink in sinks.items():
                np.lib.format.write_array_header_1_0(
                    sink, {"descr": "|u1", "fortran_order": False,
                           "shape": (len(files), 3, side, side)},
                )  # fmt: skip
            for done, pictures in enumerate(_mapped_in_order(pool, work, files), 1):
                for side, picture in zip(names, pictures, strict=True):
                    sinks[side].write(picture.tobytes())
                if on_progress is not None:
                    on_progress("packing faces", done, len(files))
        # Remove what was packed of an earlier release in the same place: people may have left it.
        drop_packs(self.cache, self.release.storage, but=self.folder)

    def array(
        self, name: str, shape: tuple[int, ...], make: Callable[[], NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """A float32 array of that shape, mapped; ``make`` computes it the first time."""
        array = self._mapped(name, shape, np.float32)
        if array is not None:
            return array
        with self._locked():
            if self._mapped(name, shape, np.float32) is None:
                with Storage(self.folder).writing(name) as file:
                    np.save(file, np.ascontiguousarray(make(), np.float32), allow_pickle=False)
        array = self._mapped(name, shape, np.float32)
        assert array is not None, (self.folder, name)
        return array

    def voices(
        self, files: Sequence[str], filters: int, on_progress: OnProgress | None
    ) -> list[NDArray[np.float16]]:
        """The files of voices, float16 (frames, filters) each, mapped from a local disk.

        Raises HqvoxError where one is missing or cut short.
        """
        if self.release.storage.local:
            return [self.release.log_mels(file, filters) for file in files]
        local = [f"speech/{number}.f16" for number in range(len(files))]
        with self._locked():
            for done, (file, name) in enumerate(zip(files, local, strict=True), 1):
                if not (self.folder / name).exists():
                    self._fetch(file, name)
                if on_progress is not None:
                    on_progress("fetching voices", done, len(files))
        arrays = [np.memmap(self.folder / name, "<f2", "r") for name in local]
        for array, file in zip(arrays, files, strict=True):
            if len(array) % filters:
                raise HqvoxError(
                    f"{self.release.storage.shown(file)}: cut short; make a new release"
                )
        return [array.reshape(-1, filters) for array in arrays]

    def _fetch(self, file: str, name: str) -> None:
        try:
            with (
                self.release.storage.open(file) as source,
                Storage(self.folder).writing(name) as sink,
            ):
                shutil.copyfileobj(source, sink, COPY_BYTES)
        except FileNotFoundError:
            where = self.release.storage.shown(file)
            raise HqvoxError(f"{where}: missing; restore it, or make a new release") from None

    def _mapped(self, name: str, shape: tuple[int, ...], dtype: type) -> NDArray | None:
        """The cached array; None where it is missing, damaged or of another shape or type."""
        try:
            array = np.load(self.folder / name, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return array if array.shape == shape and array.dtype == dtype else None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the folder's lock; others wait. Raises HqvoxError (disk)."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, f"{self.folder} (set HQVOX_CACHE)") from None
        with file_lock(self.folder / ".lock"):
            Storage(self.folder).remove_leftovers("")
            yield


def _mapped_in_order(
    pool: ThreadPoolExecutor,
    work: Callable[[str], list[NDArray[np.uint8]]],
    files: Sequence[str],
    ahead: int = 64,
) -> Iterator[list[NDArray[np.uint8]]]:
    """``map`` over threads, at most ``ahead`` results waiting."""
    rest = iter(files)
    waiting = [pool.submit(work, file) for file in islice(rest, ahead)]
    try:
        while waiting:
            yield waiting.pop(0).result()
            waiting.extend(pool.submit(work, file) for file in islice(rest, 1))
    finally:
        for future in waiting:
            future.cancel()


def _picture(
    release: Release, file: str, sides: Sequence[int], resize: Resize
) -> list[NDArray[np.uint8]]:
    """A picture of the release resized to squares, RGB uint8 (3, side, side) each."""
    how = _bilinear if resize == "bilinear" else _area
    pictures = how(release.read(file), sides)
    if pictures is None:
        where = release.storage.shown(file)
        raise HqvoxError(
            f"{where}: no picture, or a damaged one; restore it, or make a new release"
        )
    return [np.ascontiguousarray(picture.transpose(2, 0, 1)) for picture in pictures]


def _area(data: bytes, sides: Sequence[int]) -> list[NDArray[np.uint8]] | None:
    """Reduced by averaging over areas, so that nothing aliases; enlarged by cubic interpolation.

    RGB (side, side, 3) each; None where ``data`` is no picture.
    """
    buffer = np.frombuffer(data, np.uint8)
    decoded = cv2.imdecode(buffer, cv2.IMREAD_COLOR_RGB) if len(buffer) else None
    if decoded is None:
        return None
    return [
        np.asarray(
            cv2.resize(
                decoded,
                (side, side),
                interpolation=(
                    cv2.INTER_AREA if min(decoded.shape[:2]) >= side else cv2.INTER_CUBIC
                ),
            ),
            np.uint8,
        )
        for side in sides
    ]


def _bilinear(data: bytes, sides: Sequence[int]) -> list[NDArray[np.uint8]] | None:
    """Decoded and resized by PIL, whose filter widens where it reduces; as :func:`_area`."""
    try:
        with Image.open(io.BytesIO(data)) as opened:
            picture = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    bilinear = Image.Resampling.BILINEAR
    return [np.asarray(picture.resize((side, side), bilinear), np.uint8) for side in sides]
