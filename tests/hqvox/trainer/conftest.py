"""What the tests of training share."""

from __future__ import annotations

from pathlib import Path

import pytest

from hqvox.release.read import Release
from hqvox.trainer.data import TrainingData
from tests.helpers.tiny_release import make_tiny_release


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of packed releases that tests share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """6 people in train, 2 in val, 3 in test; 3 faces and 2 utterances each. Not to be written."""
    return make_tiny_release(tmp_path_factory.mktemp("tiny") / "release")


@pytest.fixture(scope="session")
def tiny_data(tiny: Release, cache_dir: Path) -> TrainingData:
    """The release ``tiny`` at 64 and 128 px."""
    return TrainingData.open(tiny, (64, 128), cache_dir=cache_dir)
