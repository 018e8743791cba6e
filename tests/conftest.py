"""Fixtures that all tests share."""

from __future__ import annotations

import fcntl
import os
import signal
from collections import Counter
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path

import pytest

from hqvox.phantom.world import make_world

DATA = Path(os.environ.get("HQVOX_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))

PACKAGES = ("torch", "torchvision", "timm", "segmentation_models_pytorch")
"""What a build's processes import before they can begin."""


@pytest.fixture(scope="session")
def real_data_dir() -> Path:
    """Folder of real photographs, voices and weights; the test is skipped where it is missing."""
    if not (DATA / "README.md").is_file():
        pytest.skip(f"development data not found at {DATA} (set HQVOX_TEST_DATA)")
    return DATA


MakeOnce = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def make_once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> MakeOnce:
    """Have a folder filled once for all test processes: its name and who fills it in, it out.

    Tests copy what they write to.
    """
    base = tmp_path_factory.getbasetemp()
    base = base if worker_id == "master" else base.parent

    def make(name: str, fill: Callable[[Path], object]) -> Path:
        folder, finished = base / f"shared-{name}", base / f"shared-{name}.finished"
        with (base / f"shared-{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not finished.exists():
                folder.mkdir()
                fill(folder)
                finished.touch()
        return folder

    return make


@pytest.fixture(scope="session")
def small_world(make_once: MakeOnce) -> Path:
    """Photographs of a small phantom world: one folder per identity. Not to be written to."""
    folder = make_once(
        "world", lambda folder: make_world(folder, seed=3, identities=4, photos_per_identity=8)
    )
    return folder / "photos"


@pytest.fixture(scope="session", autouse=True)
def _imports_of_child_processes() -> None:
    """The fork server of a test process imports the networks' packages once for all its children.

    Imported in each child, they would cost more than most of what the children do.
    """
    preload = forkserver.set_forkserver_preload
    forkserver.set_forkserver_preload = lambda names: preload([*names, *PACKAGES])


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> None:
    """Tests kill processes, never the machine: what was written is there without fsync."""
    os.fsync = lambda file: None


def pytest_configure() -> None:
    """One thread for each test process, and SIGINT as in a terminal however the tests are begun.

    More threads would only wait for each other. A shell's background jobs ignore SIGINT.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the tests' files, those that take longest first, and check the markers.

    So the last file that is begun is a short one, and no test process is idle for long. A test that
    uses the development data carries the marker real_data, and the other way.
    """
    seconds: Counter[Path] = Counter()
    for item in items:
        for marker in item.iter_markers("slow"):
            seconds[item.path] += marker.kwargs.get("seconds", 5)
        uses = "real_data_dir" in getattr(item, "fixturenames", ())
        marked = item.get_closest_marker("real_data") is not None
        assert uses == marked, f"{item.nodeid}: marker real_data and fixture real_data_dir disagree"
    items.sort(key=lambda item: -seconds[item.path])
