"""Locks between processes: the kernel's exclusive lock on a file, which goes with the process."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hqvox.errors import HqvoxError
from hqvox.workspace.storage import disk_error


@contextmanager
def file_lock(
    path: str | os.PathLike[str],
    busy: Callable[[int], HqvoxError] | None = None,
    mode: int = 0o644,
) -> Iterator[int]:
    """Hold the lock on a file, made where it is missing; yields its open descriptor.

    Where another process holds it: waits, or with ``busy`` raises the error that this gives for
    the descriptor. However this process ends, the lock ends with it. ``mode``: of a new file.
    Raises HqvoxError where the disk refuses.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, mode)
    except OSError as error:
        raise disk_error(error, os.fspath(path)) from None
    try:
        if busy is None:
            fcntl.flock(handle, fcntl.LOCK_EX)
        elif not try_lock(handle):
            raise busy(handle)
        yield handle
    finally:
        os.close(handle)


def try_lock(handle: int) -> bool:
    """Take the lock on an open file unless another process holds it; whether it was taken."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(path: str | os.PathLike[str]) -> bool:
    """Whether another process holds the lock on a file at this moment; False without the file."""
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        return not try_lock(handle)
    finally:
        os.close(handle)
