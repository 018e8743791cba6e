"""Neutral faces only; a slight smile is kept, too (SF2F appendix B.1).

A face passes where the network's probability of neutral reaches ``min_neutral``. It also passes
as a slight smile where all of these hold:

- neutral and happiness together are at least ``min_neutral_or_smile``: nothing else shows;
- the lips are closed: their inner gap is at most ``max_smile_opening`` of the mouth's width;
- the mouth is not drawn wide: at most ``max_smile_width`` of the eye distance, which nine in ten
  closed mouths of faces that people labelled neutral keep to, and half of those labelled happy;
- happiness is at most ``max_smile_happiness``.

The geometry is needed because networks trained on labels call any smile happiness.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

import models.emotion
from hqvox.config.build import EmotionConfig
from hqvox.workspace.tables import Row
from models.store import ModelStore
from pipelines.faces import compute_device, landmarks_of, to_working, working_faces
from pipelines.pupils import pupil_distance
from pipelines.stage import Pixels, Stage


def mouth_opening(landmarks_xy: NDArray[np.floating]) -> NDArray[np.float64]:
    """Gap of the inner lips over the width of the mouth, (...), of landmarks (..., 68, 2).

    The mean of the three pairs of inner lip points over the distance of the mouth's corners; 0
    where the mouth has no width.
    """
    points = np.asarray(landmarks_xy, dtype=np.float64)
    gaps = np.linalg.norm(points[..., [61, 62, 63], :] - points[..., [67, 66, 65], :], axis=-1)
    width = np.linalg.norm(points[..., 54, :] - points[..., 48, :], axis=-1)
    gap = gaps.mean(axis=-1)
    return np.asarray(np.divide(gap, width, out=np.zeros_like(gap), where=width > 0))


def mouth_width(landmarks_xy: NDArray[np.floating]) -> NDArray[np.float64]:
    """Distance of the mouth's corners over that of the eyes, (...), of landmarks (..., 68, 2).

    0 where the eyes coincide.
    """
    points = np.asarray(landmarks_xy, dtype=np.float64)
    width = np.linalg.norm(points[..., 54, :] - points[..., 48, :], axis=-1)
    ipd = pupil_distance(points)
    return np.asarray(np.divide(width, ipd, out=np.zeros_like(width), where=ipd > 0))


class EmotionStage(Stage):
    """Refuses faces with an expression."""

    name = "emotion"
    reads = ("box_xyxy", "landmarks_xy")
    writes = (
        "emotion",
        "emotion_probabilities",
        "mouth_opening",
        "mouth_width",
    )
    reasons = ("not_neutral",)
    reads_photos = True
    version = 1
    config: EmotionConfig
    classifier: models.emotion.NeutralClassifier

    def __init__(self, config: EmotionConfig, store: ModelStore) -> None:
        super().__init__(config, store)
        self.networks = models.emotion.WEIGHTS[config.network]

    def load(self) -> None:
        """Load the expression network."""
        self.classifier = models.emotion.load(self.config.network, self.store, compute_device())

    def network_bound(self, setting: str) -> float:
        """The network's threshold for neutral."""
        return self.classifier.neutral_threshold

    def measure(self, rows: Sequence[Row], pixels: Pixels) -> list[Row]:
        """Classify all faces at once, and measure their mouths."""
        if not rows:
            return []
        crops = []
        for row, (photo, scale, points) in zip(rows, working_faces(rows, pixels), strict=True):
            box = to_working(np.asarray(row["box_xyxy"]).reshape(2, 2), scale).reshape(4)
            crops.append(self.classifier.crop(photo, box.astype(np.float32), points))
        probabilities = self.classifier(crops)
        for row, values in zip(rows, probabilities, strict=True):
            named = dict(zip(self.classifier.classes, values.tolist(), strict=True))
            row["emotion"] = max(named, key=lambda name: named[name])
            row["emotion_probabilities"] = list(named.items())
            row["mouth_opening"] = float(mouth_opening(landmarks_of(row)))
            row["mouth_width"] = float(mouth_width(landmarks_of(row)))
        return list(rows)
