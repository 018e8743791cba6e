"""Histograms of measures with their limits, as SVG for the report."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from hqvox.workspace.layout import Workspace
from hqvox.workspace.measures import Measure, values_of
from hqvox.workspace.tables import Shown

BINS = 36
KEPT_COLOUR = "#4a9a72"
REFUSED_COLOUR = "#d0745f"
LIMIT_COLOUR = "#1f242b"
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: small, sharp, searchable
    "svg.hashsalt": "hqvox",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 8,
    "axes.edgecolor": "#c5cbd3",
    "axes.labelcolor": "#59626e",
    "xtick.color": "#59626e",
    "ytick.color": "#59626e",
}


@dataclass(frozen=True)
class Values:
    """A measure of all rows that entered its stage."""

    shown: Shown
    kept: NDArray[np.float64]
    refused: NDArray[np.float64]
    """Refused by this stage, for whatever reason."""


def read_values(workspace: Workspace, measure: Measure) -> Values:
    """All values of a measure; only its columns are read."""
    kept: list[NDArray[np.float64]] = [np.empty(0)]
    refused: list[NDArray[np.float64]] = [np.empty(0)]
    for shard in workspace.shards():
        table = workspace.read_stage(measure.stage, shard, [*measure.columns, "reason"])
        if table is None or not table.num_rows:
            continue
        numbers = values_of(table, measure.name).to_numpy()
        known = ~np.isnan(numbers)
        was_kept = np.asarray(table["reason"].is_null())
        kept.append(numbers[known & was_kept])
        refused.append(numbers[known & ~was_kept])
    return Values(measure, np.concatenate(kept), np.concatenate(refused))


def histogram(values: Values, bound: float | None) -> str | None:
    """The histogram as an ``<svg>`` element, or None if there are no values.

    Values beyond the outer half per cent are counted in the outermost bars.
    """
    everything = np.concatenate([values.kept, values.refused])
    if not len(everything):
        return None
    bounds = _lines_at(values.shown, bound)
    low, high = np.percentile(everything, [0.5, 99.5])
    low, high = min([low, *bounds]), max([high, *bounds])
    margin = (high - low) * 0.05 or 0.5
    edges = np.linspace(low - margin, high + margin, BINS + 1)
    centres = (edges[:-1] + edges[1:]) / 2
    counts = [
        np.histogram(np.clip(part, edges[0], edges[-1]), edges)[0]
        for part in (values.kept, values.refused)
    ]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4.4, 1.75))
        axes = figure.add_axes((0.075, 0.24, 0.91, 0.72))
        width = (edges[1] - edges[0]) * 0.9
        axes.bar(centres, counts[0], width, color=KEPT_COLOUR)
        axes.bar(centres, counts[1], width, bottom=counts[0], color=REFUSED_COLOUR)
        for at in bounds:
            axes.axvline(at, color=LIMIT_COLOUR, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_xlim(edges[0], edges[-1])
        unit = values.shown.unit.strip().replace("°", "degrees")
        axes.set_xlabel(f"{values.shown.label}, {unit}" if unit else values.shown.label)
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(length=0)
        axes.grid(axis="y", color="#e8ebef", linewidth=0.8)
        axes.set_axisbelow(True)
        sink = io.StringIO()
        figure.savefig(sink, format="svg", metadata={"Date": None}, transparent=True)
    text = sink.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Sized by the page, not in points.
    return re.sub(r'(<svg[^>]*?) width="[^"]*"| height="[^"]*pt"', r"\1", text, count=2)


def _lines_at(shown: Shown, bound: float | None) -> list[float]:
    if bound is None:
        return []
    return [-bound, bound] if shown.signed else [bound]
