"""The queue on SQLite against the model, in any order of what annotators do."""

from __future__ import annotations

import pytest

from annotator.log.store import Store
from tests.helpers.queue_machine import Review, check, folder_in_memory


class _InAFile(Review):
    def __init__(self) -> None:
        self.folder = folder_in_memory()
        super().__init__(lambda clock: Store.open(f"{self.folder.name}/r.sqlite", clock=clock))

    def teardown(self) -> None:
        super().teardown()
        self.folder.cleanup()


def test_any_interleaving_is_as_the_model_says() -> None:
    check(_InAFile, examples=15, steps=25)


@pytest.mark.slow(seconds=15)
def test_many_interleavings_are_as_the_model_says() -> None:
    check(_InAFile, examples=150, steps=50)
