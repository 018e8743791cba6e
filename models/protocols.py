"""The interface of a network for the build, one protocol for each task.

Every implementation is batched and device-agnostic, runs under inference mode, and its results do
not depend on what else is in the batch (to 1e-5). Photographs and crops are ``uint8`` RGB
arrays of shape (height, width, 3) with values 0 to 255 throughout; pixel coordinates are (x, y)
with the origin at the centre of the top-left pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Photo = NDArray[np.uint8]
"""RGB picture, (height, width, 3), 0 to 255."""


@dataclass(frozen=True)
class Faces:
    """The faces of one photograph, best score first.

    ``boxes_xyxy``: float32 (n, 4) left, top, right, bottom in pixels; ``scores``: float32 (n,),
    the detector's own scale, higher is surer; ``landmarks_xy``: float32 (n, 68, 2), the iBUG
    68-point scheme in pixels.
    """

    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    landmarks_xy: NDArray[np.float32]

    def __post_init__(self) -> None:
        n = len(self.scores)
        assert self.boxes_xyxy.shape == (n, 4), self.boxes_xyxy.shape
        assert self.landmarks_xy.shape == (n, 68, 2), self.landmarks_xy.shape

    def __len__(self) -> int:
        return len(self.scores)


class FaceLandmarker(Protocol):
    """Finds every face of a photograph and its 68 landmarks."""

    name: str

    def __call__(self, photos: Sequence[Photo]) -> list[Faces]:
        """Return the faces of each photo, in the photos' own pixel coordinates."""
        ...


class EmotionClassifier(Protocol):
    """Class probabilities of facial expressions."""

    name: str
    classes: tuple[str, ...]
    """Class names in output order; exactly one is ``"neutral"``, one ``"happiness"``."""

    def crop(
        self, photo: Photo, box_xyxy: NDArray[np.float32], landmarks_xy: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Cut the network's input for one face: box (4,), landmarks (68, 2) in photo pixels."""
        ...

    def __call__(self, crops: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return probabilities, float32 (n, len(classes)), rows summing to 1."""
        ...


class PersonMasker(Protocol):
    """Probability that a pixel belongs to a person."""

    name: str
    input_px: int
    """Side of the square input; aligned crops are resampled to it by the implementation."""

    def __call__(self, crops: Sequence[Photo]) -> NDArray[np.float32]:
        """Return person probability, float32 (n, input_px, input_px), 0 to 1, for square crops."""
        ...


class FaceEmbedder(Protocol):
    """Identity embedding of a face."""

    name: str
    dim: int
    same_person_cosine: float
    """Cosine similarity above which two faces are the same person, with its source documented."""

    def crop(self, photo: Photo, landmarks_xy: NDArray[np.float32]) -> Photo:
        """Cut the network's input for one face from a photo, landmarks (68, 2) in its pixels."""
        ...

    def __call__(self, crops: Sequence[Photo]) -> NDArray[np.float32]:
        """Return L2-normalised embeddings, float32 (n, dim)."""
        ...
