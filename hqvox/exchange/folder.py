"""A folder that appears whole or not at all: where exports are written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hqvox.errors import HqvoxError
from hqvox.workspace.storage import TEMPORARY, disk_error


def check_target(target: Path) -> None:
    """Raise HqvoxError unless nothing, or an empty folder, is at ``target``."""
    try:
        taken = target.is_symlink() or (
            target.exists() and (not target.is_dir() or any(target.iterdir()))
        )
    except OSError as error:
        raise disk_error(error, str(target)) from None
    if taken:
        raise HqvoxError(
            f"{target}: something is there already; name a folder that does not exist yet, "
            "or an empty one"
        )


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary sibling that gets the name ``target`` when the block ends.

    Where the block raises, nothing is left. Raises HqvoxError where ``target`` is taken or the
    disk refuses.
    """
    check_target(target)
    target = target.absolute()
    # A killed command's leftover has the same name, and goes now.
    temporary = target.parent / f".{target.name}{TEMPORARY}"
    try:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.mkdir(parents=True)
        yield temporary
        os.sync()  # one flush of everything: file by file, thousands would take minutes
        check_target(target)
        if target.exists():
            target.rmdir()
        os.rename(temporary, target)
    except OSError as error:
        raise disk_error(error, str(error.filename or target)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def put(folder: Path, name: str, data: bytes) -> None:
    """Write a file below the folder, making its folders. Raises OSError."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
