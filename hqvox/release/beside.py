"""Faces of two releases side by side, as in figures 2 and 7 of SF2F."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image

from hqvox.imaging.codec import decode
from hqvox.imaging.pictures import SheetRow, Tile, contact_sheet
from hqvox.release.read import Release
from hqvox.workspace.tables import Row

PEOPLE, FACES = 12, 4
"""People, and faces of each in each release, at most."""
SIDE_PX = 128


def beside(this: Release, other: Release) -> Image.Image:
    """Faces of the same people in both releases: this one's on the left, the other's on the right.

    A row for each of the first people that are in both, by their ids. Where nobody is, each row has
    somebody of either. Raises HqvoxError where a picture is missing or damaged.
    """
    ours, theirs = _faces(this), _faces(other)
    both = [person for person in ours if person in theirs]
    pairs = [(person, person) for person in both] or list(zip(ours, theirs, strict=False))
    rows = []
    for mine, yours in pairs[:PEOPLE]:
        tiles = [*_tiles(this, ours[mine]), *_tiles(other, theirs[yours])]
        names = [ours[mine][0]["name"], *([] if both else [theirs[yours][0]["name"]])]
        rows.append(SheetRow("   |   ".join(names), tiles))
    title = f"{this.name} (left), {other.name} (right)"
    return contact_sheet(rows, 2 * FACES, SIDE_PX, title)


def _faces(release: Release) -> Mapping[str, list[Row]]:
    """The faces of each person, in the manifest's order."""
    faces: dict[str, list[Row]] = {}
    columns = ["identity_id", "name", "masked_file"]
    for row in release.manifest(columns).to_pylist():
        faces.setdefault(row["identity_id"], []).append(row)
    return faces


def _tiles(release: Release, faces: Sequence[Row]) -> list[Tile]:
    shown = [
        Tile(decode(release.read(row["masked_file"])), [release.name]) for row in faces[:FACES]
    ]
    return shown + [Tile(None)] * (FACES - len(shown))
