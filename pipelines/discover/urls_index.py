"""The index of a file of urls: rows sorted by identity, memory-mapped.

``<workspace>/discover/urls/<key>.arrow`` holds the rows; ``<key>.json`` holds each identity's first
row, number of rows and their digest. For a workspace in an object store they are in the user's
cache folder. The key is a hash of the file's path, size, time and column names: a changed file gets
a new index, and old ones are deleted. Deleting an index is safe: it is made again when needed.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hqvox.config.discover import UrlsConfig
from hqvox.errors import HqvoxError
from hqvox.workspace.covered import Covered, Owner
from hqvox.workspace.storage import TEMPORARY, Storage, disk_error
from hqvox.workspace.tables import Row
from models.store import ModelStore
from pipelines.discover.urls_read import KEY, SCHEMA, read_batches

VERSION = 1
"""Increase it when reading, sorting or digests change."""
FOLDER = "discover/urls"
"""Below the workspace; on object storage, below the user's cache folder."""
WINDOW_ROWS = 65_536
FIELDS = [field.name for field in SCHEMA if field.name != KEY]


def erase_index(covered: Covered) -> None:
    """Remove the index: it is made again from the user's own file when it is needed."""
    storage = covered.workspace.storage
    if not storage.local:
        storage = Storage(ModelStore().cache_dir)
    for leaf in storage.names(FOLDER):
        storage.remove(f"{FOLDER}/{leaf}")


URLS_INDEX = Owner("index of urls", (f"{FOLDER}/*.arrow", f"{FOLDER}/*.json"), erase_index)


class UrlsIndex:
    """Rows of a file of urls by identity; safe to use from several threads."""

    def __init__(self, table: pa.Table, places: dict[str, tuple[int, int, str]]) -> None:
        self._table = table
        self._places = places

    def key_of(self, identity: Row) -> str | None:
        """The file's key for an identity: its id, else its name; None if it has no rows."""
        return next(
            (k for k in (identity["identity_id"], identity["name"]) if k in self._places), None
        )

    def digest(self, key: str) -> str:
        """Hash over an identity's rows, in order."""
        return self._places[key][2]

    def count(self, key: str) -> int:
        """Number of rows of an identity."""
        return self._places[key][1]

    def rows(self, key: str) -> list[dict[str, Any]]:
        """An identity's rows in the file's order: fields of a candidate to values."""
        start, count, _ = self._places[key]
        return self._table.slice(start, count).to_pylist()


def open_index(file: Path, columns: UrlsConfig, folder: Path) -> UrlsIndex:
    """Open the file's index in ``folder``; make it first if it is missing.

    Raises HqvoxError if the file cannot be read, or the disk fails.
    """
    try:
        status = os.stat(file)
    except OSError as error:
        raise HqvoxError(
            f"{file}: {error.strerror}; name the file of urls as discover.urls.file"
        ) from None
    identity = [VERSION, str(file.resolve()), status.st_size, status.st_mtime_ns]
    named = json.dumps([*identity, columns.model_dump(), sorted(columns.model_fields_set)])
    key = hashlib.sha256(named.encode()).hexdigest()[:16]
    rows, places = folder / f"{key}.arrow", folder / f"{key}.json"
    try:
        if not places.exists():  # written last
            folder.mkdir(parents=True, exist_ok=True)
            _build(file, columns, rows, places)
            for old in folder.glob("*.*"):
                if old.stem != key and old.suffix in (".arrow", ".json"):
                    old.unlink(missing_ok=True)
        table = pa.ipc.open_file(pa.memory_map(str(rows))).read_all()
        return UrlsIndex(table, json.loads(places.read_bytes()))
    except OSError as error:
        raise disk_error(error, str(folder)) from error


def _build(file: Path, columns: UrlsConfig, rows: Path, places: Path) -> None:
    """Write the index: first the rows as they come, then sorted by identity, then the places."""
    stem, pid = f"{rows.stem}.{threading.get_ident()}", os.getpid()
    unsorted = rows.parent / f".{stem}.unsorted.{pid}{TEMPORARY}"
    temporary = rows.parent / f".{stem}.{pid}{TEMPORARY}"
    try:
        codes: list[NDArray[np.int32]] = []
        numbers: dict[str, int] = {}
        with pa.OSFile(str(unsorted), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
            for batch in read_batches(file, columns):
                codes.append(_numbered(batch.column(KEY), numbers))
                writer.write_batch(batch)
        of_row = np.concatenate(codes) if codes else np.empty(0, np.int32)
        order = np.argsort(of_row, kind="stable")
        ends = np.cumsum(np.bincount(of_row, minlength=len(numbers)))
        located: dict[str, tuple[int, int, str]] = {}
        with pa.memory_map(str(unsorted)) as mapped:
            source = pa.ipc.open_file(mapped)
            batches = [source.get_batch(i) for i in range(source.num_record_batches)]
            with (
                pa.OSFile(str(temporary), "wb") as sink,
                pa.ipc.new_file(sink, _without_key()) as writer,
            ):
                for window, keys in _windows(list(numbers), ends):
                    taken = _take(batches, order[window]).drop_columns([KEY])
                    writer.write_table(taken)
                    _place(taken, keys, ends, window.start, located)
            del batches, source
        os.replace(temporary, rows)
        temporary.write_text(json.dumps(located, ensure_ascii=False), "utf-8")
        os.replace(temporary, places)
    finally:
        unsorted.unlink(missing_ok=True)
        temporary.unlink(missing_ok=True)


def _without_key() -> pa.Schema:
    return pa.schema([field for field in SCHEMA if field.name != KEY])


def _numbered(keys: pa.Array, numbers: dict[str, int]) -> NDArray[np.int32]:
    """Each row's identity as a number, in order of first appearance."""
    encoded = keys.dictionary_encode()
    codes = [numbers.setdefault(key, len(numbers)) for key in encoded.dictionary.to_pylist()]
    if not codes:
        return np.empty(0, np.int32)
    return np.asarray(codes, np.int32)[encoded.indices.to_numpy()]


def _windows(
    keys: list[str], ends: NDArray[np.int64]
) -> Iterator[tuple[slice, list[tuple[int, str]]]]:
    """Groups of whole identities with some ten thousand rows: (rows, keys)."""
    start, chosen = 0, []
    for number, key in enumerate(keys):
        chosen.append((number, key))
        end = int(ends[number])
        if end - start >= WINDOW_ROWS or number == len(keys) - 1:
            yield slice(start, end), chosen
            start, chosen = end, []


def _take(batches: list[pa.RecordBatch], rows: NDArray[np.int64]) -> pa.Table:
    """Rows by their number over all batches, in the order given."""
    starts = np.cumsum([0, *(len(batch) for batch in batches)])
    where = np.searchsorted(starts, rows, side="right") - 1
    by_batch = np.argsort(where, kind="stable")
    parts = [
        batches[number].take(pa.array(rows[by_batch][where[by_batch] == number] - starts[number]))
        for number in np.unique(where)
    ]
    gathered = pa.Table.from_batches(parts, SCHEMA).combine_chunks()
    back = np.empty(len(rows), np.int64)
    back[by_batch] = np.arange(len(rows))
    return gathered.take(pa.array(back))


def _place(
    rows: pa.Table,
    keys: list[tuple[int, str]],
    ends: NDArray[np.int64],
    first: int,
    places: dict[str, tuple[int, int, str]],
) -> None:
    """Record each identity's rows and their digest."""
    texts = [pc.fill_null(rows[name].cast(pa.string()), "\x00") for name in FIELDS]
    lines = pc.binary_join_element_wise(*texts, "\x1f").to_pylist()
    start = first
    for number, key in keys:
        end = int(ends[number])
        joined = "\x1e".join(lines[start - first : end - first])
        places[key] = (start, end - start, hashlib.sha256(joined.encode()).hexdigest())
        start = end
