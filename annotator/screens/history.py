"""History: search decisions, look at them, undo them, and export them as a spreadsheet."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import date, tzinfo

import streamlit as st

from annotator.limits.verdict_pictures import VerdictPicture, gallery_html
from annotator.log.decisions import DROP_REASONS, KINDS, Entry, FaceRef
from annotator.log.messages import without_paths
from annotator.screens.look import plain, plain_tables, problem
from annotator.screens.progress import reader_zone
from annotator.screens.session import Context, read_log
from annotator.work.history import Line, as_csv, day_range, listing, matching, may_undo
from annotator.work.progress import entries_of
from hqvox.errors import HqvoxError

LISTED = 5000
"""Most lines on the page; the spreadsheet has all."""
TILE_PX = 220
_ANY = "any"


def render(context: Context) -> None:
    """Show the page."""
    plain_tables()
    try:
        lines = _lines(context)
    except HqvoxError as error:
        st.error(problem(error))
        return
    if not context.actor.is_lead:
        st.caption("Your own decisions; those of others are seen by a lead.")
    if not lines:
        st.info("Nothing has been decided yet.")
        return
    zone = reader_zone()
    matches = _filtered(context, lines, zone)
    chosen = _table(matches, zone)
    count = f"{len(matches):,} of {len(lines):,} entries"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.download_button(
            "Export as CSV",
            lambda: as_csv(matches),
            "reviews.csv",
            "text/csv",
            icon=":material/download:",
            on_click="ignore",
        )
        st.caption(
            count if len(matches) <= LISTED else f"{count}; the newest {LISTED:,} are listed"
        )
    if chosen is not None:
        _entry(context, chosen, zone)


def _lines(context: Context) -> list[Line]:
    """What this annotator may see, newest first."""
    read = read_log(context)
    entries: Sequence[Entry] = read.entries
    if not context.actor.is_lead:
        # Who knew what another chose would no longer be a second pair of eyes.
        entries = entries_of(entries, context.actor.name)
    names = {person.identity_id: person.shown_name for person in context.candidates.everyone}
    return listing(reversed(entries), read.undone, context.store.state(), names)


def _filtered(context: Context, lines: list[Line], zone: tzinfo) -> list[Line]:
    people = sorted({line.entry.decision.annotator for line in lines})
    first = st.columns([3, 2, 2, 2, 3])
    text = first[0].text_input(
        "Person or text", placeholder="name, id, comment", key="history_text"
    )
    who = _ANY
    if context.actor.is_lead:
        who = first[1].selectbox("Annotator", [_ANY, *people], key="history_who")
    kind = first[2].selectbox("Decision", [_ANY, *KINDS], key="history_kind")
    reason = first[3].selectbox(
        "Reason",
        [_ANY, *DROP_REASONS],
        key="history_reason",
        format_func=lambda code: DROP_REASONS.get(code, code),
    )
    days = first[4].date_input("Days", [], key="history_days", format="YYYY-MM-DD")
    since, until = day_range(_days(days), zone)
    kept = [
        line
        for line in lines
        if who in (_ANY, line.entry.decision.annotator)
        and kind in (_ANY, line.entry.decision.kind)
        and reason in (_ANY, line.entry.decision.reason)
        and (since is None or line.entry.time >= since)
        and (until is None or line.entry.time < until)
    ]
    return matching(kept, text)


def _days(chosen: object) -> tuple[date, ...]:
    return tuple(chosen) if isinstance(chosen, tuple | list) else ()


def _table(lines: list[Line], zone: tzinfo) -> Line | None:
    """The list; the line that is chosen in it."""
    if not lines:
        st.caption("No decision passes these filters.")
        return None
    listed = lines[:LISTED]
    # The names are the ids where they were read from folders.
    other_ids = any(line.known_by for line in listed)
    event = st.dataframe(
        [
            {
                "time": line.entry.time.astimezone(zone).replace(tzinfo=None),
                "name": line.name,
                **({"identity": line.known_by} if other_ids else {}),
                "decision": line.what,
                "reason": line.reason,
                "status": line.status,
                "annotator": line.entry.decision.annotator,
                "comment": line.entry.decision.comment,
                "seconds": line.entry.decision.seconds,
                "number": line.entry.seq,
            }
            for line in listed
        ],
        hide_index=True,
        height=min(38 + 35 * len(listed), 388),
        on_select="rerun",
        selection_mode="single-row",
        # Another table for other rows: a place in the old one would be another decision here.
        key=f"history_table_{hash(tuple(line.entry.seq for line in listed))}",
        column_config={
            "time": st.column_config.DatetimeColumn(format="D MMM YYYY, HH:mm:ss", width="medium"),
            "seconds": st.column_config.NumberColumn(format="%.1f", width="small"),
            "number": st.column_config.NumberColumn(width="small"),
        },
        alt="Decisions, newest first",
    )
    rows = event["selection"]["rows"]
    if not rows:
        st.caption("Choose a row to see its pictures, and to take it back.")
        return None
    return listed[rows[0]]


def _entry(context: Context, line: Line, zone: tzinfo) -> None:
    entry = line.entry
    decision = entry.decision
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"**{plain(line.name or decision.identity_id)}**", width="content")
            when = entry.time.astimezone(zone).strftime("%d %b %Y, %H:%M:%S")
            by = f"{decision.annotator} ({entry.role})"
            st.caption(
                plain(" · ".join(filter(None, (line.what, line.status, by, when)))),
                width="content",
            )
            if may_undo(line, context.actor.name, context.actor.is_lead):
                st.button(
                    "Take back",
                    icon=":material/undo:",
                    key=f"history_undo_{entry.seq}",
                    on_click=_undo,
                    args=(context, entry, str(uuid.uuid4())),
                )
        message = st.session_state.pop("history_message", None)
        if message:
            st.error(plain(message))
        if line.reason:
            st.text(line.reason)
        if decision.comment:
            st.text(decision.comment)
        _pictures(context, entry)


def _undo(context: Context, entry: Entry, key: str) -> None:
    try:
        context.store.undo(entry.seq, key=key, actor=context.actor)
    except HqvoxError as error:
        st.session_state["history_message"] = without_paths(str(error))


def _pictures(context: Context, entry: Entry) -> None:
    """The faces that were chosen, in order, then those that were shown besides."""
    (whole,) = context.store.entries(
        entry.seq - 1, identity_ids=[entry.decision.identity_id], limit=1
    ) or (entry,)
    decision = whole.decision
    chosen = {face.key for face in decision.faces}
    rest = [face for face in decision.shown if face.key not in chosen]
    faces: list[tuple[FaceRef, str, str]] = [
        (face, f"chosen {number}", "kept") for number, face in enumerate(decision.faces, 1)
    ]
    faces += [(face, "shown", "plain") for face in rest]
    if not faces:
        return
    where = {c.ref.key: c for c in context.candidates.faces(decision.identity_id)}
    shown = []
    for face, label, tone in faces:
        candidate = where.get(face.key)
        jpeg, lines = None, [label, "no longer a candidate"]
        if candidate is not None:
            lines[1] = f"quality {candidate.quality:.2f}"
            try:
                jpeg = context.candidates.tile(decision.identity_id, candidate.number, TILE_PX)
            except HqvoxError as error:
                lines[1] = without_paths(str(error))
        shown.append(VerdictPicture(jpeg, lines, tone))
    st.html(gallery_html(shown))
