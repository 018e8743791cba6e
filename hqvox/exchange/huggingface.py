"""Parquet and a dataset card that ``datasets.load_dataset(DIR)`` opens, here or on the Hub.

Two configurations: ``faces``, a row a face with both pictures inside, and ``speech``, a row an
utterance. Both name the person, by which they are joined.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from hqvox.exchange.people import OnProgress, People
from hqvox.exchange.webdataset import SPOKEN
from hqvox.release.layout import LICENCES_FILE
from hqvox.release.manifest import licence_counts
from hqvox.release.split import PARTS
from hqvox.workspace.tables import COLUMNS, KEYS, UTTERANCE_COLUMNS, Row

FACE_ROWS, SPEECH_ROWS = 64, 256
"""Rows held in memory, and in a row group."""
HUB_LICENCES = frozenset({
    "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0",
    "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0",
    "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0",
})  # fmt: skip
"""Identifiers of the licences of photographs that the Hub knows."""
_MEANINGS = {
    "name": "name of the person",
    "subset": "vox1, vox2 or another",
    "gender": "as the source states it",
    "nationality": "as the source states it",
    "masked": "the face on white",
    "origin": "the same crop with its background",
    "masked_sha256": "SHA-256 of the JPEG on white",
    "origin_sha256": "SHA-256 of the JPEG with its background",
    "selection": "auto: by quality; review: by people; import: as published",
    "reviewed": "whether a person decided",
    "reviewer": "who",
    "log_mel": "log-mel spectrogram, natural logarithm, 100 frames a second",
}
_IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
_PERSON = ("identity_id", "name", "subset", "gender", "nationality")
_DROPPED = ("masked_file", "origin_file", "split")


@dataclass(frozen=True)
class SplitSize:
    """Size of a split of one configuration."""

    rows: int
    in_memory: int
    """Bytes of the Arrow tables."""
    on_disk: int
    """Bytes of the Parquet files."""


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
    written: dict[str, dict[str, SplitSize]] = {}
    for kind, columns, size, rows in kinds:
        (folder / kind).mkdir(parents=True)
        described = columns.with_metadata({b"huggingface": _features(columns)})
        for part in PARTS:
            stem = folder / kind / part
            split = _write(stem, described, rows(part), size, shard_bytes, advance)
            if split.rows:
                written.setdefault(kind, {})[part] = split
    schemas = {kind: columns for kind, columns, *_ in kinds}
    (folder / "README.md").write_bytes(_card(people, written, schemas).encode())


def _write(
    stem: Path,
    schema: pa.Schema,
    rows: Iterator[Row],
    size: int,
    shard_bytes: int,
    advance: Callable[[int], None],
) -> SplitSize:
    """Write the rows in as many files as they need."""
    files = count = in_memory = on_disk = 0
    writer: pq.ParquetWriter | None = None
    path = stem
    for group in _groups(rows, size):
        if writer is None:
            path = stem.with_name(f"{stem.name}-{files:05d}.parquet")
            writer = pq.ParquetWriter(path, schema, compression="zstd")
            files += 1
        table = pa.Table.from_pylist(group, schema)
        writer.write_table(table)
        count += len(group)
        in_memory += table.nbytes
        advance(len(group))
        if path.stat().st_size >= shard_bytes:
            writer.close()
            on_disk += path.stat().st_size
            writer = None
    if writer is not None:
        writer.close()
        on_disk += path.stat().st_size
    return SplitSize(count, in_memory, on_disk)


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
    maps = [f.name for f in people.columns if pa.types.is_map(f.type)]
    keys: dict[str, list[str]] = {
        name: sorted({k for p in people for row in p.faces for k, _ in row[name] or ()})
        for name in maps
    }
    fields = [pa.field(name, pa.string()) for name in _PERSON]
    fields += [pa.field("masked", _IMAGE), pa.field("origin", _IMAGE)]
    for column in people.columns:
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
            yield own | {name: row[name] for name in SPOKEN} | {"log_mel": list(log_mel)}


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


def _card(
    people: People,
    written: Mapping[str, Mapping[str, SplitSize]],
    schemas: Mapping[str, pa.Schema],
) -> str:
    """``README.md``: what the library and the Hub read, and a description for people."""
    counts = {"identities": [len(people.of_part(part)) for part in PARTS]}
    for what in ("faces", "utterances"):
        counts[what] = [sum(len(getattr(p, what)) for p in people.of_part(q)) for q in PARTS]
    table = "\n".join(
        f"| {what} | {' | '.join(f'{count:,}' for count in own)} |" for what, own in counts.items()
    )
    licences = licence_counts(people.release.manifest(["licence"]))
    head = yaml.safe_dump(_card_data(people, written, licences), sort_keys=False)
    speech = "speech" in written
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
    lines.append("## Licence\n")
    lines.append(
        "The photographs remain their authors', under the licence of each (`LICENSES.csv`). What "
        "this is made of, how, and its limits: `DATASHEET.md`.\n"
    )
    named = "\n".join(f"| {_cell(licence)} | {count:,} |" for licence, count in licences)
    lines.append(f"| licence of the photograph | faces |\n|---|---:|\n{named}\n")
    lines += [_columns(kind, schemas[kind]) for kind in written]
    return "\n".join(lines)


def _card_data(
    people: People,
    written: Mapping[str, Mapping[str, SplitSize]],
    licences: Sequence[tuple[str, int]],
) -> Row:
    """The card's head, as the Hub and ``datasets`` read it."""
    licence = hub_licence([name for name, _ in licences])
    data: Row = {"pretty_name": "Faces and voices", "license": licence}
    if licence == "other":
        data |= {"license_name": "per-photograph", "license_link": LICENCES_FILE}
    data["size_categories"] = [size_category(people.faces)]
    data["tags"] = ["faces", *(["speech", "voices"] if "speech" in written else [])]
    data["configs"] = [
        {
            "config_name": kind,
            "default": kind == "faces",
            "data_files": [{"split": p, "path": f"{kind}/{p}-*.parquet"} for p in sizes],
        }
        for kind, sizes in written.items()
    ]
    data["dataset_info"] = [
        {
            "config_name": kind,
            "splits": [
                {"name": part, "num_bytes": size.in_memory, "num_examples": size.rows}
                for part, size in sizes.items()
            ],
            "download_size": sum(size.on_disk for size in sizes.values()),
            "dataset_size": sum(size.in_memory for size in sizes.values()),
        }
        for kind, sizes in written.items()
    ]
    return data


def hub_licence(names: Sequence[str]) -> str:
    """The Hub's identifier of a licence that all photographs have; ``other`` where they differ.

    Also where the Hub knows no such licence.
    """
    wanted = {re.sub(r"[\s_]+", "-", name.strip().lower()) for name in names}
    plain = {"cc0-1.0" if name.startswith("cc0") else name for name in wanted}
    return plain.pop() if len(plain) == 1 and plain <= HUB_LICENCES else "other"


def size_category(rows: int) -> str:
    """The Hub's name of a number of rows, such as ``1K<n<10K``."""
    bounds = [1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000]
    names = ["1K", "10K", "100K", "1M", "10M", "100M"]
    place = bisect_right(bounds, rows)
    if place == 0:
        return "n<1K"
    return f"{names[place - 1]}<n<{names[place]}" if place < len(names) else "100M<n<1B"


def _columns(kind: str, schema: pa.Schema) -> str:
    """The features of a configuration, for people."""
    rows = "\n".join(
        f"| `{column.name}` | {_type_name(column.type)} | {_cell(_meaning(column.name))} |"
        for column in schema
    )
    return f"## Columns of `{kind}`\n\n| column | type | is |\n|---|---|---|\n{rows}\n"


def _meaning(name: str) -> str:
    column = COLUMNS.get(name) or UTTERANCE_COLUMNS.get(name) or KEYS.get(name)
    return column.meaning if column is not None else _MEANINGS.get(name, "")


def _type_name(kind: pa.DataType) -> str:
    if kind == _IMAGE:
        return "image"
    return "struct" if pa.types.is_struct(kind) else str(kind).replace("element: ", "")


def _cell(text: str) -> str:
    """Text for a cell of a table: it may come from outside."""
    return " ".join(text.replace("|", "/").replace("<", "&lt;").split())
