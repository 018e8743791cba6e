"""The lock on a file: one holder at a time, released however the holder ends."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hqvox.errors import HqvoxError
from hqvox.workspace.locks import file_lock, is_locked


def busy(_: int) -> HqvoxError:
    return HqvoxError("busy")


def test_one_holds_it_and_others_are_refused_or_wait(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    assert not is_locked(lock)
    taken = threading.Event()

    def wait_for_it() -> None:
        with file_lock(lock):
            taken.set()

    waiting = threading.Thread(target=wait_for_it)
    with file_lock(lock, busy):
        assert is_locked(lock)
        with pytest.raises(HqvoxError, match="busy"), file_lock(lock, busy):
            raise AssertionError
        waiting.start()
        assert not taken.wait(0.2)
    waiting.join(60)
    assert taken.is_set()
    assert not is_locked(lock)


def test_it_goes_with_the_process_that_is_killed(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    code = (
        "import sys, time\n"
        "from hqvox.workspace.locks import file_lock\n"
        "with file_lock(sys.argv[1]):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(600)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    assert is_locked(lock)
    holder.kill()
    holder.communicate()
    with file_lock(lock, busy):
        pass


def test_a_refusing_disk_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(HqvoxError, match="file stands where a folder"),
        file_lock(tmp_path / "file" / ".lock"),
    ):
        raise AssertionError
