"""Files of urls: every format, every way a column or a value can be wrong, looked up by person."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hqvox.config.discover import UrlsConfig
from hqvox.errors import HqvoxError
from pipelines.discover.urls import UrlsSource

ROWS: list[dict[str, Any]] = [
    {"identity_id": "id2", "url": "https://a.example/1.jpg", "title": "Zürich, “quoted”"},
    {"identity_id": "Štefan_Füle", "url": "https://a.example/2.jpg", "licence": "CC BY 4.0"},
    {"identity_id": "id2", "url": "https://a.example/3.jpg", "width": 640, "height": 480},
    {"identity_id": "", "url": "https://a.example/4.jpg"},
    {"identity_id": "id3", "url": ""},
    {"identity_id": "id2", "url": "https://a.example/5.jpg", "width": -1, "height": "tall"},
]
COLUMNS = ["identity_id", "url", "title", "licence", "width", "height"]


def identity(key: str, name: str = "Nobody") -> dict[str, Any]:
    return {"identity_id": key, "name": name, "gender": None, "nationality": None, "folder": None}


def write(file: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    """The rows in the format that the file's name asks for."""
    name = file.name.removesuffix(".gz")
    plain = file.with_name(name)
    if name.endswith(".parquet"):
        text = [{c: None if r.get(c) is None else str(r[c]) for c in COLUMNS} for r in rows]
        pq.write_table(pa.Table.from_pylist(text), plain, row_group_size=2)
    elif name.endswith(("jsonl", "ndjson")):
        plain.write_text("".join(json.dumps(r) + "\n\n" for r in rows), "utf-8")
    else:
        comma = "\t" if name.endswith("tsv") else ","
        lines = [COLUMNS, *([str(r.get(c, "")) for c in COLUMNS] for r in rows)]
        quoted = (comma.join('"' + v.replace('"', '""') + '"' for v in line) for line in lines)
        plain.write_text("\n".join(quoted) + "\n", "utf-8-sig")
    if file != plain:
        file.write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    return file


def source(file: Path, folder: Path, **columns: str) -> UrlsSource:
    return UrlsSource(UrlsConfig(file=str(file), **columns), folder)


def found(urls: UrlsSource, who: dict[str, Any]) -> list[str]:
    return [c.url for stream in urls.streams(who) for c in stream.candidates]


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "ndjson", "parquet"])
@pytest.mark.parametrize("packed", ["", ".gz"])
def test_every_format_gives_the_same_candidates(tmp_path: Path, ending: str, packed: str) -> None:
    urls = source(write(tmp_path / f"urls.{ending}{packed}"), tmp_path / "w")
    assert not urls.missing()
    (stream,) = urls.streams(identity("id2"))
    first, second, third = stream.candidates
    assert (first.url, first.title) == ("https://a.example/1.jpg", "Zürich, “quoted”")
    assert (first.licence, first.width_px, first.height_px) == (None, None, None)
    assert (second.width_px, second.height_px) == (640, 480)
    assert (third.url, third.width_px, third.height_px) == ("https://a.example/5.jpg", None, None)
    (only,) = urls.streams(identity("id9", "Štefan_Füle"))[0].candidates
    assert (only.url, only.licence) == ("https://a.example/2.jpg", "CC BY 4.0")
    assert found(urls, identity("id3")) == found(urls, identity("nobody")) == []


def test_an_identity_is_stale_only_when_its_own_rows_change(tmp_path: Path) -> None:
    file = write(tmp_path / "urls.csv")
    before = source(file, tmp_path / "w")
    people = [identity("id2"), identity("", "Štefan_Füle"), identity("nobody")]
    listings = [before.listing(who) for who in people]
    assert listings[2] == []
    changed = [r | {"licence": "CC0"} if r["identity_id"] == "id2" else r for r in ROWS]
    write(file, changed)
    after = [source(file, tmp_path / "w").listing(who) for who in people]
    assert after[0] != listings[0]
    assert after[1:] == listings[1:]
    moved = tmp_path / "elsewhere.jsonl"
    assert [source(write(moved), tmp_path / "w").listing(w) for w in people] == listings


def test_the_index_is_made_once_and_replaced_when_the_file_changes(tmp_path: Path) -> None:
    file = write(tmp_path / "urls.csv")
    assert len(found(source(file, tmp_path / "w"), identity("id2"))) == 3
    folder = tmp_path / "w"
    made = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    assert {p.suffix for p in folder.iterdir()} == {".arrow", ".json"}
    assert len(made) == 2
    assert len(found(source(file, tmp_path / "w"), identity("id2"))) == 3
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == made
    write(file, ROWS[:2])
    assert len(found(source(file, tmp_path / "w"), identity("id2"))) == 1
    assert len(list(folder.iterdir())) == 2
    assert not made.keys() & {p.name for p in folder.iterdir()}


def test_many_batches_keep_the_files_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of one person strewn over the file, read and sorted in windows smaller than it."""
    monkeypatch.setattr("pipelines.discover.urls_read.BATCH_ROWS", 7)
    monkeypatch.setattr("pipelines.discover.urls_index.WINDOW_ROWS", 10)
    rows = [{"identity_id": f"id{n % 13}", "url": f"https://a.example/{n}"} for n in range(200)]
    urls = source(write(tmp_path / "urls.jsonl", rows), tmp_path / "w")
    for person in range(13):
        expected = [f"https://a.example/{n}" for n in range(person, 200, 13)]
        assert found(urls, identity(f"id{person}")) == expected


def test_columns_of_other_names(tmp_path: Path) -> None:
    file = tmp_path / "urls.tsv"
    file.write_text("who\timage\tpage\n1\thttps://a.example/1.jpg\thttps://a.example/\n")
    urls = source(file, tmp_path / "w", identity="who", url="image", page_url="page")
    (candidate,) = urls.streams(identity("1"))[0].candidates
    assert candidate.page_url == "https://a.example/"


@pytest.mark.parametrize(
    ("name", "content", "columns", "message"),
    [
        ("u.csv", b"who,url\n1,x\n", {}, "no column 'identity_id'; found who, url; name the right"),
        ("u.csv", b"identity_id,link\n1,x\n", {}, "no column 'url'"),
        ("u.csv", b"identity_id,url\n1,x\n", {"title": "caption"}, "no column 'caption'"),
        ("u.csv", b"", {}, "empty; the first line names the columns"),
        ("u.csv", b"identity_id,url\n1,x\n2,y,z\n", {}, "cannot be read as csv"),
        ("u.jsonl", b'{"identity_id": 1, "url": "x"}\n{"ident', {}, "u.jsonl:2: not JSON"),
        ("u.jsonl", b"[1, 2]\n", {}, "u.jsonl:1: not a JSON object"),
        ("u.jsonl", b'{"identity_id": 1}\n', {}, "no column 'url'; found identity_id"),
        ("u.parquet", b"PAR1 nonsense", {}, "cannot be read as parquet"),
        # without the time of day, which would give the test another name in every process
        (
            "u.csv.gz",
            gzip.compress(b"identity_id,url\n" * 999, mtime=0)[:-9],
            {},
            "damaged or cut off",
        ),
        ("u.xlsx", b"PK", {}, "unknown kind of file; urls come as .csv, .tsv"),
        ("u.csv", b"identity_id,url\n\xff\xfe,x\n", {}, "u.csv"),
    ],
)
def test_a_file_that_will_not_do_is_one_line(
    tmp_path: Path, name: str, content: bytes, columns: dict[str, str], message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(HqvoxError) as error:
        source(tmp_path / name, tmp_path / "w", **columns).listing(identity("1"))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not [p for p in (tmp_path / "w").rglob("*") if p.is_file()]


def test_a_missing_file_and_no_file_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(HqvoxError, match=r"discover\.urls\.file"):
        source(tmp_path / "none.csv", tmp_path).listing(identity("1"))
    unnamed = UrlsSource(UrlsConfig(), tmp_path)
    assert "no file is named; set discover.urls.file" in unnamed.missing()[0]
    with pytest.raises(HqvoxError, match="no file is named"):
        unnamed.listing(identity("1"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("u.jsonl", b'{"identity_id": "a", "url": "https://a.example/\\ud800"}', "not UTF-8"),
        ("u.jsonl", b'{"identity_id": "a\\ud800", "url": "https://a.example/"}', "not UTF-8"),
        ("u.jsonl", b'{"identity_id": "a", "url": "b", "n": ' + b"9" * 5000 + b"}", ":1: cannot"),
        ("u.jsonl", b'{"identity_id": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", ":1: cannot"),
        ("u.csv", "identity_id,url\nJosé,https://a.example/\n".encode("latin-1"), "not UTF-8"),
    ],
)
def test_text_that_no_table_can_hold_is_one_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(HqvoxError, match=message):
        found(source(file, tmp_path / "index"), identity("a"))
