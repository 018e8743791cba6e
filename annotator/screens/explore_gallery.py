"""The pictures below a histogram: who changes sides, or everybody by verdict and range."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import streamlit as st

from annotator.limits import explore, what_if
from annotator.limits.explore import Rows, Verdicts
from annotator.limits.verdict_pictures import Pictures, VerdictPicture, gallery_html, place_of
from hqvox.workspace.measures import Measure, value_text

PAGE = 24
TILE_PX = 220
AROUND, LET_IN, SHUT_OUT = "Around the limit", "Newly let in", "Newly shut out"
ALL = "All, by verdict"


@dataclass(frozen=True)
class Judged:
    """A limit that is looked over: who changes sides, and where it stands now."""

    changed: what_if.Change
    bound: float


def gallery(
    verdicts: Verdicts, measure: Measure | None, judged: Judged | None, pictures: Pictures
) -> None:
    """Who is near the limit or changes sides, or everybody by verdict and range; page by page."""
    which, rows = ALL, np.empty(0, np.intp)
    if judged is not None and measure is not None:
        around = what_if.around(verdicts, measure.name, judged.bound)
        of = {AROUND: around, LET_IN: judged.changed.let_in, SHUT_OUT: judged.changed.shut_out}
        which = st.segmented_control(
            "Pictures",
            [*of, ALL],
            default=AROUND,
            required=True,
            format_func=lambda name: name if name == ALL else f"{name} ({len(of[name]):,})",
            label_visibility="collapsed",
            key="explore_pictures",
        )
        rows = of.get(which, rows)
    if which == ALL:
        rows = _chosen(verdicts, measure)
    elif not len(rows):
        st.caption("Nobody: move the limit.")
    if not len(rows):
        return
    pages = -(-len(rows) // PAGE)
    place = st.container(horizontal=True, vertical_alignment="center")
    number = 1
    with place:
        if pages > 1:
            number = st.pagination(pages, key=f"explore_page_{verdicts.stage}_{which}_{pages}")
        st.caption(f"{len(rows):,} {verdicts.unit}{_order(which, measure)}")
    shown = [
        _shown(verdicts, int(row), measure, pictures)
        for row in explore.page_of(rows, number - 1, PAGE)
    ]
    st.html(gallery_html(shown))


def _order(which: str, measure: Measure | None) -> str:
    if which == AROUND:
        return ", those nearest to the limit first"
    if which != ALL:
        return ", those nearest to the present limit first"
    return f", by {measure.label}" if measure is not None else ""


def _chosen(verdicts: Verdicts, measure: Measure | None) -> Rows:
    """Rows of a verdict, within a range of the measurement."""
    counts = verdicts.counts()
    left, right = st.columns(2)
    reason = left.selectbox(
        "Verdict",
        list(counts),
        format_func=lambda r: f"{r or 'kept'} ({counts[r]:,})",
        key=f"explore_verdict_{verdicts.stage}",
    )
    rows = verdicts.with_reason(reason)
    if measure is None:
        return rows
    known = verdicts.values[measure.name][rows]
    known = known[~np.isnan(known)]
    if not len(known):
        return rows
    low, high = float(known.min()), float(known.max())
    if low == high:
        return rows
    # A stop beyond either end, so that rounding leaves nobody out.
    step = 10.0**-measure.digits
    stops = np.floor(low / step) * step, np.ceil(high / step) * step
    chosen = right.slider(
        f"{measure.label} from … to",
        *map(float, stops),
        value=(float(stops[0]), float(stops[1])),
        step=step,
        format=f"%.{measure.digits}f{measure.unit}",
        key=f"explore_range_{measure.name}_{reason}",
    )
    if chosen == stops:
        rest = rows[np.isnan(verdicts.values[measure.name][rows])]
        return np.concatenate([explore.in_range(verdicts, measure.name, rows, *chosen), rest])
    return explore.in_range(verdicts, measure.name, rows, *chosen)


def _shown(
    verdicts: Verdicts, row: int, measure: Measure | None, pictures: Pictures
) -> VerdictPicture:
    place = place_of(verdicts, row)
    code = int(verdicts.reason[row])
    verdict = "kept" if code == explore.KEPT else verdicts.reasons[code]
    name = verdicts.names[verdicts.identity[row]]
    lines = [name, verdict]
    if measure is not None:
        value = float(verdicts.values[measure.name][row])
        known = None if np.isnan(value) else value
        lines[1] = f"{value_text(measure, known)} · {verdict}"
    which = f"photo {place.candidate}" + (f", face {place.face}" if place.face > 0 else "")
    lines.append(which if place.identity_id == name else f"{which} · {place.identity_id}")
    tone = "kept" if code == explore.KEPT else "refused"
    return VerdictPicture(pictures.tile(place, verdicts.stage, TILE_PX), lines, tone)
