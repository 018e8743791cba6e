"""Progress: what was done, how fast, and what is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotator.log.decisions import Decision, Entry, FaceRef
from annotator.screens import progress as page
from annotator.work.progress import (
    PAUSE_SECONDS,
    by_annotator,
    chart_range,
    duration_text,
    kappa_word,
    over_time,
    pace,
    standing,
)
from annotator.work.queue import Counts
from hqvox.cli import review_exchange

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
FACES = tuple(FaceRef("0123456789abcdef" * 4, n, (0.0, 0.0, 9.0, 9.0)) for n in range(3))


def log(*said: tuple[str, str, float, datetime]) -> list[Entry]:
    """Entries of (annotator, kind or number to undo, seconds, time), each on its own identity."""
    entries: list[Entry] = []
    for seq, (annotator, kind, seconds, time) in zip(count(1), said, strict=False):
        more: dict[str, Any] = {"kind": kind}
        if kind == "chosen":
            more["faces"] = FACES
        elif kind == "dropped":
            more["reason"] = "poor_quality"
        else:
            more = {"kind": "undone", "undoes": int(kind)}
        identity_id = f"id{more.get('undoes', seq)}"
        decision = Decision(identity_id, annotator=annotator, seconds=seconds, **more)
        entries.append(Entry(seq, time, decision, f"k{seq}"))
    return entries


def minutes(*after: float) -> list[datetime]:
    return [NOON + timedelta(minutes=m) for m in after]


def test_work_is_counted_by_annotator() -> None:
    first, second, third, fourth, fifth = minutes(0, 1, 2, 3, 4)
    entries = log(
        ("ada", "chosen", 10, first),
        ("ada", "dropped", 20, second),
        ("bob", "chosen", 60, third),
        ("ada", "chosen", 30, fourth),
        ("ada", "1", 0, fifth),
    )
    ada, bob = by_annotator(entries)
    assert (ada.annotator, ada.chosen, ada.dropped, ada.undone) == ("ada", 1, 1, 1)
    assert (ada.median_seconds, ada.per_hour, ada.last) == (20, 180, fourth)
    assert ada.hours == pytest.approx(60 / 3600)  # what was taken back took its time too
    assert (bob.decisions, bob.per_hour) == (1, 60)


def test_a_pause_does_not_count_as_work() -> None:
    (work,) = by_annotator(log(("ada", "dropped", 4000, NOON), ("ada", "dropped", 100, NOON)))
    assert work.hours * 3600 == PAUSE_SECONDS + 100


def test_who_took_everything_back_has_decided_nothing() -> None:
    (work,) = by_annotator(log(("ada", "chosen", 9, NOON), ("lea", "1", 0, NOON)))
    assert (work.annotator, work.decisions, work.undone) == ("ada", 0, 1)


def test_decisions_without_a_time_say_nothing_of_pace() -> None:
    entries = log(("ada", "chosen", 0, NOON))
    (work,) = by_annotator(entries)
    assert (work.median_seconds, work.per_hour, work.hours) == (None, None, 0)
    found = pace(entries, Counts(10, 9, 0, 0, 1, 0), 0.0, NOON)
    assert (found.seconds, found.per_hour, found.hours_left, found.hours_to_go) == (None,) * 4
    assert found.decisions_left == 9


def test_pace_counts_second_opinions_and_disputes() -> None:
    entries = log(
        ("ada", "chosen", 10, NOON - timedelta(hours=2)),
        ("bob", "chosen", 20, NOON - timedelta(minutes=14)),
        ("cy", "dropped", 30, NOON),
    )
    found = pace(entries, Counts(210, 100, 6, 4, 100, 0), 0.2, NOON)
    assert found.seconds == 20
    assert found.per_hour == 180
    assert found.decisions_left == 100 * 1.2 + 6 + 4
    assert found.hours_left == pytest.approx(130 * 20 / 3600)
    assert found.at_work == ("bob", "cy")
    assert found.hours_to_go == pytest.approx(130 * 20 / 3600 / 2)
    assert pace(entries, Counts(1, 1, 0, 0, 0, 0), 0, NOON + timedelta(1)).hours_to_go is None


def test_days_are_those_of_the_reader() -> None:
    late = datetime(2026, 3, 1, 23, 30, tzinfo=UTC)
    entries = log(("ada", "dropped", 1, late), ("ada", "dropped", 1, late + timedelta(days=2)))
    unit, bars = over_time(entries, timezone(timedelta(hours=1)))
    assert unit == "day"
    assert [(bar.start.isoformat(), bar.decisions) for bar in bars] == [
        ("2026-03-02T00:00:00+01:00", 1),
        ("2026-03-04T00:00:00+01:00", 1),
    ]
    unit, bars = over_time(entries[:1] * 3, UTC)
    assert (unit, [bar.start.hour for bar in bars]) == ("5 minutes", [23])
    assert over_time([], UTC) == ("day", [])


def test_bars_of_the_same_time_stand_on_each_other() -> None:
    charts = pytest.importorskip("annotator.screens.charts")
    unit, bars = over_time(log(*((who, "dropped", 1, NOON) for who in ("ada", "bob", "ada"))), UTC)
    rows = charts.progress_chart(bars, unit).to_dict()["data"]["values"]
    assert [(row["who"], row["low"], row["high"]) for row in rows] == [("ada", 0, 2), ("bob", 2, 3)]


def test_bars_suit_the_span() -> None:
    def bars_of(*minutes: float) -> tuple[str, list[str]]:
        times = [NOON + timedelta(minutes=after) for after in minutes]
        unit, bars = over_time(log(*(("ada", "dropped", 1, time) for time in times)), UTC)
        return unit, [f"{bar.start:%H:%M}-{bar.end:%H:%M} {bar.decisions}" for bar in bars]

    # An hour of work is not one bar that fills the page.
    assert bars_of(0, 4, 7, 58) == (
        "5 minutes",
        ["12:00-12:05 2", "12:05-12:10 1", "12:55-13:00 1"],
    )
    assert bars_of(0, 59, 150) == ("hour", ["12:00-13:00 2", "14:00-15:00 1"])
    assert bars_of(0, 40 * 60)[0] == "day"
    _, bars = over_time(log(("ada", "dropped", 1, NOON)), UTC)
    first, last = chart_range(bars)
    assert (first, last - first) == (NOON, timedelta(hours=1))
    month = (("ada", "dropped", 1, NOON + timedelta(days=n)) for n in range(30))
    _, bars = over_time(log(*month), UTC)
    assert chart_range(bars)[1] - chart_range(bars)[0] == timedelta(days=30)


def test_the_page_and_the_command_show_the_same_counts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = log(
        ("ada", "chosen", 4000, NOON),  # a pause
        ("ada", "dropped", 20, NOON),
        ("ada", "chosen", 60, NOON),
        ("bob", "chosen", 0, NOON),  # imported without a time
        ("bob", "chosen", 10, NOON),
        ("lea", "1", 0, NOON),
    )
    entries[4] = replace(entries[4], role="lead", settles=True)
    shown: list[list[dict[str, Any]]] = []
    monkeypatch.setattr(page.st, "altair_chart", lambda *_, **__: None)
    monkeypatch.setattr(page.st, "dataframe", lambda rows, **_: shown.append(rows))
    page._by_annotator(entries)
    monkeypatch.setattr(review_exchange.console, "_width", 120)
    review_exchange.print_annotators(entries)
    lines = [line for line in capsys.readouterr().out.splitlines() if "│" in line]
    printed = [[cell.strip() for cell in line.strip("│ ").split("│")] for line in lines]
    digits = {"per hour": 0, "median, s": 1, "hours": 2}
    assert printed == [
        [
            f"{value:.{digits[name]}f}" if name in digits else str(value)
            for name, value in row.items()
            if name != "last"
        ]
        for row in shown[0]
    ]
    assert printed == [
        ["ada", "2", "1", "1", "0", "1", "28", "60.0", "0.11"],
        ["bob", "2", "2", "0", "1", "0", "360", "10.0", "0.00"],
    ]


@given(st.lists(st.sampled_from(["chosen", "dropped", "back"]), max_size=30))
def test_what_stands_and_what_was_taken_back_is_everything(kinds: Sequence[str]) -> None:
    said: list[tuple[str, str, float, datetime]] = []
    open_: list[int] = []
    for kind in kinds:
        if kind != "back":
            said.append(("ada", kind, 5, NOON))
            open_.append(len(said))
        elif open_:
            said.append(("ada", str(open_.pop()), 0, NOON))
    entries = log(*said)
    assert [entry.seq for entry in standing(entries)] == open_
    work = by_annotator(entries)
    made = sum(entry.decision.kind != "undone" for entry in entries)
    assert sum(one.decisions + one.undone for one in work) == made
    assert sum(bar.decisions for bar in over_time(entries, UTC)[1]) == len(open_)


@pytest.mark.parametrize(
    ("hours", "text"),
    [
        (None, "–"),
        (0, "0 min"),
        (0.5, "30 min"),
        (1.52, "1.5 h"),
        (20.4, "20 h"),
        (2000, "2,000 h"),
    ],
)
def test_durations(hours: float | None, text: str) -> None:
    assert duration_text(hours) == text


@pytest.mark.parametrize(
    ("kappa", "word"),
    [
        (1.0, "nearly perfect"),
        (0.61, "substantial"),
        (0.6, "moderate"),
        (0.3, "fair"),
        (0.1, "slight"),
        (0.0, "none beyond chance"),
        (-0.5, "none beyond chance"),
        (float("nan"), ""),
    ],
)
def test_kappa_has_a_word(kappa: float, word: str) -> None:
    assert kappa_word(kappa) == word
