"""The place where a photograph was taken is removed, and nothing else of it."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from hqvox.imaging.location import without_location

GPS = 0x8825
PLACE = {1: "N", 2: (52.0, 31.0, 12.25), 3: "E", 4: (13.0, 24.0, 36.5), 29: "2026:01:02"}


def photo(kind: str, exif: bool = True, xmp: bytes | None = None) -> bytes:
    fields = Image.Exif()
    if exif:
        fields[0x010F] = "Maker of cameras"
        fields[0x0112] = 6
        fields.get_ifd(GPS).update(PLACE)
    sink = io.BytesIO()
    more = {} if xmp is None else {"xmp": xmp}
    noise = np.random.default_rng(3).integers(0, 256, (24, 24, 3), np.uint8)
    Image.fromarray(noise).save(sink, kind, exif=fields.tobytes(), **more)
    return sink.getvalue()


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
def test_gps_fields_go_and_all_else_stays(kind: str) -> None:
    data = photo(kind)
    before, clean = opened(data), without_location(data)
    after = opened(clean)
    assert dict(before.getexif().get_ifd(GPS))[1] == "N"
    assert not any(dict(after.getexif().get_ifd(GPS)).values())
    assert b"2026:01:02" in data
    assert b"2026:01:02" not in clean
    assert after.getexif()[0x010F] == "Maker of cameras"
    assert Image.open(io.BytesIO(clean)).getexif()[0x0112] == 6
    assert after.tobytes() == before.tobytes()
    assert len(clean) == len(data)
    assert without_location(clean) == clean


XMP = "<a exif:GPSLatitude='52,31.2N'><exif:GPSLongitude>13,24E</exif:GPSLongitude>kept</a>"


def png_with_xmp(packed: bool) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP, zip=packed)
    sink = io.BytesIO()
    Image.new("RGB", (9, 9), (1, 2, 3)).save(sink, "PNG", pnginfo=info)
    return sink.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        photo("JPEG", exif=False, xmp=XMP.encode()),
        photo("WEBP", exif=False, xmp=XMP.encode()),
        png_with_xmp(packed=False),
        png_with_xmp(packed=True),
    ],
    ids=["JPEG", "WebP", "PNG", "PNG, compressed"],
)
def test_places_in_xmp_go(data: bytes) -> None:
    before, after = opened(data).info["xmp"], opened(without_location(data)).info["xmp"]
    assert b"52,31.2N" in before
    assert b"13,24E" in before
    assert b"52,31.2N" not in after
    assert b"13,24E" not in after
    assert b"kept" in after


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_photograph_without_a_place_is_left_alone(kind: str) -> None:
    data = photo(kind, exif=False)
    assert without_location(data) is data


def test_damaged_metadata_are_no_error() -> None:
    data = photo("JPEG")
    start = data.index(b"Exif\0\0")
    rng = np.random.default_rng(1)
    for _ in range(300):
        broken = bytearray(data)
        for place in rng.integers(start, start + 200, 8):
            broken[place] = rng.integers(0, 256)
        assert len(without_location(bytes(broken))) == len(data)
    for end in range(start, start + 220, 7):
        assert len(without_location(data[:end])) == end
