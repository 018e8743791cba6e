"""The list of what was taken down: what it covers, what it keeps, how it is written."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest

from hqvox.errors import HqvoxError
from hqvox.workspace.layout import Workspace
from hqvox.workspace.takedowns import FILE, Takedown, Takedowns, normalised_url, url_digest

DAY = date(2026, 1, 31)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://Example.org/a.jpg", "http://example.org/a.jpg"),
        ("https://example.org:443/a.jpg#face", "https://example.org/a.jpg"),
        ("https://user:word@example.org/a.jpg", "https://example.org/a.jpg"),
        ("https://example.org./a.jpg", "https://example.org/a.jpg"),
        ("https://bücher.example/ä.jpg", "https://xn--bcher-kva.example/%c3%a4.jpg"),
        ("https://example.org/%41%7E b.jpg", "https://example.org/A~%20b.jpg"),
        ("https://example.org", "https://example.org/"),
        ("https://example.org/a%2db%2E.jpg", "https://example.org/a-b..jpg"),
        ("Ada Lovelace/1.jpg", "Ada%20Lovelace/1.jpg"),
    ],
)
def test_one_address_has_one_form(one: str, other: str) -> None:
    assert normalised_url(one) == normalised_url(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://example.org/a.jpg", "https://example.org/b.jpg"),
        ("https://example.org/a.jpg?n=1", "https://example.org/a.jpg?n=2"),
        ("https://example.org/a%2Fb.jpg", "https://example.org/a/b.jpg"),
        ("https://example.org:8080/a.jpg", "https://example.org/a.jpg"),
        ("https://example.org/A.jpg", "https://example.org/a.jpg"),
        ("https://example.org/a%26b", "https://example.org/a&b"),
    ],
)
def test_other_addresses_stay_others(one: str, other: str) -> None:
    assert normalised_url(one) != normalised_url(other)


@pytest.mark.parametrize("url", ["http://[", "http://h:99999/", "", "http://a..ü/", "\udcff.jpg"])
def test_what_is_no_address_is_compared_as_it_is(url: str) -> None:
    list_of_it = Takedowns([Takedown("url", url_digest(url)), Takedown("host", "example.org")])
    assert list_of_it.covers_url(url) == bool(url)


def test_covers_what_was_taken_down_and_nothing_else() -> None:
    takedowns = Takedowns(
        [
            Takedown("identity", "id1"),
            Takedown("photo", "ab" * 32),
            Takedown("host", "example.org"),
            Takedown("url", url_digest("https://other.net/one.jpg")),
        ]
    )
    assert takedowns.covers_identity("id1")
    assert not takedowns.covers_identity("id10")
    assert takedowns.covers_photo("ab" * 32)
    assert not takedowns.covers_photo("cd" * 32)
    assert not takedowns.covers_photo(None)
    assert takedowns.covers_url("http://example.org:81/x.jpg")
    assert takedowns.covers_url("https://a.b.EXAMPLE.org/x.jpg")
    assert not takedowns.covers_url("https://notexample.org/x.jpg")
    assert not takedowns.covers_url("https://org/x.jpg")
    assert takedowns.covers_url("http://other.net/one.jpg")
    assert not takedowns.covers_url("http://other.net/two.jpg")
    assert not takedowns.covers_url(None)
    assert not Takedowns().covers_url("http://example.org/")


def test_list_is_only_added_to_and_keeps_no_urls(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert Takedowns.read(workspace).entries == ()
    asked = "she asked, by letter «é»"
    first = [Takedown("url", url_digest("https://a.example/private-name.jpg"), asked)]
    Takedowns.read(workspace).add(workspace, first, DAY)
    before = (tmp_path / FILE).read_bytes()
    later = [Takedown("identity", "id1"), Takedown("identity", "id1"), *first]
    both = Takedowns.read(workspace).add(workspace, later, date(2026, 2, 1))
    assert (tmp_path / FILE).read_bytes().startswith(before)
    assert Takedowns.read(workspace).entries == both.entries
    assert [e.kind for e in both.entries] == ["url", "identity"]
    assert (both.entries[0].reason, both.entries[0].date) == (asked, "2026-01-31")
    assert b"private-name" not in (tmp_path / FILE).read_bytes()
    assert b"a.example" not in (tmp_path / FILE).read_bytes()
    # Nothing new: not even touched.
    stamp = (tmp_path / FILE).stat().st_mtime_ns
    both.add(workspace, first)
    assert (tmp_path / FILE).stat().st_mtime_ns == stamp


def test_the_list_names_nobody_and_covers_all_the_same(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    wanted = [
        Takedown("identity", "Ada Lovelace"),
        Takedown("photo", "ab" * 32),
        Takedown("host", "ada-lovelace.example"),
        Takedown("url", url_digest("https://other.net/one.jpg")),
    ]
    Takedowns.read(workspace).add(workspace, wanted, DAY)
    text = (tmp_path / FILE).read_text()
    for value in ("Ada", "Lovelace", "lovelace.example", *(entry.value for entry in wanted)):
        assert value not in text
    takedowns = Takedowns.read(workspace)
    assert takedowns.missing(wanted) == []
    assert takedowns.covers_identity("Ada Lovelace")
    assert not takedowns.covers_identity("ada-lovelace.example")  # another kind
    assert takedowns.covers_photo("ab" * 32)
    assert takedowns.covers_url("http://a.b.ADA-lovelace.example/x.jpg")
    assert not takedowns.covers_url("http://example/x.jpg")
    assert takedowns.covers_url("http://other.net/one.jpg")
    assert not takedowns.covers_url("http://other.net/two.jpg")


def test_a_list_has_one_salt_and_another_list_has_another(tmp_path: Path) -> None:
    salts = []
    for name in ("one", "other"):
        workspace = Workspace(tmp_path / name)
        for identity in ("id1", "id2"):
            Takedowns.read(workspace).add(workspace, [Takedown("identity", identity)])
        (salt,) = {entry.salt for entry in Takedowns.read(workspace).entries}
        salts.append(salt)
    assert salts[0] != salts[1]
    # Lists of two workspaces may be put together.
    lines = [(tmp_path / name / FILE).read_bytes() for name in ("one", "other")]
    Takedowns().add(Workspace(tmp_path / "third"), [Takedown("identity", "id3")])
    (tmp_path / "third" / FILE).write_bytes(lines[0] + lines[1])
    assert Takedowns.read(Workspace(tmp_path / "third")).covers_identity("id2")


def test_lines_of_older_versions_hold_and_stay_as_they_are(tmp_path: Path) -> None:
    old = [
        {"date": "2026-01-31", "kind": "identity", "reason": "17", "value": "id1"},
        {"date": "2026-01-31", "kind": "photo", "reason": "", "value": "ab" * 32},
        {"date": "2026-01-31", "kind": "host", "reason": "", "value": "example.org"},
        {"date": "2026-01-31", "kind": "url", "reason": "", "value": url_digest("http://b.c/d")},
    ]
    before = "".join(json.dumps(line, sort_keys=True) + "\n" for line in old)
    (tmp_path / FILE).write_text(before)
    workspace = Workspace(tmp_path)
    takedowns = Takedowns.read(workspace)
    takedowns = takedowns.add(workspace, [Takedown("identity", "id1"), Takedown("identity", "id2")])
    assert (tmp_path / FILE).read_text().startswith(before)
    assert len((tmp_path / FILE).read_text().splitlines()) == 5
    for either in (takedowns, Takedowns.read(workspace)):
        assert either.covers_identity("id1")
        assert either.covers_identity("id2")
        assert not either.covers_identity("id3")
        assert either.covers_photo("ab" * 32)
        assert either.covers_url("https://www.example.org/x")
        assert either.covers_url("https://b.c/d")


def test_what_would_be_covered_can_be_asked_before_it_is_written(tmp_path: Path) -> None:
    would = Takedowns.read(Workspace(tmp_path)).added([Takedown("identity", "id1")])
    assert would.covers_identity("id1")
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b"\xff\xfe",
        json.dumps({"kind": "page", "value": "x", "reason": "", "date": ""}).encode(),
        json.dumps({"kind": "photo", "value": 3, "reason": "", "date": ""}).encode(),
        json.dumps({"kind": "photo", "value": "", "reason": "", "date": ""}).encode(),
        json.dumps({"kind": "photo", "value": "x", "more": 1}).encode(),
        json.dumps({"kind": "photo", "value": "x", "salt": 1}).encode(),
    ],
)
def test_damaged_list_stops_everything_in_one_line(tmp_path: Path, line: bytes) -> None:
    (tmp_path / FILE).write_bytes(line + b"\n")
    with pytest.raises(HqvoxError, match=r"tombstones\.jsonl:1: not a takedown; restore"):
        Takedowns.read(Workspace(tmp_path))


def test_a_scaled_picture_of_wikimedia_is_covered_with_its_original() -> None:
    """Candidates are scaled; who asks for a takedown names the original."""
    folder = "https://upload.wikimedia.org/wikipedia/commons"
    taken = Takedowns([Takedown("url", url_digest(f"{folder}/a/ab/Ada%20L.jpg"))])
    assert taken.covers_url(f"{folder}/thumb/a/ab/Ada%20L.jpg/1920px-Ada%20L.jpg")
    assert not taken.covers_url(f"{folder}/thumb/a/ab/Bob.jpg/1920px-Bob.jpg")
    assert not taken.covers_url("https://a.example/x/y/thumb/a/ab/Ada%20L.jpg/1920px-Ada%20L.jpg")
