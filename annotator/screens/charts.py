"""The charts of the pages, as Vega-Lite by Altair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from annotator.limits.explore import Histogram
from annotator.work.progress import Bar

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
    """Decisions per hour or day, stacked by annotator; times as they are on the reader's clock."""
    form = "%d %b, %H:00" if unit == "hour" else "%d %b %Y"
    rows = [
        # Without its zone: Vega would move it to the browser's, where it is already.
        {"start": b.start.strftime("%Y-%m-%dT%H:%M:%S"), "who": b.annotator, "n": b.decisions}
        for b in bars
    ]
    return (
        alt.Chart(alt.Data(values=rows))
        .mark_bar()
        .encode(
            x=alt.X(
                "start:T",
                timeUnit="yearmonthdatehours" if unit == "hour" else "yearmonthdate",
                title=None,
                axis=alt.Axis(format="%H:%M" if unit == "hour" else "%d %b", labelOverlap=True),
            ),
            y=alt.Y("sum(n):Q", title=f"decisions per {unit}", axis=alt.Axis(tickMinStep=1)),
            color=alt.Color("who:N", title=None, legend=alt.Legend(orient="top")),
            tooltip=[
                alt.Tooltip("start:T", title=unit, format=form),
                alt.Tooltip("who:N", title="annotator"),
                alt.Tooltip("sum(n):Q", title="decisions"),
            ],
        )
        .properties(height=240)
    )
