"""The log of decisions: what it takes, what it refuses, what it amounts to."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from review_tools import (
    ANNA,
    BERT,
    CARL,
    FACES,
    LEAD,
    Clock,
    chosen,
    decide,
    dropped,
    light,
    logged,
    undo,
)

from annotator import migrations
from annotator.decisions import COMMENT_LENGTH, Decision, FaceRef, faces_from_json, faces_to_json
from annotator.fold import fold
from annotator.place import VARIABLE, has_store, store_url
from annotator.store import Store, open_store
from hqvox.config_file import load_config
from hqvox.errors import HqvoxError
from hqvox.identities import to_table
from hqvox.workspace import Workspace

PERSON = {
    "identity_id": "id1", "name": "A", "subset": "vox1", "gender": "f", "nationality": "UK",
    "row": 0, "folder": "A",
}  # fmt: skip


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Store:
    return Store.open(tmp_path / "reviews.sqlite", clock=clock)


def test_keeps_every_word_of_a_decision(tmp_path: Path, store: Store, clock: Clock) -> None:
    said = Decision(
        "id1", "chosen", FACES[4:1:-1], FACES, comment="Ω'; --\n", annotator="Anna", seconds=7.25,
        fingerprint="f" * 64,
    )  # fmt: skip
    entry = decide(store, ANNA, said)
    clock.forward(60)
    assert (entry.seq, entry.decision, entry.role) == (1, said, "annotator")
    store.close()
    again = Store.open(tmp_path / "reviews.sqlite")
    assert again.entries() == [entry]
    assert again.entries()[0].time.isoformat() == "2026-01-31T09:00:00+00:00"
    assert again.entries(shown=False)[0].decision == replace(said, shown=())


def test_the_same_key_is_one_entry(store: Store) -> None:
    first = decide(store, ANNA, chosen("id1"), "k")
    assert decide(store, ANNA, chosen("id1", 2), "k") == first
    assert decide(store, ANNA, dropped("id1"), "l").seq == 2
    assert len(store.entries()) == 2
    with pytest.raises(HqvoxError, match="belongs to another"):
        decide(store, BERT, dropped("id1"), "k")
    with pytest.raises(HqvoxError, match="belongs to another"):
        decide(store, ANNA, dropped("id2"), "k")


def test_taking_back_is_an_entry_and_brings_the_one_before_back(store: Store) -> None:
    first = decide(store, ANNA, chosen("id1"))
    second = decide(store, ANNA, dropped("id1"))
    assert store.state()["id1"].holds == light(second)
    undone = undo(store, ANNA, second.seq)
    assert store.state()["id1"].status == "chosen"
    undo(store, ANNA, first.seq)
    assert store.state() == {}
    assert [entry.decision.kind for entry in store.entries()] == [
        "chosen", "dropped", "undone", "undone",
    ]  # fmt: skip
    with pytest.raises(HqvoxError, match="undone already"):
        undo(store, ANNA, second.seq)
    with pytest.raises(HqvoxError, match="decide again"):
        undo(store, ANNA, undone.seq)
    with pytest.raises(HqvoxError, match="none with that number"):
        undo(store, ANNA, 99)
    assert len(store.entries()) == 4


def test_a_retried_undo_is_one_entry(store: Store) -> None:
    seq = decide(store, ANNA, chosen("id1")).seq
    first = store.undo(seq, key="u", actor=ANNA)
    assert store.undo(seq, key="u", actor=ANNA) == first


def test_roles(store: Store) -> None:
    mine = decide(store, ANNA, chosen("id1"))
    with pytest.raises(HqvoxError, match="in the name of Anna"):
        decide(store, BERT, replace(chosen("id2"), annotator="Anna"))
    with pytest.raises(HqvoxError, match="in the name of Anna"):
        decide(store, LEAD, replace(chosen("id2"), annotator="Anna"))
    with pytest.raises(HqvoxError, match="a lead can undo"):
        undo(store, BERT, mine.seq)
    with pytest.raises(HqvoxError, match="somebody else decided"):
        decide(store, BERT, dropped("id1"))
    with pytest.raises(HqvoxError, match="somebody else decided"):  # undisputed: undo it first
        decide(store, LEAD, dropped("id1"))
    with pytest.raises(HqvoxError, match="it is about id1"):
        decide(store, ANNA, Decision("id2", "undone", undoes=mine.seq))
    assert undo(store, LEAD, mine.seq).role == "lead"
    assert store.state() == {}


@pytest.mark.parametrize(
    ("number", "fits"), [(2, False), (3, True), (7, True), (8, False)], ids=lambda v: str(v)
)
def test_three_to_seven_faces(store: Store, number: int, fits: bool) -> None:
    if fits:
        decide(store, ANNA, chosen("id1", number=number))
    else:
        with pytest.raises(HqvoxError, match=f"{number} faces chosen; choose 3 to 7"):
            decide(store, ANNA, chosen("id1", number=number))
    assert len(store.entries()) == int(fits)


WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "kind": (lambda: Decision("id1", "liked"), "none of"),
    "no faces": (lambda: Decision("id1", "chosen"), "with 0 faces"),
    "twice": (lambda: Decision("id1", "chosen", FACES[:1] * 2), "chosen twice"),
    "not shown": (lambda: Decision("id1", "chosen", FACES[:3], FACES[1:]), "not shown"),
    "no reason": (lambda: Decision("id1", "dropped"), "reason belongs"),
    "unknown reason": (lambda: Decision("id1", "dropped", reason="ugly"), "no reason to drop"),
    "other, unsaid": (lambda: Decision("id1", "dropped", reason="other"), "needs a comment"),
    "reason to choose": (
        lambda: Decision("id1", "chosen", FACES[:3], reason="other"),
        "reason belongs",
    ),
    "undoes nothing": (lambda: Decision("id1", "undone"), "names the entry"),
    "long": (lambda: replace(dropped("id1"), comment="x" * (COMMENT_LENGTH + 1)), "2,001"),
    "NUL": (lambda: replace(dropped("id1"), comment="\0"), "NUL"),
    "surrogate": (lambda: replace(dropped("id1"), comment="\ud800"), "half a character"),
    "seconds": (lambda: replace(dropped("id1"), seconds=float("nan")), "no time"),
    "no identity": (lambda: dropped(""), "1 to 200"),
    "photo": (lambda: FaceRef("../etc/passwd", 0, (0, 0, 1, 1)), "SHA-256"),
    "face": (lambda: FaceRef("0" * 64, -1, (0, 0, 1, 1)), "number"),
    "box": (lambda: FaceRef("0" * 64, 0, (0, 0, 1, float("inf"))), "four numbers"),
    "faces": (lambda: faces_from_json('[["x"]]'), "no list of faces"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_makes_no_sense_cannot_be_said(what: str) -> None:
    make, message = WRONG[what]
    with pytest.raises(HqvoxError, match=message):
        make()


def test_faces_come_back_from_json() -> None:
    assert faces_from_json(faces_to_json(FACES)) == FACES


def test_two_who_agree_two_who_do_not_and_the_lead(store: Store) -> None:
    entries = [
        logged(1, ANNA, chosen("id1", 0, 4)),
        logged(2, BERT, chosen("id1", 1, 4)),  # 3 of 5: agree
        logged(3, ANNA, chosen("id2", 0, 4)),
        logged(4, BERT, chosen("id2", 2, 4)),  # 2 of 6: do not
        logged(5, ANNA, dropped("id3")),
        logged(6, BERT, chosen("id3")),
        logged(7, ANNA, dropped("id4")),
        logged(8, BERT, replace(dropped("id4"), reason="poor_quality")),
    ]
    store.adopt(entries)
    state = store.state()
    assert {name: v.status for name, v in state.items()} == {
        "id1": "chosen", "id2": "disputed", "id3": "disputed", "id4": "dropped",
    }  # fmt: skip
    assert state["id1"].holds is not None
    assert state["id1"].holds.decision.annotator == "Anna"
    with pytest.raises(HqvoxError, match="somebody else decided"):
        decide(store, CARL, dropped("id2"))
    settled = decide(store, LEAD, dropped("id2"))
    assert settled.settles
    verdict = store.state()["id2"]
    assert (verdict.status, verdict.settlement, len(verdict.opinions)) == (
        "dropped",
        light(settled),
        2,
    )
    undo(store, LEAD, settled.seq)
    assert store.state()["id2"].disputed


def test_the_overlap_that_counts_as_agreement_can_be_set(tmp_path: Path) -> None:
    entries = [logged(1, ANNA, chosen("id1", 0, 4)), logged(2, BERT, chosen("id1", 2, 4))]
    assert fold(entries)["id1"].disputed
    assert not fold(entries, min_overlap=0.3)["id1"].disputed
    store = Store.open(tmp_path / "reviews.sqlite", min_overlap=0.3)
    store.adopt(entries)
    assert not store.state()["id1"].disputed


def test_an_opinion_asked_for_anew_has_older_ones_count_no_more() -> None:
    log = [
        logged(1, ANNA, chosen("id1", 0)),
        replace(logged(2, BERT, chosen("id1", 6)), anew=True),
    ]
    verdict = fold(log)["id1"]
    assert (verdict.status, verdict.annotators) == ("chosen", {"Bert"})
    later = [*log, logged(3, ANNA, dropped("id1"))]
    assert fold(later)["id1"].disputed
    taken_back = [*log, logged(3, BERT, Decision("id1", "undone", undoes=2))]
    assert fold(taken_back)["id1"].annotators == {"Anna"}


def test_what_is_read_can_be_filtered(store: Store, clock: Clock) -> None:
    decide(store, ANNA, chosen("id1"))
    clock.forward(100)
    noon = clock()
    decide(store, BERT, dropped("id2"))
    clock.forward(100)
    evening = clock()
    third = decide(store, ANNA, dropped("id3"))

    def seqs(**filters: object) -> list[int]:
        return [entry.seq for entry in store.entries(**filters)]

    assert seqs() == [1, 2, 3]
    assert seqs(after=1) == [2, 3]
    assert seqs(annotator="Anna") == [1, 3]
    assert seqs(annotator="anna") == []
    assert seqs(kind="dropped", newest_first=True) == [3, 2]
    assert seqs(reason="poor_quality") == []
    assert seqs(identity_ids=["id2", "id3"]) == [2, 3]
    assert seqs(identity_ids=[]) == []
    assert seqs(since=noon) == [2, 3]
    assert seqs(since=noon, until=evening) == [2]
    assert seqs(newest_first=True, limit=1) == [3]
    assert store.last_seq() == 3
    assert store.last("Anna") == third
    undo(store, ANNA, 3)
    last = store.last("Anna")
    assert last is not None
    assert last.seq == 1
    assert store.last("Carl") is None


def test_text_of_any_kind_stays_text(store: Store) -> None:
    name = "x'); DROP TABLE review_log; --"
    decide(store, ANNA, replace(dropped(name), comment="<script>alert(1)</script>\u202e%s"))
    assert store.entries(identity_ids=[name])[0].decision.comment.endswith("%s")
    assert store.entries(annotator="' OR 1=1 --") == []


# Several stores on one file ---------------------------------------------------------------------


def test_another_process_sees_what_was_written(tmp_path: Path, store: Store) -> None:
    other = Store.open(tmp_path / "reviews.sqlite")
    assert other.state() == {}
    seq = decide(store, ANNA, chosen("id1")).seq
    assert other.state()["id1"].status == "chosen"
    undo(store, ANNA, seq)
    assert other.state() == {}


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


# Opening -------------------------------------------------------------------------------------------


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
    ],
)
def test_an_address_that_will_not_do_is_one_line(where: str, message: str) -> None:
    with pytest.raises(HqvoxError, match=message) as caught:
        Store.open(where)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_store_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"no database at all" * 100)
    with pytest.raises(HqvoxError, match="not a review store, or damaged"):
        Store.open(tmp_path / "x")
    with pytest.raises(HqvoxError, match="no such folder"):
        Store.open(tmp_path / "none" / "x")


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
