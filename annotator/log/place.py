"""Where a workspace's decisions are. Needs no database, so that others can ask first."""

from __future__ import annotations

import os
from pathlib import Path

from hqvox.errors import HqvoxError
from hqvox.workspace.covered import Covered, Owner
from hqvox.workspace.layout import Workspace

FILE = "reviews.sqlite"
PLACE = "review/id"
"""File of a workspace with its random name, see ``annotator.log.store.claim``."""
VARIABLE = "HQVOX_REVIEW_STORE"
"""Environment variable that goes before ``review.store`` of hqvox.yaml."""


def store_url(workspace: Workspace) -> str:
    """Path of the SQLite file, or url of the PostgreSQL database.

    A relative path of ``review.store`` is below the workspace, one of the environment variable
    below the current folder. Raises HqvoxError for a workspace on object storage that names no
    store: SQLite needs a disk.
    """
    given = os.environ.get(VARIABLE, "").strip()
    if given:
        return given
    given = workspace.config().review.store.strip()
    if "://" in given or Path(given).is_absolute():
        return given
    if not workspace.storage.local:
        raise HqvoxError(
            f"{workspace.url}: decisions cannot be kept on object storage; set review.store to a "
            "file on a local disk, or to postgresql://user@host/name"
        )
    return workspace.storage.path(given or FILE)


def has_store(workspace: Workspace) -> bool:
    """Whether somebody may have reviewed here: a database is named, or the file is there."""
    if os.environ.get(VARIABLE, "").strip() or workspace.config().review.store.strip():
        return True
    return workspace.storage.local and workspace.storage.exists(FILE)


def nothing_yet(workspace: Workspace) -> bool:
    """Whether decisions are to be in a file that is not there yet, though its folder is.

    Who only reads need not make it then. Raises HqvoxError as :func:`store_url` does.
    """
    if not has_store(workspace) and not workspace.storage.local:
        return True
    url = store_url(workspace)
    scheme, found, path = url.partition("://")
    if found and scheme.split("+")[0] != "sqlite":
        return False
    file = Path(path.removeprefix("/") if found else url)
    return file.parent.is_dir() and not file.exists()


def erase_decisions(covered: Covered) -> None:
    """Erase decisions on covered identities and photographs, wherever they are kept.

    Raises HqvoxError where the store cannot be opened: the purge is not finished then.
    """
    workspace = covered.workspace
    takedowns = covered.takedowns
    kinds = {entry.kind for entry in takedowns.entries}
    if not has_store(workspace) or not (kinds & {"identity", "photo"} or covered.photos):
        return
    try:
        from annotator.log.store import open_store
    except ImportError as error:
        raise HqvoxError(
            f"{workspace.url}: erasing reviews needs another package: pip install 'hqvox[review]' "
            f"({error}); then finish with `hqvox purge {workspace.url}`"
        ) from None
    store = open_store(workspace)
    try:
        identities, photos = store.subjects()
        store.forget(
            {name for name in identities if takedowns.covers_identity(name)},
            {name for name in photos if name in covered.photos or takedowns.covers_photo(name)},
        )
    finally:
        store.close()


DECISIONS = Owner("decisions", (FILE, f"{FILE}-*"), erase_decisions)
OWNERSHIP = Owner("name of the review", (PLACE,), None)
