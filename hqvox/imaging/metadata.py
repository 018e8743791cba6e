"""Where a picture's file may hold metadata: all of it, except for the coded pixels of a JPEG."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Spans = Sequence[tuple[int, int]]
"""Parts of a file: first byte, and end."""

_END, _SCAN, _FILL = 0xD9, 0xDA, 0xFF


def metadata_spans(data: bytes) -> Spans:
    """The parts of a picture's file that may hold metadata, in order.

    Of a JPEG (ITU-T T.81, B.1.1), these are the segments before, between and after the scans, and
    all that follows the end of the picture. A scan ends where a byte 0xFF is followed by neither
    zero nor a restart marker. Of another format, it is the whole file, and of a JPEG with a damaged
    segment all that follows it.
    """
    if not data.startswith(b"\xff\xd8"):
        return [(0, len(data))]
    spans: list[tuple[int, int]] = []
    markers = None
    begin, place = 0, 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != _END:
        marker = data[place + 1]
        if marker == _FILL:
            place += 1
            continue
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if marker != _SCAN:
            continue
        spans.append((begin, min(place, len(data))))
        if markers is None:
            markers = _markers(data, place)
        following = int(np.searchsorted(markers, place))
        if following == len(markers):
            return spans  # cut off within a scan
        begin = place = int(markers[following])
    spans.append((begin, len(data)))
    return spans


def _markers(data: bytes, start: int) -> np.ndarray:
    """Offsets from ``start`` on of what may be a marker, as coded pixels hold none; int64 (n,)."""
    if start + 2 > len(data):
        return np.empty(0, np.int64)
    content = np.frombuffer(data, np.uint8, offset=start)
    (places,) = (content[:-1] == 0xFF).nonzero()
    codes = content[places + 1]
    return places[(codes != 0) & ((codes < 0xD0) | (codes > 0xD7))] + start
