"""History: what became of each decision, finding one again, and a spreadsheet that is harmless."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotator.log.access import Actor
from annotator.log.decisions import Decision, Entry, FaceRef
from annotator.log.store import Store
from annotator.work.history import COLUMNS, Line, as_csv, day_range, listing, matching, may_undo

ADA, BOB, LEA = Actor("ada"), Actor("bob"), Actor("lea", "lead")
NAMES = {"id1": "Grace Hopper", "id2": "<script>alert(1)</script>"}
TIME = datetime(2026, 3, 1, 12, tzinfo=UTC)


def face(n: int) -> FaceRef:
    return FaceRef(f"{n:064x}", 0, (0.0, 0.0, 9.0, 9.0))


def chosen(identity_id: str, *faces: int, **more) -> Decision:
    return Decision(identity_id, "chosen", tuple(map(face, faces)), **more)


def test_nothing_is_said_twice_or_in_codes() -> None:
    dropped = Decision("n0001", "dropped", reason="turned_away", annotator="ada")
    entry = Entry(1, TIME, dropped, "key", "annotator")
    line = Line(entry, "Grace Hopper", "holds")
    assert line.reason == "the faces do not look into the camera"
    assert line.known_by == "n0001"
    folder = replace(entry, decision=replace(dropped, identity_id="Grace_Hopper"))
    assert Line(folder, "Grace Hopper", "holds").known_by == ""
    assert Line(replace(entry, decision=chosen("id1", 1, 2, 3)), "", "holds").reason == ""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path / "reviews.sqlite")
    yield store
    store.close()


def said(store: Store, *decisions: tuple[Actor, Decision]) -> None:
    for number, (actor, decision) in zip(count(store.last_seq()), decisions, strict=False):
        store.append(decision, key=f"{actor.name}{number}", actor=actor)


def lines(store: Store) -> list[Line]:
    entries = store.entries(shown=False)
    undone = [e.decision.undoes for e in entries if e.decision.undoes is not None]
    return listing(entries, undone, store.state(), NAMES)


def as_second(store: Store, actor: Actor, decision: Decision) -> None:
    """A second opinion, as after a lease: what the queue hands out in double review."""
    from annotator.work.queue import Queue, QueueItem
    from hqvox.config.review import ReviewConfig

    queue = Queue(store, [QueueItem(decision.identity_id, 9, 0.5)], ReviewConfig(second_fraction=1))
    assert queue.next(actor) is not None
    said(store, (actor, decision))


def test_a_second_opinion_agrees_or_is_disputed_until_a_lead_settles_it(store: Store) -> None:
    said(store, (ADA, chosen("id1", 1, 2, 3)), (ADA, chosen("id2", 1, 2, 3)))
    as_second(store, BOB, chosen("id1", 1, 2, 3, 4))
    as_second(store, BOB, chosen("id2", 4, 5, 6))
    assert [line.status for line in lines(store)] == ["holds", "disputed", "agrees", "disputed"]
    said(store, (LEA, chosen("id2", 4, 5, 6)))
    found = lines(store)
    assert [line.status for line in found] == ["holds", "overruled", "agrees", "agrees", "holds"]
    assert found[-1].what == "3 faces (settles)"


def test_taken_back_and_replaced(store: Store) -> None:
    said(store, (ADA, Decision("id1", "dropped", reason="poor_quality")))
    said(store, (ADA, chosen("id1", 1, 2, 3)))
    assert [line.status for line in lines(store)] == ["replaced", "holds"]
    store.undo(2, key="u", actor=ADA)
    found = lines(store)
    assert [line.status for line in found] == ["holds", "taken back", ""]
    assert [line.what for line in found] == ["dropped", "3 faces", "takes back 2"]
    assert [may_undo(line, "ada", False) for line in found] == [True, False, False]
    assert [may_undo(line, "bob", False) for line in found] == [False, False, False]
    assert [may_undo(line, "lea", True) for line in found] == [True, False, False]


def line(comment: str = "", name: str = "Grace Hopper", annotator: str = "ada") -> Line:
    decision = Decision(
        "id1", "dropped", reason="poor_quality", comment=comment, annotator=annotator
    )
    return Line(Entry(1, TIME, decision, "k"), name, "holds")


def test_texts_are_found_by_words_whatever_their_case() -> None:
    here = [line("Ärger with hair"), line(name="Alan Turing", annotator="Bob")]
    assert matching(here, "") == here
    assert matching(here, "HAIR ärger") == here[:1]
    assert matching(here, "turing bob") == here[1:]
    assert matching(here, "turing ada") == []


def test_days_begin_and_end_where_the_reader_is() -> None:
    zone = timezone(timedelta(hours=-5))
    days = (date(2026, 3, 1), date(2026, 3, 2))
    assert day_range(days, zone) == (
        datetime(2026, 3, 1, 5, tzinfo=UTC),
        datetime(2026, 3, 3, 5, tzinfo=UTC),
    )
    assert day_range(days[:1], UTC) == (datetime(2026, 3, 1, tzinfo=UTC), None)
    assert day_range((), UTC) == (None, None)


def rows(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"))))


def test_the_spreadsheet_holds_everything() -> None:
    entry = Entry(7, TIME, chosen("id1", 1, 2, 3, seconds=4.25, annotator="ada"), "k", "lead", True)
    (row,) = rows(as_csv([Line(entry, 'Zoë, "Z"', "holds")]))
    assert tuple(row) == COLUMNS
    assert row["name"] == 'Zoë, "Z"'
    assert row["time_utc"] == "2026-03-01T12:00:00+00:00"
    assert (row["what"], row["faces"], row["seconds"]) == ("chosen_settling", "3", "4.2")
    assert row["photos"].split() == [f"{n:064x}:0" for n in (1, 2, 3)]
    assert rows(as_csv([])) == []


@pytest.mark.parametrize(
    "text",
    [
        '=HYPERLINK("http://x")',
        "+1",
        "-1",
        "@SUM(A1)",
        "\t=1",
        "  =1",
        "\r=1",
        "＝1+1",
    ],
)
def test_a_spreadsheet_computes_nothing(text: str) -> None:
    (row,) = rows(as_csv([line(comment=text, name=text, annotator=text.strip())]))
    for name in ("comment", "name", "annotator"):
        assert row[name].startswith("'"), name
        assert row[name][1:].strip() == text.strip()


@given(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=40))
def test_no_text_becomes_a_formula_or_another_cell(text: str) -> None:
    (row,) = rows(as_csv([line(comment=text)]))
    assert row["comment"] in (text, f"'{text}")
    assert not row["comment"].lstrip().startswith(("=", "+", "-", "@"))
    assert row["annotator"] == "ada"
