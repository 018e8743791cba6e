"""A workspace opened for review, once for all sessions, and again when its build has changed."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from functools import partial

from annotator.candidates.candidates import Candidates
from annotator.candidates.index import OnProgress
from annotator.log.store import Store, open_store
from annotator.work.changes import for_another_look
from annotator.work.queue import Queue, QueueItem
from hqvox.config.build import BuildConfig
from hqvox.errors import HqvoxError
from hqvox.workspace.layout import Workspace

_LOG = logging.getLogger(__name__)
CHANGED_SECONDS = 60.0
"""Interval of checks whether the build has changed, s."""


@dataclass(frozen=True)
class Shared:
    """What all sessions of a server share; every part may be used by many threads at once."""

    workspace: Workspace
    config: BuildConfig
    store: Store
    queue: Queue
    candidates: Candidates


class Opened:
    """An open workspace, opened again once its build has changed."""

    def __init__(self, root: str, on_progress: OnProgress = lambda done, total: None) -> None:
        """Raises HqvoxError where it cannot be opened.

        ``on_progress``: of reading a build for the first time; see
        :mod:`annotator.candidates.index`.
        """
        self._root, self._on_progress = root, on_progress
        self._lock = threading.Lock()
        self._parts = self._open()
        self._asked = time.monotonic()

    def parts(self) -> Shared:
        """What all sessions share, of the build as it is now, give or take a minute."""
        with self._lock:
            if time.monotonic() - self._asked >= CHANGED_SECONDS:
                self._asked = time.monotonic()
                if self._parts.candidates.changed():
                    self._parts = self._open(self._parts.store)
            return self._parts

    def _open(self, store: Store | None = None) -> Shared:
        workspace = Workspace.open(self._root)
        config = workspace.config()
        candidates = Candidates(workspace, config, self._on_progress)
        store = store or open_store(workspace, config)
        queue = _queue(store, candidates, config)
        look_again = partial(_find_changes, queue, store, candidates)
        threading.Thread(target=look_again, name="changes", daemon=True).start()
        return Shared(workspace, config, store, queue, candidates)


def _find_changes(queue: Queue, store: Store, candidates: Candidates) -> None:
    """Queue identities again whose faces changed since they were decided on.

    In the background, since it reads the whole log. A damaged table is logged; the review goes on.
    """
    try:
        queue.again = for_another_look(store, candidates)
    except HqvoxError as error:
        _LOG.warning("changes since the decisions cannot be found: %s", error)


def _queue(store: Store, candidates: Candidates, config: BuildConfig) -> Queue:
    items = [
        QueueItem(person.identity_id, person.candidates, person.certainty)
        for person in candidates.identities
    ]
    return Queue(store, items, config.review)


_opened: dict[str, Opened] = {}
_opening = threading.Lock()


def opened(root: str, on_progress: OnProgress = lambda done, total: None) -> Opened:
    """The workspace, opened once per process. Raises HqvoxError."""
    with _opening:
        if root not in _opened:
            _opened[root] = Opened(root, on_progress)
        return _opened[root]


def is_open(root: str) -> bool:
    """Whether :func:`opened` answers at once."""
    return root in _opened
