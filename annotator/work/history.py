"""Every decision with its status, filtered, and as a spreadsheet. Pure functions."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo

from annotator.log.decisions import DROP_REASONS, Entry
from annotator.log.fold import Outcome, agree

FORMULA_STARTS = "=+-@\t\r\n＝＋－＠"
"""First characters that a spreadsheet takes for a formula, or that can hide one."""
COLUMNS = (
    "number",
    "time_utc",
    "identity_id",
    "name",
    "what",
    "status",
    "faces",
    "photos",
    "reason",
    "comment",
    "annotator",
    "role",
    "seconds",
    "takes_back",
    "fingerprint",
)


@dataclass(frozen=True)
class Line:
    """An entry of the log with its status.

    ``status``: ``holds`` (the identity's outcome is this), ``agrees`` (another opinion that agrees
    with the outcome), ``disputed``, ``overruled`` (a lead settled it otherwise), ``replaced`` (by a
    later one of the same annotator), ``taken back``, or empty for an undo.
    """

    entry: Entry
    name: str
    status: str

    @property
    def known_by(self) -> str:
        """The identity's id, where the name does not say the same."""
        identity_id = self.entry.decision.identity_id
        return "" if identity_id.replace("_", " ") == self.name else identity_id

    @property
    def reason(self) -> str:
        """Why the identity was dropped, in words; empty where it was not."""
        reason = self.entry.decision.reason
        return "" if reason is None else DROP_REASONS[reason]

    @property
    def what(self) -> str:
        """``5 faces``, ``dropped``, ``takes back 12``; a settlement says so."""
        decision = self.entry.decision
        text = {
            "chosen": f"{len(decision.faces)} faces",
            "dropped": "dropped",
            "undone": f"takes back {decision.undoes}",
        }[decision.kind]
        return f"{text} (settles)" if self.entry.settles else text


def listing(
    entries: Iterable[Entry],
    undone: Iterable[int],
    outcomes: Mapping[str, Outcome],
    names: Mapping[str, str],
) -> list[Line]:
    """A line for each entry, in their order.

    ``undone``: ``seq`` of the undone entries; ``names``: of identities, by id.
    """
    gone = set(undone)
    return [
        Line(
            entry,
            names.get(entry.decision.identity_id, ""),
            _status(entry, gone, outcomes.get(entry.decision.identity_id)),
        )
        for entry in entries
    ]


def _status(entry: Entry, gone: set[int], outcome: Outcome | None) -> str:
    if entry.decision.kind == "undone":
        return ""
    if entry.seq in gone:
        return "taken back"
    if outcome is None:
        return "replaced"
    if outcome.holds is not None and outcome.holds.seq == entry.seq:
        return "holds"
    if all(opinion.seq != entry.seq for opinion in outcome.opinions):
        return "replaced"
    if outcome.status == "disputed":
        return "disputed"
    settled = outcome.settlement
    return "agrees" if settled is None or agree(settled, entry, min_overlap=1) else "overruled"


def may_undo(line: Line, name: str, lead: bool) -> bool:
    """Whether the annotator of that name may undo the entry; the store checks it again."""
    if line.entry.decision.kind == "undone" or line.status == "taken back":
        return False
    return lead or line.entry.decision.annotator == name


def matching(lines: Iterable[Line], text: str) -> list[Line]:
    """Lines with every word of the text in id, name, comment or annotator; case is ignored."""
    words = text.casefold().split()

    def holds(line: Line) -> bool:
        decision = line.entry.decision
        where = " ".join(
            (decision.identity_id, line.name, decision.comment, decision.annotator)
        ).casefold()
        return all(word in where for word in words)

    return [line for line in lines if holds(line)]


def day_range(days: Sequence[date], zone: tzinfo) -> tuple[datetime | None, datetime | None]:
    """From the first day's beginning to the last one's end in that time zone, as UTC.

    None for an end that was not given.
    """
    since = datetime.combine(days[0], time(), zone).astimezone(UTC) if days else None
    until = None
    if len(days) > 1:
        until = datetime.combine(days[-1] + timedelta(days=1), time(), zone).astimezone(UTC)
    return since, until


def as_csv(lines: Iterable[Line]) -> bytes:
    """A spreadsheet, UTF-8 with its mark, which spreadsheets need to read names right.

    A text that a spreadsheet would take for a formula gets an apostrophe in front, so that a
    comment cannot make another's machine compute or fetch anything.
    """
    sink = io.StringIO()
    writer = csv.writer(sink)
    writer.writerow(COLUMNS)
    for line in lines:
        entry, decision = line.entry, line.entry.decision
        cells = (
            entry.seq,
            entry.time.astimezone(UTC).isoformat(timespec="seconds"),
            decision.identity_id,
            line.name,
            decision.kind + ("_settling" if entry.settles else ""),
            line.status,
            len(decision.faces),
            " ".join(f"{face.photo_id}:{face.face}" for face in decision.faces),
            decision.reason or "",
            decision.comment,
            decision.annotator,
            entry.role,
            round(decision.seconds, 1),
            "" if decision.undoes is None else decision.undoes,
            decision.fingerprint,
        )
        writer.writerow([_safe(cell) for cell in cells])
    return sink.getvalue().encode("utf-8-sig")


def _safe(cell: str | int | float) -> str | int | float:
    if isinstance(cell, str) and any(
        text.startswith(tuple(FORMULA_STARTS)) for text in (cell, cell.lstrip())
    ):
        return f"'{cell}"
    return cell
