"""Parquet and a dataset card that ``datasets.load_dataset(DIR)`` opens, here or on the Hub.

Two configurations: ``faces``, a row a face with both pictures inside, and ``speech``, a row an
utterance. Both name the person, by which they are joined.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from hqvox.exchange.people import OnProgress, People
from hqvox.release.manifest import MANIFEST
from hqvox.release.split import PARTS
from hqvox.workspace.tables import Row

FACE_ROWS, SPEECH_ROWS = 64, 256
"""Rows held in memory, and in a row group."""
_IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
_PERSON = ("identity_id", "name", "subset", "gender", "nationality")
_DROPPED = ("masked_file", "origin_file", "split")
_SPOKEN = ("video", "utterance", "seconds", "sha256")


def write_huggingface(
    people: People, folder: Path, on_progress: OnProgress, shard_bytes: int
) -> None:
    """Write ``faces/<split>-<number>.parquet``, ``speech/…`` alike, and ``README.md``.

    A file is closed by the row group that brings it to ``shard_bytes``. Raises HqvoxError where
    the release is damaged, OSError from the disk.
    """
    total, done = people.faces + people.utterances, 0

    def advance(rows: int) -> None:
        nonlocal done
        done += rows
        on_progress(done, total)

    schema, convert = _face_schema(people)
    kinds: list[tuple[str, pa.Schema, int, Callable[[str], Iterator[Row]]]] = [
        ("faces", schema, FACE_ROWS, lambda part: _face_rows(people, part, convert))
    ]
    if people.filters:
        spoken = _speech_schema(people.filters)
        kinds.append(("speech", spoken, SPEECH_ROWS, lambda part: _speech_rows(people, part)))
    written: dict[str, list[str]] = {}
    for kind, columns, size, rows in kinds:
        (folder / kind).mkdir(parents=True)
        described = columns.with_metadata({b"huggingface": _features(columns)})
        for part in PARTS:
            stem = folder / kind / part
            if _write(stem, described, rows(part), size, shard_bytes, advance):
                written.setdefault(kind, []).append(part)
    (folder / "README.md").write_bytes(_card(people, written).encode())


def _write(
    stem: Path,
    schema: pa.Schema,
    rows: Iterator[Row],
    size: int,
    shard_bytes: int,
    advance: Callable[[int], None],
) -> int:
    """Write the rows in as many files as they need; return how many."""
    files = 0
    writer: pq.ParquetWriter | None = None
    path = stem
    for group in _groups(rows, size):
        if writer is None:
            path = stem.with_name(f"{stem.name}-{files:05d}.parquet")
            writer = pq.ParquetWriter(path, schema, compression="zstd")
            files += 1
        writer.write_table(pa.Table.from_pylist(group, schema))
        advance(len(group))
        if path.stat().st_size >= shard_bytes:
            writer.close()
            writer = None
    if writer is not None:
        writer.close()
    return files


def _groups(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    group: list[Row] = []
    for row in rows:
        group.append(row)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _face_schema(people: People) -> tuple[pa.Schema, Callable[[str, Any], Any]]:
    """Columns of ``faces``, and what turns a manifest's value into one of them.

    The library has no maps: a map of numbers becomes a structure of the keys that occur.
    """
    maps = [f.name for f in MANIFEST if pa.types.is_map(f.type)]
    keys: dict[str, list[str]] = {
        name: sorted({k for p in people for row in p.faces for k, _ in row[name] or ()})
        for name in maps
    }
    fields = [pa.field(name, pa.string()) for name in _PERSON]
    fields += [pa.field("masked", _IMAGE), pa.field("origin", _IMAGE)]
    for column in MANIFEST:
        if column.name in (*_PERSON, *_DROPPED) or keys.get(column.name) == []:
            continue
        kind = column.type
        if column.name in keys:
            kind = pa.struct([pa.field(k, kind.item_type) for k in keys[column.name]])
        fields.append(pa.field(column.name, kind))

    def convert(name: str, value: Any) -> Any:
        return dict(value) if name in keys and value is not None else value

    return pa.schema(fields), convert


def _face_rows(people: People, part: str, convert: Callable[[str, Any], Any]) -> Iterator[Row]:
    for person in people.of_part(part):
        for face in person.faces:
            row = {name: convert(name, value) for name, value in face.items()}
            for kind in ("masked", "origin"):
                data = people.picture(face, kind)
                row[kind] = {"bytes": data, "path": face[f"{kind}_file"]}
            yield row | {name: person.identity[name] for name in _PERSON}


def _speech_schema(filters: int) -> pa.Schema:
    return pa.schema(
        [
            *(pa.field(name, pa.string()) for name in _PERSON),
            pa.field("video", pa.string()),
            pa.field("utterance", pa.string()),
            pa.field("seconds", pa.float64()),
            pa.field("sha256", pa.string()),
            pa.field("log_mel", pa.list_(pa.list_(pa.float32(), filters))),
        ]
    )


def _speech_rows(people: People, part: str) -> Iterator[Row]:
    for person in people.of_part(part):
        own = {name: person.identity[name] for name in _PERSON}
        for row in person.utterances:
            log_mel = people.log_mel(row).astype("float32")
            yield own | {name: row[name] for name in _SPOKEN} | {"log_mel": list(log_mel)}


def _features(schema: pa.Schema) -> bytes:
    """The library's description of the columns, for the schema's metadata."""
    features = {column.name: _feature(column.type) for column in schema}
    return json.dumps({"info": {"features": features}}).encode()


def _feature(kind: pa.DataType) -> Any:
    if kind == _IMAGE:
        return {"_type": "Image"}
    if pa.types.is_fixed_size_list(kind):
        return {"feature": _feature(kind.value_type), "length": kind.list_size,
                "_type": "Sequence"}  # fmt: skip
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "Sequence"}
    if pa.types.is_struct(kind):
        return {column.name: _feature(column.type) for column in kind}
    if pa.types.is_timestamp(kind):
        return {"dtype": f"timestamp[{kind.unit}, tz={kind.tz}]", "_type": "Value"}
    dtypes = {pa.float32(): "float32", pa.float64(): "float64", pa.bool_(): "bool"}
    return {"dtype": dtypes.get(kind, str(kind)), "_type": "Value"}


def _card(people: People, parts_of: Mapping[str, Sequence[str]]) -> str:
    """``README.md``: the configurations for the library, and a description for people."""
    configs = [
        {
            "config_name": kind,
            "default": kind == "faces",
            "data_files": [{"split": p, "path": f"{kind}/{p}-*.parquet"} for p in parts],
        }
        for kind, parts in parts_of.items()
    ]
    counts = {"identities": [len(people.of_part(part)) for part in PARTS]}
    for what in ("faces", "utterances"):
        counts[what] = [sum(len(getattr(p, what)) for p in people.of_part(q)) for q in PARTS]
    table = "\n".join(
        f"| {what} | {' | '.join(f'{count:,}' for count in own)} |" for what, own in counts.items()
    )
    head = yaml.safe_dump({"pretty_name": "Faces and voices", "configs": configs},
                          sort_keys=False)  # fmt: skip
    speech = "speech" in parts_of
    lines = [
        f"---\n{head}---\n",
        "# Faces and voices\n",
        "Aligned faces of people"
        + (", and what they say as log-mel spectrograms" if speech else "")
        + ", split by person.\n",
        f"| | {' | '.join(PARTS)} |\n|---|---:|---:|---:|\n{table}\n",
        "`faces`: a row a face; `masked` on white, `origin` the same crop with its background, "
        "then where it came from and every measurement.\n",
    ]
    if speech:
        lines.append(
            f"`speech`: a row an utterance; `log_mel` is (frames, {people.filters}), natural "
            "logarithm, 100 frames a second. Rows of both with the same `identity_id` are of one "
            "person.\n"
        )
    lines.append(
        "The photographs remain their authors', under the licence of each (`LICENSES.csv`). What "
        "this is made of, how, and its limits: `DATASHEET.md`.\n"
    )
    return "\n".join(lines)
