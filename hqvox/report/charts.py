"""Histograms of what was measured, with the limits drawn in, as SVG for the report."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from hqvox.workspace.layout import Workspace
from hqvox.workspace.measures import BY_NAME, Limit, Measure

CHARTED = (
    "ipd_px",
    "yaw_deg",
    "pitch_deg",
    "light_ratio",
    "light_gradient",
    "neutral",
    "mouth_opening",
    "core_similarity",
    "face_coverage",
    "edge_confidence",
    "quality",
    "sharpness",
)
"""The measurements that get a histogram."""
BINS = 36
KEPT_COLOUR = "#4a9a72"
REFUSED_COLOUR = "#d0745f"
LIMIT_COLOUR = "#1f242b"
_STYLE: Any = {
    "svg.fonttype": "none",  # letters stay letters: small, sharp, searchable
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
    """A measurement over all rows that entered its stage."""

    measure: Measure
    kept: NDArray[np.float64]
    refused: NDArray[np.float64]
    """Refused by this stage, for whatever reason."""


def read_values(workspace: Workspace, name: str) -> Values:
    """All values of a measurement, reading only its column."""
    measure = BY_NAME[name]
    column = "emotion_probabilities" if name in ("neutral", "happiness") else name
    kept: list[NDArray[np.float64]] = [np.empty(0)]
    refused: list[NDArray[np.float64]] = [np.empty(0)]
    for shard in workspace.shards():
        table = workspace.read_stage(measure.stage, shard, [column, "reason"])
        if table is None or not table.num_rows:
            continue
        values = table[column]
        if column != name:
            values = pc.map_lookup(values, pa.scalar(name), "first")
        numbers = values.to_numpy().astype(np.float64)
        known = ~np.isnan(numbers)
        through = np.asarray(table["reason"].is_null())
        kept.append(numbers[known & through])
        refused.append(numbers[known & ~through])
    return Values(measure, np.concatenate(kept), np.concatenate(refused))


def histogram(values: Values, limit: Limit | None) -> str | None:
    """The histogram as an ``<svg>`` element, or None where there is nothing to show.

    What lies beyond the outer half per cent is counted in the outermost bars.
    """
    everything = np.concatenate([values.kept, values.refused])
    if not len(everything):
        return None
    bounds = _bounds(values.measure, limit)
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
        for bound in bounds:
            axes.axvline(bound, color=LIMIT_COLOUR, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_xlim(edges[0], edges[-1])
        unit = values.measure.unit.strip().replace("°", "degrees")
        axes.set_xlabel(f"{values.measure.label}, {unit}" if unit else values.measure.label)
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


def _bounds(measure: Measure, limit: Limit | None) -> list[float]:
    if limit is None:
        return []
    bounds = [bound for bound in (limit.low, limit.high) if bound is not None]
    return [s * bound for bound in bounds for s in (-1, 1)] if measure.signed else bounds
