"""The lock on a file: one holder at a time, released however the holder ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from hqvox.errors import HqvoxError
from hqvox.workspace import locks
from hqvox.workspace.locks import file_lock, is_locked, lease
from hqvox.workspace.storage import Storage


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


# Leases on object storage ------------------------------------------------------------------------


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setattr(locks, "SETTLED_SECONDS", 0.0)
    return Storage(f"memory://{tmp_path.name}")


def held_by_another(storage: Storage, **changed: Any) -> dict[str, Any]:
    """Put the lease of a process on another machine."""
    other = {"id": "x", "place": "elsewhere", "pid": 7, "host": "there"}
    other |= {"expires": time.time() + 60} | changed
    storage.write(".lock", json.dumps(other).encode())
    return other


def refused(holder: str) -> HqvoxError:
    return HqvoxError(f"busy: {holder}")


def test_one_holds_a_lease_and_gives_it_back(remote: Storage) -> None:
    again = pytest.raises(HqvoxError, match=f"busy: process {os.getpid()} on")
    with lease(remote, ".lock", refused):
        with again, lease(remote, ".lock", refused):
            raise AssertionError
        assert remote.exists(".lock")
    assert not remote.exists(".lock")


def test_a_lease_of_another_machine_holds_until_it_expires(remote: Storage) -> None:
    held_by_another(remote)
    with (
        pytest.raises(HqvoxError, match="busy: process 7 on there"),
        lease(remote, ".lock", refused),
    ):
        raise AssertionError
    held_by_another(remote, expires=time.time() - 1)
    with lease(remote, ".lock", refused):
        pass


def test_a_killed_holder_of_this_machine_is_noticed_at_once(remote: Storage) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    held_by_another(remote, place=locks._place(), pid=child)
    with lease(remote, ".lock", refused):
        pass


@pytest.mark.parametrize("damaged", [b"", b"[1]", b'{"id": 1}', b"\xff"])
def test_a_damaged_lease_holds_nobody_up(remote: Storage, damaged: bytes) -> None:
    remote.write(".lock", damaged)
    with lease(remote, ".lock", refused):
        pass


def test_of_two_that_write_at_once_the_last_has_it(
    remote: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks.time, "sleep", lambda seconds: held_by_another(remote))
    with pytest.raises(HqvoxError, match="busy: process 7"), lease(remote, ".lock", refused):
        raise AssertionError
    assert json.loads(remote.read(".lock"))["id"] == "x"


def test_a_lease_is_renewed(remote: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "RENEWED_SECONDS", 0.01)
    with lease(remote, ".lock", refused):
        first = json.loads(remote.read(".lock"))["expires"]
        until = time.monotonic() + 60
        while json.loads(remote.fs.cat_file(remote.path(".lock")))["expires"] <= first:
            assert time.monotonic() < until


@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN])
def test_who_loses_the_lease_stops(
    remote: Storage, monkeypatch: pytest.MonkeyPatch, handler: Any
) -> None:
    """Also where SIGINT is ignored, as in a job that a script began in the background."""
    before = signal.signal(signal.SIGINT, handler)
    monkeypatch.setattr(locks, "RENEWED_SECONDS", 0.05)
    stopped = pytest.raises(HqvoxError, match="another command took this workspace over")
    try:
        with stopped, lease(remote, ".lock", refused):
            held_by_another(remote)
            time.sleep(60)  # is interrupted
            raise AssertionError
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert json.loads(remote.read(".lock"))["id"] == "x"  # the other's is left alone
