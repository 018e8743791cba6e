"""The pictures of a release: both crops of every face, and the contact sheets, page by page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import cv2
from PIL import Image

from hqvox.errors import HqvoxError
from hqvox.imaging.codec import decode_png
from hqvox.imaging.composite import composite_on_white_fast
from hqvox.imaging.pictures import SheetRow, Tile, contact_sheet, encode_jpeg, fitted
from hqvox.release.layout import contact_sheet_file
from hqvox.release.target import Sink
from hqvox.workspace.layout import Workspace
from hqvox.workspace.tables import Row
from models.protocols import Photo

SHEET_IDENTITIES = 24
"""Identities on one page of the contact sheets."""
THUMBNAIL_PX = 128
_SHEET_QUALITY = 90
_LONGEST_SIDE_PX = 20_000


@dataclass(frozen=True)
class FaceCrops:
    """Both pictures of a face, as a release holds them."""

    masked: bytes
    """JPEG of the face on white."""
    origin: bytes
    """JPEG of the same crop with its background."""
    pixels: Photo
    """Of ``masked``, for the contact sheet."""
    made_from: dict[str, str] = field(default_factory=dict)
    """How a picture was made where it was not given, by its kind."""
    problems: tuple[str, ...] = ()
    """A line for each file that was not used."""


class CropSource(Protocol):
    """Where both pictures of a face come from; can be sent to another process."""

    def crops(self, workspace: Workspace, jpeg_quality: int) -> FaceCrops | str:
        """The pictures, or a line that says why there are none. Raises HqvoxError."""
        ...


@dataclass(frozen=True)
class StoredCrop:
    """The aligned crop and the mask that a build stored."""

    place: Row
    """``shard``, and offsets and sizes of crop and mask."""
    name: str
    """Of the face, for errors."""

    def crops(self, workspace: Workspace, jpeg_quality: int) -> FaceCrops:
        """The crop on white and as it is. Raises HqvoxError where stored pixels are damaged."""
        try:
            aligned = decode_png(workspace.pixels("aligned", self.place))
            alpha = decode_png(workspace.pixels("mask", self.place), cv2.IMREAD_GRAYSCALE)
            masked = composite_on_white_fast(aligned, alpha)
        except (cv2.error, ValueError, IndexError, TypeError, OSError):
            raise HqvoxError(
                f"{workspace.url}: the stored pixels of {self.name} cannot be read; "
                f"delete stages/align/{self.place['shard']}.* and run hqvox build"
            ) from None
        return FaceCrops(
            encode_jpeg(masked, jpeg_quality), encode_jpeg(aligned, jpeg_quality), masked
        )


@dataclass(frozen=True)
class FaceTask:
    """A face to be written: its files below the release, and its pictures."""

    masked_file: str
    origin_file: str
    source: CropSource


@dataclass(frozen=True)
class WrittenFace:
    """A face that was written."""

    masked_sha256: str
    origin_sha256: str
    made_from: dict[str, str]
    problems: tuple[str, ...]
    """As of :class:`FaceCrops`."""


@dataclass(frozen=True)
class SheetPage:
    """A piece of work: the pictures of the identities that share a contact sheet."""

    workspace: str
    sink: Sink
    number: int
    people: tuple[tuple[str, tuple[FaceTask, ...]], ...]
    """The heading of each identity, and its faces in order."""
    columns: int
    jpeg_quality: int

    @property
    def faces(self) -> int:
        """Faces of all its people."""
        return sum(len(faces) for _, faces in self.people)


@dataclass(frozen=True)
class WrittenPage:
    """The result of a page."""

    faces: list[list[WrittenFace | str]]
    """Of each identity; a line that says why in place of a face that could not be written."""
    sums: dict[str, str]
    """SHA-256 of every file that was written."""


def pages(
    workspace: str,
    sink: Sink,
    people: Sequence[tuple[str, tuple[FaceTask, ...]]],
    columns: int,
    jpeg_quality: int,
) -> list[SheetPage]:
    """All people, in order, cut into pages. ``people``: heading and faces of each."""
    chunks = [people[i : i + SHEET_IDENTITIES] for i in range(0, len(people), SHEET_IDENTITIES)]
    return [
        SheetPage(workspace, sink, number, tuple(chunk), columns, jpeg_quality)
        for number, chunk in enumerate(chunks, start=1)
    ]


def write_page(page: SheetPage) -> WrittenPage:
    """Write a page's pictures and its contact sheet.

    Raises HqvoxError where stored pixels are damaged, or the disk refuses.
    """
    workspace = Workspace(page.workspace)
    sums: dict[str, str] = {}
    people: list[list[WrittenFace | str]] = []
    rows: list[SheetRow] = []
    for heading, tasks in page.people:
        faces: list[WrittenFace | str] = []
        tiles = []
        for task in tasks:
            crops = task.source.crops(workspace, page.jpeg_quality)
            if isinstance(crops, str):
                faces.append(crops)
                continue
            masked_sum = page.sink.write(task.masked_file, crops.masked)
            origin_sum = page.sink.write(task.origin_file, crops.origin)
            sums |= {task.masked_file: masked_sum, task.origin_file: origin_sum}
            faces.append(WrittenFace(masked_sum, origin_sum, crops.made_from, crops.problems))
            tiles.append(Tile(fitted(crops.pixels, THUMBNAIL_PX, THUMBNAIL_PX)))
        people.append(faces)
        if tiles:
            rows.append(SheetRow(heading, tiles))
    if rows:
        name = contact_sheet_file(page.number)
        sheet = contact_sheet(rows, columns=page.columns, side_px=THUMBNAIL_PX)
        sums[name] = page.sink.write(name, encode_jpeg(sheet, _SHEET_QUALITY))
    return WrittenPage(people, sums)


def picture_problem(data: bytes, size_px: tuple[int, int]) -> str:
    """Why the bytes are not a colour JPEG of that width and height; empty where they are."""
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as picture:
            if picture.size != size_px or max(size_px) > _LONGEST_SIDE_PX:
                sizes = [f"{width} × {height}" for width, height in (picture.size, size_px)]
                return f"{sizes[0]} px where the manifest says {sizes[1]}"
            if picture.mode != "RGB":
                return f"mode {picture.mode}, not RGB"
            picture.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return f"cannot be decoded ({error})"
    return ""
