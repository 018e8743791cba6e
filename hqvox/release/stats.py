"""The statistics of a release: table 1 of Speech Fusion to Face, for ours, beside the paper's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hqvox.release.read import Release
from hqvox.release.split import PARTS


@dataclass(frozen=True)
class PartStats:
    """A column of table 1: one part of the split, or the total."""

    part: str
    identities: int
    images: int
    utterances: int | None
    """None where the release has no speech."""
    mean_side_px: float | None
    """Mean side of the square crops, px; None where there are none."""


PAPER = (
    PartStats("total", 3638, 8028, 609_700, 505.41),
    PartStats("train", 2890, 6375, 478_009, 505.78),
    PartStats("val", 370, 859, 63_337, 503.63),
    PartStats("test", 378, 794, 68_354, 504.37),
)
"""Table 1 of the paper, HQ-VoxCeleb."""


def release_stats(release: Release) -> tuple[PartStats, ...]:
    """Total, train, val and test of a release, as the paper's table 1 has them."""
    table = release.manifest(["identity_id", "split", "crop_side_px"])
    identities = np.array(table["identity_id"].to_pylist(), dtype=object)
    parts = np.array(table["split"].to_pylist(), dtype=object)
    sides_px = table["crop_side_px"].to_numpy()
    stats = []
    for part in ("total", *PARTS):
        chosen = np.ones(len(parts), dtype=bool) if part == "total" else parts == part
        stats.append(
            PartStats(
                part,
                identities=len(set(identities[chosen])),
                images=int(chosen.sum()),
                utterances=None,
                mean_side_px=float(sides_px[chosen].mean()) if chosen.any() else None,
            )
        )
    return tuple(stats)


def table_1(stats: tuple[PartStats, ...]) -> list[tuple[str, list[str]]]:
    """The table's rows: attribute, and its text for each part; an en dash where there is none."""

    def text(value: int | None) -> str:
        return "–" if value is None else f"{value:,}"

    def side(side_px: float | None) -> str:
        return "–" if side_px is None else f"{side_px:.2f}"

    return [
        ("identities", [text(s.identities) for s in stats]),
        ("images", [text(s.images) for s in stats]),
        ("utterances", [text(s.utterances) for s in stats]),
        ("mean side, px", [side(s.mean_side_px) for s in stats]),
    ]
