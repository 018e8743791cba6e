"""The paper's tables 2, 3, 4, 5, 7 and 8, table 4 of AVP-GAN, and our results in them.

Each row of ours comes below the paper's row that it compares with. The paper's figures are as
printed: recall in per cent, L1 summed over FaceNet's 512 dimensions, VFS a mean and, where the
paper prints one, its deviation.
"""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hqvox.trainer.checkpoint import Loaded
from hqvox.trainer.evaluate import (
    FRAMES_PER_SECOND,
    FUSED,
    LENGTHS,
    LONG,
    SECONDS,
    SHORT,
    Condition,
    Evaluation,
)
from hqvox.trainer.metrics import KS, Score, chance

TableName = int | str
"""A number is of SF2F's tables."""
AVP_4, CROSS = "avp-4", "cross"
"""Table 4 of AVP-GAN; and every model by the metrics of both papers."""


@dataclass(frozen=True)
class PaperRow:
    """A row of a table of the paper; None where it has no figure."""

    method: str
    length: str
    """Length of the speech, as the table prints it; the resolution in table 5, "" in table 7."""
    cosine: float | None
    l1: float | None
    recall: tuple[float, float, float, float] | None
    """R@1, R@2, R@5, R@10, %."""
    vfs: tuple[float, float | None] | None
    one_face: float | None = None
    """Cosine to one real face (AVP-GAN, equation 15)."""


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper: title, headings of the first two columns, rows in the paper's order."""

    number: TableName
    title: str
    first: str
    second: str
    rows: tuple[PaperRow, ...]
    columns: Mapping[str, tuple[str, str]] | None = None
    """Heading of each column and format of its figures; None: :data:`COLUMNS`."""

    @property
    def name(self) -> str:
        """What the table is called in a sentence."""
        return {AVP_4: "AVP-GAN's table 4", CROSS: "cross table"}.get(
            str(self.number), f"table {self.number}"
        )


RANDOM = PaperRow("random", "-", None, None, (1.00, 2.00, 5.00, 10.00), None)

TABLE_3 = PaperTable(
    3,
    "Performance on HQ-VoxCeleb",
    "method",
    "length",
    (
        RANDOM,
        PaperRow("voice2face", "1.25 s", 0.202, 23.46, (1.77, 3.55, 14.60, 20.33), (15.47, 0.67)),
        PaperRow(
            "SF2F (no fuser)", "1.25 s", 0.304, 19.22, (5.32, 8.10, 19.27, 32.80), (18.59, 0.87)
        ),
        PaperRow("voice2face", "5 s", 0.205, 23.17, (1.64, 3.64, 15.12, 20.82), (15.68, 0.64)),
        PaperRow("SF2F (no fuser)", "5 s", 0.294, 18.51, (4.11, 8.38, 19.43, 33.97), (18.54, 1.02)),
        PaperRow("SF2F", "5 s", 0.317, 17.91, (5.75, 9.32, 20.36, 36.65), (19.49, 0.59)),
    ),
)

TABLE_4 = PaperTable(
    4,
    "SF2F (no fuser) on HQ-VoxCeleb, by length of speech",
    "method",
    "length",
    (
        PaperRow(
            "SF2F (no fuser)", "0.5 - 1 s", 0.230, 21.85, (4.67, 8.38, 15.40, 26.05), (18.17, 0.75)
        ),
        PaperRow(
            "SF2F (no fuser)", "1 - 1.5 s", 0.296, 18.51, (5.02, 8.60, 19.43, 32.25), (18.53, 0.72)
        ),
        PaperRow(
            "SF2F (no fuser)", "1.5 - 3 s", 0.294, 18.79, (4.96, 8.78, 18.59, 29.88), (18.67, 1.72)
        ),
        PaperRow(
            "SF2F (no fuser)", "3 - 6 s", 0.274, 19.21, (4.33, 8.43, 17.10, 30.14), (18.05, 1.14)
        ),
        PaperRow(
            "SF2F (no fuser)", "6 - 10 s", 0.227, 21.92, (3.34, 6.58, 14.73, 26.92), (18.40, 2.03)
        ),
    ),
)

TABLE_5 = PaperTable(
    5,
    "SF2F on HQ-VoxCeleb, by resolution, on 5 s of speech",
    "optimisation",
    "resolution",
    (
        PaperRow(
            "single-resolution", "64 × 64", 0.317, 17.91, (5.75, 9.32, 20.36, 36.65), (19.49, 0.59)
        ),
        PaperRow(
            "single-resolution",
            "128 × 128",
            0.278,
            18.54,
            (5.02, 8.60, 19.43, 32.25),
            (18.53, 1.75),
        ),
        PaperRow(
            "multi-resolution",
            "128 × 128",
            0.313,
            17.46,
            (6.10, 9.25, 18.77, 35.38),
            (20.10, 0.47),
        ),
    ),
)

TABLE_7 = PaperTable(
    7,
    "Ablation on HQ-VoxCeleb, 64 × 64, on 5 s of speech",
    "ablation",
    "",
    (
        PaperRow("w/o L1", "", 0.310, 21.74, (3.47, 7.26, 18.36, 31.56), (16.84, None)),
        PaperRow("w/o LG", "", 0.298, 20.97, (3.23, 8.70, 16.73, 32.36), (18.51, None)),
        PaperRow("w/o LC", "", 0.310, 18.13, (5.24, 8.45, 17.30, 34.28), (19.16, None)),
        PaperRow("w/o LP", "", 0.236, 18.22, (2.73, 5.23, 15.39, 26.37), (18.44, None)),
        PaperRow("Baseline Encoder", "", 0.309, 18.47, (5.54, 9.26, 19.18, 34.75), (18.89, None)),
        PaperRow("Baseline Decoder", "", 0.311, 18.52, (4.32, 8.56, 19.47, 34.25), (18.46, None)),
        PaperRow("LQ. Dataset", "", 0.267, 19.94, (1.96, 4.21, 10.67, 21.34), (16.73, None)),
        PaperRow("Full Model", "", 0.317, 17.91, (5.75, 9.32, 20.36, 36.65), (19.49, None)),
    ),
)

TABLE_8 = PaperTable(
    8,
    "Performance on filtered VGGFace",
    "method",
    "length",
    (
        RANDOM,
        PaperRow("voice2face", "1.25 s", 0.164, 26.45, (1.46, 3.12, 7.25, 20.71), (12.94, 0.57)),
        PaperRow(
            "SF2F (no fuser)", "1.25 s", 0.251, 21.23, (1.81, 4.05, 9.77, 18.56), (16.62, 0.44)
        ),
        PaperRow("voice2face", "5 s", 0.165, 26.42, (1.45, 3.17, 7.89, 15.43), (12.72, 0.73)),
        PaperRow("SF2F (no fuser)", "5 s", 0.248, 21.46, (1.77, 3.98, 9.75, 18.36), (16.49, 0.83)),
        PaperRow("SF2F", "5 s", 0.267, 19.94, (1.96, 4.21, 10.67, 21.34), (16.73, 0.67)),
    ),
)

AVP_TABLE_4 = PaperTable(
    AVP_4,
    "Cosine of generated and real faces, by length of speech",
    "method",
    "length",
    tuple(
        PaperRow(method, length, None, None, None, None, one_face)
        for method, length, one_face in (
            ("voice2face", "4 s", 0.408),
            ("AVP-GAN", "4 s", 0.471),
            ("voice2face", "8 s", 0.436),
            ("AVP-GAN (no CBAM)", "8 s", 0.447),
            ("AVP-GAN", "8 s", 0.511),
        )
    ),
    {"cosine_face": ("one face", ".3f"), "cosine": ("mean of faces", ".3f")},
)

TABLES = {table.number: table for table in (TABLE_3, TABLE_4, TABLE_5, TABLE_7, TABLE_8)}

TABLE_2 = {
    "Inception Score": {64: (2.074, 0.067), 128: (2.286, 0.036), 256: (2.583, 0.108)},
    "VGGFace Score": {64: (48.720, 1.688), 128: (51.048, 3.633), 256: (50.525, 1.862)},
}
"""Scores of HQ-VoxCeleb's real faces, mean and deviation, by side in px."""
SIDES = (64, 128, 256)
"""Of table 2, px."""
LQ_DATASET = "LQ. Dataset"
"""The row of table 7 of a model that was trained on another release than it is measured on."""

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
"""The paper's columns: heading, and format of a figure."""
EXTRA = {"inception": ("IS", ".2f"), "fid": ("FID", ".2f")}
"""Further columns, shown where they were measured."""


@dataclass(frozen=True)
class EvaluatedCheckpoint:
    """A checkpoint and its evaluation."""

    label: str
    loaded: Loaded
    evaluation: Evaluation
    enhancer: str = ""
    """What enhanced the generated faces first."""
    by_length: Evaluation | None = None
    """By AVP-GAN's metric, for the cross table."""

    @property
    def source(self) -> str:
        """The label, with the enhancer."""
        return f"{self.label} + {self.enhancer}" if self.enhancer else self.label


@dataclass(frozen=True)
class TableRow:
    """A row of a filled table: first two columns as in the paper, source, and figures."""

    first: str
    second: str
    source: str
    """``paper``, or a checkpoint's label."""
    scores: Mapping[str, tuple[float, float | None]] = field(default_factory=dict)
    """Mean and deviation, by column."""

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
        """Heading and format of each column."""
        if self.paper.columns is not None:
            return dict(self.paper.columns)
        measured = {name for row in self.rows for name in row.scores}
        return COLUMNS | {name: EXTRA[name] for name in EXTRA if name in measured}


def conditions_of(
    number: TableName, loaded: Loaded, seconds: tuple[float, float] | None = None
) -> list[Condition]:
    """The conditions that a checkpoint is evaluated under for a table.

    Tables 5, 7 and the cross table are of SF2F with its fuser; without one, the encoder sees the
    same 5 s whole.
    ``seconds``: shortest and longest crop, s, that replace the table's own lengths.
    """
    fused = loaded.spec.fuser is not None
    if seconds is not None:
        low, high = seconds
        length = f"{low:g} s" if low == high else f"{low:g} - {high:g} s"
        whole = Condition(length, (round(low * FRAMES_PER_SECOND), round(high * FRAMES_PER_SECOND)))
        joined = replace(whole, fused=True)
        if number == 4 or not fused:
            return [whole]
        return [joined] if number in (5, 7, AVP_4, CROSS) else [whole, joined]
    if number == 4:
        return list(LENGTHS)
    if number == AVP_4:
        return [replace(condition, fused=fused) for condition in SECONDS]
    if number in (5, 7, CROSS):
        return [FUSED if fused else LONG]
    return [SHORT, LONG, *([FUSED] if fused else [])]


def method_of(loaded: Loaded) -> str:
    """``voice2face`` where both encoder and decoder are the baseline's; ``AVP-GAN``; ``SF2F``."""
    spec = loaded.spec
    if spec.decoder == "avp_gan":
        return "AVP-GAN" if spec.attention else "AVP-GAN (no CBAM)"
    plain = spec.encoder not in ("inception", "inception_released")
    return "voice2face" if plain and spec.decoder in ("deconvolution", "cmu") else "SF2F"


def place_of(
    number: TableName, loaded: Loaded, condition: Condition, release: str | None = None
) -> tuple[str, str]:
    """The first two columns of a checkpoint's row, as the paper writes them where it does.

    ``release``: checksum of the release that it is measured on; None: the one it was trained on.
    """
    method = method_of(loaded)
    if number == 5:
        sides = loaded.spec.resolutions
        how = "multi-resolution" if len(sides) > 1 else "single-resolution"
        return how, f"{sides[-1]} × {sides[-1]}"
    if number == 7:
        return ablation_of(loaded, release), ""
    if method == "SF2F" and not condition.fused:
        method = "SF2F (no fuser)"
    return method, condition.length


def ablation_of(loaded: Loaded, release: str | None = None) -> str:
    """The row of table 7 of a checkpoint: what it lacks or replaces.

    ``release``: as for :func:`place_of`. A checkpoint that does not record its release, such as an
    imported one, is taken to be of the same.
    """
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
    trained_on = loaded.meta.get("release")
    if trained_on and release and trained_on["checksum"] != release:
        lacks.append(LQ_DATASET)
    return ", ".join(lacks) or "Full Model"


def fill(
    number: TableName, evaluated: Sequence[EvaluatedCheckpoint], release: str | None = None
) -> FilledTable:
    """Fill one of the paper's tables: each of our rows below the paper's that it compares with.

    ``release``: checksum of the release that is measured on. Rows that the paper does not have come
    last. Below the paper's row of chance comes the chance in galleries of our number of people.
    """
    paper = AVP_TABLE_4 if number == AVP_4 else TABLES[number]
    ours = [
        TableRow(
            *place_of(number, one.loaded, result.condition, release),
            one.source,
            _pairs(result.scores),
        )
        for one in evaluated
        for result in one.evaluation.results
    ]
    rows: list[TableRow] = []
    for printed in paper.rows:
        place = (printed.method, printed.length)
        rows.append(TableRow(*place, PAPER, _paper_pairs(printed)))
        if printed.method == "random":
            rows += [_chance(n) for n in sorted({one.evaluation.identities for one in evaluated})]
        rows += [row for row in ours if (row.first, row.second) == place]
    known = {(row.method, row.length) for row in paper.rows}
    rows += [row for row in ours if (row.first, row.second) not in known]
    return FilledTable(paper, rows)


def fill_cross(evaluated: Sequence[EvaluatedCheckpoint]) -> FilledTable:
    """The cross table: every model by the metrics of both papers.

    SF2F's are on 5 s of speech; AVP-GAN's, cosine to one face and to the mean of all, by length.
    Runs of one recipe are followed by their mean, with the deviation over runs (n - 1).
    """
    lengths = [condition.length for condition in SECONDS]
    columns = COLUMNS | {
        f"{name}_{length}": (f"{short}, {length}", ".3f")
        for name, short in (("cosine_face", "one face"), ("cosine", "mean"))
        for length in lengths
    }
    rows = [TableRow(RANDOM.method, RANDOM.length, PAPER, _paper_pairs(RANDOM))]
    rows += [_chance(n) for n in sorted({one.evaluation.identities for one in evaluated})]
    places = [place_of(CROSS, one.loaded, one.evaluation.results[0].condition) for one in evaluated]
    methods = ["voice2face", "SF2F (no fuser)", "SF2F", "AVP-GAN (no CBAM)", "AVP-GAN"]
    for method in methods:
        printed: dict[str, tuple[float, float | None]] = {}
        for row in TABLE_3.rows:
            if (row.method, row.length) == (method, LONG.length):
                printed |= _paper_pairs(row)
        for row in AVP_TABLE_4.rows:
            if row.method == method and row.one_face is not None:
                printed[f"cosine_face_{row.length}"] = (row.one_face, None)
        rows.append(TableRow(method, NONE, PAPER, printed))
        ours: dict[str, list[TableRow]] = {}
        for one, (first, _) in zip(evaluated, places, strict=True):
            if first == method:
                recipe = str(one.loaded.meta.get("recipe") or "imported")
                recipe += f" + {one.enhancer}" if one.enhancer else ""
                scores = _pairs(one.evaluation.results[0].scores)
                for result in one.by_length.results if one.by_length else ():
                    for name in ("cosine_face", "cosine"):
                        if name in result.scores:
                            key = f"{name}_{result.condition.length}"
                            scores[key] = _pairs(result.scores)[name]
                ours.setdefault(recipe, []).append(TableRow(method, recipe, one.source, scores))
        for recipe, runs in ours.items():
            rows += runs
            if len(runs) > 1:
                rows.append(TableRow(method, recipe, f"{len(runs)} runs", _over_runs(runs)))
    paper = PaperTable(
        CROSS, "Every model by both papers' metrics", "method", "recipe", (), columns
    )
    return FilledTable(paper, rows)


def _over_runs(runs: Sequence[TableRow]) -> dict[str, tuple[float, float | None]]:
    """Mean and deviation, n - 1, of the runs' means, of each figure that all of them have."""
    names = [name for name in runs[0].scores if all(name in row.scores for row in runs)]
    means = {name: [row.scores[name][0] for row in runs] for name in names}
    return {name: (statistics.mean(m), statistics.stdev(m)) for name, m in means.items()}


def fill_table_2(faces: Mapping[str, Mapping[int, Mapping[str, Score]]], label: str) -> FilledTable:
    """Table 2: scores of real faces by resolution.

    ``faces``: which faces in words, then side in px, then ``vfs`` and ``inception``, where they
    could be computed. ``label``: of the release.
    """
    rows = []
    for name, title in (("inception", "Inception Score"), ("vfs", "VGGFace Score")):
        printed = {str(px): pair for px, pair in TABLE_2[title].items()}
        rows.append(TableRow(title, NONE, PAPER, printed))
        for which, by_side in faces.items():
            measured = {str(px): by_side[px][name] for px in by_side if name in by_side[px]}
            rows.append(TableRow(title, which, label, _pairs(measured)))
    columns = {str(px): (f"{px} × {px}", ".3f") for px in SIDES}
    paper = PaperTable(2, "Scores of real faces, by resolution", "score", "faces", (), columns)
    return FilledTable(paper, rows)


def _chance(identities: int) -> TableRow:
    scores = {f"recall_{k}": (chance(k, identities), None) for k in KS}
    return TableRow("random", "-", f"{identities} people", scores)


def _pairs(scores: Mapping[str, Score]) -> dict[str, tuple[float, float | None]]:
    return {name: (score.mean, score.deviation) for name, score in scores.items()}


def _paper_pairs(row: PaperRow) -> dict[str, tuple[float, float | None]]:
    pairs: dict[str, tuple[float, float | None]] = {}
    if row.recall is not None:
        pairs |= {f"recall_{k}": (value, None) for k, value in zip(KS, row.recall, strict=True)}
    if row.one_face is not None:
        pairs["cosine_face"] = (row.one_face, None)
    if row.cosine is not None and row.l1 is not None:
        pairs |= {"cosine": (row.cosine, None), "l1": (row.l1, None)}
    if row.vfs is not None:
        pairs["vfs"] = row.vfs
    return pairs


def _written(pair: tuple[float, float | None] | None, form: str, with_deviation: bool) -> str:
    if pair is None:
        return NONE
    mean, deviation = pair
    if deviation is None or not with_deviation:
        return format(mean, form)
    return f"{format(mean, form)} ± {format(deviation, form)}"


def headings(table: FilledTable) -> list[str]:
    """The headings of the columns, in order."""
    first = [table.paper.first, *([table.paper.second] if table.paper.second else []), "source"]
    return [*first, *(head for head, _ in table.columns.values())]


def lines(table: FilledTable, deviations: bool = True) -> list[list[str]]:
    """The rows as text, a cell for each heading; ``vfs`` always has its deviation, as printed."""
    words = 2 if table.paper.second else 1
    return [
        [*(row.first, row.second)[:words], row.source, *row.cells(table.columns, deviations)]
        for row in table.rows
    ]


def to_markdown(table: FilledTable, notes: Sequence[str]) -> str:
    """The table and its notes as Markdown."""
    heads = headings(table)
    name = table.paper.name
    text = [f"{name[0].upper()}{name[1:]}. {table.paper.title}", ""]
    text += ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    text += ["| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines(table)]
    if notes:
        text += ["", *(f"- {note}" for note in notes)]
    return "\n".join(text) + "\n"


def to_csv(table: FilledTable) -> str:
    """The table as CSV: figures in full precision, deviations in columns of their own."""
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
