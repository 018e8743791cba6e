"""Reading a file of urls batch by batch: CSV, TSV, JSONL, Parquet, each also .gz."""

from __future__ import annotations

import csv
import gzip
import json
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from hqvox.config.discover import UrlsConfig
from hqvox.errors import HqvoxError

FORMATS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
BATCH_ROWS = 65_536
KEY = "identity"
TEXTS = ("url", "page_url", "title", "licence", "licence_url", "author")
NUMBERS = {"width": "width_px", "height": "height_px"}
"""Column of the configuration to field of a candidate."""

SCHEMA = pa.schema(
    [(KEY, pa.string())]
    + [(name, pa.string()) for name in TEXTS]
    + [(name, pa.int32()) for name in NUMBERS.values()]
)
"""Columns of a batch, whatever the file's columns are called."""


def read_batches(file: Path, columns: UrlsConfig) -> Iterator[pa.RecordBatch]:
    """The file's rows in order, as batches of :data:`SCHEMA`.

    Rows without identity or url are left out. Values become text; empty texts and sizes that are
    not positive numbers become null. Memory is bounded by the batch. Raises HqvoxError if the file
    cannot be read or lacks a column.
    """
    kind = _format(file)
    try:
        with _plain(file) as plain:
            if kind == ".parquet":
                tables = _read_parquet(file, plain, columns)
            elif kind in (".csv", ".tsv"):
                tables = _read_csv(file, plain, columns, "\t" if kind == ".tsv" else ",")
            else:
                tables = _read_jsonl(file, plain, columns)
            for batch in tables:
                yield _cleaned(batch)
    except pa.ArrowException as error:
        line = " ".join(str(error).split())
        if "invalid UTF8" in line:
            raise HqvoxError(f"{file}: not UTF-8 text; save it as UTF-8") from None
        raise HqvoxError(f"{file}: cannot be read as {kind[1:]} ({line[:300]}); mend it") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise HqvoxError(f"{file}: the gzip data is damaged or cut off; get it again") from None
    except UnicodeError:
        raise HqvoxError(f"{file}: not UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise HqvoxError(f"{file}: {error.strerror or error}; name a file that is there") from None


def read_identities(file: Path, columns: UrlsConfig | None = None) -> list[str]:
    """The values of the file's identity column, each once, in order. Raises as the rows do."""
    keys: dict[str, None] = {}
    for batch in read_batches(file, columns or UrlsConfig()):
        keys.update(dict.fromkeys(batch.column(KEY).unique().to_pylist()))
    return list(keys)


def _format(file: Path) -> str:
    name = file.name.lower().removesuffix(".gz")
    for ending in FORMATS:
        if name.endswith(ending):
            return ending
    raise HqvoxError(
        f"{file}: unknown kind of file; urls come as {', '.join(FORMATS)}, each also .gz"
    )


@contextmanager
def _plain(file: Path) -> Iterator[Path]:
    """Where the file's bytes lie, decompressed where they are gzip, whatever the name says.

    A path, which Arrow opens by itself: its threads must not hold Python files, see
    :func:`hqvox.workspace.parquet.read_parquet`.
    """
    with open(file, "rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        if not packed:
            yield file
            return
        with tempfile.NamedTemporaryFile() as unpacked, gzip.open(raw) as stream:
            shutil.copyfileobj(stream, unpacked, 1 << 20)
            unpacked.flush()
            yield Path(unpacked.name)


def _wanted(file: Path, columns: UrlsConfig, present: Sequence[str]) -> dict[str, str]:
    """Field of :data:`SCHEMA` to column of the file.

    Raises HqvoxError where a column is missing that must be there, or that was named by hand.
    """
    named = {KEY: columns.identity} | {name: getattr(columns, name) for name in (*TEXTS, *NUMBERS)}
    by_hand = columns.model_fields_set
    for name, column in named.items():
        if column not in present and (name in (KEY, "url") or name in by_hand):
            raise HqvoxError(
                f"{file}: no column {column!r}; found {', '.join(present) or 'none'}; "
                f"name the right one as discover.urls.{name}"
            )
    return {str(NUMBERS.get(n, n)): c for n, c in named.items() if c in present}


def _read_csv(
    file: Path, plain: Path, columns: UrlsConfig, delimiter: str
) -> Iterator[pa.RecordBatch]:
    with plain.open("rb") as stream:
        first = stream.readline().decode("utf-8-sig")
    if not first.strip():
        raise HqvoxError(f"{file}: empty; the first line names the columns")
    header = next(csv.reader([first], delimiter=delimiter))
    wanted = _wanted(file, columns, header)
    reader = pcsv.open_csv(
        pa.OSFile(str(plain)),
        read_options=pcsv.ReadOptions(block_size=1 << 22, use_threads=False),
        parse_options=pcsv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=pcsv.ConvertOptions(
            include_columns=list(dict.fromkeys(wanted.values())),
            column_types=dict.fromkeys(wanted.values(), pa.string()),
        ),
    )
    for batch in reader:
        yield _renamed(batch, wanted)


def _read_parquet(file: Path, plain: Path, columns: UrlsConfig) -> Iterator[pa.RecordBatch]:
    parquet = pq.ParquetFile(pa.OSFile(str(plain)))
    wanted = _wanted(file, columns, parquet.schema_arrow.names)
    chosen = list(dict.fromkeys(wanted.values()))
    for batch in parquet.iter_batches(BATCH_ROWS, columns=chosen, use_threads=False):
        yield _renamed(batch, wanted)


def _read_jsonl(file: Path, plain: Path, columns: UrlsConfig) -> Iterator[pa.RecordBatch]:
    wanted: dict[str, str] = {}
    rows: list[dict[str, Any]] = []
    for number, line in _lines(plain):
        if not line.strip():
            continue
        try:
            record = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError:
            raise
        except json.JSONDecodeError as error:
            raise HqvoxError(f"{file}:{number}: not JSON ({error.msg}); mend the line") from None
        except (ValueError, RecursionError):  # a number or a nesting that no list of urls has
            raise HqvoxError(f"{file}:{number}: cannot be read as JSON; mend the line") from None
        if not isinstance(record, dict):
            raise HqvoxError(f"{file}:{number}: not a JSON object; write one {{…}} a line")
        if not wanted:
            present = [*record]
            if columns.identity in present and columns.url in present:
                # Objects may leave out what they do not know, the first one too.
                present += [getattr(columns, name) for name in (*TEXTS, *NUMBERS)]
            wanted = _wanted(file, columns, present)
        rows.append({field: _text(record.get(column)) for field, column in wanted.items()})
        if len(rows) == BATCH_ROWS:
            yield _json_batch(rows, wanted)
            rows = []
    if rows:
        yield _json_batch(rows, wanted)


def _lines(plain: Path) -> Iterator[tuple[int, bytes]]:
    with plain.open("rb") as stream:
        yield from enumerate(stream, 1)


def _json_batch(rows: list[dict[str, Any]], wanted: dict[str, str]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(rows, pa.schema([(name, pa.string()) for name in wanted]))


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def _renamed(batch: pa.RecordBatch, wanted: dict[str, str]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [batch.column(column) for column in wanted.values()], list(wanted)
    )


def _cleaned(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch in :data:`SCHEMA`, without the rows that name no identity or no url."""
    arrays = []
    for field in SCHEMA:
        if field.name not in batch.schema.names:
            arrays.append(pa.nulls(len(batch), field.type))
            continue
        text = pc.utf8_trim_whitespace(batch.column(field.name).cast(pa.string()))
        if field.type == pa.int32():
            arrays.append(_positive(text))
        else:
            arrays.append(pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text))
    cleaned = pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)
    return cleaned.filter(pc.and_(pc.is_valid(cleaned.column(KEY)), pc.is_valid(cleaned["url"])))


def _positive(text: pa.Array) -> pa.Array:
    """Whole numbers from 1 to 9 digits; anything else is null."""
    number = pc.match_substring_regex(text, r"^0*[1-9]\d{0,8}(\.0*)?$")
    digits = pc.replace_substring_regex(text, r"\..*$", "")
    return pc.if_else(number, digits, pa.scalar(None, pa.string())).cast(pa.int32())
