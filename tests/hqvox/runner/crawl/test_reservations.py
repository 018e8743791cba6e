"""Reservations of rights: in headers, files of hosts, pictures, and as Commons states them."""

from __future__ import annotations

import io
import struct
import zlib
from collections import Counter
from pathlib import Path
from typing import get_args

import pyarrow as pa
import pytest
from PIL import Image, PngImagePlugin

from hqvox.config.policy import Reservation
from hqvox.release.write import reservations_kept
from hqvox.runner.crawl.shard import ShardCrawl
from hqvox.workspace.layout import Workspace
from pipelines.discover.source import Candidate
from pipelines.discover.urls import UrlsSource
from pipelines.fetch.reservations import embedded, file_rules, reserved_by
from tests.helpers.crawl_site import Site, answer, build, make, picture, reasons, rows
from tests.helpers.crawled import KilledError

XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description '
    'xmlns:plus="http://ns.useplus.org/ldf/xmp/1.0/"><plus:DataMining>'
    "http://ns.useplus.org/ldf/vocab/DMI-{}</plus:DataMining></rdf:Description></rdf:RDF></x:xmpmeta>"
)


def with_xmp(value: str, kind: str = "JPEG") -> bytes:
    return saved(kind, xmp=XMP.format(value).encode())


def saved(kind: str, **options: object) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (32, 32), (90, 60, 30)).save(sink, kind, **options)
    return sink.getvalue()


def png_with_compressed_xmp(value: str) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP.format(value), zip=True)
    return saved("PNG", pnginfo=info)


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def manifest(label: bytes, use: bytes, filler: int = 0) -> bytes:
    """A manifest store (JUMBF) with one assertion, after others of ``filler`` bytes."""
    entry = b"\xa1gentries\xa1pc2pa.ai_training\xa1cuse" + bytes([0x60 + len(use)]) + use
    named = box(b"jumd", bytes(16) + b"\x03" + label + b"\0")
    other = box(
        b"jumb", box(b"jumd", bytes(16) + b"\x03c2pa.thumbnail\0") + box(b"cbor", bytes(filler))
    )
    assertion = box(b"jumb", named + box(b"cbor", entry))
    store = box(b"jumd", bytes(16) + b"\x03c2pa.assertions\0") + other + assertion
    return box(b"jumb", box(b"jumd", bytes(16) + b"\x03c2pa\0") + box(b"jumb", store))


def jpeg_with(store: bytes, piece: int = 60_000) -> bytes:
    """A JPEG with the store in APP11 segments, each of which repeats the box's header."""
    segments = b""
    for number, start in enumerate(range(8, len(store), piece), 1):
        content = b"JP\0\1" + struct.pack(">I", number) + store[:8] + store[start : start + piece]
        segments += b"\xff\xeb" + struct.pack(">H", 2 + len(content)) + content
    plain = picture()
    return plain[:2] + segments + plain[2:]


def png_with(store: bytes) -> bytes:
    chunk = b"caBX" + store
    plain = picture(kind="PNG")
    return (
        plain[:33]
        + struct.pack(">I", len(store))
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + plain[33:]
    )


def webp_with(store: bytes) -> bytes:
    plain = picture(kind="WEBP")
    chunk = b"C2PA" + struct.pack("<I", len(store)) + store + bytes(len(store) % 2)
    return b"RIFF" + struct.pack("<I", len(plain) - 8 + len(chunk)) + plain[8:] + chunk


def avif_with(store: bytes) -> bytes:
    return picture(kind="AVIF") + box(b"uuid", bytes(20) + b"manifest\0" + bytes(8) + store)


FORBIDS = manifest(b"c2pa.training-mining", b"notAllowed")


@pytest.mark.parametrize(
    ("data", "seen"),
    [
        (picture(), set()),
        (with_xmp("ALLOWED"), set()),
        (with_xmp("UNSPECIFIED"), set()),
        (with_xmp("PROHIBITED"), {"metadata"}),
        (with_xmp("PROHIBITED-AIMLTRAINING", "WEBP"), {"metadata"}),
        (with_xmp("PROHIBITED-SEECONSTRAINT", "AVIF"), {"metadata"}),
        (png_with_compressed_xmp("PROHIBITED-GENAIMLTRAINING"), {"metadata"}),
        (png_with_compressed_xmp("ALLOWED"), set()),
        (saved("JPEG", xmp=b"<a><tdm:reservation>1</tdm:reservation></a>"), {"metadata"}),
        (saved("JPEG", xmp=b"<a tdm:reservation='1'/>"), {"metadata"}),
        (saved("JPEG", xmp=b"<a tdm:reservation='0'/>"), set()),
        (jpeg_with(FORBIDS), {"c2pa"}),
        (jpeg_with(FORBIDS, piece=40), {"c2pa"}),
        (jpeg_with(manifest(b"cawg.training-mining", b"notAllowed", 150_000)), {"c2pa"}),
        (jpeg_with(manifest(b"c2pa.training-mining", b"allowed")), set()),
        (jpeg_with(manifest(b"c2pa.actions", b"notAllowed")), set()),
        (png_with(FORBIDS), {"c2pa"}),
        (webp_with(FORBIDS), {"c2pa"}),
        (avif_with(FORBIDS), {"c2pa"}),
        (jpeg_with(FORBIDS)[:200], set()),
        (box(b"jumb", b"") * 3, set()),
    ],
)
def test_reservations_in_pictures(data: bytes, seen: set[str]) -> None:
    assert embedded(data) == seen


@pytest.mark.parametrize(
    ("path", "reserved"),
    [
        ("/a.jpg", False),
        ("/photos/a.jpg", True),
        ("/photos/free/a.jpg", False),
        ("/x/raw/b.png", True),
        ("/x/raw/b.png?s=1", False),
    ],
)
def test_the_longest_pattern_of_a_hosts_file_counts(path: str, reserved: bool) -> None:
    rules = file_rules(
        b'[{"location": "/photos/", "tdm-reservation": 1, "tdm-policy": "https://a.example/p"},'
        b'{"location": "/photos/free/*", "tdm-reservation": 0},'
        b'{"location": "/*/raw/*.png$", "tdm-reservation": 1}, 7, {"location": 1}]'
    )
    assert reserved_by(rules, path) is reserved


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b"[[[", b"7", b"\xff\xfe", b"[" * 100_000])
def test_a_page_in_place_of_the_file_reserves_nothing(body: bytes) -> None:
    assert not reserved_by(file_rules(body), "/a.jpg")


ROUTES = {
    "/good": answer(200, picture()),
    "/header": answer(200, picture(1), "TDM-Reservation: 1"),
    "/header-no": answer(200, picture(2), "TDM-Reservation: 0"),
    "/xmp": answer(200, with_xmp("PROHIBITED")),
    "/c2pa": answer(200, jpeg_with(FORBIDS)),
    "/reserved/1": answer(200, picture(3)),
    "/.well-known/tdmrep.json": answer(200, b'[{"location": "/reserved/*", "tdm-reservation": 1}]'),
}
ASKED = [path for path in ROUTES if not path.startswith("/.")]


def test_reservations_refuse_unless_the_policy_leaves_them_out(tmp_path: Path) -> None:
    with Site(dict(ROUTES)) as site:
        urls = [("a", site.url(path)) for path in ASKED]
        workspace = make(tmp_path / "w", urls, allow_hosts=[site.host])
        build(workspace)
        found = reasons(workspace)
        assert {p for p, reason in found.items() if reason is None} == {"/good", "/header-no"}
        assert set(found.values()) == {None, "rights_reserved"}
        assert site.asked()["/reserved/1"] == 0
        tar = Path(workspace.storage.path("stages/download/00000.tar")).read_bytes()
        assert b"DMI-PROHIBITED" not in tar

        kept_to = reservations_kept(workspace, workspace.config())
        assert (kept_to["crawled"], kept_to["refused"]) == (True, {"rights_reserved": 4})
        assert kept_to["respect"] == list(get_args(Reservation))

        before = site.asked()
        build(workspace, settings=("policy.respect=[c2pa]",))
        asked_again = site.asked() - before
        assert asked_again == Counter({"/header": 1, "/xmp": 1, "/c2pa": 1, "/reserved/1": 1})
        seen = {row["url"].removeprefix(site.url("")): row for row in rows(workspace)}
    assert {p for p, row in seen.items() if row["reason"]} == {"/c2pa"}
    assert seen["/xmp"]["reservations"] == ["metadata"]
    assert seen["/header"]["reservations"] == ["tdm_header"]
    assert seen["/good"]["reservations"] == []
    files = [r.path for r in site.requests if r.path == "/.well-known/tdmrep.json"]
    assert len(files) == 1


def test_a_stricter_policy_judges_what_is_there_without_a_request(tmp_path: Path) -> None:
    with Site(dict(ROUTES)) as site:
        urls = [("a", site.url(path)) for path in ("/good", "/header", "/xmp")]
        workspace = make(tmp_path / "w", urls, allow_hosts=[site.host])
        build(workspace, settings=("policy.respect=[]",))
        assert set(reasons(workspace).values()) == {None}
        before = len(site.requests)
        build(workspace)
        assert len(site.requests) == before
    found = reasons(workspace)
    assert found == {"/good": None, "/header": "rights_reserved", "/xmp": "rights_reserved"}


def test_a_policy_that_is_stricter_after_a_kill_judges_what_was_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*arguments: object) -> None:
        raise KilledError

    with Site(dict(ROUTES)) as site:
        urls = [("a", site.url(path)) for path in ("/good", "/header", "/xmp")]
        workspace = make(tmp_path / "w", urls, allow_hosts=[site.host])
        with monkeypatch.context() as patch:
            patch.setattr(ShardCrawl, "commit", die)
            with pytest.raises(KilledError):
                build(workspace, settings=("policy.respect=[]",))
        before = site.asked()
        build(workspace)
        assert site.asked() == before
    found = reasons(workspace)
    assert found == {"/good": None, "/header": "rights_reserved", "/xmp": "rights_reserved"}
    tar = Path(workspace.storage.path("stages/download/00000.tar")).read_bytes()
    assert b"DMI-PROHIBITED" not in tar


def test_restrictions_of_personality_are_kept_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Commons states them; nothing is requested."""
    streams = UrlsSource.streams

    def restricted(self: UrlsSource, identity: dict[str, str]) -> object:
        for stream in streams(self, identity):
            stated = [
                Candidate(c.url, restrictions="Trademarked|Personality") for c in stream.candidates
            ]
            yield type(stream)(stream.query, iter(stated))

    monkeypatch.setattr(UrlsSource, "streams", restricted)
    with Site({"/1": answer(200, picture())}) as site:
        workspace = make(tmp_path / "w", [("a", site.url("/1"))], allow_hosts=[site.host])
        build(workspace)
        assert reasons(workspace) == {"/1": "personality_rights"}
        assert not site.requests
        build(workspace, settings=("policy.respect=[tdm_header]",))
        assert reasons(workspace) == {"/1": None}
    table = workspace.read_stage("discover", "00000", ["restrictions"])
    assert table is not None
    assert table["restrictions"].to_pylist() == ["Trademarked|Personality"]


def as_older_version_wrote(workspace: Workspace) -> None:
    """Take the columns away that older versions did not write."""
    for stage, column in (("discover", "restrictions"), ("download", "reservations")):
        table = workspace.read_stage(stage, "00000")
        record = workspace.committed(stage, "00000")
        assert table is not None
        assert record is not None
        record["parts"]["config"].pop("respect", None)
        workspace.write_stage(stage, "00000", table.drop_columns([column]), {**record, "hash": ""})


def test_a_workspace_of_an_older_version_is_read_and_fetches_nothing_again(tmp_path: Path) -> None:
    with Site(dict(ROUTES)) as site:
        urls = [("a", site.url(path)) for path in ("/good", "/xmp")]
        workspace = make(tmp_path / "w", urls, allow_hosts=[site.host])
        build(workspace, settings=("policy.respect=[]",))
        as_older_version_wrote(workspace)
        table = workspace.read_stage("download", "00000", ["reservations", "reason"])
        assert table is not None
        assert table["reservations"].to_pylist() == [None, None]
        assert table.schema.field("reservations").type == pa.list_(pa.string())
        before = site.asked()
        build(workspace)
        assert site.asked() == before
    assert reasons(workspace) == {"/good": None, "/xmp": "rights_reserved"}
