"""The tables of a release: one row per face, one row per identity, and ``LICENSES.csv``."""

from __future__ import annotations

import csv
import io
from collections import Counter

import pyarrow as pa

from hqvox.workspace.tables import COLUMNS, Row
from pipelines.chain import COLUMNS_OF, STAGE_NAMES

_OF_THE_BUILD = {
    # Where pixels lie in the workspace, and how they were fetched, is not part of the dataset.
    "photo_offset", "aligned_offset", "aligned_bytes", "mask_offset", "mask_bytes",
    "rank", "duplicate_of", "requested_url", "host", "http_status", "etag", "last_modified",
    "stated_width_px", "stated_height_px", "restrictions", "reservations",
}  # fmt: skip

MEASURED = tuple(
    name for stage in STAGE_NAMES for name in COLUMNS_OF[stage] if name not in _OF_THE_BUILD
)
"""Columns of the stages that the manifest carries, ``photo_id`` being the photo's SHA-256."""

LOCAL_SOURCE = "folder"


def released_values(face: Row) -> Row:
    """A face's values that the manifest carries: where it came from, what was measured on it.

    ``retrieved_at`` is the time of a crawl; null for a local file, of which tables of earlier
    versions hold the mtime.
    """
    values = {name: face[name] for name in ("candidate", "face", *MEASURED)}
    if face["source"] == LOCAL_SOURCE:
        values["retrieved_at"] = None
    return values


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(kind):
        return pa.timestamp("ms", kind.tz)  # Parquet has no seconds
    return kind.value_type if pa.types.is_dictionary(kind) else kind


MANIFEST = pa.schema(
    [
        pa.field("identity_id", pa.string()),
        pa.field("name", pa.string()),
        pa.field("subset", pa.string()),
        pa.field("split", pa.string()),  # train, val, test
        pa.field("masked_file", pa.string()),  # below the release, white background
        pa.field("origin_file", pa.string()),  # the same crop with its background
        pa.field("masked_sha256", pa.string()),
        pa.field("origin_sha256", pa.string()),
        pa.field(
            "selection", pa.string()
        ),  # auto: by quality; review: people; import: as published
        pa.field("reviewed", pa.bool_()),  # whether a person decided
        pa.field("reviewer", pa.string()),  # who; null where no person did
        pa.field("candidate", pa.int32()),
        pa.field("face", pa.int16()),
        *(pa.field(name, _plain(COLUMNS[name].type)) for name in MEASURED),
    ]
)
"""``manifest.parquet``: one row per face, in the order of identities and their ranking."""

IDENTITIES = pa.schema(
    [
        pa.field("identity_id", pa.string()),
        pa.field("name", pa.string()),
        pa.field("subset", pa.string()),
        pa.field("subset_folder", pa.string()),
        pa.field("folder", pa.string()),  # of the identity, below masked_faces and origin_faces
        pa.field("split", pa.string()),
        pa.field("gender", pa.string()),
        pa.field("nationality", pa.string()),
        pa.field("row", pa.int32()),  # position in its metadata file
        pa.field("images", pa.int32()),  # released
        pa.field("faces_kept", pa.int32()),  # that the build kept, of which the best are released
        pa.field("utterances", pa.int32()),  # null, as below, where the release has no speech
        pa.field("seconds", pa.float64()),  # of speech, after voice activity detection
    ]
)
"""``identities.parquet``: the released identities, in the workspace's order."""

_LICENCE_COLUMNS = {
    "file": "masked_file",
    "origin_file": "origin_file",
    "licence": "licence",
    "licence_url": "licence_url",
    "author": "author",
    "title": "title",
    "page": "page_url",
    "url": "url",
    "source": "source",
    "photo_sha256": "photo_id",
}
NOT_STATED = "not stated"


def licences_csv(manifest: pa.Table) -> bytes:
    """One line a released face, in the manifest's order: its files, licence, author, page, url.

    A field is empty where the source stated nothing.
    """
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(_LICENCE_COLUMNS)
    columns = [manifest[name].to_pylist() for name in _LICENCE_COLUMNS.values()]
    writer.writerows([value or "" for value in row] for row in zip(*columns, strict=True))
    return sink.getvalue().encode()


def licence_counts(manifest: pa.Table) -> list[tuple[str, int]]:
    """Faces by licence, most first."""
    counts = Counter(value or NOT_STATED for value in manifest["licence"].to_pylist())
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
