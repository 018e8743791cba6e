"""``dlib_resnet``: 128-d embeddings by dlib's face recognition network.

A ResNet of 29 convolutions, trained by dlib's author with a metric loss on about three million
faces; the file comes inside the PyPI package ``face_recognition_models``. dlib cuts the crops,
torch runs the network (``dlib_network``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import dlib
import numpy as np
from numpy.typing import NDArray

from models.embedding.dlib_network import EMBEDDING_DIM, INPUT_PX, read_network
from models.embedding.inference import BatchRunner, Precision
from models.protocols import Photo


class DlibResnet:
    """128-d embedding of a face chip, L2-normalised; a ``FaceEmbedder``."""

    name = "dlib_resnet"
    dim = EMBEDDING_DIM
    same_person_cosine = 0.915
    """Chosen and measured by ``benchmarks/identity.py`` on photographs of LFW, by people: the
    highest cosine at which ``identity_core`` refuses at most 2 % of right faces of the tuning half.
    (dlib's own advice, a distance of 0.6 between embeddings of mean length 1.41, is 0.91.)"""

    def __init__(
        self, weights: Path, device: str = "cpu", precision: Precision = "float32"
    ) -> None:
        """Read dlib's file; ModelError where it is not that or the device is not there."""
        self._network = read_network(weights)
        self._run = BatchRunner(self._network, device, precision)

    def crop(self, photo: Photo, landmarks_xy: NDArray[np.float32]) -> Photo:
        """Cut dlib's face chip, RGB uint8 (150, 150, 3), from landmarks (68, 2) in photo pixels.

        dlib fits a similarity transform to its mean face with 25 % padding; what lies outside the
        photo is black.
        """
        points = [dlib.point(round(float(x)), round(float(y))) for x, y in landmarks_xy]
        left, top = np.floor(np.min(landmarks_xy, axis=0)).astype(int).tolist()
        right, bottom = np.ceil(np.max(landmarks_xy, axis=0)).astype(int).tolist()
        shape = dlib.full_object_detection(dlib.rectangle(left, top, right, bottom), points)
        return dlib.get_face_chip(np.ascontiguousarray(photo), shape, size=INPUT_PX)

    def __call__(self, crops: Sequence[Photo]) -> NDArray[np.float32]:
        """Return embeddings float32 (n, 128) of chips made by ``crop``."""
        if not len(crops):
            return np.zeros((0, self.dim), np.float32)
        return self._run(crops, self._network, INPUT_PX)
