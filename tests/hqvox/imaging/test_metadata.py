"""Parts of a file that may hold metadata."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from hqvox.imaging.location import without_location
from hqvox.imaging.metadata import metadata_spans
from pipelines.fetch.reservations import embedded

XMP = b'<x:xmpmeta><rdf:Description tdm:reservation="1" exif:GPSLatitude="52,31N"/></x:xmpmeta>'
SEGMENT = b"\xff\xe1" + (len(XMP) + 31).to_bytes(2, "big") + b"http://ns.adobe.com/xap/1.0/\0" + XMP


def picture(kind: str = "JPEG", **options: object) -> bytes:
    """Noise: its scans hold every byte, also 0xFF."""
    pixels = np.random.default_rng(3).integers(0, 256, (160, 160, 3), np.uint8)
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, kind, **options)
    return sink.getvalue()


JPEGS = {
    "one scan": picture(quality=90),
    "several scans": picture(quality=90, progressive=True),
    "restart markers": picture(quality=90, restart_marker_rows=1),
}


@pytest.mark.parametrize("name", JPEGS)
def test_scans_are_left_out_and_nothing_else(name: str) -> None:
    data = JPEGS[name]
    spans = metadata_spans(data)
    assert spans[0][0] == 0
    assert spans[-1][1] == len(data)
    assert sum(end - first for first, end in spans) < len(data) / 10
    left_out = list(zip([end for _, end in spans], [first for first, _ in spans[1:]], strict=False))
    assert len(left_out) == data.count(b"\xff\xda")
    for first, end in left_out:
        scan = data[first:end]
        codes = {scan[at + 1] for at in range(len(scan) - 1) if scan[at] == 0xFF}
        assert codes <= {0, *range(0xD0, 0xD8)}
        assert data[end] == 0xFF


@pytest.mark.parametrize("name", JPEGS)
def test_metadata_are_found_wherever_they_may_be(name: str) -> None:
    data = JPEGS[name]
    places = {first for first, _ in metadata_spans(data)[1:]} | {2, len(data)}
    assert not embedded(data)
    assert without_location(data) is data
    for place in sorted(places):  # before, between and after the scans, and after the picture
        marked = data[:place] + SEGMENT + data[place:]
        assert embedded(marked) == {"metadata"}
        assert b"52,31N" not in without_location(marked)
    second = data + data[:2] + SEGMENT + data[2:]  # as in a file of several pictures
    assert embedded(second) == {"metadata"}


def test_of_other_formats_the_whole_file_may_hold_metadata() -> None:
    for data in (picture("PNG"), picture("WEBP"), b"", b"\xff", b"text"):
        assert metadata_spans(data) == [(0, len(data))]


@pytest.mark.parametrize("name", JPEGS)
def test_a_damaged_jpeg_has_spans_within_the_file(name: str) -> None:
    data = JPEGS[name]
    for end in range(0, len(data), 97):
        spans = metadata_spans(data[:end])
        assert all(0 <= first <= last <= end for first, last in spans)
    place = data.find(b"\xff\xdb")
    broken = data[:place] + b"\0\0" + data[place + 2 :]
    assert metadata_spans(broken) == [(0, len(data))]
    filled = data[:place] + b"\xff\xff" + data[place:]  # fill bytes before a marker
    assert len(metadata_spans(filled)) == len(metadata_spans(data))
