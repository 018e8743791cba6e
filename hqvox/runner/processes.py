"""What worker processes share: the end of their parent is theirs, errors are one line."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.connection import wait


def die_with_parent() -> None:
    """End this process when the parent is gone: the workspace's lock went with the parent."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def one_line(error: BaseException) -> str:
    """What went wrong, for a table or a terminal."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
