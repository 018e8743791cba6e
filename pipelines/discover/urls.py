"""The urls source: a file, of any size, that lists photographs by identity."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hqvox.config.discover import UrlsConfig
from hqvox.errors import HqvoxError
from hqvox.workspace.measures import counted
from hqvox.workspace.tables import Row
from pipelines.discover.source import Candidate, Stream
from pipelines.discover.urls_index import UrlsIndex, open_index


class UrlsSource:
    """Candidates out of a CSV, TSV, JSONL or Parquet file (each also .gz), in the file's order.

    The identity column holds an identity's id or, if no row holds the id, its name.
    """

    name = "urls"

    def __init__(self, config: UrlsConfig, folder: Path) -> None:
        """``folder``: where the file's index is kept."""
        self.config = config
        self.folder = folder
        self._index: UrlsIndex | None = None
        self._lock = threading.Lock()

    def streams(self, identity: Row) -> list[Stream]:
        """One stream: the identity's rows."""
        return [Stream(None, self._candidates(identity))]

    def listing(self, identity: Row) -> list[str]:
        """Digest of the identity's rows; empty where it has none."""
        index = self._opened()
        key = index.key_of(identity)
        return [] if key is None else [index.digest(key)]

    def settings(self) -> dict[str, Any]:
        """None: another file or other columns change the digest of the rows."""
        return {}

    def missing(self) -> list[str]:
        """The file, where none is named."""
        if self.config.file:
            return []
        return ["urls: no file is named; set discover.urls.file, or make the workspace with --urls"]

    def forecast(self, identities: Sequence[Row]) -> str:
        """How many rows the file has for the identities."""
        if self.missing():
            return self.missing()[0]
        index = self._opened()
        keys = [key for row in identities if (key := index.key_of(row)) is not None]
        rows = sum(index.count(key) for key in keys)
        return (
            f"urls: {counted(rows, 'photograph')} for {len(keys):,} of "
            f"{counted(len(identities), 'identity')} in {self.config.file}"
        )

    def _candidates(self, identity: Row) -> Iterator[Candidate]:
        index = self._opened()
        key = index.key_of(identity)
        if key is None:
            return
        for row in index.rows(key):
            yield Candidate(**row)

    def _opened(self) -> UrlsIndex:
        """The file's index, made when first needed; one thread makes it, the others wait."""
        if not self.config.file:
            raise HqvoxError(self.missing()[0])
        with self._lock:
            if self._index is None:
                self._index = open_index(Path(self.config.file), self.config, self.folder)
            return self._index
