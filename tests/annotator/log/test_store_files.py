"""The files of a review store: opened by several, older, newer, damaged, and erased from."""

from __future__ import annotations

import multiprocessing
import shutil
import sqlite3
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from annotator.log import database, migrations
from annotator.log.access import Actor
from annotator.log.place import PLACE, VARIABLE, has_store, nothing_yet, store_url
from annotator.log.schema import META
from annotator.log.store import Store, claim, open_store
from annotator.work.queue import Queue
from hqvox.cli.app import app
from hqvox.config.file import load_config
from hqvox.config.review import ReviewConfig
from hqvox.errors import HqvoxError
from hqvox.workspace.identities import to_table
from hqvox.workspace.layout import Workspace
from tests.helpers.review_tools import (
    ANNA,
    BERT,
    FACES,
    LEAD,
    chosen,
    decide,
    dropped,
    people,
    undo,
)

PERSON = {
    "identity_id": "id1", "name": "A", "subset": "vox1", "gender": "f", "nationality": "UK",
    "row": 0, "folder": "A",
}  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "reviews.sqlite")


# Several stores on one file ---------------------------------------------------------------------


def test_another_process_sees_what_was_written(tmp_path: Path, store: Store) -> None:
    other = Store.open(tmp_path / "reviews.sqlite")
    assert other.state() == {}
    seq = decide(store, ANNA, chosen("id1")).seq
    assert other.state()["id1"].status == "chosen"
    undo(store, ANNA, seq)
    assert other.state() == {}


def test_twenty_threads_on_one_store(store: Store) -> None:
    queue = Queue(store, people(200), ReviewConfig(second_fraction=0.0))

    def work(number: int) -> list[str]:
        actor, names = Actor(f"annotator {number}"), []
        for turn in range(8):
            lease = queue.next(actor, reserve=True)
            assert lease is not None
            decide(store, actor, dropped(lease.identity_id), f"{number}:{turn}")
            names.append(lease.identity_id)
            assert store.state()[lease.identity_id].annotators == {actor.name}
        return names

    with ThreadPoolExecutor(20) as pool:
        names = [name for done in pool.map(work, range(20)) for name in done]
    assert len(set(names)) == len(names) == len(store.entries()) == queue.counts().done == 160


def test_taking_over_from_another_store(tmp_path: Path, store: Store) -> None:
    there = Store.open(tmp_path / "other.sqlite")
    decide(there, ANNA, chosen("id1"), "a")
    wrong = decide(there, ANNA, dropped("id2"), "b")
    there.undo(wrong.seq, key="c", actor=LEAD)
    decide(there, ANNA, chosen("id2"), "d")
    decide(store, BERT, chosen("id9"), "z")
    added = store.adopt(there.entries())
    assert [entry.seq for entry in added] == [2, 3, 4, 5]
    assert store.entries(after=1) == added
    assert added[2].decision.undoes == 3
    assert added[2].role == "lead"
    assert [entry.time for entry in added] == [entry.time for entry in there.entries()]
    assert {k: v.status for k, v in store.state().items()} == {
        "id1": "chosen", "id2": "chosen", "id9": "chosen",
    }  # fmt: skip
    assert store.adopt(there.entries()) == []
    with pytest.raises(HqvoxError, match="export the whole log"):
        Store.open(tmp_path / "third.sqlite").adopt(there.entries(after=2))


def test_the_database_itself_refuses_to_change_the_log(tmp_path: Path, store: Store) -> None:
    decide(store, ANNA, chosen("id1"))
    with sqlite3.connect(tmp_path / "reviews.sqlite") as raw:
        for statement in (
            "UPDATE review_log SET comment = 'x'",
            "DELETE FROM review_log",
            "INSERT OR REPLACE INTO review_log SELECT * FROM review_log",
        ):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                raw.execute(statement)
    assert len(store.entries()) == 1


# Takedown -----------------------------------------------------------------------------------------


def test_forgetting_reaches_log_leases_and_file(tmp_path: Path, store: Store) -> None:
    path = tmp_path / "reviews.sqlite"
    other = Store.open(path)
    gone = decide(store, ANNA, replace(dropped("id-of-somebody"), comment="a remark on somebody"))
    undo(store, ANNA, gone.seq)
    decide(store, ANNA, chosen("id2", 0, 4))
    decide(store, ANNA, chosen("id3", 0, 3))
    decide(store, ANNA, chosen("id4", 4, 3))
    assert len(other.state()) == 3
    done = store.forget(["id-of-somebody"], [FACES[0].photo_id])
    assert (done.removed, done.shortened) == (3, 2)
    assert {e.decision.identity_id for e in store.entries()} == {"id2", "id4"}
    assert set(other.state()) == {"id2", "id4"}
    assert other.state()["id2"].holds.decision.faces == FACES[1:4]  # type: ignore[union-attr]
    assert all(FACES[0] not in e.decision.shown for e in store.entries())
    kept = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    for text in (b"id-of-somebody", b"a remark", FACES[0].photo_id.encode()):
        assert text not in kept
    assert FACES[1].photo_id.encode() in kept
    assert decide(store, ANNA, chosen("id3", 4)).seq == 6  # numbers are not given again
    with (
        sqlite3.connect(path) as raw,
        pytest.raises(sqlite3.IntegrityError, match="append-only"),
    ):
        raw.execute("DELETE FROM review_log")


def test_forgetting_nothing_or_nobody_known_changes_nothing(store: Store) -> None:
    decide(store, ANNA, chosen("id1"))
    assert store.forget() == store.forget(["id2"], ["f" * 64])
    assert len(store.state()) == 1


# Opening ----------------------------------------------------------------------------------------


def test_a_newer_store_is_left_alone(tmp_path: Path, store: Store) -> None:
    with sqlite3.connect(tmp_path / "reviews.sqlite") as raw:
        raw.execute("UPDATE review_meta SET version = 99")
    with pytest.raises(HqvoxError, match=r"a newer hqvox made .*version 99.*pip install --upgrade"):
        Store.open(tmp_path / "reviews.sqlite")


def test_an_older_store_is_brought_up_once(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide(store, ANNA, chosen("id1"))

    def second(connection: sa.Connection) -> None:
        connection.exec_driver_sql("CREATE TABLE review_colours (name TEXT)")

    newest = max(migrations.MIGRATIONS)
    later = dict(migrations.MIGRATIONS) | {newest + 1: second}
    monkeypatch.setattr(migrations, "MIGRATIONS", later)
    for _ in range(2):
        Store.open(tmp_path / "reviews.sqlite").close()
    with sqlite3.connect(tmp_path / "reviews.sqlite") as raw:
        assert raw.execute("SELECT version FROM review_meta").fetchone() == (newest + 1,)
        assert raw.execute("SELECT COUNT(*) FROM review_colours").fetchone() == (0,)
    assert len(store.entries()) == 1


def test_a_store_of_the_first_version_is_brought_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "MIGRATIONS", {1: migrations.MIGRATIONS[1]})
        old = Store.open(tmp_path / "reviews.sqlite")
        entry = decide(old, ANNA, chosen("id1"))
        old.close()
    store = Store.open(tmp_path / "reviews.sqlite")
    assert store.entries() == [entry]
    with store.database.reading() as connection:
        assert connection.execute(sa.select(META.c.workspace)).scalar_one() is None


def test_a_migration_that_fails_leaves_the_store_as_it_was(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(connection: sa.Connection) -> None:
        connection.exec_driver_sql("CREATE TABLE review_colours (name TEXT)")
        raise HqvoxError("the power went")

    newest = max(migrations.MIGRATIONS)
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "MIGRATIONS", dict(migrations.MIGRATIONS) | {newest + 1: broken})
        with pytest.raises(HqvoxError, match="the power went"):
            Store.open(tmp_path / "reviews.sqlite")
    with sqlite3.connect(tmp_path / "reviews.sqlite") as raw:
        names = {name for (name,) in raw.execute("SELECT name FROM sqlite_master")}
    assert "review_colours" not in names
    Store.open(tmp_path / "reviews.sqlite").close()


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("mysql://u:secret@h/n", "a file, or postgresql"),
        ("nonsense://u:secret@h", "no address|a file, or postgresql"),
        ("sqlite://", "a file, or postgresql"),
        ("postgresql://u:secret@127.0.0.1:1/n", "cannot be reached"),
        ("postgresql://u@127.0.0.1:1/n?password=secret", "cannot be reached"),
    ],
)
def test_an_address_that_will_not_do_is_one_line(where: str, message: str) -> None:
    with pytest.raises(HqvoxError, match=message) as caught:
        Store.open(where)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_its_package_postgresql_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(HqvoxError, match=r"pip install 'hqvox\[postgres\]'"):
        Store.open("postgresql://u@h/n")


def test_a_url_names_a_file_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store.open("sqlite:///here.sqlite")
    store.close()
    store.close()
    assert (tmp_path / "here.sqlite").exists()


def test_a_file_that_is_no_store_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"no database at all" * 100)
    with pytest.raises(HqvoxError, match="not a review store, or damaged"):
        Store.open(tmp_path / "x")
    with pytest.raises(HqvoxError, match="no such folder"):
        Store.open(tmp_path / "none" / "x")


@pytest.mark.parametrize("statement", ["DELETE FROM review_meta", "DROP TABLE review_log"])
def test_a_store_that_lacks_something_is_one_line(
    tmp_path: Path, store: Store, statement: str
) -> None:
    store.close()
    with sqlite3.connect(tmp_path / "reviews.sqlite") as raw:
        raw.execute(statement)
    with pytest.raises(HqvoxError, match="not a review store, or damaged"):
        Store.open(tmp_path / "reviews.sqlite").entries()


def test_a_damaged_face_is_one_line(tmp_path: Path, store: Store) -> None:
    decide(store, ANNA, chosen("id1"))
    with sqlite3.connect(tmp_path / "reviews.sqlite") as raw:
        raw.execute("UPDATE review_meta SET erasing = 1")
        raw.execute("UPDATE review_log SET faces = '[[1]]'")
        raw.execute("UPDATE review_meta SET erasing = 0")
    with pytest.raises(HqvoxError, match="no list of faces"):
        store.entries()


# Where it is ------------------------------------------------------------------------------------


def make_workspace(folder: Path, settings: str = "") -> Workspace:
    (folder / "photos").mkdir()
    text = f"discover: {{photos: {folder / 'photos'}}}\n{settings}"
    return Workspace.create(folder / "work", text, to_table([PERSON]))


def test_the_store_lies_in_the_workspace_unless_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    workspace = make_workspace(tmp_path)
    assert store_url(workspace) == str(tmp_path / "work" / "reviews.sqlite")
    assert not has_store(workspace)
    open_store(workspace).close()
    assert has_store(workspace)
    monkeypatch.setenv(VARIABLE, "postgresql://u:p@h/n")
    assert store_url(workspace) == "postgresql://u:p@h/n"
    assert has_store(workspace)


def test_the_configuration_may_name_it_and_sets_the_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    settings = "review: {store: my.sqlite}\nrelease: {min_faces: 1, max_faces: 2}\n"
    workspace = make_workspace(tmp_path, settings)
    assert has_store(workspace)
    store = open_store(workspace)
    assert (tmp_path / "work" / "my.sqlite").exists()
    decide(store, ANNA, chosen("id1", number=1))
    with pytest.raises(HqvoxError, match="choose 1 to 2"):
        decide(store, ANNA, chosen("id1", number=3))


def test_a_password_does_not_go_into_the_configuration() -> None:
    assert load_config("review: {store: 'postgresql://u@h/n'}").review.store
    with pytest.raises(HqvoxError, match=f"without a password.*{VARIABLE}"):
        load_config("review: {store: 'postgresql://u:word@h/n'}")


def test_a_store_belongs_to_one_workspace(tmp_path: Path, store: Store) -> None:
    def take(workspace: Workspace) -> None:
        with store.database.writing() as connection:
            claim(connection, workspace, "reviews")

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = make_workspace(tmp_path / "a"), make_workspace(tmp_path / "b")
    take(first)
    take(first)
    with pytest.raises(HqvoxError, match="decisions of another workspace") as caught:
        take(second)
    assert "\n" not in str(caught.value)
    assert not second.storage.exists(PLACE)
    shutil.move(first.url, tmp_path / "moved")
    moved = Workspace.open(tmp_path / "moved")
    take(moved)
    second.storage.write(PLACE, moved.storage.read(PLACE))  # as the message says
    take(second)


# Waiting, and files that are not ours -------------------------------------------------------------


def hold(path: str, held: Event, enough: Event) -> None:
    with Store.open(path).transaction():
        held.set()
        enough.wait(60)


def test_a_writer_that_never_ends_is_named_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "reviews.sqlite"
    store = Store.open(path)
    context = multiprocessing.get_context("spawn")
    held, enough = context.Event(), context.Event()
    other = context.Process(target=hold, args=(str(path), held, enough))
    other.start()
    assert held.wait(60)
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.2)
    for _ in range(2):  # who gave up does not hold up the next
        with pytest.raises(HqvoxError, match=rf"{path}: another process .*fuser {path}-turn"):
            decide(store, ANNA, chosen("id1"))
    assert store.entries() == []  # reading waits for nobody
    monkeypatch.undo()
    enough.set()
    decide(store, ANNA, chosen("id1"))  # nor does it get the turn late, and keep it
    decide(store, BERT, chosen("id2"))
    other.join(60)
    assert other.exitcode == 0


def test_the_tables_of_others_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "photos.sqlite"
    with sqlite3.connect(path) as raw:
        raw.execute("CREATE TABLE album (id INTEGER)")
    before = path.read_bytes()
    with pytest.raises(HqvoxError, match=r"not a review store: it holds other tables \(album\)"):
        Store.open(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_missing_folder_is_named_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(HqvoxError, match=f"^{tmp_path / 'none'}: no such folder"):
        Store.open(tmp_path / "none" / "reviews.sqlite")


@pytest.mark.parametrize("settings", ["", "review: {store: my.sqlite}", "absolute"])
def test_who_only_reads_makes_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: str
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    if settings == "absolute":
        settings = f"review: {{store: 'sqlite:///{tmp_path}/my.sqlite'}}"
    workspace = make_workspace(tmp_path, settings)
    assert nothing_yet(workspace)
    ran = CliRunner().invoke(app, ["review", "export", workspace.url])
    assert (ran.exit_code, ran.output) == (0, "")
    assert not list(tmp_path.rglob("*.sqlite*"))
    open_store(workspace).close()
    assert not nothing_yet(workspace)
    assert len(list(tmp_path.rglob("*.sqlite"))) == 1
