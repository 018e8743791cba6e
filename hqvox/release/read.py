"""Reading a finished release back: one of a workspace, or any folder that holds one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hqvox.errors import HqvoxError
from hqvox.release.layout import (
    FOLDER,
    FORMAT,
    IDENTITIES_FILE,
    INFO,
    MANIFEST_FILE,
    SPEECH_INDEX,
    SPEECH_STATS,
    is_safe,
)
from hqvox.workspace.layout import CONFIG, Workspace
from hqvox.workspace.parquet import read_parquet
from hqvox.workspace.storage import Storage


def release_names(workspace: Workspace) -> list[str]:
    """Names of the finished releases, sorted."""
    names = workspace.storage.names(FOLDER)
    return [name for name in names if workspace.storage.exists(f"{FOLDER}/{name}/{INFO}")]


class Release:
    """A finished release, read only."""

    def __init__(self, where: Workspace | str | Path, name: str | None = None) -> None:
        """``Release(workspace, "v1")``, or ``Release("path/to/release")``.

        Raises HqvoxError where there is none (it names those that exist), or where a newer hqvox
        made it.
        """
        if isinstance(where, Workspace):
            self.name = name or ""
            if name not in release_names(where):
                names = ", ".join(release_names(where)) or "none yet"
                raise HqvoxError(
                    f"{where.url}: no release {name!r} (there is: {names}); make it with "
                    f"`hqvox release {where.url} {name} --auto`"
                )
            self.storage = Storage(f"{where.url.rstrip('/')}/{FOLDER}/{name}")
        else:
            self.storage = Storage(where)
            self.name = str(where).rstrip("/").rsplit("/", 1)[-1]
            if not self.storage.exists(INFO):
                raise HqvoxError(f"{where}: no release here ({INFO} is missing); {_hint(where)}")
        version = self.info().get("format")
        if not isinstance(version, int) or version > FORMAT:
            raise HqvoxError(
                f"{self.storage.shown(INFO)}: release format {version!r} is not one that this "
                f"hqvox reads (up to {FORMAT}); upgrade with: pip install --upgrade hqvox"
            )

    @property
    def url(self) -> str:
        """The folder, as it was given."""
        return self.storage.url

    def read(self, file: str) -> bytes:
        """Bytes of a file of the release. Raises HqvoxError where it is missing."""
        try:
            return self.storage.read(file)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            where = self.storage.shown(file)
            raise HqvoxError(f"{where}: missing; restore it, or make the release again") from None

    def info(self) -> dict[str, Any]:
        """``release.json``: version, configuration, counts."""
        try:
            value = json.loads(self.read(INFO))
        except ValueError as error:
            raise HqvoxError(
                f"{self.storage.shown(INFO)}: damaged ({error}); restore it, or make the release "
                "again"
            ) from None
        return dict(value) if isinstance(value, dict) else {}

    def manifest(self, columns: Sequence[str] | None = None) -> pa.Table:
        """One row per face; see :data:`hqvox.release.manifest.MANIFEST`."""
        return self.table(MANIFEST_FILE, columns)

    def identities(self) -> pa.Table:
        """One row per identity; see :data:`hqvox.release.manifest.IDENTITIES`."""
        return self.table(IDENTITIES_FILE)

    @property
    def has_speech(self) -> bool:
        """Whether it holds voices."""
        return self.storage.exists(SPEECH_INDEX)

    def speech(self) -> pa.Table:
        """One row per utterance; see :data:`hqvox.release.speech.SPEECH`."""
        return self.table(SPEECH_INDEX)

    def speech_stats(self) -> dict[str, Any]:
        """``speech/stats.json``: filters, and mean and variance over train."""
        try:
            return dict(json.loads(self.read(SPEECH_STATS)))
        except ValueError as error:
            where = self.storage.shown(SPEECH_STATS)
            raise HqvoxError(f"{where}: damaged ({error}); make the release again") from None

    def log_mels(self, file: str, filters: int) -> NDArray[np.float16]:
        """All frames of a file of voices, (frames, filters), natural log; mapped where local.

        Raises HqvoxError where its size is not a multiple of a frame.
        """
        where = self.storage.shown(file)
        dtype = np.dtype("<f2")
        data: NDArray[Any]
        if self.storage.local and Path(where).is_file():
            empty = Path(where).stat().st_size == 0
            data = np.zeros(0, np.uint8) if empty else np.memmap(where, np.uint8, "r")
        else:
            data = np.frombuffer(self.read(file), np.uint8)
        if len(data) % (filters * dtype.itemsize):
            raise HqvoxError(f"{where}: cut short; restore it, or make the release again")
        return data.view(dtype).reshape(-1, filters)

    def log_mel(self, utterance: Mapping[str, Any], filters: int) -> NDArray[np.float16]:
        """Log-mel of a row of :meth:`speech`, (frames, filters), natural log. Raises HqvoxError."""
        file = self.checked(utterance["file"])
        frames = self.log_mels(file, filters)
        start, end = utterance["offset"], utterance["offset"] + utterance["frames"]
        if not 0 <= start < end <= len(frames):
            raise HqvoxError(
                f"{self.storage.shown(file)}: has {len(frames)} frames, {start} to {end} are "
                "needed; check the release with `hqvox release verify`"
            )
        return np.asarray(frames[start:end])

    def checked(self, file: str) -> str:
        """The name, if it is that of a file below the release. Raises HqvoxError."""
        if not is_safe(file):
            raise HqvoxError(
                f"{self.url}: {file!r} is not a file of a release; check it with "
                "`hqvox release verify`"
            )
        return file

    def table(self, file: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A Parquet table of the release. Raises HqvoxError where it is missing or damaged."""
        data = self.read(file)
        try:
            return read_parquet(data, columns or None)
        except (OSError, pa.ArrowException) as error:
            where = self.storage.shown(file)
            raise HqvoxError(f"{where}: damaged ({error}); make the release again") from None


def find_release(where: str, name: str | None = None) -> Release:
    """A release by workspace and name, by ``WORKSPACE/NAME``, or by the path of its folder.

    Raises HqvoxError where there is none.
    """
    if name is not None:
        return Release(Workspace.open(where), name)
    storage = Storage(where)
    parent, _, last = where.rstrip("/").rpartition("/")
    if not storage.exists(INFO) and parent and Storage(parent).exists(CONFIG):
        return Release(Workspace.open(parent), last)
    return Release(where)


def _hint(where: str | Path) -> str:
    storage = Storage(where)
    if storage.exists(CONFIG):
        names = release_names(Workspace.open(str(where)))
        which = f"its releases: {', '.join(names)}" if names else "it has no release yet"
        return f"this is a workspace; name a release of it ({which})"
    return "name the folder that holds it, or a workspace and a release's name"
