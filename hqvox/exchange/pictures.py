"""The pictures of an imported face as a release has them; what is missing is made.

A picture that is a square colour JPEG already goes over byte by byte; any other is decoded and
written as one. Where only the one with its background is there, it is cut out here.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hqvox.imaging.codec import UndecodableError, decode, decode_png
from hqvox.imaging.composite import composite_on_white_fast
from hqvox.imaging.pictures import Tile, encode_jpeg, fitted
from hqvox.release.pictures import THUMBNAIL_PX
from hqvox.release.target import Sink
from hqvox.release.verify_content import picture_problem
from hqvox.workspace.layout import Workspace
from hqvox.workspace.tables import Row
from models.protocols import Photo

_ORIENTATION_TAG = 0x0112
AS_IT_IS, MADE, COPIED = "as it is", "made here", "copied from the other"


@dataclass(frozen=True)
class FaceTask:
    """A face to be written."""

    masked: Path | None
    origin: Path | None
    side_px: int
    row: Row
    """With ``shard``, ``transform`` and where the mask lies, of which any may be null."""
    masked_file: str
    origin_file: str


@dataclass(frozen=True)
class PersonTask:
    """A piece of work: a person's faces."""

    workspace: str
    sink: Sink
    jpeg_quality: int
    faces: tuple[FaceTask, ...]


@dataclass(frozen=True)
class Drawn:
    """A face that was written."""

    sums: dict[str, str]
    masked: str
    """:data:`AS_IT_IS`, :data:`MADE` or :data:`COPIED`; ``origin`` alike, but never made."""
    origin: str
    problems: list[str]
    tile: Tile


def draw_person(task: PersonTask) -> list[Drawn | str]:
    """Write the faces of a person; in place of one that cannot be, a line that says why."""
    return [_draw(task, face) for face in task.faces]


def _draw(task: PersonTask, face: FaceTask) -> Drawn | str:
    problems: list[str] = []
    found = {}
    for kind, path in (("masked", face.masked), ("origin", face.origin)):
        loaded = _load(path, face.side_px, task.jpeg_quality) if path is not None else None
        if isinstance(loaded, str):
            problems.append(f"{path}: {loaded}; not used")
        elif loaded is not None:
            found[kind] = loaded
    how = dict.fromkeys(("masked", "origin"), AS_IT_IS)
    if not found:
        return "; ".join(problems)
    if "origin" not in found:
        found["origin"], how["origin"] = found["masked"], COPIED
    if "masked" not in found:
        cut = _cut_out(task, face, found["origin"][1])
        found["masked"] = found["origin"] if cut is None else cut
        how["masked"] = COPIED if cut is None else MADE
    files = {"masked": face.masked_file, "origin": face.origin_file}
    sums = {files[kind]: task.sink.write(files[kind], found[kind][0]) for kind in files}
    small = fitted(found["masked"][1], THUMBNAIL_PX, THUMBNAIL_PX)
    return Drawn(sums, how["masked"], how["origin"], problems, Tile(small))


def _load(path: Path, side_px: int, quality: int) -> tuple[bytes, Photo] | str:
    """The JPEG and its pixels, or what is wrong with the file."""
    try:
        data = path.read_bytes()
        pixels = decode(data)
    except UndecodableError as error:
        return f"cannot be decoded ({error})"
    except OSError as error:
        return str(error.strerror)
    if pixels.shape[:2] != (side_px, side_px):
        return f"{pixels.shape[1]} × {pixels.shape[0]} px where the other picture has {side_px}"
    if not picture_problem(data, side_px) and _upright(data):
        return data, pixels
    return encode_jpeg(pixels, quality), pixels


def _upright(data: bytes) -> bool:
    with Image.open(io.BytesIO(data)) as image:
        return image.getexif().get(_ORIENTATION_TAG, 1) == 1


def _cut_out(task: PersonTask, face: FaceTask, pixels: Photo) -> tuple[bytes, Photo] | None:
    """The picture on white, by the mask that the segment stage made; None where there is none."""
    row = face.row
    if row["mask_offset"] is None or row["transform"] is None:
        return None
    stored = Workspace(task.workspace).pixels("mask", row)
    alpha: NDArray[np.uint8] = decode_png(stored, cv2.IMREAD_GRAYSCALE)
    # The mask is of our own crop of the picture: carried back by the inverse of its transform.
    back = cv2.warpAffine(
        alpha,
        np.asarray(row["transform"], dtype=np.float64).reshape(2, 3),
        (face.side_px, face.side_px),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    masked = composite_on_white_fast(pixels, np.asarray(back, dtype=np.uint8))
    return encode_jpeg(masked, task.jpeg_quality), masked
