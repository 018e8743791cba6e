"""Where a photograph was taken, removed from the file's metadata.

EXIF's GPS fields are overwritten with zeros (JPEG, PNG, WebP, AVIF, TIFF), XMP's with spaces. The
pixels and all other metadata stay as they are, and so does the file's size, except for a PNG with
compressed XMP.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from itertools import product

from hqvox.imaging.metadata import Spans, metadata_spans

_GPS_POINTER = 0x8825
"""EXIF 2.32, 4.6.6: tag in the first directory that points to the directory of GPS fields."""
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
"""Bytes of a value, by TIFF's type."""
_XMP = re.compile(
    rb"""(?<!/)exif:GPS(?:Latitude|Longitude|Dest\w+|Altitude|Position|ImgDirection|Track|TimeStamp)\w*
    (?:\s*=\s*(?P<quote>["'])(?P<value>[^"'<>]{0,200})(?P=quote)|\s*>(?P<text>[^<]{0,200})<)""",
    re.X,
)
_PNG = b"\x89PNG\r\n\x1a\n"
_XMP_KEY = b"XML:com.adobe.xmp"
_MAX_TEXT = 4_000_000


def without_location(data: bytes, spans: Spans | None = None) -> bytes:
    """The photograph's file without the place; the same object if it states none.

    ``spans``: its :func:`metadata_spans`, where they are known.
    """
    spans = metadata_spans(data) if spans is None else spans
    headers = list(_tiff_headers(data, spans))
    in_xmp = any(data.find(b"exif:GPS", first, end) >= 0 for first, end in spans)
    if not headers and not in_xmp and not data.startswith(_PNG):
        return data
    out = bytearray(data)
    for start in headers:
        _blank_gps(out, start)
    if in_xmp:
        _blank_xmp(out)
    if data.startswith(_PNG):
        return _png(data, bytes(out))
    return data if out == data else bytes(out)


def _blank_xmp(out: bytearray) -> None:
    for match in _XMP.finditer(bytes(out)):
        for group in ("value", "text"):
            if match.group(group) is not None:
                first, end = match.span(group)
                out[first:end] = b" " * (end - first)


def _tiff_headers(data: bytes, spans: Spans) -> Iterator[int]:
    """Offsets of TIFF headers that begin EXIF data: of the file, or after what announces them."""
    for magic, (first, end) in product((b"II*\0", b"MM\0*"), spans):
        start = data.find(magic, first, end)
        while start >= 0:
            before = data[max(0, start - 8) : start]
            announced = before.endswith((b"Exif\0\0", b"eXIf", bytes(4))) or before[:4] == b"EXIF"
            if not start or announced:
                yield start
            start = data.find(magic, start + 4, end)


def _blank_gps(out: bytearray, start: int) -> None:
    """Overwrite the GPS directory of EXIF data that begin at ``start``."""
    order = "<" if out[start : start + 1] == b"I" else ">"
    try:
        (first,) = struct.unpack_from(order + "I", out, start + 4)
        for tag, _, _, value_at in _entries(out, start, start + first, order):
            if tag != _GPS_POINTER:
                continue
            (pointer,) = struct.unpack_from(order + "I", out, value_at)
            gps = list(_entries(out, start, start + pointer, order))
            for _, kind, count, place in gps:
                size = _TYPE_BYTES.get(kind, 0) * count
                if size > 4:
                    (far,) = struct.unpack_from(order + "I", out, place)
                    place = start + far
                    if size > 65_536 or place + size > len(out):
                        continue
                    out[place : place + size] = bytes(size)
            if gps:
                directory = start + pointer
                out[directory : directory + 2 + 12 * len(gps)] = bytes(2 + 12 * len(gps))
    except struct.error:  # cut off: no reader finds the fields either
        return


def _entries(
    out: bytearray, start: int, directory: int, order: str
) -> Iterator[tuple[int, int, int, int]]:
    """Tag, type, count and offset of the value field of a directory's entries."""
    (count,) = struct.unpack_from(order + "H", out, directory)
    for number in range(min(count, 1000)):
        place = directory + 2 + 12 * number
        yield (*struct.unpack_from(order + "HHI", out, place), place + 8)


def _png(before: bytes, data: bytes) -> bytes:
    """A PNG with checksums for what was overwritten, and without places in compressed XMP."""
    parts, place, changed = [_PNG], len(_PNG), data != before
    while place + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, place)
        chunk = data[place + 4 : place + 8 + size]
        if chunk.startswith(b"iTXt" + _XMP_KEY + b"\0\1"):
            chunk = _with_blank_xmp(chunk)
        if chunk == before[place + 4 : place + 8 + size]:
            parts.append(data[place : place + 12 + size])
        else:
            changed = True
            parts += [struct.pack(">I", len(chunk) - 4), chunk]
            parts.append(struct.pack(">I", zlib.crc32(chunk)))
        place += 12 + size
    parts.append(data[place:])
    return b"".join(parts) if changed else before


def _with_blank_xmp(chunk: bytes) -> bytes:
    """A chunk of compressed XMP; the same bytes where it states no place."""
    head = 4 + len(_XMP_KEY) + 3
    language, _, rest = chunk[head:].partition(b"\0")
    translated, _, packed = rest.partition(b"\0")
    try:
        text = zlib.decompressobj().decompress(packed, _MAX_TEXT)
    except zlib.error:
        return chunk
    out = bytearray(text)
    _blank_xmp(out)
    if out == text:
        return chunk
    return chunk[:head] + language + b"\0" + translated + b"\0" + zlib.compress(bytes(out))
