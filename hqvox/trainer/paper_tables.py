"""Tables 2, 3, 4, 5, 7 and 8 of Speech Fusion to Face, to be printed beside ours.

Figures as printed; recall in per cent; L1 summed over FaceNet's 512 dimensions. VFS is a mean and,
where the paper gives one, what it prints after ±.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PaperRow:
    """A row of a table; None where the paper has no figure."""

    method: str
    length: str
    """Of the speech, as the table names it; the resolution in table 5, "" in table 7."""
    cosine: float | None
    l1: float | None
    recall: tuple[float, float, float, float]
    """R@1, R@2, R@5, R@10, %."""
    vfs: tuple[float, float | None] | None


@dataclass(frozen=True)
class PaperTable:
    """A table: its title, what its first two columns are called, its rows in the paper's order."""

    number: int
    title: str
    first: str
    second: str
    rows: tuple[PaperRow, ...]


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

TABLES = {table.number: table for table in (TABLE_3, TABLE_4, TABLE_5, TABLE_7, TABLE_8)}

TABLE_2 = {
    "Inception Score": {64: (2.074, 0.067), 128: (2.286, 0.036), 256: (2.583, 0.108)},
    "VGGFace Score": {64: (48.720, 1.688), 128: (51.048, 3.633), 256: (50.525, 1.862)},
}
"""Scores of HQ-VoxCeleb's real faces, by side in px."""
