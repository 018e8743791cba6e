"""Parquet tables: read without threads of Arrow's, written to bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq


def read_parquet(
    source: bytes | IO[bytes],
    columns: Sequence[str] | None = None,
    added: Mapping[str, pa.DataType] = MappingProxyType({}),
) -> pa.Table:
    """The table, or these columns of it, read on the calling thread alone.

    ``added``: columns that may be missing, and are then null; with their types.

    A thread of Arrow's that lets go of a Python file while the interpreter ends needs its lock,
    and aborts the process instead ("terminate called without an active exception", exit code 134),
    after a command that did all its work.
    Raises OSError or pyarrow.ArrowException where the data are damaged.
    """
    # Not read_table, which starts threads even with use_threads=False; so does pre_buffer.
    file = pq.ParquetFile(
        pa.BufferReader(source) if isinstance(source, bytes) else source, pre_buffer=False
    )
    table = file.read(None if columns is None else list(columns), use_threads=False)
    if columns is not None:
        missing = [name for name in columns if name not in table.column_names]
        for name in missing:
            if name in added:
                table = table.append_column(name, pa.nulls(len(table), added[name]))
        missing = [name for name in missing if name not in added]
        if missing:
            raise pa.ArrowInvalid(f"no column {missing[0]}")
        table = table.select(list(columns))
    return table


def filtered(table: pa.Table, keep: Sequence[bool]) -> pa.Table:
    """The rows to keep, and in dictionaries no value that only the other rows had.

    Arrow's own filter keeps dictionaries whole, and so would a file that is written of the result.
    """
    left = table.filter(pa.array(keep, pa.bool_()))
    for number, field in enumerate(left.schema):
        if pa.types.is_dictionary(field.type):
            plain = left.column(number).cast(field.type.value_type)
            left = left.set_column(number, field, plain.dictionary_encode().cast(field.type))
    return left


def parquet_bytes(table: pa.Table) -> bytes:
    """The table as a Parquet file, compressed with zstd."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()
