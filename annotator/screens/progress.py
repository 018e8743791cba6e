"""Progress: how far the review is, how fast it goes, what is left, and how far people agree."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import streamlit as st

from annotator.log.decisions import Entry
from annotator.screens.charts import progress_chart
from annotator.screens.look import plain_tables, problem
from annotator.screens.session import LOG_KEPT_SECONDS, Context, read_log
from annotator.work.agreement import Agreement, Pair, agreement, by_annotators, double_reviews
from annotator.work.progress import (
    Work,
    by_annotator,
    duration_text,
    entries_of,
    kappa_word,
    over_time,
    pace,
)
from annotator.work.queue import Counts
from hqvox.errors import HqvoxError

REFRESH_SECONDS = 15.0


def render(context: Context) -> None:
    """Show the page."""
    plain_tables()
    st.fragment(_page, run_every=REFRESH_SECONDS)(context)


def reader_zone() -> tzinfo:
    """The time zone of the browser; UTC where it is not known."""
    try:
        return ZoneInfo(st.context.timezone or "UTC")
    except (ZoneInfoNotFoundError, ValueError):
        return UTC


def _page(context: Context) -> None:
    try:
        entries = read_log(context).entries
        counts = context.queue.counts()
        pairs = _pairs(context)
        disputes = context.queue.disputes() if context.actor.is_lead else []
    except HqvoxError as error:
        st.error(problem(error))
        return
    _overview(context, entries, counts)
    # How much the others did is between them and the lead.
    lead, name = context.actor.is_lead, context.actor.name
    _by_annotator(entries if lead else entries_of(entries, name))
    _agreement(context, pairs, lead)
    if lead and counts.disputed:
        st.subheader("Waiting for a lead", anchor=False)
        people = [context.candidates.summary(identity_id) for identity_id in disputes]
        rows = [{"name": person.shown_name, "identity": person.identity_id} for person in people]
        st.dataframe(rows, hide_index=True, width=520, alt="People that two annotators disagree on")
        st.caption("They come up under Review, with both choices beside each other.")


@st.cache_resource(ttl=LOG_KEPT_SECONDS, max_entries=2, show_spinner=False)
def _double_reviews(root: str, last_seq: int, _context: Context) -> list[Pair]:
    return double_reviews(_context.store)


def _pairs(context: Context) -> list[Pair]:
    return _double_reviews(context.workspace.url, context.store.last_seq(), context)


def _overview(context: Context, entries: tuple[Entry, ...], counts: Counts) -> None:
    now = pace(entries, counts, context.config.review.second_fraction, datetime.now(UTC))
    share = counts.done / counts.total if counts.total else 1.0
    st.progress(share, f"{counts.done:,} of {counts.total:,} people done")
    left, work, speed, clock = st.columns(4)
    left.metric(
        "People left",
        f"{counts.total - counts.done:,}",
        border=True,
        help=f"{counts.first:,} nobody has decided on, {counts.second:,} wait for a second "
        f"annotator, {counts.disputed:,} for a lead; {counts.leased:,} are open now.",
    )
    speed.metric(
        "Decisions an hour",
        "–" if now.per_hour is None else f"{now.per_hour:,.0f}",
        border=True,
        help="Of one annotator at work, by the latest 200 decisions; more than five minutes on one "
        "person counts as a pause.",
    )
    work.metric(
        "Work left",
        duration_text(now.hours_left),
        border=True,
        help=f"{now.decisions_left:,} decisions are still needed, second opinions and disputes "
        "among them.",
    )
    clock.metric(
        "Time left",
        duration_text(now.hours_to_go),
        border=True,
        help=f"If as many go on as are at work now ({len(now.at_work)}).",
    )


def _by_annotator(entries: Sequence[Entry]) -> None:
    zone = reader_zone()
    unit, bars = over_time(entries, zone)
    if not bars:
        st.caption("Nobody has decided anything yet.")
        return
    st.altair_chart(progress_chart(bars, unit), alt=f"Decisions per {unit}, by annotator")
    st.dataframe(
        [_row(work, zone) for work in by_annotator(entries)],
        hide_index=True,
        column_config={
            "last": st.column_config.DatetimeColumn(format="D MMM, HH:mm"),
            "per hour": st.column_config.NumberColumn(format="%.0f"),
            "median, s": st.column_config.NumberColumn(format="%.1f"),
            "hours": st.column_config.NumberColumn(format="%.1f"),
        },
        alt="What each annotator did",
    )


def _row(work: Work, zone: tzinfo) -> dict[str, object]:
    return {
        "annotator": work.annotator,
        "decisions": work.decisions,
        "chosen": work.chosen,
        "dropped": work.dropped,
        "settled": work.settled,
        "undone": work.undone,
        "per hour": work.per_hour,
        "median, s": work.median_seconds,
        "hours": work.hours,
        "last": work.last.astimezone(zone).replace(tzinfo=None),
    }


def _agreement(context: Context, pairs: list[Pair], lead: bool) -> None:
    st.subheader("Agreement", anchor=False)
    if not pairs:
        share = context.config.review.second_fraction
        st.caption(
            f"Nobody has been reviewed twice yet; {share:.0%} of the people go to a second "
            "annotator (review.second_fraction)."
            if share
            else "Nobody is reviewed twice: review.second_fraction is 0."
        )
        return
    whole = agreement(pairs)
    kappa, overlap, kind, faces = st.columns(4)
    kappa.metric(
        "Cohen's kappa",
        _number(whole.kappa),
        kappa_word(whole.kappa) or None,
        delta_color="off",
        delta_arrow="off",
        border=True,
        height="stretch",
        help="Agreement on each face beyond what chance gives: 1 is full, 0 is chance.",
    )
    overlap.metric(
        "Overlap of choices",
        f"{whole.overlap:.0%}",
        border=True,
        height="stretch",
        help="Faces that both chose over faces that either chose, the mean over people.",
    )
    kind.metric(
        "Both chose, or both dropped",
        f"{whole.same_kind:.0%}",
        border=True,
        height="stretch",
    )
    faces.metric("Reviewed twice", f"{whole.identities:,}", border=True, height="stretch",
                 help=f"People; {whole.faces:,} faces that both saw.")  # fmt: skip
    if not lead:
        return
    table = by_annotators(pairs)
    if len(table) > 1:
        st.dataframe(
            [_pair_row(names, pair) for names, pair in table.items()],
            hide_index=True,
            alt="Agreement of each two annotators",
        )


def _pair_row(names: tuple[str, str], pair: Agreement) -> dict[str, object]:
    return {
        "annotators": " and ".join(names),
        "people": pair.identities,
        "faces": pair.faces,
        "kappa": _number(pair.kappa),
        "overlap": f"{pair.overlap:.0%}",
        "both chose, or both dropped": f"{pair.same_kind:.0%}",
    }


def _number(value: float) -> str:
    return "–" if value != value else f"{value:.2f}"
