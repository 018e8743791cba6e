"""Reading a split from a file: the released ``split.json``, or a CSV of identity and part."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hqvox.errors import HqvoxError
from hqvox.workspace.identities import safe_name
from hqvox.workspace.tables import Row

_PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val"}
_PARTS |= {"test": "test"}
"""What files call the parts."""


@dataclass(frozen=True)
class Entry:
    """A line of a split file."""

    subset: str | None
    """Subset folder, ``vox1`` or ``vox2``; None where the file does not tell."""
    identity: str
    """Id, name or folder name."""
    part: str
    place: str
    """Where in the file, for messages."""


def read_split_file(file: Path) -> list[Entry]:
    """The entries of a split file. Raises HqvoxError where it is neither form."""
    try:
        text = file.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise HqvoxError(f"--split {file}: not UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        why = error.strerror
        raise HqvoxError(f"--split {file}: {why}; name a file that can be read") from None
    return _from_json(file, text) if text.lstrip()[:1] in ("{", "[") else _from_csv(file, text)


def digest(file: Path) -> str:
    """SHA-256 of a file, hex."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def parts_of_file(
    file: Path, entries: Sequence[Entry], identities: Sequence[Row]
) -> tuple[dict[str, str], list[str]]:
    """Part by identity id, and what the file names that is none of ``identities``.

    An entry means the identity of that id, else the one of that folder, else of that name. Raises
    HqvoxError where an identity stands on two sides, a name means several, or nobody is named.
    """
    found: dict[str, tuple[str, str]] = {}
    unknown: list[str] = []
    lookup = _Lookup(identities)
    for entry in entries:
        ids = lookup.find(entry)
        if len(ids) > 1:
            raise HqvoxError(
                f"--split {file}: {entry.place}: {entry.identity!r} could be any of "
                f"{', '.join(ids)}; write the id"
            )
        if not ids:
            unknown.append(entry.identity)
            continue
        before = found.setdefault(ids[0], (entry.part, entry.place))
        if before[0] != entry.part:
            raise HqvoxError(
                f"--split {file}: {entry.place}: {entry.identity!r} is in {entry.part} and, "
                f"{before[1]}, in {before[0]}; an identity is on one side only"
            )
    if not found:
        first = entries[0].identity if entries else ""
        raise HqvoxError(
            f"--split {file}: names none of the {len(identities):,} identities to be released "
            f"(its first is {first!r}); use their ids, names or folder names"
        )
    return {identity_id: part for identity_id, (part, _) in found.items()}, unknown


class _Lookup:
    def __init__(self, identities: Sequence[Row]) -> None:
        self.ids = {row["identity_id"] for row in identities}
        self.folders: dict[str, list[tuple[str, str]]] = {}
        self.names: dict[str, list[tuple[str, str]]] = {}
        for row in identities:
            place = (row["subset_folder"], row["identity_id"])
            self.folders.setdefault(row["folder"], []).append(place)
            self.names.setdefault(safe_name(row["name"]), []).append(place)

    def find(self, entry: Entry) -> list[str]:
        if entry.identity in self.ids:
            return [entry.identity]
        key = safe_name(entry.identity)
        for table in (self.folders.get(entry.identity, []), self.names.get(key, [])):
            ids = [i for subset, i in table if entry.subset is None or subset == entry.subset]
            if ids:
                return ids
        return []


def _from_json(file: Path, text: str) -> list[Entry]:
    form = 'expected {"vox1": {"train": [names], "val": [names], "test": [names]}, …}'
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise HqvoxError(f"--split {file}:{error.lineno}: not JSON ({error.msg}); {form}") from None
    entries = []
    for subset, parts in value.items() if isinstance(value, dict) else [("", None)]:
        if not isinstance(parts, dict):
            raise HqvoxError(f"--split {file}: {subset!r} holds no parts; {form}")
        for part, names in parts.items():
            place = f"{subset}/{part}"
            if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
                raise HqvoxError(f"--split {file}: {place} is no list of names; {form}")
            entries += [Entry(subset, name, _part(file, place, part), place) for name in names]
    return entries


def _from_csv(file: Path, text: str) -> list[Entry]:
    first = text.split("\n", 1)[0]
    reader = csv.DictReader(io.StringIO(text), delimiter="\t" if "\t" in first else ",")
    try:
        columns = [column.strip() for column in reader.fieldnames or []]
        reader.fieldnames = columns
        own = next((c for c in ("identity", "identity_id", "id", "name") if c in columns), None)
        part = next((c for c in ("part", "split") if c in columns), None)
        if own is None or part is None:
            raise HqvoxError(
                f"--split {file}: needs the columns identity,part; found "
                f"{', '.join(c for c in columns if c) or 'none'}"
            )
        entries = []
        for record in reader:
            identity, side = (record[own] or "").strip(), (record[part] or "").strip()
            place = f"line {reader.line_num}"
            if identity or side:
                subset = (record.get("subset") or "").strip() or None
                entries.append(Entry(subset, identity, _part(file, place, side), place))
    except csv.Error as error:
        raise HqvoxError(
            f"--split {file}: line {reader.line_num + 1}: {error}; check its quotes"
        ) from None
    return entries


def _part(file: Path, place: str, name: str) -> str:
    part = _PARTS.get(name.strip().lower())
    if part is None:
        raise HqvoxError(f"--split {file}: {place}: {name!r} is no part; write train, val or test")
    return part
