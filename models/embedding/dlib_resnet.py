"""dlib's face recognition ResNet: 128-d embeddings, no torch needed.

The network of dlib's ``dnn_face_recognition_ex`` (29 convolutions, metric learning on about three
million faces), as the PyPI package ``face_recognition_models`` installs it. It runs on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import dlib
import numpy as np
from numpy.typing import NDArray

from models.errors import ModelError
from models.protocols import Photo

CHIP_PX = 150
"""Side of the network's input."""


class DlibResnet:
    """128-d embedding of a face chip, L2-normalised; a ``FaceEmbedder``."""

    name = "dlib_resnet"
    dim = 128
    same_person_cosine = 0.92

    def __init__(self, weights: Path) -> None:
        """Read the network from dlib's own serialisation; ModelError where it is not one."""
        try:
            self._network = dlib.face_recognition_model_v1(str(weights))
        except RuntimeError as error:
            raise ModelError(
                f"{weights} is not dlib's face recognition network ({str(error).splitlines()[0]}); "
                "reinstall face_recognition_models"
            ) from error

    def crop(self, photo: Photo, landmarks_xy: NDArray[np.float32]) -> Photo:
        """Cut dlib's face chip, RGB uint8 (150, 150, 3), from landmarks (68, 2) in photo pixels.

        dlib fits a similarity transform to its mean face with 25 % padding; what lies outside the
        photo is black.
        """
        points = [dlib.point(round(float(x)), round(float(y))) for x, y in landmarks_xy]
        left, top = np.floor(np.min(landmarks_xy, axis=0)).astype(int).tolist()
        right, bottom = np.ceil(np.max(landmarks_xy, axis=0)).astype(int).tolist()
        shape = dlib.full_object_detection(dlib.rectangle(left, top, right, bottom), points)
        return dlib.get_face_chip(np.ascontiguousarray(photo), shape, size=CHIP_PX)

    def __call__(self, crops: Sequence[Photo]) -> NDArray[np.float32]:
        """Return embeddings float32 (n, 128) of chips made by ``crop``."""
        if not len(crops):
            return np.zeros((0, self.dim), np.float32)
        chips = [np.ascontiguousarray(chip) for chip in crops]
        rows = np.array(self._network.compute_face_descriptor(chips), dtype=np.float64)
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
