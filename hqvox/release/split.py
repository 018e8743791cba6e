"""Which identities train, validate and test: HQ-VoxCeleb's own split, or one by seed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from hqvox.errors import HqvoxError
from hqvox.tables import Row

PARTS = ("train", "val", "test")
"""The parts of a split, in the order they are printed."""


def official_part(row: int) -> str:
    """Part of the identity at this row of its metadata file, from 0 (HQ-VoxCeleb's rule)."""
    return {8: "test", 9: "val"}.get(row % 10, "train")


def check_split(how: str) -> int | None:
    """The seed of ``seed:N``, None for ``official``. Raises HqvoxError for anything else."""
    if how == "official":
        return None
    match = re.fullmatch(r"seed:(\d{1,18})", how)
    if not match:
        raise HqvoxError(f"--split {how}: write official, or seed: and a number, such as seed:7")
    return int(match.group(1))


def split_identities(identities: Sequence[Row], how: str = "official") -> dict[str, str]:
    """Part of each released identity, by identity id.

    ``how``: ``official`` goes by the position in the metadata file; ``seed:N`` draws a tenth of
    each subset for test and a tenth for validation (at least one each where there are three or
    more identities), the same for the same N and identities. Raises HqvoxError for anything else.
    """
    seed = check_split(how)
    if seed is None:
        return {row["identity_id"]: official_part(row["row"]) for row in identities}
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
