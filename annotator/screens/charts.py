"""The charts of the pages, as Vega-Lite by Altair."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import altair as alt

from annotator.limits.explore import Histogram
from annotator.work.progress import Bar, chart_range

KEPT, BY_THIS, OTHERWISE = "kept", "refused by this", "refused otherwise"
COLOURS = {KEPT: "#4a9a72", BY_THIS: "#d0745f", OTHERWISE: "#a9b1bb"}
NOW, NEW = "#7a8491", "#2f6fde"
"""Of the limit as it is, and as it would be."""


def histogram_chart(
    bars: Histogram, label: str, now: Sequence[float] = (), new: Sequence[float] = ()
) -> alt.LayerChart | alt.FacetChart:
    """Stacked bars by verdict, with dashed lines at the present bounds and firm ones at the new."""
    parts = (
        (KEPT, bars.kept),
        (BY_THIS, bars.refused_by_this),
        (OTHERWISE, bars.refused_otherwise),
    )
    rows = [
        {"from": low, "to": high, "faces": n, "verdict": part, "order": number}
        for number, (part, counts) in enumerate(parts)
        for low, high, n in zip(bars.edges, bars.edges[1:], counts.tolist(), strict=False)
        if n
    ]
    domain = [float(bars.edges[0]), float(bars.edges[-1])]
    layers: list[Any] = [
        alt.Chart(alt.Data(values=rows))
        .mark_bar(binSpacing=1)
        .encode(
            x=alt.X("from:Q", bin="binned", title=label, scale=alt.Scale(domain=domain)),
            x2="to:Q",
            y=alt.Y("faces:Q", stack=True, title=None, axis=alt.Axis(tickCount=4, format=",d")),
            color=alt.Color(
                "verdict:N",
                scale=alt.Scale(domain=list(COLOURS), range=list(COLOURS.values())),
                legend=alt.Legend(orient="top", title=None),
            ),
            order="order:Q",
            tooltip=[
                alt.Tooltip("from:Q", format=".4~g"),
                alt.Tooltip("to:Q", format=".4~g"),
                alt.Tooltip("verdict:N"),
                alt.Tooltip("faces:Q", title="count", format=",d"),
            ],
        )
    ]
    layers += [_rule(bound, NOW, [5, 4]) for bound in now]
    layers += [_rule(bound, NEW, [1, 0]) for bound in new]
    return alt.layer(*layers).properties(height=230)


def _rule(bound: float, colour: str, dash: list[int]) -> alt.Chart:
    return (
        alt.Chart(alt.Data(values=[{"bound": bound}]))
        .mark_rule(color=colour, strokeDash=dash, strokeWidth=2)
        .encode(x="bound:Q", tooltip=[alt.Tooltip("bound:Q", format=".4~g")])
    )


def progress_chart(bars: Sequence[Bar], unit: str) -> alt.Chart:
    """Decisions in each time, stacked by annotator; times as they are on the reader's clock.

    ``bars``: at least one; ``unit``: of what each is for, see ``over_time``.
    """
    rows, tops = [], Counter[datetime]()  # stacked here: Vega does not, with an end for each bar
    for bar in bars:
        low = tops[bar.start]
        tops[bar.start] += bar.decisions
        rows.append(
            {
                "start": _clock(bar.start),
                "end": _clock(bar.end),
                "who": bar.annotator,
                "n": bar.decisions,
                "low": low,
                "high": low + bar.decisions,
            }
        )
    days = unit == "day"
    domain = [_clock(time) for time in chart_range(bars)]
    axis = alt.Axis(format="%d %b" if days else "%H:%M", labelOverlap=True, tickCount=12)
    return (
        alt.Chart(alt.Data(values=rows))
        .mark_rect(stroke="white", strokeWidth=1)
        .encode(
            x=alt.X("start:T", title=None, scale=alt.Scale(domain=domain), axis=axis),
            x2="end:T",
            y=alt.Y("low:Q", title=f"decisions per {unit}", axis=alt.Axis(tickMinStep=1)),
            y2="high:Q",
            color=alt.Color("who:N", title=None, legend=alt.Legend(orient="top")),
            tooltip=[
                alt.Tooltip("start:T", title="from", format="%d %b %Y" if days else "%d %b, %H:%M"),
                alt.Tooltip("who:N", title="annotator"),
                alt.Tooltip("n:Q", title="decisions"),
            ],
        )
        .properties(height=240)
    )


def _clock(time: datetime) -> str:
    """A local time without its zone: Vega would move it to the browser's, where it is already."""
    return time.strftime("%Y-%m-%dT%H:%M:%S")
