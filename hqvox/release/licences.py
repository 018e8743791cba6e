"""Whose photographs a release holds, and under which licence: ``LICENSES.csv``."""

from __future__ import annotations

import csv
import io
from collections import Counter

import pyarrow as pa

LICENCES_FILE = "LICENSES.csv"
_FROM_MANIFEST = {
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
UNKNOWN = "not stated"


def licences_csv(manifest: pa.Table) -> bytes:
    """One line a released face, in the manifest's order: its files, licence, author, page, url.

    A field is empty where the source stated nothing.
    """
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(_FROM_MANIFEST)
    columns = [manifest[name].to_pylist() for name in _FROM_MANIFEST.values()]
    writer.writerows([value or "" for value in row] for row in zip(*columns, strict=True))
    return sink.getvalue().encode()


def licence_counts(manifest: pa.Table) -> list[tuple[str, int]]:
    """Faces by licence, most first."""
    counts = Counter(value or UNKNOWN for value in manifest["licence"].to_pylist())
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
