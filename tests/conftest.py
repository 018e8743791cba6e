"""Fixtures that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hqvox.phantom.world import make_world

DATA = Path(os.environ.get("HQVOX_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def real_data_dir() -> Path:
    """Folder of real photographs, voices and weights; the test is skipped where it is missing."""
    if not (DATA / "README.md").is_file():
        pytest.skip(f"development data not found at {DATA} (set HQVOX_TEST_DATA)")
    return DATA


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of a small phantom world: one folder per identity. Not to be written to."""
    folder = tmp_path_factory.mktemp("world")
    make_world(folder, seed=3, identities=4, photos_per_identity=8)
    return folder / "photos"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that uses the development data carries the marker real_data, and the other way."""
    for item in items:
        uses = "real_data_dir" in getattr(item, "fixturenames", ())
        marked = item.get_closest_marker("real_data") is not None
        assert uses == marked, f"{item.nodeid}: marker real_data and fixture real_data_dir disagree"
