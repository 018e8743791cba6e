"""Which identities train, validate and test: HQ-VoxCeleb's own split, by initial, seed or file.

A file is the released ``split.json``, or a CSV of identity and part.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hqvox.errors import HqvoxError
from hqvox.workspace.identities import safe_name
from hqvox.workspace.tables import Row

INITIALS = "initials"
"""The split by the initials of names."""
PARTS = ("train", "val", "test")
"""The parts of a split, in the order they are printed."""
_PART_OF = {"valid": "val", "validation": "val", "dev": "val"} | {part: part for part in PARTS}
"""Part by the words that split files use."""


@dataclass(frozen=True)
class SplitPlan:
    """Which part of the split each identity is in."""

    how: str
    """``official``, ``initials``, ``seed:N``, or ``file:`` and the SHA-256 of the file."""
    parts: dict[str, str]
    """Part by identity id."""
    unassigned: list[Row] = field(default_factory=list)
    """Identities that the file does not name, or without an initial: they are not released."""
    unknown: list[str] = field(default_factory=list)
    """Names in the file that are none of the identities to be released."""


@dataclass(frozen=True)
class SplitEntry:
    """A line of a split file."""

    subset: str | None
    """Subset folder, such as ``vox1``; None where the file does not name it."""
    identity: str
    """Id, name or folder name."""
    part: str
    place: str
    """Where in the file, for messages."""


def official_part(row: int) -> str:
    """Part of the identity at this row of its metadata file, from 0 (HQ-VoxCeleb's rule)."""
    return {8: "test", 9: "val"}.get(row % 10, "train")


def part_by_initial(name: str) -> str | None:
    """Part by the first letter of a name: A and B val, C to E test, F to Z train.

    As in voice2face (its released code and its paper) and AVP-GAN's table 3. Accents do not count;
    None for a name that begins with no Latin letter.
    """
    letter = unicodedata.normalize("NFKD", name.strip())[:1].upper()
    if not "A" <= letter <= "Z":
        return None
    return "val" if letter <= "B" else "test" if letter <= "E" else "train"


def check_split(how: str) -> int | Path | None:
    """The seed of ``seed:N``, the path of a file, None for ``official`` and ``initials``.

    Raises HqvoxError for anything else.
    """
    if how in ("official", INITIALS):
        return None
    match = re.fullmatch(r"seed:(\d{1,18})", how)
    if match:
        return int(match.group(1))
    if how and not how.startswith("seed:") and Path(how).is_file():
        return Path(how)
    raise HqvoxError(
        f"--split {how}: no such file; write official, initials, seed: and a number (seed:7), or "
        "the path of a split.json or of a CSV with the columns identity,part"
    )


def make_split(identities: Sequence[Row], how: str = "official") -> SplitPlan:
    """The split of the identities that are to be released.

    ``identities``: rows with ``identity_id``, ``subset``, ``row``, and for a file ``name``,
    ``subset_folder`` and ``folder``. ``how``: ``official`` goes by the position in the metadata
    file; ``initials`` by the first letter of the name (:func:`part_by_initial`); ``seed:N`` draws a
    tenth of each subset for test and a tenth for validation (at least one each where there are
    three or more identities), the same for the same N and identities; else the path of a file.
    Raises HqvoxError where the file cannot be read, puts an identity in two parts, or names none of
    ``identities``.
    """
    choice = check_split(how)
    if how == INITIALS:
        by_name = {row["identity_id"]: part_by_initial(row["name"]) for row in identities}
        parts = {key: part for key, part in by_name.items() if part is not None}
        return SplitPlan(how, parts, [r for r in identities if r["identity_id"] not in parts])
    if choice is None:
        return SplitPlan(how, {row["identity_id"]: official_part(row["row"]) for row in identities})
    if isinstance(choice, int):
        return SplitPlan(how, _by_seed(identities, choice))
    return split_by_file(choice, read_split_file(choice), identities)


def _by_seed(identities: Sequence[Row], seed: int) -> dict[str, str]:
    subsets: dict[str, list[str]] = {}
    for row in identities:
        subsets.setdefault(row["subset"], []).append(row["identity_id"])
    parts: dict[str, str] = {}
    for ids in subsets.values():
        # A hash per identity, not a shuffle: it does not depend on the order of the list.
        shuffled = sorted(ids, key=lambda key: hashlib.sha256(f"{seed}:{key}".encode()).digest())
        held_out = max(1, round(len(ids) / 10)) if len(ids) >= 3 else 0
        for position, identity_id in enumerate(shuffled):
            parts[identity_id] = (
                "test" if position < held_out else "val" if position < 2 * held_out else "train"
            )
    return parts


def split_file(identities: Sequence[Row]) -> dict[str, dict[str, list[str]]]:
    """``split.json`` as the released training code reads it: subset, part, folder names.

    ``identities``: rows with ``subset_folder``, ``folder`` and ``split``.
    """
    split: dict[str, dict[str, list[str]]] = {}
    for row in identities:
        parts = split.setdefault(row["subset_folder"], {part: [] for part in PARTS})
        parts[row["split"]].append(row["folder"])
    return split


def read_split_file(file: Path) -> list[SplitEntry]:
    """The entries of a split file. Raises HqvoxError where it is neither form."""
    try:
        text = file.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise HqvoxError(f"--split {file}: not UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        why = error.strerror
        raise HqvoxError(f"--split {file}: {why}; name a file that can be read") from None
    return _from_json(file, text) if text.lstrip()[:1] in ("{", "[") else _from_csv(file, text)


def split_by_file(
    file: Path, entries: Sequence[SplitEntry], identities: Sequence[Row]
) -> SplitPlan:
    """The split of a file, which holds ``entries``, of the identities to be released.

    An entry names an identity by its id, else by its folder, else by its name. Raises HqvoxError
    where an identity is in two parts, an entry could be any of several identities, or none of the
    entries is one of ``identities``.
    """
    placed: dict[str, tuple[str, str]] = {}
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
        before = placed.setdefault(ids[0], (entry.part, entry.place))
        if before[0] != entry.part:
            raise HqvoxError(
                f"--split {file}: {entry.place}: {entry.identity!r} is in {entry.part} and, "
                f"{before[1]}, in {before[0]}; an identity is on one side only"
            )
    if not placed:
        first = entries[0].identity if entries else ""
        raise HqvoxError(
            f"--split {file}: names none of the {len(identities):,} identities to be released "
            f"(its first is {first!r}); use their ids, names or folder names"
        )
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    parts = {identity_id: part for identity_id, (part, _) in placed.items()}
    unassigned = [row for row in identities if row["identity_id"] not in parts]
    return SplitPlan(f"file:{digest}", parts, unassigned, unknown)


class _Lookup:
    """Identities by id, folder and name."""

    def __init__(self, identities: Sequence[Row]) -> None:
        self.ids = {row["identity_id"] for row in identities}
        self.folders: dict[str, list[tuple[str, str]]] = {}
        self.names: dict[str, list[tuple[str, str]]] = {}
        for row in identities:
            place = (row["subset_folder"], row["identity_id"])
            self.folders.setdefault(row["folder"], []).append(place)
            self.names.setdefault(safe_name(row["name"]), []).append(place)

    def find(self, entry: SplitEntry) -> list[str]:
        if entry.identity in self.ids:
            return [entry.identity]
        key = safe_name(entry.identity)
        for table in (self.folders.get(entry.identity, []), self.names.get(key, [])):
            ids = [i for subset, i in table if entry.subset is None or subset == entry.subset]
            if ids:
                return ids
        return []


def _from_json(file: Path, text: str) -> list[SplitEntry]:
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
            entries += [SplitEntry(subset, name, _part(file, place, part), place) for name in names]
    return entries


def _from_csv(file: Path, text: str) -> list[SplitEntry]:
    first = text.split("\n", 1)[0]
    reader = csv.DictReader(io.StringIO(text), delimiter="\t" if "\t" in first else ",")
    try:
        columns = [column.strip() for column in reader.fieldnames or []]
        reader.fieldnames = columns
        who = next((c for c in ("identity", "identity_id", "id", "name") if c in columns), None)
        part = next((c for c in ("part", "split") if c in columns), None)
        if who is None or part is None:
            raise HqvoxError(
                f"--split {file}: needs the columns identity,part; found "
                f"{', '.join(c for c in columns if c) or 'none'}"
            )
        entries = []
        for record in reader:
            identity, side = (record[who] or "").strip(), (record[part] or "").strip()
            place = f"line {reader.line_num}"
            if identity or side:
                subset = (record.get("subset") or "").strip() or None
                entries.append(SplitEntry(subset, identity, _part(file, place, side), place))
    except csv.Error as error:
        raise HqvoxError(
            f"--split {file}: line {reader.line_num + 1}: {error}; check its quotes"
        ) from None
    return entries


def _part(file: Path, place: str, name: str) -> str:
    part = _PART_OF.get(name.strip().lower())
    if part is None:
        raise HqvoxError(f"--split {file}: {place}: {name!r} is no part; write train, val or test")
    return part
