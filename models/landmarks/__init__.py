"""Faces and their 68 landmarks: by dlib, or by FAN after a choice of detectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.errors import ModelError
from models.protocols import FaceLandmarker
from models.store import ModelStore

if TYPE_CHECKING:
    from models.landmarks.fan import Precision

WEIGHTS: dict[str, tuple[str, ...]] = {
    "dlib68": ("dlib_68",),
    "fan": ("fan_2d_4", "s3fd"),
    "fan_blazeface": ("fan_2d_4", "blazeface", "blazeface_anchors"),
    "fan_blazeface_back": ("fan_2d_4", "blazeface_back", "blazeface_back_anchors"),
    "fan_retinaface": ("fan_2d_4", "retinaface"),
    "fan_yunet": ("fan_2d_4", "yunet"),
}
"""Network name to the registry names of the weight files it needs. ``fan`` is the paper's choice,
S3FD before 2DFAN-4; the others put another detector before the same network."""


def load(
    name: str, store: ModelStore, device: str = "cpu", precision: Precision = "float32"
) -> FaceLandmarker:
    """Return a face landmarker by name; ``dlib68`` runs on the CPU, whatever ``device`` is.

    ``precision``: ``bfloat16`` (with channels-last memory, meant for CUDA) moves FAN's landmarks
    by less than one cell of its heatmaps, 1/64 of the crop. Raises ModelError for an unknown name,
    missing or wrong weights, and a device or precision that is not available.
    """
    if name not in WEIGHTS:
        raise ModelError(f"no landmark network named '{name}'; known: {', '.join(sorted(WEIGHTS))}")
    store.ensure(WEIGHTS[name])
    # Imported here, so that dlib68 works without the seconds that torch takes to import.
    if name == "dlib68":
        if precision != "float32":
            raise ModelError("dlib68 knows no precision but float32; leave it out")
        from models.landmarks.dlib68 import Dlib68

        return Dlib68(store)
    from torch.nn import Identity

    from models.inference import on_device
    from models.landmarks.detectors import load_detector
    from models.landmarks.fan import Fan

    on_device(Identity(), device)  # The package's detectors would fail with a traceback.
    detector = load_detector(name.partition("_")[2] or "s3fd", store, device)
    return Fan(name, store.path("fan_2d_4"), detector, device, precision)
