"""On which side an imported person is: as published, or as asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hqvox.exchange.tree import nfc
from hqvox.release.split import Split, check_split, make_split
from hqvox.release.split_file import digest, parts_of_file, read_split_file
from hqvox.workspace.tables import Row

BY_SEED = "seed:0"


def check_choice(asked: str | None, published: Path | None) -> None:
    """Raise HqvoxError where what :func:`choose_split` will go by cannot be read.

    Before hours of measuring, rather than after them.
    """
    if asked is not None:
        check_split(asked)
    elif published is not None:
        read_split_file(published)


def choose_split(
    people: Sequence[Row], asked: str | None, published: Path | None, official: bool
) -> Split:
    """The split of ``people``: as asked for; else the published file's; else by rule or seed.

    ``official``: whether VoxCeleb's metadata is known, whose order is what the official split goes
    by. Raises HqvoxError where a split cannot be made.
    """
    if asked is not None:
        return make_split(people, asked)
    if published is None:
        return make_split(people, "official" if official else BY_SEED)
    # Names in one Unicode form, as those of the folders are.
    entries = [replace(e, identity=nfc(e.identity)) for e in read_split_file(published)]
    parts, unknown = parts_of_file(published, entries, people)
    unassigned = [row for row in people if row["identity_id"] not in parts]
    return Split(f"file:{digest(published)}", parts, unassigned, unknown)
