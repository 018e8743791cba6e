"""Our results in the paper's tables: each row of ours below the paper's that it answers to."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hqvox.trainer.checkpoint import Loaded
from hqvox.trainer.evaluate import Evaluation
from hqvox.trainer.metrics import KS, Score, chance
from hqvox.trainer.paper_tables import TABLES, PaperRow, PaperTable
from hqvox.trainer.protocol import FUSED, LENGTHS, LONG, SHORT, Condition

PAPER = "paper"
NONE = "–"
COLUMNS = {
    "cosine": ("cosine", ".3f"),
    "l1": ("L1", ".2f"),
    "recall_1": ("R@1", ".2f"),
    "recall_2": ("R@2", ".2f"),
    "recall_5": ("R@5", ".2f"),
    "recall_10": ("R@10", ".2f"),
    "vfs": ("VFS", ".2f"),
}
"""The paper's columns: their heading, and how a figure is written."""
EXTRA = {"inception": ("IS", ".2f"), "fid": ("FID", ".2f")}
"""Columns that stand beside them where they were measured."""


@dataclass(frozen=True)
class Evaluated:
    """A checkpoint and what was measured of it."""

    label: str
    loaded: Loaded
    evaluation: Evaluation


@dataclass(frozen=True)
class TableRow:
    """A row of a table: what the paper calls it, whose figures they are, and the figures."""

    first: str
    second: str
    source: str
    """``paper``, or a checkpoint's label."""
    scores: Mapping[str, tuple[float, float | None]] = field(default_factory=dict)
    """By column, mean and deviation."""

    def cells(self, columns: Mapping[str, tuple[str, str]], deviations: bool) -> list[str]:
        """The figures as text, an en dash where there is none."""
        return [
            _written(self.scores.get(name), form, deviations or name == "vfs")
            for name, (_, form) in columns.items()
        ]


@dataclass(frozen=True)
class FilledTable:
    """One of the paper's tables with our rows in it."""

    paper: PaperTable
    rows: list[TableRow]

    @property
    def columns(self) -> dict[str, tuple[str, str]]:
        """Heading and form of each column."""
        there = {name for row in self.rows for name in row.scores}
        return COLUMNS | {name: EXTRA[name] for name in EXTRA if name in there}


def conditions_of(number: int, loaded: Loaded) -> list[Condition]:
    """What a checkpoint is evaluated on for a table.

    Tables 5 and 7 are of SF2F with its fuser; a checkpoint without one is given the same 5 s as a
    whole.
    """
    fused = loaded.spec.fuser is not None
    if number == 4:
        return list(LENGTHS)
    if number in (5, 7):
        return [FUSED if fused else LONG]
    return [SHORT, LONG, *([FUSED] if fused else [])]


def method_of(loaded: Loaded) -> str:
    """``voice2face``, where encoder and decoder are both the baseline's, or ``SF2F``."""
    spec = loaded.spec
    plain = spec.encoder not in ("inception", "inception_released")
    return "voice2face" if plain and spec.decoder in ("deconvolution", "cmu") else "SF2F"


def place_of(number: int, loaded: Loaded, condition: Condition) -> tuple[str, str]:
    """The first two columns of a checkpoint's row, in the paper's words where it has them."""
    method = method_of(loaded)
    if number == 5:
        sides = loaded.spec.resolutions
        how = "multi-resolution" if len(sides) > 1 else "single-resolution"
        return how, f"{sides[-1]} × {sides[-1]}"
    if number == 7:
        return ablation_of(loaded), ""
    if method == "SF2F" and not condition.fused:
        method = "SF2F (no fuser)"
    return method, condition.length


def ablation_of(loaded: Loaded) -> str:
    """Which row of table 7 a checkpoint is: what it lacks or has in its place."""
    loss: Mapping[str, Any] = (loaded.config or {}).get("loss", {})
    lacks = [
        f"w/o {name}"
        for term, name in (("l1", "L1"), ("gan", "LG"), ("classifier", "LC"), ("perceptual", "LP"))
        if term in loss and not loss[term]["weight"]
    ]
    if loaded.spec.encoder not in ("inception", "inception_released"):
        lacks.append("Baseline Encoder")
    if loaded.spec.decoder in ("deconvolution", "cmu"):
        lacks.append("Baseline Decoder")
    return ", ".join(lacks) or "Full Model"


def fill(number: int, evaluated: Sequence[Evaluated]) -> FilledTable:
    """A table of the paper's with the checkpoints' rows, each below the one it answers to.

    Rows of ours that the paper does not have come last. The row of chance is joined by that of
    galleries of fewer than 100 people, where ours are.
    """
    paper = TABLES[number]
    ours = [
        TableRow(*place_of(number, one.loaded, result.condition), one.label, _pairs(result.scores))
        for one in evaluated
        for result in one.evaluation.results
    ]
    rows: list[TableRow] = []
    for theirs in paper.rows:
        place = (theirs.method, theirs.length)
        rows.append(TableRow(*place, PAPER, _paper_pairs(theirs)))
        if theirs.method == "random":
            rows += [_chance(n) for n in sorted({one.evaluation.identities for one in evaluated})]
        rows += [row for row in ours if (row.first, row.second) == place]
    known = {(row.method, row.length) for row in paper.rows}
    rows += [row for row in ours if (row.first, row.second) not in known]
    return FilledTable(paper, rows)


def _chance(identities: int) -> TableRow:
    scores = {f"recall_{k}": (chance(k, identities), None) for k in KS}
    return TableRow("random", "-", f"{identities} people", scores)


def _pairs(scores: Mapping[str, Score]) -> dict[str, tuple[float, float | None]]:
    return {name: (score.mean, score.deviation) for name, score in scores.items()}


def _paper_pairs(row: PaperRow) -> dict[str, tuple[float, float | None]]:
    found: dict[str, tuple[float, float | None]] = {
        f"recall_{k}": (value, None) for k, value in zip(KS, row.recall, strict=True)
    }
    if row.cosine is not None and row.l1 is not None:
        found |= {"cosine": (row.cosine, None), "l1": (row.l1, None)}
    if row.vfs is not None:
        found["vfs"] = row.vfs
    return found


def _written(pair: tuple[float, float | None] | None, form: str, with_deviation: bool) -> str:
    if pair is None:
        return NONE
    mean, deviation = pair
    if deviation is None or not with_deviation:
        return format(mean, form)
    return f"{format(mean, form)} ± {format(deviation, form)}"


def headings(table: FilledTable) -> list[str]:
    """The column heads, in order."""
    first = [table.paper.first, *([table.paper.second] if table.paper.second else []), "source"]
    return [*first, *(head for head, _ in table.columns.values())]


def lines(table: FilledTable, deviations: bool = True) -> list[list[str]]:
    """The rows as text, a cell for each heading; ``vfs`` has its deviation always, as printed."""
    words = 2 if table.paper.second else 1
    return [
        [*(row.first, row.second)[:words], row.source, *row.cells(table.columns, deviations)]
        for row in table.rows
    ]


def to_markdown(table: FilledTable, notes: Sequence[str]) -> str:
    """The table and its notes as Markdown."""
    heads = headings(table)
    text = [f"Table {table.paper.number}. {table.paper.title}", ""]
    text += ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    text += ["| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines(table)]
    if notes:
        text += ["", *(f"- {note}" for note in notes)]
    return "\n".join(text) + "\n"


def to_csv(table: FilledTable) -> str:
    """The table as CSV: every figure in full, its deviation in a column of its own."""
    columns = table.columns
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    names = [f"{head}{end}" for head, _ in columns.values() for end in ("", " deviation")]
    writer.writerow([table.paper.first, table.paper.second or "-", "source", *names])
    for row in table.rows:
        figures: list[float | str] = []
        for name in columns:
            for value in row.scores.get(name, (None, None)):
                figures.append("" if value is None else repr(float(value)))
        writer.writerow([row.first, row.second, row.source, *figures])
    return sink.getvalue()
