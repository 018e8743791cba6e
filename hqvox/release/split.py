"""Which identities train, validate and test: HQ-VoxCeleb's own split, one by seed, or by file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hqvox.errors import HqvoxError
from hqvox.release.split_file import digest, parts_of_file, read_split_file
from hqvox.workspace.tables import Row

PARTS = ("train", "val", "test")
"""The parts of a split, in the order they are printed."""


@dataclass(frozen=True)
class Split:
    """Who is on which side."""

    how: str
    """``official``, ``seed:N``, or ``file:`` and the SHA-256 of the file."""
    parts: dict[str, str]
    """Part by identity id."""
    unassigned: list[Row] = field(default_factory=list)
    """Identities that the file does not name: they are not released."""
    unknown: list[str] = field(default_factory=list)
    """What the file names and the workspace does not have among those to be released."""


def official_part(row: int) -> str:
    """Part of the identity at this row of its metadata file, from 0 (HQ-VoxCeleb's rule)."""
    return {8: "test", 9: "val"}.get(row % 10, "train")


def check_split(how: str) -> int | Path | None:
    """The seed of ``seed:N``, the path of a file, None for ``official``.

    Raises HqvoxError for anything else.
    """
    if how == "official":
        return None
    match = re.fullmatch(r"seed:(\d{1,18})", how)
    if match:
        return int(match.group(1))
    if how and not how.startswith("seed:") and Path(how).is_file():
        return Path(how)
    raise HqvoxError(
        f"--split {how}: no such file; write official, seed: and a number (seed:7), or the path of "
        "a split.json or of a CSV with the columns identity,part"
    )


def make_split(identities: Sequence[Row], how: str = "official") -> Split:
    """The split of the identities that are to be released.

    ``identities``: rows with ``identity_id``, ``subset``, ``row``, and for a file ``name``,
    ``subset_folder`` and ``folder``. ``how``: ``official`` goes by the position in the metadata
    file; ``seed:N`` draws a tenth of each subset for test and a tenth for validation (at least one
    each where there are three or more identities), the same for the same N and identities; else
    the path of a file. Raises HqvoxError where the file cannot be read, names an identity on two
    sides, or names nobody.
    """
    choice = check_split(how)
    if choice is None:
        return Split(how, {row["identity_id"]: official_part(row["row"]) for row in identities})
    if isinstance(choice, int):
        return Split(how, _by_seed(identities, choice))
    parts, unknown = parts_of_file(choice, read_split_file(choice), identities)
    unassigned = [row for row in identities if row["identity_id"] not in parts]
    return Split(f"file:{digest(choice)}", parts, unassigned, unknown)


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
