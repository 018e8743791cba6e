"""Pictures of what a stage kept or refused, and a gallery of them as safe HTML."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import pyarrow as pa
import pyarrow.compute as pc

from annotator.candidates.index import PIXELS
from annotator.candidates.tiles import masked_crop, stored
from annotator.limits.explore import FACES_FROM, STAGES, Verdicts
from hqvox.errors import HqvoxError
from hqvox.imaging.codec import UndecodableError, decode, decode_png
from hqvox.imaging.pictures import encode_jpeg, fitted
from hqvox.workspace.layout import Workspace
from hqvox.workspace.tables import Row
from models.protocols import Photo

TABLES_KEPT = 128
TILES_KEPT = 2000
"""Slim tables (some 100 kB each) and tiles (some 10 kB) that stay in memory."""
JPEG_QUALITY = 82
AROUND_FACE = 1.7
"""Side of the square around a face, in longer sides of its box."""

_ALIGNED_FROM = STAGES.index("align")
_MASKED_FROM = STAGES.index("segment")


@dataclass(frozen=True)
class Place:
    """A row of the build: a photo, or a face where ``face`` is not -1."""

    shard: str
    identity_id: str
    candidate: int
    face: int = -1


def place_of(verdicts: Verdicts, row: int) -> Place:
    """Where a row of the verdicts belongs."""
    person = int(verdicts.identity[row])
    return Place(
        verdicts.shards[person],
        verdicts.identity_ids[person],
        int(verdicts.candidate[row]),
        int(verdicts.face[row]),
    )


class Pictures:
    """Tiles of a workspace's rows, read when they are asked for; may be shared by threads.

    A rebuild moves pixels: make a new one then.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        people = workspace.identities().select(["identity_id", "shard"])
        self._shards = dict(
            zip(*(people[c].to_pylist() for c in ("identity_id", "shard")), strict=True)
        )
        self._table = lru_cache(TABLES_KEPT)(self._read_table)
        self._tile = lru_cache(TILES_KEPT)(self._make)

    def place(self, identity_id: str, candidate: int, face: int = -1) -> Place:
        """Where a photo or face of an identity belongs. Raises KeyError for an unknown one."""
        return Place(self._shards[identity_id], identity_id, candidate, face)

    def tile(self, place: Place, stage: str, side_px: int) -> bytes | None:
        """JPEG within ``side_px``: what ``stage`` looked at; None where there are no pixels.

        On white from segment on, the aligned crop at align, before it the photo around the face,
        and the whole photo where no face was found.
        """
        return self._tile(place, stage, side_px)

    def _make(self, place: Place, stage: str, side_px: int) -> bytes | None:
        try:
            picture = self._picture(place, STAGES.index(stage), side_px)
        except (HqvoxError, UndecodableError, cv2.error, ValueError):
            return None  # taken down, moved by a rebuild, or damaged
        if picture is None:
            return None
        return encode_jpeg(fitted(picture, side_px, side_px), JPEG_QUALITY)

    def _picture(self, place: Place, position: int, side_px: int) -> Photo | None:
        row: Row = {"shard": place.shard, "identity_id": place.identity_id, "face": place.face}
        row |= self._row("download", place)
        if position >= _ALIGNED_FROM:
            row |= self._row("align", place)
        if position >= _MASKED_FROM:
            row |= self._row("segment", place)
            if row.get("mask_offset") is not None:
                return masked_crop(self._workspace, row, side_px)
        if row.get("aligned_offset") is not None:
            return decode_png(stored(self._workspace, "aligned", row))
        if row.get("photo_offset") is None:
            return None
        if position >= FACES_FROM:
            row |= self._row("landmarks", place)
        return self._around_face(row, side_px)

    def _around_face(self, row: Row, side_px: int) -> Photo:
        """The photo around the face, decoded no larger than is needed; all of it without a face."""
        data = stored(self._workspace, "photo", row)
        longer = max(row["width_px"], row["height_px"])
        box = row.get("box_xyxy")
        if box is None:
            return decode(data, 2 * side_px)
        left, top, right, bottom = box
        side = max(32.0, AROUND_FACE * max(right - left, bottom - top))
        wanted = math.ceil(longer * min(1.0, 2 * side_px / side))
        photo = decode(data, wanted)
        height, width = photo.shape[:2]
        scale = max(height, width) / longer
        span = max(8, round(side * scale))
        x = round((left + right) / 2 * scale - span / 2)
        y = round((top + bottom) / 2 * scale - span / 2)
        # Towards the photo's middle where the square would leave it.
        x, y = max(0, min(x, width - span)), max(0, min(y, height - span))
        return photo[y : y + span, x : x + span]

    def _row(self, stage: str, place: Place) -> Row:
        """The columns of ``stage`` that lead to a row's pixels; empty where it has none."""
        table = self._table(stage, place.shard)
        if table is None:
            return {}
        same = pc.and_(
            pc.equal(table["identity_id"], place.identity_id),
            pc.equal(table["candidate"], place.candidate),
        )
        if place.face >= 0 and stage != "download":
            same = pc.and_(same, pc.equal(table["face"], place.face))
        matches = table.filter(same).to_pylist()
        return {name: matches[0][name] for name in PIXELS[stage]} if matches else {}

    def _read_table(self, stage: str, shard: str) -> pa.Table | None:
        return self._workspace.read_stage(stage, shard, PIXELS[stage])


# A gallery as HTML ---------------------------------------------------------------------------


@dataclass(frozen=True)
class VerdictPicture:
    """A picture with lines of text below; ``tone``: ``kept``, ``refused`` or ``plain``."""

    jpeg: bytes | None
    lines: Sequence[str]
    tone: str = "plain"


STYLE = """
<style>
  .hq-gallery { display: grid; gap: .75rem;
    grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); }
  .hq-gallery figure { margin: 0; min-width: 0; }
  .hq-gallery .hq-face { aspect-ratio: 1; width: 100%; object-fit: contain; display: flex;
    align-items: center; justify-content: center; border-radius: .35rem; box-sizing: border-box;
    border: 2px solid rgba(128, 136, 146, .35); background: rgba(128, 136, 146, .12);
    font-size: .8rem; }
  .hq-gallery .kept .hq-face { border-color: #2e7d4f; }
  .hq-gallery .refused .hq-face { border-color: #be3e30; }
  .hq-gallery figcaption { font-size: .8rem; line-height: 1.3; padding-top: .2rem; }
  .hq-gallery figcaption div { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
  .hq-gallery figcaption div + div { opacity: .7; }
</style>
"""


def gallery_html(shown: Sequence[VerdictPicture]) -> str:
    """A grid that fills the width; whatever names hold is text."""
    return f'{STYLE}<div class="hq-gallery">{"".join(map(_figure, shown))}</div>'


def _figure(picture: VerdictPicture) -> str:
    lines = [html.escape(line) for line in picture.lines]
    if picture.jpeg is None:
        inner = '<div class="hq-face">no picture</div>'
    else:
        data = base64.b64encode(picture.jpeg).decode()
        label = lines[0] if lines else ""
        inner = f'<img class="hq-face" alt="{label}" src="data:image/jpeg;base64,{data}">'
    caption = "".join(f'<div title="{line}">{line}</div>' for line in lines)
    tone = html.escape(picture.tone)
    return f'<figure class="{tone}">{inner}<figcaption>{caption}</figcaption></figure>'
