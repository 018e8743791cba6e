"""What bytes are, by their content: the names and headers of the web are not believed."""

from __future__ import annotations

import re

_HEIC_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_MAGIC = (
    (b"\x00\x00\x01\x00", "image/x-icon"),
    (b"\x00\x00\x02\x00", "image/x-icon"),
    (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "image/jxl"),
    (b"\xff\x0a", "image/jxl"),
    (b"8BPS", "image/vnd.adobe.photoshop"),
)
_SVG = re.compile(rb"(?:<\?xml[^>]*>|<!--.*?-->|<!DOCTYPE svg[^>]*>|\s)*<svg[\s>]", re.S | re.I)


def unsupported_type(data: bytes) -> str | None:
    """Media type of a picture in a format that is known by name but not read; else None.

    For bytes that could not be opened: SVG, ICO, JPEG XL, Photoshop, HEIC that libheif cannot
    read, and AVIF where Pillow was built without it.
    """
    for magic, media_type in _MAGIC:
        if data.startswith(magic):
            return media_type
    if data[4:8] == b"ftyp":
        brands = {data[i : i + 4] for i in range(8, min(len(data), 64), 4)}
        if brands & _AVIF_BRANDS:
            return "image/avif"
        return "image/heic" if brands & _HEIC_BRANDS else None
    head = data[:4096].removeprefix(b"\xef\xbb\xbf")
    return "image/svg+xml" if _SVG.match(head) else None
