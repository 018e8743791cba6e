"""Progress of the review: how much is done, how fast, what is left. Pure functions of entries."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from statistics import fmean, median

from annotator.log.decisions import Entry
from annotator.work.queue import Counts

PAUSE_SECONDS = 300.0
"""Longer on one identity counts as this long: the annotator was away."""
RECENT = 200
"""How many of the latest decisions the present pace is computed from."""
AT_WORK = timedelta(minutes=15)
"""Annotators who decided something within this time count as working."""


@dataclass(frozen=True)
class Work:
    """What one annotator did. Undone decisions are counted apart."""

    annotator: str
    chosen: int
    dropped: int
    settled: int
    """Of ``decisions``, those that a lead made on a disagreement."""
    undone: int
    median_seconds: float | None
    """Per decision; None where no time was noted."""
    per_hour: float | None
    """Decisions in an hour on the page; None likewise."""
    hours: float
    """On the page, pauses left out."""
    last: datetime

    @property
    def decisions(self) -> int:
        """Decisions that are not undone."""
        return self.chosen + self.dropped


@dataclass(frozen=True)
class Pace:
    """The present pace, and the time left at that pace."""

    seconds: float | None
    """Mean of the latest decisions; None where no time was noted."""
    decisions_left: int
    """Opinions that are still needed, second ones and disputes among them."""
    hours_left: float | None
    """Of work, over all annotators."""
    at_work: tuple[str, ...]
    """Who decided something in the last quarter of an hour."""

    @property
    def per_hour(self) -> float | None:
        """Decisions an hour, of one annotator."""
        return None if not self.seconds else 3600 / self.seconds

    @property
    def hours_to_go(self) -> float | None:
        """Hours left if the same number of annotators go on; None where nobody works now."""
        if self.hours_left is None or not self.at_work:
            return None
        return self.hours_left / len(self.at_work)


def standing(entries: Iterable[Entry]) -> list[Entry]:
    """The decisions that are not undone, in order."""
    every = list(entries)
    undone = {entry.decision.undoes for entry in every}
    return [e for e in every if e.decision.kind != "undone" and e.seq not in undone]


def entries_of(entries: Sequence[Entry], annotator: str) -> list[Entry]:
    """An annotator's entries, and those that undo them, whoever wrote those."""
    theirs = {e.seq for e in entries if e.decision.annotator == annotator}
    return [e for e in entries if e.seq in theirs or e.decision.undoes in theirs]


def by_annotator(entries: Sequence[Entry]) -> list[Work]:
    """What each annotator did, who decided most first; ``entries`` are the whole log's.

    The one count of it: the Progress page and ``hqvox review status`` both show this. Time that
    was spent on a decision counts also where the decision was undone; longer than
    :data:`PAUSE_SECONDS` on one identity counts as that long.
    """
    made: dict[str, list[Entry]] = defaultdict(list)
    everything: dict[str, list[Entry]] = defaultdict(list)
    for entry in standing(entries):
        made[entry.decision.annotator].append(entry)
    for entry in entries:
        if entry.decision.kind != "undone":
            everything[entry.decision.annotator].append(entry)
    work = [_work(name, made[name], every) for name, every in everything.items()]
    return sorted(work, key=lambda one: (-one.decisions, one.annotator))


def _work(name: str, made: Sequence[Entry], every: Sequence[Entry]) -> Work:
    kinds = Counter(entry.decision.kind for entry in made)
    # Undone decisions took time too.
    seconds = _seconds(every)
    return Work(
        annotator=name,
        chosen=kinds["chosen"],
        dropped=kinds["dropped"],
        settled=sum(entry.settles for entry in made),
        undone=len(every) - len(made),
        median_seconds=median(seconds) if seconds else None,
        per_hour=3600 / fmean(seconds) if seconds else None,
        hours=sum(seconds) / 3600,
        last=max(entry.time for entry in every),
    )


def _seconds(entries: Iterable[Entry]) -> list[float]:
    """Times on the page, s; none for decisions without one, as imported ones can be."""
    noted = (entry.decision.seconds for entry in entries)
    return [min(seconds, PAUSE_SECONDS) for seconds in noted if seconds > 0]


def pace(entries: Sequence[Entry], counts: Counts, second_fraction: float, now: datetime) -> Pace:
    """How it goes, by the latest decisions of all annotators.

    Of the identities that nobody decided on yet, ``second_fraction`` will need a second opinion.
    """
    made = standing(entries)
    seconds = _seconds(made[-RECENT:])
    mean = fmean(seconds) if seconds else None
    left = round(counts.first * (1 + second_fraction)) + counts.second + counts.disputed
    recent = {e.decision.annotator for e in made if now - e.time <= AT_WORK}
    return Pace(
        seconds=mean,
        decisions_left=left,
        hours_left=None if mean is None else left * mean / 3600,
        at_work=tuple(sorted(recent)),
    )


@dataclass(frozen=True)
class Bar:
    """Decisions of one annotator from ``start`` up to ``end`` (local times)."""

    start: datetime
    end: datetime
    annotator: str
    decisions: int


BARS = (
    (timedelta(hours=2), "5 minutes", timedelta(minutes=5)),
    (timedelta(hours=36), "hour", timedelta(hours=1)),
    (timedelta.max, "day", timedelta(days=1)),
)
"""Up to which span of time a bar is for which time."""
FEWEST_BARS = 12
"""How many have room in the chart at least, so that one of them is a bar and not a wall."""


def over_time(entries: Iterable[Entry], zone: tzinfo) -> tuple[str, list[Bar]]:
    """``5 minutes``, ``hour`` or ``day``, as suits the span, and the decisions that stand in each.

    Bars without a decision are left out.
    """
    local = [(e.time.astimezone(zone), e.decision.annotator) for e in standing(entries)]
    if not local:
        return "day", []
    times = [time for time, _ in local]
    span = max(times) - min(times)
    unit, width = next((unit, width) for most, unit, width in BARS if span < most)
    counted = Counter((_start(time, width), name) for time, name in local)
    bars = [Bar(start, start + width, name, n) for (start, name), n in sorted(counted.items())]
    return unit, bars


def chart_range(bars: Sequence[Bar]) -> tuple[datetime, datetime]:
    """Which times a chart of the bars shows: all of theirs, and room for a few more."""
    first, last = min(bar.start for bar in bars), max(bar.end for bar in bars)
    room = FEWEST_BARS * (bars[0].end - bars[0].start)
    return first, max(last, first + room)


def _start(time: datetime, width: timedelta) -> datetime:
    if width >= timedelta(days=1):
        return time.replace(hour=0, minute=0, second=0, microsecond=0)
    minutes = width // timedelta(minutes=1)
    minute = time.minute // minutes * minutes if minutes < 60 else 0
    return time.replace(minute=minute, second=0, microsecond=0)


def duration_text(hours: float | None) -> str:
    """``40 min``, ``3.5 h``, ``120 h``; an en dash where it is not known."""
    if hours is None:
        return "–"
    minutes = hours * 60
    if minutes < 90:
        return f"{minutes:.0f} min"
    return f"{hours:.1f} h" if hours < 10 else f"{hours:,.0f} h"


KAPPA_WORDS = (
    (0.8, "nearly perfect"),
    (0.6, "substantial"),
    (0.4, "moderate"),
    (0.2, "fair"),
    (0.0, "slight"),
)
"""Landis and Koch's names for how far two agree ("The measurement of observer agreement for
categorical data", Biometrics 33, 1977), by the kappa from which they hold."""


def kappa_word(kappa: float) -> str:
    """The name for a kappa; empty where it is NaN."""
    if kappa != kappa:
        return ""
    return next((word for least, word in KAPPA_WORDS if kappa > least), "none beyond chance")
