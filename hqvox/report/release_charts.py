"""The report on a release, without its faces: histograms, balance, table 6."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from markupsafe import Markup

from hqvox.release.read import Release
from hqvox.release.split import PARTS
from hqvox.release.stats import PAPER_DATASETS, dataset_row
from hqvox.report.charts import Values, histogram
from hqvox.workspace.tables import Shown

MOST = 12
"""Nationalities that are listed; the others are added up."""
GENDERS = {"f": "female", "m": "male"}
UNKNOWN = "not stated"


def release_charts(release: Release) -> dict[str, Any]:
    """Values for the template ``release.html.j2``."""
    people = release.identities().to_pylist()
    return {
        "charts": _histograms(release, people),
        "balance": [
            (
                "gender",
                count_words([(GENDERS.get(r["gender"], UNKNOWN), r["split"]) for r in people]),
            ),
            (
                "nationality",
                count_words([(r["nationality"] or UNKNOWN, r["split"]) for r in people]),
            ),
        ],
        "datasets": [*PAPER_DATASETS, dataset_row(release)],
    }


def _histograms(release: Release, people: list[dict[str, Any]]) -> list[Markup]:
    sides = release.manifest(["crop_side_px"])["crop_side_px"]
    shown = [
        ("side of the crop", "px", sides.to_pylist()),
        ("faces of an identity", "", [row["images"] for row in people]),
    ]
    if release.has_speech:
        seconds = release.speech()["seconds"].to_pylist()
        utterances = [row["utterances"] or 0 for row in people]
        shown += [
            ("length of an utterance", "s", seconds),
            ("utterances of an identity", "", utterances),
        ]
    charts = []
    for label, unit, numbers in shown:
        kept = np.array([n for n in numbers if n is not None], dtype=np.float64)
        chart = histogram(Values(Shown(label, unit), kept, np.empty(0)), None)
        if chart is not None:
            charts.append(Markup(chart))
    return charts


def count_words(pairs: list[tuple[str, str]]) -> list[tuple[str, list[int]]]:
    """For each word, most frequent first: identities in all and in each split."""
    counts = Counter(pairs)
    totals = Counter(word for word, _ in pairs)
    words = sorted(totals, key=lambda word: (-totals[word], word))

    def row(name: str, of: list[str]) -> tuple[str, list[int]]:
        parts = [sum(counts[word, part] for word in of) for part in PARTS]
        return name, [sum(totals[word] for word in of), *parts]

    rows = [row(word, [word]) for word in words[:MOST]]
    if words[MOST:]:
        rows.append(row(f"{len(words) - MOST} others", words[MOST:]))
    return rows
