"""Atomic writes, range reads, and pixel shards."""

from __future__ import annotations

import errno
import os
import tarfile
from pathlib import Path

import pytest

from hqvox.errors import HqvoxError
from hqvox.workspace.shards import ShardReader, ShardWriter
from hqvox.workspace.storage import TEMPORARY, Storage


@pytest.fixture(params=["local", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    root = tmp_path / "w" if request.param == "local" else f"memory://{tmp_path.name}"
    return Storage(root)


def test_written_files_read_back_whole_and_in_ranges(storage: Storage) -> None:
    storage.write("a/b.bin", b"0123456789")
    assert storage.read("a/b.bin") == b"0123456789"
    assert storage.read("a/b.bin", offset=3, size=4) == b"3456"
    assert storage.names("a") == ["b.bin"]
    assert storage.names("missing") == []
    storage.remove("a/b.bin")
    assert not storage.exists("a/b.bin")


def test_a_write_that_fails_leaves_the_file_before_it(storage: Storage) -> None:
    storage.write("x", b"before")

    def fail() -> None:
        with storage.writing("x") as file:
            file.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert storage.read("x") == b"before"


def test_a_killed_writer_leaves_nothing_visible(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    child = os.fork()
    if child == 0:
        pending = storage.begin("stages/x/0.parquet")
        pending.file.write(b"half")
        pending.file.flush()
        os._exit(9)
    os.waitpid(child, 0)
    assert storage.names("stages/x") == []
    assert list((tmp_path / "stages/x").glob(f".*{TEMPORARY}"))
    storage.remove_leftovers("stages/x")
    assert not list((tmp_path / "stages/x").iterdir())


def dead_pid() -> int:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return child


def test_temporaries_of_processes_that_are_gone_are_swept(tmp_path: Path) -> None:
    gone, names = dead_pid(), []
    for folder in (".", "stages/download", "discover/folder"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        names += [f"{folder}/.00015.tar.{pid}{TEMPORARY}" for pid in (gone, os.getpid())]
    (tmp_path / "releases").mkdir()
    names += [f"releases/.x.{gone}{TEMPORARY}", "stages/kept.tmp", "stages/.notes.tmp"]
    for name in names:
        (tmp_path / name).write_bytes(b"half")
    Storage(tmp_path).sweep(leave=("releases",))
    left = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()}
    assert left == {str(Path(n)) for n in names if f".tar.{gone}" not in n}


def test_what_a_killed_process_had_not_uploaded_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    storage = Storage(f"memory://{tmp_path.name}")
    child = os.fork()
    if child == 0:
        storage.begin("stages/x/0.tar").file.write(b"half")
        os._exit(9)
    os.waitpid(child, 0)
    pending = storage.begin("stages/x/1.tar")
    (tmp_path / "tmpabc.tmp").touch()  # another program's
    assert len(list(tmp_path.iterdir())) == 3
    storage.sweep()
    assert {file.name for file in tmp_path.iterdir()} == {pending.temporary.name, "tmpabc.tmp"}
    pending.discard()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "disk is full; free some space"),
        (errno.EROFS, "read-only; choose"),
        (errno.EACCES, "permission denied; choose"),
    ],
)
def test_what_the_disk_refuses_is_one_line_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(HqvoxError, match=words) as error:
        Storage(tmp_path).write("x", b"data")
    assert "\n" not in str(error.value)
    assert str(tmp_path / "x") in str(error.value)
    assert not list(tmp_path.iterdir())


def test_an_unknown_scheme_is_one_line() -> None:
    with pytest.raises(HqvoxError, match="nosuch://x"):
        Storage("nosuch://x")


def test_shard_members_are_read_by_offset_and_stored_once(storage: Storage) -> None:
    writer = ShardWriter(storage, "s/0.tar")
    first = writer.add("a.png", b"A" * 700)
    second = writer.add("b.png", b"B")
    assert writer.add("a.png", b"A" * 700) == first
    assert writer.read(*first) == b"A" * 700
    third = writer.add("c.png", b"CC")
    writer.commit()
    reader = ShardReader(storage, "s/0.tar")
    assert [reader.read(*where) for where in (third, second, first)] == [b"CC", b"B", b"A" * 700]
    reader.close()
    with storage.open("s/0.tar") as file, tarfile.open(fileobj=file) as tar:
        assert tar.getnames() == ["a.png", "b.png", "c.png"]
        assert {member.mtime for member in tar} == {0}


def test_same_members_give_the_same_bytes(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    for name in ("one", "two"):
        writer = ShardWriter(storage, name)
        writer.add("a", b"1")
        writer.add("b", b"2" * 513)
        writer.commit()
    assert storage.read("one") == storage.read("two")


def test_a_path_in_a_bucket_is_shown_with_its_scheme(tmp_path: Path) -> None:
    assert Storage("memory://bucket/work").shown("a/b") == "memory:///bucket/work/a/b"
    assert Storage(tmp_path).shown("a/b") == f"{tmp_path}/a/b"
