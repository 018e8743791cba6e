"""Takedowns in releases: the files of finished ones are named, unfinished ones are removed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from hqvox.errors import HqvoxError
from hqvox.release.layout import (
    CHECKSUMS,
    DATASHEET_FILE,
    FOLDER,
    IDENTITIES_FILE,
    INFO,
    KINDS,
    LICENCES_FILE,
    MANIFEST_FILE,
    SPEECH_INDEX,
    SPLIT_FILE,
    contact_sheet_file,
)
from hqvox.release.pictures import SHEET_IDENTITIES
from hqvox.release.read import Release, release_names
from hqvox.release.target import remove_leftovers
from hqvox.workspace.covered import ADDRESSES, Covered, Owner, covers_row
from hqvox.workspace.tables import Row

DOCUMENTS = (SPLIT_FILE, LICENCES_FILE, DATASHEET_FILE, CHECKSUMS)
"""Text files of a release that may name photographs and people."""


def erase_unfinished(covered: Covered) -> None:
    """Remove releases that were never finished."""
    workspace = covered.workspace
    finished = release_names(workspace)
    unfinished = [name for name in workspace.storage.names(FOLDER) if name not in finished]
    for name in unfinished or [""]:
        remove_leftovers(workspace.storage, f"{FOLDER}/{name}")


RELEASES = Owner("releases", (f"{FOLDER}/*/**",), erase_unfinished)


def released_files(covered: Covered) -> dict[str, list[str]]:
    """Of each finished release that holds anything covered, all files that do, below its folder.

    For a release that cannot be read, a line that says so.
    """
    named = {}
    for name in release_names(covered.workspace):
        try:
            files = holding_files(Release(covered.workspace, name), covered)
        except HqvoxError as error:
            files = [f"it cannot be read, look yourself: {error}"]
        if files:
            named[name] = files
    return named


def holding_files(release: Release, covered: Covered) -> list[str]:
    """The files of a release that show, name or were made from what is covered.

    Pictures, contact sheets and speech come first, then tables and documents. Raises HqvoxError
    where a table is missing or damaged.
    """
    takedowns = covered.takedowns
    identities = release.identities().to_pylist()
    people = [row for row in identities if takedowns.covers_identity(row["identity_id"])]
    gone = {row["identity_id"] for row in people}
    faces = [row for row in release.manifest().to_pylist() if covers_row(takedowns, row)]
    pictures = [row[f"{kind}_file"] for row in faces for kind in KINDS]
    shown = gone | {row["identity_id"] for row in faces}
    sheets = {
        contact_sheet_file(number // SHEET_IDENTITIES + 1)
        for number, row in enumerate(identities)
        if row["identity_id"] in shown
    }
    speech = _speech_files(release, gone) if gone else []
    tables = [MANIFEST_FILE] * bool(faces) + [IDENTITIES_FILE] * bool(people)
    files = [*pictures, *sorted(sheets), *speech, *tables]
    if files:
        texts = {*pictures, *_texts(faces, people)}
        files += [name for name in DOCUMENTS if _names(release, name, texts)]
    if _is_in(release.info(), covered, {row["name"] for row in people}):
        files.append(INFO)
    listed = {line.partition("  ")[2] for line in release.read(CHECKSUMS).decode().splitlines()}
    return [name for name in files if name in listed or name in (CHECKSUMS, INFO)]


def _speech_files(release: Release, people: set[str]) -> list[str]:
    if not release.has_speech:
        return []
    rows = release.speech().select(["identity_id", "file"]).to_pylist()
    files = sorted({row["file"] for row in rows if row["identity_id"] in people})
    return [*files, SPEECH_INDEX] if files else []


def _texts(faces: list[Row], people: list[Row]) -> Iterator[str]:
    """What documents call covered photographs and people."""
    for row in faces:
        yield row["photo_id"]
        yield from (row[name] for name in ADDRESSES if row.get(name) and name != "page_url")
    for row in people:
        yield from (row["identity_id"], row["name"], row["folder"])


def _names(release: Release, file: str, texts: set[str]) -> bool:
    """Whether a text file names any of ``texts``, as they are or as JSON has them."""
    if not release.storage.exists(file):
        return False
    content = release.read(file).decode("utf-8", "replace")
    return any(text in content or json.dumps(text)[1:-1] in content for text in texts)


def _is_in(value: Any, covered: Covered, names: set[str]) -> bool:
    """Whether JSON names a covered identity, or a face of a covered photograph."""
    if isinstance(value, dict):
        key = (value.get("identity_id"), value.get("candidate"))
        return key in covered.candidates or any(_is_in(v, covered, names) for v in value.values())
    if isinstance(value, list):
        return any(_is_in(v, covered, names) for v in value)
    return isinstance(value, str) and (value in names or covered.takedowns.covers_identity(value))
