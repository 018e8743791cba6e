"""The log of decisions: what it takes, what it refuses, what it amounts to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from annotator.log.decisions import (
    COMMENT_LENGTH,
    Decision,
    FaceRef,
    faces_from_json,
    faces_to_json,
)
from annotator.log.fold import fold
from annotator.log.store import Store
from hqvox.errors import HqvoxError
from tests.helpers.review_tools import (
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
    "surrogate": (lambda: replace(dropped("id1"), comment="\ud800"), "lone surrogate"),
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
    outcome = store.state()["id2"]
    assert (outcome.status, outcome.settlement, len(outcome.opinions)) == (
        "dropped",
        light(settled),
        2,
    )
    undo(store, LEAD, settled.seq)
    assert store.state()["id2"].disputed


def test_the_overlap_that_counts_as_agreement_can_be_set(tmp_path: Path) -> None:
    entries = [logged(1, ANNA, chosen("id1", 0, 4)), logged(2, BERT, chosen("id1", 2, 4))]
    assert fold(entries)["id1"].disputed
    half = [logged(1, ANNA, chosen("id1", 0)), logged(2, BERT, chosen("id1", 1))]
    assert not fold(half)["id1"].disputed
    assert not fold(entries, min_overlap=0.3)["id1"].disputed
    store = Store.open(tmp_path / "reviews.sqlite", min_overlap=0.3)
    store.adopt(entries)
    assert not store.state()["id1"].disputed


def test_an_opinion_asked_for_anew_has_older_ones_count_no_more() -> None:
    log = [
        logged(1, ANNA, chosen("id1", 0)),
        replace(logged(2, BERT, chosen("id1", 6)), anew=True),
    ]
    outcome = fold(log)["id1"]
    assert (outcome.status, outcome.annotators) == ("chosen", {"Bert"})
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
