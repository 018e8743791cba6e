"""VoxCeleb's metadata, any CSV, or folder names, to the identities table.

The table is ``hqvox.workspace.tables.IDENTITIES``; ``row`` is the position within the identity's
own file, from 0, which is what the official split is defined on.
"""

from __future__ import annotations

import csv
import io
import math
import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa

from hqvox.errors import HqvoxError
from hqvox.workspace.tables import IDENTITIES, Row

USER_SUBSET = "custom"
"""Subset of identities that are not VoxCeleb's."""


def read_voxceleb(files: Sequence[Path]) -> list[Row]:
    """Identities of VoxCeleb1's and VoxCeleb2's metadata files, in the files' order.

    Both formats are known by their columns (``vox1_meta.csv``: tab separated;
    ``full_vox2_meta.csv``: comma separated). Raises HqvoxError for any other, or doubled ids.
    """
    rows: list[Row] = []
    for file in files:
        columns, records = _read_table(file)
        if {"VoxCeleb1 ID", "VGGFace1 ID"} <= set(columns):
            keys, subset = ("VoxCeleb1 ID", "VGGFace1 ID", "Gender", "Nationality"), "vox1"
        elif {"VoxCeleb2ID", "Name"} <= set(columns):
            gender = next((c for c in ("Gender_x", "Gender", "Gender_y") if c in columns), "")
            keys, subset = ("VoxCeleb2ID", "Name", gender, ""), "vox2"
        else:
            raise HqvoxError(
                f"{file}: not a VoxCeleb metadata file: needs the columns 'VoxCeleb1 ID' and "
                f"'VGGFace1 ID', or 'VoxCeleb2ID' and 'Name'; found {', '.join(columns) or 'none'}"
            )
        for number, (line, record) in enumerate(records):
            rows.append(_identity(file, line, number, [record.get(k) for k in keys], subset))
    return _checked(rows, ", ".join(str(f) for f in files))


def read_csv(file: Path) -> list[Row]:
    """Identities of a CSV or TSV with the columns ``id`` and ``name``.

    Optional columns: ``subset``, ``gender``, ``nationality``, ``folder``, ``minor``. Raises
    HqvoxError where a column, an id or a name is missing, or an id is doubled.
    """
    columns, records = _read_table(file)
    missing = [c for c in ("id", "name") if c not in columns]
    if missing:
        raise HqvoxError(
            f"{file}: column {' and '.join(missing)} missing; "
            f"found {', '.join(columns) or 'none'}; "
            "needed: id,name (and, if known, subset,gender,nationality,folder,minor)"
        )
    rows = []
    for number, (line, record) in enumerate(records):
        values = [record.get(key) for key in ("id", "name", "gender", "nationality")]
        row = _identity(file, line, number, values, record.get("subset") or USER_SUBSET)
        folder = record.get("folder") or ""
        if os.path.isabs(folder) or ".." in Path(folder).parts:
            raise HqvoxError(
                f"{file}:{line}: folder {folder!r} leads out of the folder of photographs; name "
                "one below it"
            )
        row["folder"] = quote(folder) or None
        row["minor"] = _is_minor(file, line, record.get("minor"))
        rows.append(row)
    return _checked(rows, str(file))


def read_folders(photos: Path) -> list[Row]:
    """One identity per sub-folder of ``photos``, named and identified by the folder's name.

    Hidden folders, and those that begin with an underscore, are left out. Raises HqvoxError where
    there are none.
    """
    try:
        entries = sorted(os.fsencode(e.name) for e in os.scandir(photos) if e.is_dir())
    except OSError as error:
        raise HqvoxError(
            f"{photos}: {error.strerror}; name a folder that holds one folder per identity"
        ) from None
    rows: list[Row] = []
    for name in entries:
        if name.startswith((b".", b"_")):
            continue
        folder = quote(name)
        # A name that is not UTF-8 stays readable as its percent-encoded form.
        shown = folder if _not_text(name) else name.decode()
        rows.append(
            {
                "identity_id": shown,
                "name": shown,
                "subset": USER_SUBSET,
                "gender": None,
                "nationality": None,
                "row": len(rows),
                "folder": folder,
            }
        )
    if not rows:
        raise HqvoxError(
            f"{photos}: no folders in it; hqvox expects one folder of photographs per identity"
        )
    return rows


def match_folders(rows: list[Row], photos: Path) -> int:
    """Give each identity without a folder the one of its name or id; return how many have one.

    ``photos`` holds one folder per identity, named by the identity's name or id.
    """
    try:
        present = {e.name for e in os.scandir(photos) if e.is_dir()}
    except OSError as error:
        raise HqvoxError(
            f"{photos}: {error.strerror}; name the folder of the photographs"
        ) from None
    for row in rows:
        if row.get("folder") is None:
            name = next((n for n in (row["name"], row["identity_id"]) if n in present), None)
            row["folder"] = quote(os.fsencode(name)) if name is not None else None
    return sum(row["folder"] is not None for row in rows)


def shard_size(identities: int) -> int:
    """Identities per shard: small builds get one each, VoxCeleb's 7,363 get 16."""
    return max(1, min(16, math.ceil(identities / 64)))


def to_table(rows: Sequence[Row]) -> pa.Table:
    """The identities table, each identity put into its shard. People marked as minors are left out.

    Raises HqvoxError if it is empty.
    """
    rows = [row for row in rows if not row.get("minor")]
    if not rows:
        raise HqvoxError("no identities: the list is empty, or has minors only")
    size = shard_size(len(rows))
    return pa.Table.from_pylist(
        [{**row, "shard": f"{number // size:05d}"} for number, row in enumerate(rows)],
        schema=IDENTITIES,
    )


_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\.|$)", re.IGNORECASE)


def safe_name(name: str) -> str:
    """The name as one folder name: separators, control and reserved characters become ``_``.

    Letters of any script, dots, hyphens and apostrophes stay; ``.`` and ``..`` do not. Characters
    that are not seen, such as those that turn the direction of writing, are left out. Names that
    Windows keeps for devices get a ``_`` in front.
    """
    seen = "".join(c for c in name if unicodedata.category(c) != "Cf")
    cleaned = re.sub(r'[\x00-\x1f\x7f-\x9f/\\:*?"<>|\s]+', "_", seen).strip()
    cleaned = cleaned[:120]
    if _DEVICE.match(cleaned):
        cleaned = f"_{cleaned}"
    return cleaned if cleaned.strip(".") else "_" * max(1, len(cleaned))


def _not_text(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return True
    return False


def _identity(file: Path, line: int, number: int, values: Sequence[str | None], subset: str) -> Row:
    identity_id, name, gender, nationality = ((v or "").strip() for v in values)
    if not identity_id or not name:
        what = "id" if not identity_id else "name"
        raise HqvoxError(
            f"{file}:{line}: the {what} is empty; give every identity an id and a name"
        )
    return {
        "identity_id": identity_id,
        "name": name,
        "subset": subset,
        "gender": gender.lower()[:1] or None,
        "nationality": nationality or None,
        "row": number,
        "folder": None,
    }


def _is_minor(file: Path, line: int, value: str | None) -> bool:
    """Whether the column ``minor`` marks a person as one; an empty field does not."""
    word = (value or "").strip().lower()
    if word in ("1", "true", "yes", "y"):
        return True
    if word in ("", "0", "false", "no", "n"):
        return False
    raise HqvoxError(f"{file}:{line}: minor {value!r}: yes or no, 1 or 0")


def _checked(rows: list[Row], where: str) -> list[Row]:
    seen: dict[str, str] = {}
    for row in rows:
        key = row["identity_id"]
        if key in seen:
            raise HqvoxError(
                f"{where}: id {key!r} stands twice ({seen[key]!r} and {row['name']!r}); "
                "ids must be unique"
            )
        seen[key] = row["name"]
    return rows


def _read_table(file: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    try:
        text = file.read_text("utf-8-sig")
    except OSError as error:
        raise HqvoxError(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise HqvoxError(f"{file}: not UTF-8 text; save it as UTF-8 CSV") from None
    first = text.split("\n", 1)[0]
    reader = csv.DictReader(io.StringIO(text), delimiter="\t" if "\t" in first else ",")
    try:
        columns = [c.strip() for c in reader.fieldnames or []]
        reader.fieldnames = columns
        records = [(reader.line_num, record) for record in reader]
    except csv.Error as error:
        raise HqvoxError(
            f"{file}:{reader.line_num}: {error}; look for a quote that is left open"
        ) from None
    doubled = next((c for c in columns if c and columns.count(c) > 1), None)
    if doubled is not None:
        raise HqvoxError(f"{file}: column {doubled!r} stands twice; leave one out")
    return columns, records
