"""The pictures of a release: both crops of every face, and the contact sheets, page by page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2

from hqvox.errors import HqvoxError
from hqvox.imaging.codec import decode_png
from hqvox.imaging.composite import composite_on_white_fast
from hqvox.imaging.pictures import SheetRow, Tile, contact_sheet, encode_jpeg, fitted
from hqvox.release.names import image_file
from hqvox.release.target import Sink
from hqvox.workspace.layout import Workspace
from hqvox.workspace.tables import Row

SHEET_IDENTITIES = 24
"""Identities on one page of the contact sheets."""
THUMBNAIL_PX = 128


@dataclass(frozen=True)
class Person:
    """An identity on a page: its heading, and its faces in order."""

    heading: str
    faces: tuple[Row, ...]
    """With ``shard``, offsets and sizes of crop and mask, ``masked_file``, ``origin_file``."""


@dataclass(frozen=True)
class Page:
    """A piece of work: the pictures of the identities that share a contact sheet."""

    workspace: str
    sink: Sink
    number: int
    people: tuple[Person, ...]
    columns: int
    jpeg_quality: int

    @property
    def faces(self) -> int:
        """Faces of all its people."""
        return sum(len(person.faces) for person in self.people)


def pages(
    workspace: str,
    sink: Sink,
    people: Sequence[Person],
    columns: int,
    jpeg_quality: int,
) -> list[Page]:
    """All people, in order, cut into pages."""
    chunks = [people[i : i + SHEET_IDENTITIES] for i in range(0, len(people), SHEET_IDENTITIES)]
    return [
        Page(workspace, sink, number, tuple(chunk), columns, jpeg_quality)
        for number, chunk in enumerate(chunks, start=1)
    ]


def face_task(identity: Row, face: Row, number: int) -> Row:
    """What drawing a face needs: where its pixels are, and the names of its files."""
    needed = ("aligned_offset", "aligned_bytes", "mask_offset", "mask_bytes")
    return {name: face[name] for name in needed} | {
        "shard": identity["shard"],
        "masked_file": image_file(identity, "masked_faces", number),
        "origin_file": image_file(identity, "origin_faces", number),
    }


def draw_page(page: Page) -> dict[str, str]:
    """Write a page's pictures and its contact sheet; return the SHA-256 of each file.

    Raises HqvoxError where stored pixels are damaged, or the disk refuses.
    """
    workspace = Workspace(page.workspace)
    sums: dict[str, str] = {}
    rows: list[SheetRow] = []
    for person in page.people:
        tiles = []
        for face in person.faces:
            try:
                aligned = decode_png(workspace.pixels("aligned", face))
                alpha = decode_png(workspace.pixels("mask", face), cv2.IMREAD_GRAYSCALE)
                masked = composite_on_white_fast(aligned, alpha)
            except (cv2.error, ValueError, IndexError, TypeError, OSError):
                raise HqvoxError(
                    f"{page.workspace}: the stored pixels of {face['masked_file']} cannot be read; "
                    f"delete stages/align/{face['shard']}.* and run hqvox build"
                ) from None
            for name, picture in ((face["masked_file"], masked), (face["origin_file"], aligned)):
                sums[name] = page.sink.write(name, encode_jpeg(picture, page.jpeg_quality))
            tiles.append(Tile(fitted(masked, THUMBNAIL_PX, THUMBNAIL_PX)))
        rows.append(SheetRow(person.heading, tiles))
    name = f"contact_sheets/{page.number:03d}.jpg"
    sheet = contact_sheet(rows, columns=page.columns, side_px=THUMBNAIL_PX)
    sums[name] = page.sink.write(name, encode_jpeg(sheet, 90))
    return sums
