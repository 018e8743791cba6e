"""Reservations of the right to mine, in a host's file, in a header, and in a picture.

- TDMRep: W3C Community Group Report "TDM Reservation Protocol", 2024: the header
  ``tdm-reservation`` and the file ``/.well-known/tdmrep.json``;
- IPTC Photo Metadata 2023.1: the XMP property ``plus:DataMining``, with PLUS's vocabulary, and
  ``tdm:reservation``;
- C2PA: the assertion ``c2pa.training-mining`` (or CAWG's ``cawg.training-mining``) that says
  ``notAllowed``.
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence

from hqvox.imaging.metadata import Spans, metadata_spans

HEADER = "tdm-reservation"
FILE = "/.well-known/tdmrep.json"
MAX_RULES = 1_000

FileRules = Sequence[tuple[str, bool]]
"""Patterns of paths, as in robots.txt, and whether rights are reserved there."""

_TDM_XMP = re.compile(rb"""tdm:reservation(?:\s*=\s*["']|\s*>)\s*1\s*[<"']""")
_LABELS = (b"c2pa.training-mining", b"cawg.training-mining")
_PNG = b"\x89PNG\r\n\x1a\n"
_MAX_DEPTH = 16
_MAX_TEXT = 4_000_000


def is_reserved(header: str | None) -> bool:
    """Whether the header's value reserves the rights."""
    return header is not None and header.strip() == "1"


def file_rules(body: bytes) -> FileRules:
    """Rules of a ``tdmrep.json``; empty where it is none (an error page, say)."""
    try:
        entries = json.loads(body)
    except (ValueError, RecursionError):
        return ()
    rules = []
    for entry in entries[:MAX_RULES] if isinstance(entries, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("location"), str):
            rules.append((entry["location"], entry.get(HEADER) in (1, "1")))
    return rules


def reserved_by(rules: FileRules, path: str) -> bool:
    """Whether the longest pattern that matches the path reserves the rights."""
    longest, reserved = -1, False
    for pattern, reserves in rules:
        if _matches(pattern, path) and (len(pattern), reserves) > (longest, reserved):
            longest, reserved = len(pattern), reserves
    return reserved


def _matches(pattern: str, path: str) -> bool:
    """A path pattern: ``*`` is any text, ``$`` at the end is the end. Linear in the path."""
    first, *others = pattern.removesuffix("$").split("*")
    if not path.startswith(first):
        return False
    place = len(first)
    for number, part in enumerate(others, 1):
        last = number == len(others)
        if last and pattern.endswith("$"):
            return path.endswith(part) and len(path) - len(part) >= place
        place = path.find(part, place)
        if place < 0:
            return False
        place += len(part)
    return bool(others) or not pattern.endswith("$") or path == first


def embedded(data: bytes, spans: Spans | None = None) -> set[str]:
    """Reservations in a picture's bytes: ``metadata``, ``c2pa``. Pixels are not decoded.

    ``spans``: its :func:`metadata_spans`, where they are known.
    """
    spans = metadata_spans(data) if spans is None else spans
    found = set()
    if any(_prohibits(data, *span) for span in spans) or any(map(_prohibits, _png_texts(data))):
        found.add("metadata")
    if any(_forbids(boxes) for boxes in _manifests(data)):
        found.add("c2pa")
    return found


def _prohibits(text: bytes, first: int = 0, end: int | None = None) -> bool:
    """Whether XMP in the text prohibits mining."""
    end = len(text) if end is None else end
    if text.find(b"DMI-PROHIBITED", first, end) >= 0:
        return True
    # Looking for plain bytes first is twice as fast.
    place = text.find(b"tdm:reservation", first, end)
    return place >= 0 and _TDM_XMP.search(text, place, end) is not None


def _png_texts(data: bytes) -> Iterator[bytes]:
    """Compressed texts of a PNG: XMP may be in one."""
    for kind, content in _png_chunks(data):
        if kind not in (b"iTXt", b"zTXt"):
            continue
        _, _, rest = content.partition(b"\0")
        if kind == b"iTXt":
            if rest[:1] != b"\1":
                continue  # not compressed: found in the file itself
            rest = rest[2:].split(b"\0", 2)[-1]
        else:
            rest = rest[1:]
        try:
            yield zlib.decompressobj().decompress(rest, _MAX_TEXT)
        except zlib.error:
            continue


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = len(_PNG)
    while data.startswith(_PNG) and place + 12 <= len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        yield data[place + 4 : place + 8], data[place + 8 : place + 8 + size]
        place += 12 + size


def _manifests(data: bytes) -> Iterator[bytes]:
    """C2PA manifest stores of a JPEG, PNG, WebP or AVIF file: JUMBF boxes."""
    if data.startswith(b"\xff\xd8"):
        yield from _jpeg_manifests(data)
    elif data.startswith(_PNG):
        yield from (content for kind, content in _png_chunks(data) if kind == b"caBX")
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        place = 12
        while place + 8 <= len(data):
            size = int.from_bytes(data[place + 4 : place + 8], "little")
            if data[place : place + 4] == b"C2PA":
                yield data[place + 8 : place + 8 + size]
            place += 8 + size + size % 2
    elif data[4:8] == b"ftyp":
        for kind, content in _boxes(data):
            if kind == b"uuid":  # UUID, version and flags, purpose, offset of the Merkle tree
                _, end, rest = content[20:].partition(b"\0")
                if end:
                    yield rest[8:]


def _jpeg_manifests(data: bytes) -> Iterable[bytes]:
    """JUMBF of APP11 segments (ISO 19566-5): every segment repeats the box's header."""
    boxes: dict[bytes, bytes] = {}
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker, size = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == 0xDA or size < 2:  # pixels follow
            break
        segment = data[place + 4 : place + 2 + size]
        if marker == 0xEB and segment.startswith(b"JP") and len(segment) >= 16:
            number = segment[2:4]
            start = 16 + 8 * (segment[8:12] == b"\0\0\0\1") if number in boxes else 8
            boxes[number] = boxes.get(number, b"") + segment[start:]
        place += 2 + size
    return boxes.values()


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Boxes of ISO base media: type and content."""
    place = 0
    while place + 8 <= len(data):
        size, kind = struct.unpack(">I4s", data[place : place + 8])
        header = 8
        if size == 1:
            size, header = int.from_bytes(data[place + 8 : place + 16], "big"), 16
        elif size == 0:
            size = len(data) - place
        if size < header:
            return
        yield kind, data[place + header : place + size]
        place += size


def _forbids(boxes: bytes, depth: int = 0) -> bool:
    """Whether an assertion about training and mining in these JUMBF boxes says ``notAllowed``."""
    label = b""
    for kind, content in _boxes(boxes):
        if kind == b"jumd":
            label = content[17:].split(b"\0", 1)[0]  # after a UUID and a byte of toggles
        elif kind == b"jumb":
            if depth < _MAX_DEPTH and _forbids(content, depth + 1):
                return True
        elif label.startswith(_LABELS) and b"notAllowed" in content:
            return True
    return False
