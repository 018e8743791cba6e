"""Locks between processes: the kernel's on a file, and on object storage a lease that expires."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from hqvox.errors import HqvoxError
from hqvox.workspace.storage import Storage, disk_error, process_lives

LEASE_SECONDS = 120.0
"""After this time without a renewal, a lease counts as abandoned."""
RENEWED_SECONDS = 30.0
SETTLED_SECONDS = 1.0
"""Between writing a lease and reading it back: of two that wrote at once, the last one has it."""


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


@contextmanager
def lease(storage: Storage, name: str, busy: Callable[[str], HqvoxError]) -> Iterator[None]:
    """Hold a lease, an object that says until when it holds and is renewed by a thread.

    Object storage has no locks. A holder that was killed is noticed at once on its own machine,
    elsewhere when its lease has expired. Where another holds it, raises what ``busy`` gives for the
    description of the holder. If another took it over, because this process could not renew it in
    time, the main thread is interrupted and HqvoxError raised.
    """
    mine = {"id": uuid.uuid4().hex, "place": _place(), "pid": os.getpid()}
    mine["host"] = os.uname().nodename

    def write() -> None:
        text = json.dumps(mine | {"expires": time.time() + LEASE_SECONDS})
        storage.write(name, text.encode())

    def check() -> None:
        holder = _holder(storage, name)
        if holder is not None and holder["id"] != mine["id"] and not _is_abandoned(holder):
            raise busy(f"process {holder['pid']} on {holder['host']}")

    check()
    write()
    time.sleep(SETTLED_SECONDS)
    check()
    ended, lost = threading.Event(), threading.Event()

    def renew() -> None:
        while not ended.wait(RENEWED_SECONDS):
            with suppress(Exception):  # of the network, each storage has its own: try again
                holder = _holder(storage, name)
                if holder is not None and holder["id"] != mine["id"]:
                    lost.set()
                    main = threading.main_thread().ident
                    assert main is not None
                    signal.pthread_kill(main, signal.SIGINT)
                    return
                write()

    # A shell's background jobs ignore SIGINT, which has to reach this one when the lease is lost.
    in_main = threading.current_thread() is threading.main_thread()
    ignored = in_main and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    renewing = threading.Thread(target=renew, name="lease", daemon=True)
    renewing.start()
    try:
        yield
    except KeyboardInterrupt:
        if not lost.is_set():
            raise
        raise HqvoxError(
            f"{storage.url}: another command took this workspace over, because the storage could "
            "not be reached for too long; run the same command again"
        ) from None
    finally:
        ended.set()
        renewing.join()
        if ignored:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        holder = _holder(storage, name)
        if holder is not None and holder["id"] == mine["id"]:
            storage.remove(name)


def _holder(storage: Storage, name: str) -> dict[str, Any] | None:
    """What the lease says; None where there is none, or it is damaged."""
    try:
        # Not through an open file, whose size s3fs may remember from an earlier listing.
        holder = json.loads(storage.fs.cat_file(storage.path(name)))
    except (FileNotFoundError, ValueError):
        return None
    valid = isinstance(holder, dict) and holder.keys() >= {"id", "place", "pid", "host", "expires"}
    return holder if valid else None


def _is_abandoned(holder: dict[str, Any]) -> bool:
    if holder["place"] == _place() and not process_lives(holder["pid"]):
        return True
    return bool(holder["expires"] < time.time())


def _place() -> str:
    """Where process numbers mean the same: this start of this machine, this container."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return f"{file.read().strip()} {os.stat('/proc/self/ns/pid').st_ino}"
