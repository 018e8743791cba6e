"""Downloading one file: resumed where it stopped, one process at a time, moved when verified."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pooch
import requests
from tqdm import tqdm

from models.errors import ModelError

TIMEOUT_S = (10.0, 60.0)
"""Seconds to wait for a connection, and between two pieces of a body."""
ATTEMPTS = 4
"""Attempts in one call to resume a download whose connection broke."""
CHUNK_BYTES = 1 << 18

# pooch logs every download and suggests hashes to paste; the store logs what is needed.
pooch.get_logger().setLevel("WARNING")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file between processes; it is released if this process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def fetch(url: str, target: Path, check: Callable[[Path], None], progress: bool = True) -> None:
    """Download ``url`` to ``target``, which appears only when complete and checked.

    An incomplete download is kept as ``<name>.part`` and resumed by the next call, in this process
    or another. ``check`` gets the complete file before it is renamed, and raises ModelError if it
    is the wrong one. Also raises ModelError for an unreachable server, a refusal, a body that is
    cut short, and an unwritable or full disk.
    """
    part = target.with_name(target.name + ".part")

    def download(url: str, output_file: str, _: object) -> None:
        resumed = part.exists()
        _download(url, part, progress)
        try:
            check(part)
        except ModelError:
            part.unlink()
            if not resumed:
                raise
            # The old part may be of another edition of the file: start again.
            _download(url, part, progress)
            try:
                check(part)
            except ModelError:
                part.unlink()
                raise
        os.replace(part, output_file)

    try:
        with locked(target.with_name(f".{target.name}.lock")):
            if not target.exists():
                pooch.retrieve(url, None, target.name, target.parent, downloader=download)
    except OSError as error:
        raise ModelError(f"cannot store {target}: {error.strerror or error}") from error


def _download(url: str, part: Path, progress: bool) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        start = part.stat().st_size if part.exists() else 0
        try:
            _continue(url, part, start, progress)
            return
        except (
            requests.Timeout,
            requests.ConnectionError,
            requests.exceptions.ChunkedEncodingError,
            _Truncated,
        ) as error:
            moved = part.exists() and part.stat().st_size > start
            if attempt == ATTEMPTS or not moved:
                raise ModelError(f"{url} cannot be fetched: {_reason(error)}") from error
        except requests.RequestException as error:
            raise ModelError(f"{url} cannot be fetched: {_reason(error)}") from error


def _continue(url: str, part: Path, start: int, progress: bool) -> None:
    headers = {"Range": f"bytes={start}-"} if start else {}
    # Otherwise requests unpacks bodies, and Content-Length is not the file's length.
    headers["Accept-Encoding"] = "identity"
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            return  # The file is complete already; the check decides whether it is right.
        response.raise_for_status()
        # A server without ranges answers 200 with the whole file.
        if response.status_code != requests.codes.partial_content:
            start = 0
        length = response.headers.get("Content-Length")
        expected = start + int(length) if length is not None else None
        with (
            part.open("ab" if start else "wb") as out,
            tqdm(
                desc=part.stem,
                initial=start,
                total=expected,
                unit="B",
                unit_scale=True,
                disable=not progress,
            ) as bar,
        ):
            for chunk in response.iter_content(CHUNK_BYTES):
                out.write(chunk)
                bar.update(len(chunk))
            out.flush()
            os.fsync(out.fileno())
        if expected is not None and part.stat().st_size < expected:
            raise _Truncated(f"only {part.stat().st_size} of {expected} bytes came")


class _Truncated(requests.RequestException):
    """The connection ended before the announced length."""


def _reason(error: requests.RequestException) -> str:
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answered {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return "the server does not answer in time"
    if isinstance(error, _Truncated):
        return str(error)
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke"
    return "no connection to the server"
