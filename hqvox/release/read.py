"""Reading a finished release back."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hqvox.errors import HqvoxError
from hqvox.release.target import FOLDER, INFO
from hqvox.workspace import Workspace


def release_names(workspace: Workspace) -> list[str]:
    """Names of the finished releases, sorted."""
    names = workspace.storage.names(FOLDER)
    return [name for name in names if workspace.storage.exists(f"{FOLDER}/{name}/{INFO}")]


class Release:
    """A finished release of a workspace."""

    def __init__(self, workspace: Workspace, name: str) -> None:
        """Raises HqvoxError where there is none of that name, saying which there are."""
        self.name = name
        self.workspace = workspace
        if name not in release_names(workspace):
            there = ", ".join(release_names(workspace)) or "none yet"
            raise HqvoxError(
                f"{workspace.url}: no release {name!r} (there is: {there}); make it with "
                f"`hqvox release {workspace.url} {name} --auto`"
            )

    def read(self, file: str) -> bytes:
        """Bytes of a file below the release. Raises HqvoxError where it is missing."""
        path = f"{FOLDER}/{self.name}/{file}"
        try:
            return self.workspace.storage.read(path)
        except FileNotFoundError:
            where = self.workspace.storage.path(path)
            raise HqvoxError(f"{where}: missing; restore it, or release anew") from None

    def info(self) -> dict[str, Any]:
        """``release.json``: version, configuration, counts."""
        return dict(json.loads(self.read(INFO)))

    def manifest(self, columns: Sequence[str] | None = None) -> pa.Table:
        """One row per face; see :data:`hqvox.release.manifest.MANIFEST`."""
        return self._table("manifest.parquet", columns)

    def identities(self) -> pa.Table:
        """One row per identity; see :data:`hqvox.release.manifest.IDENTITIES`."""
        return self._table("identities.parquet", None)

    def _table(self, file: str, columns: Sequence[str] | None) -> pa.Table:
        data = self.read(file)
        try:
            return pq.read_table(io.BytesIO(data), columns=list(columns) if columns else None)
        except pa.ArrowInvalid as error:
            where = self.workspace.storage.path(f"{FOLDER}/{self.name}/{file}")
            raise HqvoxError(f"{where}: damaged ({error}); release anew") from None
