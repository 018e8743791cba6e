"""The statistics of a release, and what differs between two.

Tables 1 and 6 of Speech Fusion to Face, ours beside the paper's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from hqvox.release.read import Release
from hqvox.release.split import PARTS

NORMALISING = ("pose", "lighting", "emotion", "align", "segment")
"""Stages that make faces alike; with all of them on, faces are normalised in table 6's sense."""

_COMPARED = ("hqvox", "split", "selection", "weights", "config")
"""Sections of ``release.json`` that are compared."""


@dataclass(frozen=True)
class PartStats:
    """A column of table 1: one part of the split, or the total."""

    part: str
    identities: int
    images: int
    utterances: int | None
    """None where the release has no speech."""
    mean_side_px: float | None
    """Mean side of the crops, px; None where there are none."""
    hours: float | None = None
    """Of speech; None where there is none, or the paper does not say."""


PAPER = (
    PartStats("total", 3638, 8028, 609_700, 505.41),
    PartStats("train", 2890, 6375, 478_009, 505.78),
    PartStats("val", 370, 859, 63_337, 503.63),
    PartStats("test", 378, 794, 68_354, 504.37),
)
"""Table 1 of the paper, HQ-VoxCeleb."""


@dataclass(frozen=True)
class DatasetRow:
    """A row of table 6."""

    dataset: str
    identities: str
    images: str
    utterances: str
    normalised: str
    """``Yes``, or ``No`` and what is missing."""


PAPER_DATASETS = (
    DatasetRow("FVMatching", "1,078", "118,553", "131,815", "No"),
    DatasetRow("FVCeleb", "181", "181", "239", "No"),
    DatasetRow("AVSpeech", "100,000+", "–", "–", "No"),
    DatasetRow("VoxCeleb", "7,245", "–", "1,237,274", "No"),
    DatasetRow("Filtered VGGFace", "1,225", "139,572", "149,354", "No"),
    DatasetRow("HQ-VoxCeleb", "3,638", "8,028", "609,700", "Yes"),
)
"""Table 6 of the paper."""


def release_stats(release: Release) -> tuple[PartStats, ...]:
    """Total, train, val and test of a release, as the paper's table 1 has them."""
    table = release.manifest(["identity_id", "split", "crop_side_px"])
    identities = np.array(table["identity_id"].to_pylist(), dtype=object)
    parts = np.array(table["split"].to_pylist(), dtype=object)
    sides_px = table["crop_side_px"].to_numpy()
    spoken = _speech_of_parts(release)
    stats = []
    for part in ("total", *PARTS):
        chosen = np.ones(len(parts), dtype=bool) if part == "total" else parts == part
        utterances, hours = spoken[part] if spoken else (None, None)
        stats.append(
            PartStats(
                part,
                identities=len(set(identities[chosen])),
                images=int(chosen.sum()),
                utterances=utterances,
                mean_side_px=float(sides_px[chosen].mean()) if chosen.any() else None,
                hours=hours,
            )
        )
    return tuple(stats)


def _speech_of_parts(release: Release) -> dict[str, tuple[int, float]]:
    """Utterances and hours by part; empty without speech."""
    if not release.has_speech:
        return {}
    table = release.speech().select(["split", "seconds"])
    counts = {"total": (table.num_rows, (pc.sum(table["seconds"]).as_py() or 0.0) / 3600)}
    for part in PARTS:
        rows = table.filter(pc.equal(table["split"], part))
        counts[part] = (rows.num_rows, (pc.sum(rows["seconds"]).as_py() or 0.0) / 3600)
    return counts


def table_1(stats: Sequence[PartStats]) -> list[tuple[str, list[str]]]:
    """The table's rows: attribute, and its text for each part; an en dash where there is none."""
    rows = [
        ("identities", [_count(s.identities) for s in stats]),
        ("images", [_count(s.images) for s in stats]),
        ("utterances", [_count(s.utterances) for s in stats]),
        ("mean side, px", [_decimal(s.mean_side_px) for s in stats]),
    ]
    if any(s.hours is not None for s in stats):
        rows.append(("hours of speech", [_decimal(s.hours) for s in stats]))
    return rows


def dataset_row(release: Release) -> DatasetRow:
    """Our row of table 6."""
    total = release_stats(release)[0]
    config = release.info().get("config", {})
    off = [name for name in NORMALISING if not config.get(name, {}).get("enabled", True)]
    return DatasetRow(
        release.name,
        _count(total.identities),
        _count(total.images),
        _count(total.utterances),
        "Yes" if not off else f"No ({', '.join(off)} off)",
    )


def differences(
    ours: Sequence[PartStats], theirs: Sequence[PartStats]
) -> list[tuple[str, list[str]]]:
    """Table 1 of ``ours`` less ``theirs``, signed; an en dash where either has none."""

    def less(a: float | None, b: float | None, form: str) -> str:
        if a is None or b is None:
            return "–"
        text = format(a - b, form)
        return text if text.strip("+-0.,") else "0"

    pairs = list(zip(ours, theirs, strict=True))
    rows = [
        ("identities", [less(a.identities, b.identities, "+,") for a, b in pairs]),
        ("images", [less(a.images, b.images, "+,") for a, b in pairs]),
        ("utterances", [less(a.utterances, b.utterances, "+,") for a, b in pairs]),
        ("mean side, px", [less(a.mean_side_px, b.mean_side_px, "+.2f") for a, b in pairs]),
    ]
    if any(a.hours is not None and b.hours is not None for a, b in pairs):
        rows.append(("hours of speech", [less(a.hours, b.hours, "+.2f") for a, b in pairs]))
    return rows


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _decimal(value: float | None) -> str:
    return "–" if value is None else f"{value:,.2f}"


@dataclass(frozen=True)
class Comparison:
    """What one release has in common with another."""

    rows: list[tuple[str, int, int, int]]
    """What is counted; how many are in both, only in ours, only in the other."""
    moved: list[tuple[str, str, str]]
    """Identity id, its split in ours, its split in the other, where they differ."""
    settings: list[tuple[str, Any, Any]]
    """Setting, its value in ours and in the other, where they differ."""


def compare(ours: Release, other: Release) -> Comparison:
    """Compare by identity id, by the photographs' SHA-256, and by the audio's."""
    mine, theirs = _parts(ours), _parts(other)
    photos = [set(r.manifest(["photo_id"])["photo_id"].to_pylist()) for r in (ours, other)]
    rows = [
        _overlap("identities", set(mine), set(theirs)),
        _overlap("photographs", *photos),
    ]
    if ours.has_speech and other.has_speech:
        voices = [set(r.speech()["sha256"].to_pylist()) for r in (ours, other)]
        rows.append(_overlap("utterances", *voices))
    return Comparison(
        rows,
        [(i, mine[i], theirs[i]) for i in mine if i in theirs and mine[i] != theirs[i]],
        _differing(ours.info(), other.info()),
    )


def _parts(release: Release) -> dict[str, str]:
    table = release.identities()
    return dict(zip(table["identity_id"].to_pylist(), table["split"].to_pylist(), strict=True))


def _overlap(what: str, ours: set[Any], other: set[Any]) -> tuple[str, int, int, int]:
    return what, len(ours & other), len(ours - other), len(other - ours)


def _differing(ours: dict[str, Any], other: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    mine, theirs = (_flat({k: i.get(k) for k in _COMPARED}) for i in (ours, other))
    keys = list(dict.fromkeys([*mine, *theirs]))
    return [(k, mine.get(k), theirs.get(k)) for k in keys if mine.get(k) != theirs.get(k)]


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        if isinstance(inner, dict):
            flat |= _flat(inner, f"{prefix}{key}.")
        else:
            flat[prefix + key] = inner
    return flat
