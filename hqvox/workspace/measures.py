"""What people are shown of a photo or face: each measurement with its unit, and its limit.

The limits are the configuration's; where it leaves one to the network, the network's own is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import models.embedding
import models.emotion
from hqvox.config.build import BuildConfig
from hqvox.workspace.tables import Row
from models.errors import ModelError
from models.store import ModelStore


@dataclass(frozen=True)
class Measure:
    """A number of a row, as people see it. ``name`` is its column, or see :func:`value_of`."""

    stage: str
    name: str
    label: str
    unit: str = ""
    digits: int = 2
    signed: bool = False
    """Limits hold for the absolute value."""


@dataclass(frozen=True)
class Limit:
    """Bounds of a measurement, either of which may be missing."""

    low: float | None = None
    high: float | None = None
    note: str = ""
    """Which rule the bound belongs to, where it does not decide alone."""


MEASURES = (
    Measure("download", "photo_bytes", "size", " B", 0),
    Measure("download", "pixels", "pixels", "", 0),
    Measure("landmarks", "faces_in_photo", "faces in photo", "", 0),
    Measure("landmarks", "face_score", "detector score"),
    Measure("pupils", "ipd_px", "pupil distance", " px", 1),
    Measure("pose", "yaw_deg", "yaw", "°", 1, signed=True),
    Measure("pose", "pitch_deg", "pitch", "°", 1, signed=True),
    Measure("pose", "roll_deg", "roll", "°", 1, signed=True),
    Measure("pose", "asymmetry", "asymmetry", "", 3),
    Measure("lighting", "light_ratio", "light ratio"),
    Measure("lighting", "light_gradient", "light gradient"),
    Measure("lighting", "overexposed_fraction", "over-exposed"),
    Measure("lighting", "underexposed_fraction", "under-exposed"),
    Measure("emotion", "neutral", "neutral"),
    Measure("emotion", "neutral_or_happy", "neutral + happiness"),
    Measure("emotion", "happiness", "happiness"),
    Measure("emotion", "mouth_opening", "mouth opening", "", 3),
    Measure("emotion", "mouth_width", "mouth width", "", 3),
    Measure("identity", "core_similarity", "similarity", "", 3),
    Measure("align", "outside_fraction", "outside photo"),
    Measure("align", "crop_side_px", "crop side", " px", 0),
    Measure("align", "compression", "compression"),
    Measure("segment", "face_coverage", "face in mask"),
    Measure("segment", "edge_confidence", "mask certainty"),
    Measure("segment", "person_fraction", "person in crop"),
    Measure("quality", "sharpness", "sharpness"),
    Measure("quality", "quality", "quality", "", 3),
)
"""Every measurement, in the order of the stages."""

BY_NAME = {measure.name: measure for measure in MEASURES}

TELLING: Mapping[str, tuple[str, ...]] = {
    "too_large": ("photo_bytes", "pixels"),
    "pupils_too_close": ("ipd_px",),
    "turned_away": ("yaw_deg", "asymmetry"),
    "tilted": ("pitch_deg",),
    "uneven_light": ("light_ratio", "light_gradient"),
    "over_exposed": ("overexposed_fraction",),
    "under_exposed": ("underexposed_fraction",),
    "not_neutral": ("neutral", "happiness", "mouth_opening", "mouth_width"),
    "someone_else": ("core_similarity",),
    "no_majority": ("core_similarity",),
    "out_of_frame": ("outside_fraction",),
    "not_segmented": ("face_coverage", "edge_confidence"),
}
"""The measurements that a reason rests on."""

SETTINGS: Mapping[str, str] = {
    "photo_bytes": "download.max_bytes",
    "pixels": "download.max_pixels",
    "ipd_px": "pupils.min_ipd_px",
    "yaw_deg": "pose.max_yaw_deg",
    "pitch_deg": "pose.max_pitch_deg",
    "asymmetry": "pose.max_asymmetry",
    "light_ratio": "lighting.max_light_ratio",
    "light_gradient": "lighting.max_light_gradient",
    "overexposed_fraction": "lighting.max_overexposed_fraction",
    "underexposed_fraction": "lighting.max_underexposed_fraction",
    "neutral": "emotion.min_neutral",
    "neutral_or_happy": "emotion.min_neutral_or_smile",
    "happiness": "emotion.max_smile_happiness",
    "mouth_opening": "emotion.max_smile_opening",
    "mouth_width": "emotion.max_smile_width",
    "core_similarity": "identity.min_similarity",
    "outside_fraction": "align.max_outside_fraction",
    "face_coverage": "segment.min_face_coverage",
    "edge_confidence": "segment.min_edge_confidence",
}
"""The key of hqvox.yaml that holds a measurement's limit, where it can be set."""


def value_of(row: Row, name: str) -> float | None:
    """The number of a row; None where its stage was not reached or could not measure.

    Beyond columns: ``pixels`` (width × height) and, out of the expression's probabilities,
    ``neutral``, ``happiness`` and ``neutral_or_happy``.
    """
    if name == "pixels":
        width, height = row.get("width_px"), row.get("height_px")
        return None if width is None or height is None else float(width * height)
    if name in ("neutral", "happiness", "neutral_or_happy"):
        found = row.get("emotion_probabilities")
        if found is None:
            return None
        named: dict[str, Any] = dict(found)
        if name == "neutral_or_happy":
            return float(named["neutral"] + named["happiness"])
        return float(named[name])
    value = row.get(name)
    return None if value is None else float(value)


def limits(config: BuildConfig, store: ModelStore) -> dict[str, Limit]:
    """The limit of every measurement that has one, by its name."""
    pose, emotion, light = config.pose, config.emotion, config.lighting
    angles = pose.decide_by in ("both", "angles")
    min_neutral, min_similarity = own_thresholds(config, store)
    found = {
        "photo_bytes": Limit(high=config.download.max_bytes),
        "pixels": Limit(high=config.download.max_pixels),
        "faces_in_photo": Limit(low=1),
        "ipd_px": Limit(low=config.pupils.min_ipd_px),
        "yaw_deg": Limit(high=pose.max_yaw_deg) if angles else None,
        "pitch_deg": Limit(high=pose.max_pitch_deg) if angles else None,
        "asymmetry": Limit(high=pose.max_asymmetry) if pose.decide_by != "angles" else None,
        "light_ratio": Limit(high=light.max_light_ratio),
        "light_gradient": Limit(high=light.max_light_gradient),
        "overexposed_fraction": Limit(high=light.max_overexposed_fraction),
        "underexposed_fraction": Limit(high=light.max_underexposed_fraction),
        "neutral": Limit(low=min_neutral, note="or smile") if min_neutral else None,
        "neutral_or_happy": Limit(low=emotion.min_neutral_or_smile, note="smile"),
        "happiness": Limit(high=emotion.max_smile_happiness, note="smile"),
        "mouth_opening": Limit(high=emotion.max_smile_opening, note="smile"),
        "mouth_width": Limit(high=emotion.max_smile_width, note="smile"),
        "core_similarity": Limit(low=min_similarity, note="core") if min_similarity else None,
        "outside_fraction": Limit(high=config.align.max_outside_fraction),
        "face_coverage": Limit(low=config.segment.min_face_coverage),
        "edge_confidence": Limit(low=config.segment.min_edge_confidence),
    }
    return {name: limit for name, limit in found.items() if limit is not None}


def own_thresholds(config: BuildConfig, store: ModelStore) -> tuple[float | None, float | None]:
    """The least neutral probability and similarity: the configuration's, else the networks' own.

    None where the network's weights are not here, so that its own threshold is not known.
    """
    min_neutral, min_similarity = config.emotion.min_neutral, config.identity.min_similarity
    if min_neutral is None and _present(models.emotion.WEIGHTS[config.emotion.network], store):
        min_neutral = models.emotion.load(config.emotion.network, store).neutral_threshold
    if min_similarity is None and _present(
        models.embedding.WEIGHTS[config.identity.network], store
    ):
        embedder = models.embedding.load(config.identity.network, store)
        min_similarity = embedder.same_person_cosine
    return min_neutral, min_similarity


def _present(weights: tuple[str, ...], store: ModelStore) -> bool:
    try:
        return all(store.present(name) for name in weights)
    except ModelError:
        return False  # damaged weights: their threshold is as unknown as that of missing ones


def value_text(measure: Measure, value: float | None) -> str:
    """The value with its unit; an en dash where there is none."""
    if value is None:
        return "–"
    sign = "+" if measure.signed else ""
    return f"{value:{sign},.{measure.digits}f}{measure.unit}"


def limit_text(measure: Measure, limit: Limit | None) -> str:
    """``≤ 5.0°``; empty where there is no limit."""
    if limit is None:
        return ""
    bound = limit.low if limit.low is not None else limit.high
    assert bound is not None
    sign = "≥" if limit.low is not None else "≤"
    text = f"{sign} {bound:,.{measure.digits}f}{measure.unit}"
    return f"{text} ({limit.note})" if limit.note else text


def within(measure: Measure, value: float | None, limit: Limit | None) -> bool | None:
    """Whether the value keeps its limit; None where one of them is missing."""
    if value is None or limit is None:
        return None
    size = abs(value) if measure.signed else value
    return (limit.low is None or size >= limit.low) and (limit.high is None or size <= limit.high)
