"""Purging what was crawled: nothing comes back, nothing else is fetched again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from hqvox.cli.app import app
from hqvox.runner.crawl.spool import Spool
from hqvox.workspace.identities import read_folders, to_table
from hqvox.workspace.layout import Workspace
from hqvox.workspace.tables import Row
from hqvox.workspace.takedowns import Takedown, Takedowns, url_digest
from tests.helpers.crawled import PEOPLE, PICTURES, Crawled, crawling


@pytest.fixture
def crawled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Crawled]:
    """Two people in one shard, crawled."""
    with crawling(tmp_path, monkeypatch) as made:
        assert made.build() >= len(PEOPLE) * PICTURES
        assert made.build() == 0
        yield made


def test_purged_url_is_never_asked_for_again_and_nothing_else_is(crawled: Crawled) -> None:
    gone = crawled.kept(0)
    before = {row["url"]: row for row in crawled.rows()}
    plan = crawled.purge(Takedown("url", url_digest(gone["url"])))
    assert plan.photos == {gone["photo_id"]}
    after = {row["url"]: row for row in crawled.rows()}
    assert after == {url: row for url, row in before.items() if url != gone["url"]}
    assert crawled.build() == 0
    # Discovered anew, it is there again by its address, refused, and not asked for.
    asked = crawled.site.requests["/photos/Ada/000.jpg"]
    assert crawled.build(start="discover") == 0
    assert crawled.site.requests["/photos/Ada/000.jpg"] == asked
    again = {row["url"]: row for row in crawled.rows()}[gone["url"]]
    assert (again["reason"], again["photo_id"]) == ("taken_down", None)
    # A second purge has nothing to do for it but the address.
    assert crawled.purge().photos == set()


def test_purged_photo_does_not_come_back_from_another_address(crawled: Crawled) -> None:
    gone = crawled.kept(1)
    crawled.purge(Takedown("photo", gone["photo_id"]))
    takedowns = Takedowns.read(crawled.workspace)
    assert takedowns.covers_url(gone["url"])
    world = crawled.site.world
    (world / "photos/Bob/000.jpg").write_bytes((world / "photos/Ada/001.jpg").read_bytes())
    table = Path(crawled.workspace.storage.path("stages/download/00000.parquet"))
    table.unlink()  # so that everything is fetched anew
    assert crawled.build() > 0
    rows = {row["url"].split("/", 3)[3]: row for row in crawled.rows()}
    assert rows["photos/Bob/000.jpg"]["reason"] == "taken_down"
    tar = Path(crawled.workspace.storage.path("stages/download/00000.tar"))
    assert (world / "photos/Ada/001.jpg").read_bytes() not in tar.read_bytes()


def test_page_stands_for_all_its_photographs(crawled: Crawled) -> None:
    page = f"{crawled.site.url}/people/Ada.html"
    plan = crawled.purge(Takedown("url", url_digest(page)))
    assert plan.candidates == PICTURES + 1  # its decoy, too
    assert {row["identity_id"] for row in crawled.rows()} == {"Bob"}


def test_attempts_forget_the_address_and_keep_the_others(crawled: Crawled) -> None:
    name = crawled.workspace.storage.path("attempts/00000.parquet")
    before = pq.read_table(name).num_rows
    gone = crawled.kept(5)  # it was moved: two requests
    crawled.purge(Takedown("photo", gone["photo_id"]))
    left = pq.read_table(name)
    assert left.num_rows == before - 2
    assert not [u for u in left["final_url"].to_pylist() if u.endswith("/Ada/005.jpg")]
    assert not crawled.workspace.storage.names("discover/urls")


def test_identity_leaves_nothing_but_its_takedown(crawled: Crawled, tmp_path: Path) -> None:
    storage = crawled.workspace.storage
    for name in (
        "speech/00000.parquet",
        "speech/00000.f16",
        "speech/index/folders.parquet",
        "discover/brave/00000/Ada.jsonl",
    ):
        storage.write(name, b"Ada speaks")
    crawled.purge(Takedown("identity", "Ada"))
    assert crawled.build() == 0
    (tmp_path / "urls.csv").write_text(
        "\n".join(li for li in (tmp_path / "urls.csv").read_text().splitlines() if "Ada" not in li)
    )
    assert crawled.build() == 0
    files = [f for f in (tmp_path / "w").rglob("*") if f.is_file() and f.name != "tombstones.jsonl"]
    assert not [f for f in files if b"Ada" in f.read_bytes() or "Ada" in f.name]


def test_local_photograph_does_not_come_back(crawled: Crawled, tmp_path: Path) -> None:
    photos = crawled.site.world / "photos"
    text = yaml.safe_dump({"discover": {"photos": str(photos)}})
    workspace = Workspace.create(tmp_path / "local", text, to_table(read_folders(photos)))
    local = Crawled(workspace, crawled.site)
    local.build()
    data = (photos / "Ada/002.jpg").read_bytes()
    plan = local.purge(Takedown("photo", hashlib.sha256(data).hexdigest()))
    assert plan.candidates == 1
    # A new file makes discover stale; the folder still holds the photograph, also by a new name.
    (photos / "Ada/900.jpg").write_bytes(data)
    (photos / "Ada/901.jpg").write_bytes((photos / "Bob/000.jpg").read_bytes())
    local.build()
    reasons = {row["url"]: row["reason"] for row in local.rows() if row["identity_id"] == "Ada"}
    assert {url for url, reason in reasons.items() if reason == "taken_down"} == {
        "Ada/002.jpg",
        "Ada/900.jpg",
    }
    assert reasons["Ada/901.jpg"] is None
    tar = Path(workspace.storage.path("stages/download/00000.tar"))
    assert data not in tar.read_bytes()


def test_rules_of_hosts_go_with_any_takedown(crawled: Crawled) -> None:
    """They can name a page of the person."""
    storage = crawled.workspace.storage
    assert b"robots.txt" in storage.read("hosts/files.jsonl")
    crawled.purge(Takedown("host", "127.0.0.1"))
    assert not storage.names("hosts")


def page(*candidates: Row) -> str:
    return json.dumps({"page": "ab", "query": "Ada", "next": None, "candidates": candidates})


def test_answers_of_sources_lose_what_was_taken_down(crawled: Crawled) -> None:
    storage = crawled.workspace.storage
    name = "discover/openverse/00000/Bob.jsonl"
    one, other = {"url": "https://a.example/1.jpg"}, {"url": "https://b.example/2.jpg"}
    paged = {"url": "https://c.example/3.jpg", "page_url": "https://www.a.example/page"}
    storage.write(name, f"{page(one, other, paged)}\n{page()}\ndamaged\n".encode())
    storage.write("discover/openverse/quota.json", b"{}")
    crawled.purge(Takedown("host", "a.example"))
    lines = storage.read(name).decode().splitlines()
    assert [json.loads(line)["candidates"] for line in lines] == [[other], []]
    assert storage.read("discover/openverse/quota.json") == b"{}"


def spooled(workspace: Workspace, photos: dict[str, bytes]) -> None:
    """Leave what a crawl leaves that was killed."""
    spool = Spool(workspace, "00000", {})
    for url, data in photos.items():
        row: Row = {"requested_url": url, "final_url": url, "reason": None}
        row["photo_id"] = hashlib.sha256(data).hexdigest()
        row["photo_offset"], row["photo_bytes"] = spool.store(row["photo_id"], data)
        spool.note(url, row, [])
    spool.close()


def test_shard_cut_short_loses_what_was_taken_down_and_no_more(crawled: Crawled) -> None:
    urls = [f"https://a.example/{n}.jpg" for n in range(3)]
    photos = {url: bytes([65 + n]) * 3000 for n, url in enumerate(urls)}
    spooled(crawled.workspace, photos)
    crawled.purge(Takedown("url", url_digest(urls[1])))
    folder = Path(crawled.workspace.storage.path("crawl"))
    everything = b"".join(file.read_bytes() for file in folder.iterdir())
    assert photos[urls[1]] not in everything
    assert urls[1].encode() not in everything
    spool = Spool(crawled.workspace, "00000", {})
    assert list(spool.rows) == [urls[0], urls[2]]
    spool.close()


def test_cut_short_between_pixels_and_table_is_erased_too(crawled: Crawled) -> None:
    spooled(crawled.workspace, {"https://a.example/1.jpg": b"A" * 3000})
    storage = crawled.workspace.storage
    storage.remove("stages/download/00000.parquet")
    Path(storage.path("crawl/00000.tar")).replace(storage.path("stages/download/00000.tar"))
    crawled.purge(Takedown("host", "a.example"))
    assert not storage.exists("stages/download/00000.tar")
    assert not storage.names("crawl")


# The command --------------------------------------------------------------------------------------


def command(*arguments: str, answer: str = "") -> tuple[int, str]:
    result = CliRunner().invoke(app, ["purge", *arguments], input=answer)
    return result.exit_code, result.output + str(result.exception or "")


def test_command_asks_shows_and_purges(crawled: Crawled) -> None:
    root, sha = crawled.workspace.url, crawled.kept(0)["photo_id"]
    code, said = command(root, "--photo", sha.upper(), "--dry-run")
    assert code == 0
    assert "1 photograph, 1 candidate, in 1 of 1 shards" in said
    assert "nothing was changed" in said
    code, said = command(root, "--photo", sha, answer="n\n")
    assert code == 1
    assert crawled.kept(0)["photo_id"] == sha
    assert Takedowns.read(crawled.workspace).entries == ()
    code, said = command(root, "--photo", sha, "--reason", "request 17", answer="y\n")
    assert code == 0
    assert "delete there the lines that name it" in said
    assert "next: hqvox build" in said
    assert Takedowns.read(crawled.workspace).entries[0].reason == "request 17"
    code, said = command(root)
    assert (code, "nothing to take down" in said) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--photo", "abc"], "--photo abc: not a SHA-256"),
        (["--host", "https://example.org/"], "give the name alone"),
        (["--identity", "Eve"], "no identity 'Eve'"),
    ],
)
def test_command_refuses_in_one_line(crawled: Crawled, arguments: list[str], line: str) -> None:
    code, said = command(crawled.workspace.url, *arguments, "--yes")
    assert code == 1
    assert line in said
    assert Takedowns.read(crawled.workspace).entries == ()
