"""dlib's HOG frontal face detector and its 68-point shape predictor.

Detector: N. Dalal and B. Triggs, CVPR 2005, as trained by dlib's author (built into dlib).
Predictor: V. Kazemi and J. Sullivan, CVPR 2014, trained on iBUG 300-W.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import dlib
import numpy as np

from models.protocols import Faces, Photo
from models.store import ModelStore


class Dlib68:
    """Finds faces with dlib's HOG detector and 68 landmarks with its shape predictor."""

    name = "dlib68"

    def __init__(self, store: ModelStore) -> None:
        self._detector = dlib.get_frontal_face_detector()
        self._predictor = dlib.shape_predictor(str(store.path("dlib_68")))

    def __call__(self, photos: Sequence[Photo]) -> list[Faces]:
        """Return the faces of each photo, in the photos' own pixel coordinates."""
        return [self._one(photo) for photo in photos]

    def _one(self, photo: Photo) -> Faces:
        grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
        rects, scores, _ = self._detector.run(grey, 1 if max(grey.shape) < 800 else 0, 0.0)
        order = np.argsort([-score for score in scores], kind="stable")
        boxes, points = [], []
        for i in order:
            rect = rects[i]
            shape = self._predictor(photo, rect)
            boxes.append([rect.left(), rect.top(), rect.right() + 1, rect.bottom() + 1])
            points.append([[part.x, part.y] for part in shape.parts()])
        return Faces(
            boxes_xyxy=np.array(boxes, np.float32).reshape(-1, 4),
            scores=np.array([scores[i] for i in order], np.float32),
            landmarks_xy=np.array(points, np.float32).reshape(-1, 68, 2),
        )
