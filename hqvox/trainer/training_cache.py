"""Where training keeps what it packs of a release, and how that is taken away again.

<cache>/training/<place>-<checksum>/   of one release: a hash of where it lies, one of its content

The cache is ``HQVOX_CACHE``, or the user's cache folder. What fills it: ``hqvox.trainer.packing``.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pooch

from hqvox.release.read import Release, release_names
from hqvox.release.target import FOLDER
from hqvox.workspace.covered import Covered, Owner
from hqvox.workspace.storage import Storage


def training_cache() -> Path:
    """The folder of all that training has packed on this machine."""
    return Path(os.environ.get("HQVOX_CACHE") or pooch.os_cache("hqvox")) / "training"


def pack_folder(cache: Path, release: Release, checksum: str) -> Path:
    """Folder of one release with that content. ``cache``: see :func:`training_cache`."""
    return cache / f"{_of_place(release.storage)}-{checksum[:16]}"


def drop_packs(cache: Path, release: Storage, but: Path | None = None) -> None:
    """Remove what was packed of the release in this place, whatever its content was then.

    ``but``: a folder that stays.
    """
    for folder in cache.glob(f"{_of_place(release)}-*"):
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


def _of_place(release: Storage) -> str:
    return hashlib.sha256(release.path("").encode()).hexdigest()[:16]
