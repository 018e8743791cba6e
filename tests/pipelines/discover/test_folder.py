"""The folder source: what it lists, and when it notices that a file changed."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Any

import pytest

from hqvox.config.discover import MOST_FOUND, DiscoverConfig
from hqvox.workspace.storage import Storage
from models.store import ModelStore
from pipelines.discover import folder
from pipelines.discover.folder import FolderSource, hashes_name
from pipelines.discover.stage import DiscoverStage
from tests.helpers.stage_fakes import MemoryPixels

ADA = {"identity_id": "id0", "folder": "Ada", "shard": "00000"}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of three files, old enough for their hashes to be cached."""
    (tmp_path / "photos/Ada").mkdir(parents=True)
    for name in ("1.jpg", "2.jpg", "10.jpg"):
        (tmp_path / "photos/Ada" / name).write_bytes(f"picture {name}".encode())
    return tmp_path / "photos"


@pytest.fixture(autouse=True)
def _settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "SETTLED_SECONDS", -1.0)


def listed(photos: Path) -> list[list[Any]]:
    source = FolderSource(DiscoverConfig(photos=str(photos)), Storage(photos.parent / "w"))
    listing = source.listing(ADA)
    source.save("00000")
    return listing


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were hashed."""
    names: list[str] = []
    hashed = folder._hashed

    def noted(path: Path) -> Any:
        names.append(path.name)
        return hashed(path)

    monkeypatch.setattr(folder, "_hashed", noted)
    return names


def test_a_file_is_hashed_once(photos: Path, read: list[str]) -> None:
    before = listed(photos)
    assert [entry[0] for entry in before] == ["Ada/1.jpg", "Ada/2.jpg", "Ada/10.jpg"]
    assert read == ["1.jpg", "2.jpg", "10.jpg"]
    assert listed(photos) == before
    assert read == ["1.jpg", "2.jpg", "10.jpg"]


def test_a_touched_file_is_read_and_is_the_same(photos: Path, read: list[str]) -> None:
    before = listed(photos)
    os.utime(photos / "Ada/2.jpg", ns=(1, 1))
    read.clear()
    assert listed(photos) == before
    assert read == ["2.jpg"]


def test_an_edit_that_keeps_size_and_mtime_is_noticed(photos: Path) -> None:
    before = listed(photos)
    file = photos / "Ada/2.jpg"
    status = file.stat()
    while True:  # until the file system's clock has ticked
        with file.open("r+b") as opened:
            opened.write(b"PICTURE")
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        if file.stat().st_ctime_ns != status.st_ctime_ns:
            break
        time.sleep(0.001)
    after = file.stat()
    assert (after.st_size, after.st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert [a == b for a, b in zip(listed(photos), before, strict=True)] == [True, False, True]


def test_a_file_that_was_just_written_is_hashed_again(
    photos: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # It may be written again within the same tick of the clock that gives the ctime.
    monkeypatch.setattr(folder, "SETTLED_SECONDS", 3600.0)
    listed(photos)
    listed(photos)
    assert sorted(read) == ["1.jpg", "1.jpg", "10.jpg", "10.jpg", "2.jpg", "2.jpg"]


def test_what_is_no_file_or_gone_is_listed_without_content(photos: Path) -> None:
    (photos / "Ada/1.jpg").unlink()
    os.mkfifo(photos / "Ada/1.jpg")  # reading it would wait for ever
    (photos / "Ada/2.jpg").unlink()
    (photos / "Ada/2.jpg").symlink_to("nowhere.jpg")
    sizes = {url: size for url, size, _ in listed(photos)}
    assert sizes == {"Ada/1.jpg": -1, "Ada/2.jpg": -1, "Ada/10.jpg": 14}


def test_the_cache_names_no_file_and_no_photograph(photos: Path) -> None:
    listed(photos)
    text = (photos.parent / "w" / hashes_name("00000")).read_text()
    assert "jpg" not in text
    assert "Ada" not in text
    assert hashlib.sha256(b"picture 1.jpg").hexdigest() not in text


@pytest.mark.parametrize("damaged", [b"", b"[]", b'{"a": ', b"\xff\xfe"])
def test_a_damaged_cache_is_made_again(photos: Path, damaged: bytes, read: list[str]) -> None:
    before = listed(photos)
    Storage(photos.parent / "w").write(hashes_name("00000"), damaged)
    read.clear()
    assert listed(photos) == before
    assert len(read) == 3


def discovered(photos: Path, limit: int | None = None, listed: int = 0) -> tuple[list[Any], int]:
    """Sources of Ada's candidates, and how many of her own the limit left out.

    ``listed``: how many addresses a list of urls has beside the folder.
    """
    lines = ["identity_id,url", *(f"id0,http://example.org/{n}.jpg" for n in range(listed))]
    (photos.parent / "urls.csv").write_text("\n".join(lines))
    config = DiscoverConfig.model_validate(
        {
            "sources": ["folder", "urls"] if listed else ["folder"],
            "photos": str(photos),
            "limit": limit,
            "urls": {"file": str(photos.parent / "urls.csv")},
        }
    )
    stage = DiscoverStage(config, ModelStore(), Storage(photos.parent / "w"))
    identity = {**ADA, "name": "Ada"}
    rows = stage.process([identity], MemoryPixels({}))
    return [row["source"] for row in rows], stage.left_out([identity], rows)


@pytest.fixture
def many(photos: Path) -> Path:
    """More files than a search would bring."""
    for number in range(MOST_FOUND + 20):
        (photos / f"Ada/more{number}.jpg").touch()
    return photos


def test_without_a_limit_all_of_a_folder_is_taken(many: Path) -> None:
    assert discovered(many) == (["folder"] * (MOST_FOUND + 23), 0)
    assert len(listed(many)) == MOST_FOUND + 23


def test_a_limit_says_how_many_it_left_out(many: Path) -> None:
    assert discovered(many, limit=10) == (["folder"] * 10, MOST_FOUND + 13)


def test_beside_another_source_a_folder_is_still_taken_whole(many: Path) -> None:
    sources, left_out = discovered(many, listed=MOST_FOUND)
    assert sources[:4] == ["folder", "urls", "folder", "urls"]
    assert sources.count("folder") == MOST_FOUND + 23
    assert sources.count("urls") == MOST_FOUND // 2
    assert left_out == MOST_FOUND // 2
