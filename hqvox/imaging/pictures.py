"""Small pictures for people to look at: thumbnails, captions, contact sheets."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hqvox.imaging.codec import srgb_profile
from models.protocols import Photo

INK = (31, 36, 43)
GREY = (112, 120, 130)
PAPER = (255, 255, 255)
KEPT = (46, 125, 79)
REFUSED = (190, 62, 48)
"""Colours, RGB."""


@cache
def font(size_px: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font of captions: matplotlib's DejaVu Sans, the same on every machine."""
    import matplotlib  # Here: it takes longer to load than most commands to run.

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size_px)


def fitted(picture: Photo, width_px: int, height_px: int) -> Photo:
    """The picture (RGB) scaled to lie within a box, up or down, its shape kept."""
    height, width = picture.shape[:2]
    scale = min(width_px / width, height_px / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, size, interpolation=how), dtype=np.uint8)


@cache
def _profile() -> bytes:
    return srgb_profile()


def encode_jpeg(picture: Photo | Image.Image, quality: int) -> bytes:
    """JPEG in sRGB, with its profile and full colour resolution (4:4:4).

    The same picture gives the same bytes.
    """
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=quality, subsampling=0, icc_profile=_profile())
    return sink.getvalue()


def clip_text(text: str, width_px: int, size_px: int, bold: bool = False) -> str:
    """The text on one line, shortened with an ellipsis to ``width_px``."""
    text = " ".join(text.split())
    text = "".join(c if c.isprintable() else "?" for c in text)
    write = font(size_px, bold)
    if write.getlength(text) <= width_px:
        return text
    while text and write.getlength(text + "…") > width_px:
        text = text[:-1]
    return text + "…"


@dataclass
class Tile:
    """A picture of a contact sheet, with lines of text below and a coloured edge."""

    picture: Photo | None
    lines: Sequence[str] = ()
    colour: tuple[int, int, int] | None = None


@dataclass
class SheetRow:
    """Pictures side by side under a heading."""

    heading: str
    tiles: Sequence[Tile]


def contact_sheet(
    rows: Sequence[SheetRow], columns: int, side_px: int = 128, title: str = ""
) -> Image.Image:
    """Rows of tiles of ``side_px``, wrapped at ``columns``, on white."""
    gap, line_px = 10, 15
    lines = max((len(tile.lines) for row in rows for tile in row.tiles), default=0)
    tile_height = side_px + lines * line_px + gap
    width = gap + columns * (side_px + gap)
    heights = [
        (24 if row.heading else 0) + -(-len(row.tiles) // columns) * tile_height for row in rows
    ]
    top = 40 if title else gap
    sheet = Image.new("RGB", (width, top + sum(heights) + gap), PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((gap, 12), clip_text(title, width - 2 * gap, 15, True), INK, font(15, True))
    for row, height in zip(rows, heights, strict=True):
        y = top
        if row.heading:
            draw.text((gap, y + 4), clip_text(row.heading, width - 2 * gap, 12), INK, font(12))
            y += 24
        for number, tile in enumerate(row.tiles):
            x = gap + number % columns * (side_px + gap)
            _draw_tile(sheet, draw, tile, x, y + number // columns * tile_height, side_px)
        top += height
    return sheet


def _draw_tile(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, tile: Tile, x: int, y: int, side_px: int
) -> None:
    frame = (x, y, x + side_px - 1, y + side_px - 1)
    if tile.picture is None:
        draw.rectangle(frame, fill=(238, 240, 243))
        draw.text((x + 8, y + side_px // 2 - 7), "no picture", GREY, font(11))
    else:
        small = fitted(tile.picture, side_px, side_px)
        left, up = x + (side_px - small.shape[1]) // 2, y + (side_px - small.shape[0]) // 2
        sheet.paste(Image.fromarray(small), (left, up))
    draw.rectangle(frame, outline=tile.colour or (222, 226, 230), width=3 if tile.colour else 1)
    for number, line in enumerate(tile.lines):
        place = (x, y + side_px + 2 + number * 15)
        draw.text(place, clip_text(line, side_px, 11), INK if number == 0 else GREY, font(11))
