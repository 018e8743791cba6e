"""Decoding whatever a crawl brings."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from hqvox.imaging.codec import UndecodableError, decode, read_header


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def halves(mode: str = "RGB", size: tuple[int, int] = (64, 32)) -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", size, (255, 0, 0))
    image.paste((0, 0, 255), (size[0] // 2, 0, *size))
    return image.convert(mode)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_each_format_gives_rgb(kind: str) -> None:
    pixels = decode(encoded(halves(), kind))
    assert pixels.shape == (32, 64, 3)
    assert pixels.dtype == np.uint8
    assert pixels[16, 8, 0] > 240
    assert pixels[16, 56, 2] > 240


def test_exif_orientation_is_undone_and_the_header_agrees() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored rotated: upright is a quarter turn clockwise
    data = encoded(halves(), "JPEG", exif=exif, quality=95)
    header = read_header(data)
    pixels = decode(data)
    assert (header.width_px, header.height_px) == (32, 64)
    assert pixels.shape == (64, 32, 3)
    assert pixels[8, 16, 0] > 200
    assert pixels[56, 16, 2] > 200


def test_cmyk_grey_palette_and_sixteen_bit() -> None:
    assert decode(encoded(halves("CMYK"), "JPEG"))[16, 8, 0] > 200
    grey = decode(encoded(halves("L"), "JPEG"))
    assert np.ptp(grey.astype(int), axis=2).max() == 0
    assert decode(encoded(halves("P"), "PNG"))[16, 8, 0] == 255
    deep = Image.fromarray(np.full((8, 8), 40_000, np.uint16))
    assert abs(int(decode(encoded(deep, "PNG"))[0, 0, 0]) - 40_000 / 257) <= 1


def test_alpha_becomes_white() -> None:
    clear = Image.new("RGBA", (8, 8), (10, 20, 30, 0))
    assert (decode(encoded(clear, "PNG")) == 255).all()


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert tuple(decode(data)[0, 0]) == (255, 0, 0)


def test_reduced_decoding_agrees_with_reducing_the_whole() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    image = Image.fromarray(noise).resize((900, 600), Image.Resampling.BICUBIC)
    data = encoded(image, "JPEG", quality=95)
    reduced = decode(data, 150)
    assert reduced.shape == (100, 150, 3)
    reference = np.asarray(image.resize((150, 100), Image.Resampling.BOX), np.int16)
    assert np.abs(reduced.astype(np.int16) - reference).mean() < 3


@pytest.mark.parametrize("side", [1, 100, 8000])
def test_extreme_sizes(side: int) -> None:
    data = encoded(Image.new("L", (side, max(1, side // 100)), 128), "PNG")
    assert max(decode(data, 1280).shape) <= max(1280, 3)


def test_a_bomb_is_measured_from_its_header() -> None:
    data = bytearray(encoded(Image.new("L", (8, 8)), "PNG"))
    data[16:24] = (30_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    header = read_header(bytes(data))
    assert (header.width_px, header.height_px) == (30_000, 30_000)


@pytest.mark.parametrize("data", [b"", b"hello", b"<html></html>", b"\xff\xd8\xff", b"GIF89a"])
def test_not_an_image(data: bytes) -> None:
    with pytest.raises(UndecodableError):
        read_header(data)


def test_truncated_files_have_a_header_and_no_pixels() -> None:
    data = encoded(halves(size=(640, 320)), "JPEG")
    assert read_header(data[: len(data) // 2]).width_px == 640
    with pytest.raises(UndecodableError):
        decode(data[: len(data) // 2])
