"""The queue on SQLite against the model, in any order of what annotators do."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from annotator.log.store import Store
from tests.helpers.queue_machine import Review, check


def _folder() -> tempfile.TemporaryDirectory:
    """In memory where there is such a file system: what is tested here is no disk."""
    shm = Path("/dev/shm")
    return tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None)


class _InAFile(Review):
    def __init__(self) -> None:
        self.folder = _folder()
        super().__init__(lambda clock: Store.open(f"{self.folder.name}/r.sqlite", clock=clock))

    def teardown(self) -> None:
        super().teardown()
        self.folder.cleanup()


def test_any_interleaving_is_as_the_model_says() -> None:
    check(_InAFile, examples=15, steps=25)


@pytest.mark.slow
def test_many_interleavings_are_as_the_model_says() -> None:
    check(_InAFile, examples=150, steps=50)
