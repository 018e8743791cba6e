"""Looking for traces of a photograph or a person in every byte of a folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def traces(root: Path, needles: Iterable[bytes], but: Iterable[str] = ()) -> list[str]:
    """Files below ``root`` whose name or content holds one of ``needles``, as ``name: needle``.

    Tables are decompressed first: all their values are looked at, those of dictionaries too.
    ``but``: files, or folders, that are left out.
    """
    skipped = tuple(root / name for name in but)
    found = []
    for file in sorted(file for file in root.rglob("*") if file.is_file()):
        if any(file == skip or skip in file.parents for skip in skipped):
            continue
        data = str(file.relative_to(root)).encode() + b"\n" + file.read_bytes() + _values(file)
        found += [f"{file.relative_to(root)}: {n[:80]!r}" for n in needles if n in data]
    return found


def _values(file: Path) -> bytes:
    if file.suffix == ".parquet":
        table = pq.ParquetFile(file).read()
    elif file.suffix == ".arrow":
        table = pa.ipc.open_file(file).read_all()
    else:
        return b""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:  # not compressed
        writer.write_table(table)
    return bytes(sink.getvalue())
