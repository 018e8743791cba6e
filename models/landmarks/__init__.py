"""Finding faces and their 68 landmarks: ``dlib68`` and ``fan``."""

from __future__ import annotations

from models.errors import ModelError
from models.protocols import FaceLandmarker
from models.store import ModelStore

WEIGHTS: dict[str, tuple[str, ...]] = {
    "dlib68": ("dlib_68",),
}
"""Registry names of the weight files that each network needs."""


def load(name: str, store: ModelStore, device: str = "cpu") -> FaceLandmarker:
    """Return a face landmarker by name.

    Raises ModelError for an unknown name and for missing or wrong weights.
    """
    if name == "dlib68":
        from models.landmarks.dlib68 import Dlib68

        return Dlib68(store)
    raise ModelError(f"no landmark network named '{name}'; known: {', '.join(sorted(WEIGHTS))}")
