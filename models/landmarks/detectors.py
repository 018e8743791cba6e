"""The face detectors of the ``face-alignment`` package, built from files of the store.

The package downloads its weights itself where none are given; here every file comes from the
store, verified, and its names and shapes are checked before the package sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from face_alignment.detection.blazeface.blazeface_detector import BlazeFaceDetector
from face_alignment.detection.blazeface.net_blazeface import BlazeFace
from face_alignment.detection.blazeface.utils import resize_and_crop_image
from face_alignment.detection.retinaface.net_retinaface import RetinaFace
from face_alignment.detection.retinaface.retinaface_detector import RetinaFaceDetector
from face_alignment.detection.sfd.net_s3fd import s3fd
from face_alignment.detection.sfd.sfd_detector import SFDDetector
from face_alignment.detection.yunet.yunet_detector import YuNetDetector
from numpy.typing import NDArray

from models.errors import ModelError
from models.inference import fill_batch
from models.protocols import Photo
from models.store import ModelStore
from models.weight_files import fill, read_checkpoint

Boxes = NDArray[np.float64]
"""Detected faces, (n, 5): left, top, right, bottom in pixels, score."""


BLAZEFACE_BATCH = 8


class Detector(Protocol):
    """A face detector as FAN needs it."""

    reference_scale: float
    """What the package divides width + height of its boxes by to scale FAN's crop."""

    def __call__(self, photos: Sequence[Photo]) -> list[Boxes]:
        """Return the boxes of each photo, in the detector's own order."""
        ...


class PackageDetector:
    """A detector of the package that looks at photos one by one, at their own size."""

    def __init__(self, detector: Any) -> None:
        self._detector = detector
        self.reference_scale = float(detector.reference_scale)

    def __call__(self, photos: Sequence[Photo]) -> list[Boxes]:
        """Return the boxes of each photo, in the detector's own order."""
        return [
            _boxes(self._detector.detect_from_image(np.ascontiguousarray(photo)))
            for photo in photos
        ]


class BlazeFaceBatch:
    """BlazeFace on the central square of every photo of a batch at once.

    V. Bazarevsky et al., arXiv 1907.05047. Made for a face that fills much of the picture: what
    lies outside the central square, or is smaller than about a tenth of it, is not found.
    """

    def __init__(self, detector: BlazeFaceDetector) -> None:
        self._network = detector.face_detector
        self._side = 256 if detector.back_model else 128
        self.reference_scale = float(detector.reference_scale)

    def __call__(self, photos: Sequence[Photo]) -> list[Boxes]:
        """Return the boxes of each photo, in the detector's own order."""
        if not photos:
            return []
        squares, corners = [], []
        for photo in photos:
            square, corner = resize_and_crop_image(photo, self._side)
            # The package cuts its sizes, and some photos come out one pixel short.
            squares.append(cv2.resize(square, (self._side, self._side)))
            corners.append(corner)
        detections = []
        for start in range(0, len(squares), BLAZEFACE_BATCH):
            some = squares[start : start + BLAZEFACE_BATCH]
            batch = fill_batch(torch.from_numpy(np.stack(some).astype(np.uint8)), BLAZEFACE_BATCH)
            detections += self._network.predict_on_batch(batch.numpy())[: len(some)]
        boxes = []
        for photo, corner, faces in zip(photos, corners, detections, strict=True):
            # The network gives top, left, bottom, right as shares of the square.
            edges = faces[:, [1, 0, 3, 2]].numpy() * min(photo.shape[:2]) + np.tile(corner, 2)
            boxes.append(_boxes(np.column_stack([edges, faces[:, -1].numpy()])))
        return boxes


def load_detector(name: str, store: ModelStore, device: str) -> Detector:
    """Return ``s3fd``, ``blazeface``, ``blazeface_back``, ``retinaface`` or ``yunet``.

    Raises ModelError for an unknown name and for missing or wrong weights.
    """
    if name not in _LOADERS:
        raise ModelError(f"no face detector named '{name}'; known: {', '.join(sorted(_LOADERS))}")
    return _LOADERS[name](store, device)


def _s3fd(store: ModelStore, device: str) -> Detector:
    path = store.path("s3fd")
    fill(s3fd(), read_checkpoint(path), path, "an S3FD")
    return PackageDetector(SFDDetector(device, path_to_detector=str(path)))


def _retinaface(store: ModelStore, device: str) -> Detector:
    path = store.path("retinaface")
    tensors = {name.removeprefix("module."): t for name, t in read_checkpoint(path).items()}
    fill(RetinaFace(), tensors, path, "a RetinaFace with MobileNet-0.25")
    return PackageDetector(RetinaFaceDetector(device, path_to_detector=str(path)))


def _yunet(store: ModelStore, device: str) -> Detector:
    path = store.path("yunet")
    try:
        # YuNet runs in OpenCV, on the CPU; the package would only warn of any other device.
        return PackageDetector(YuNetDetector("cpu", path_to_detector=str(path)))
    except cv2.error as error:
        raise ModelError(f"{path} is not an ONNX file that OpenCV reads; fetch it again") from error


def _blazeface(store: ModelStore, device: str, back: bool = False) -> Detector:
    names = "blazeface_back" if back else "blazeface"
    path, anchors_path = store.path(names), store.path(f"{names}_anchors")
    fill(BlazeFace(back_model=back), read_checkpoint(path), path, f"the {names} network")
    anchors = _anchors(anchors_path)
    if anchors.shape != (896, 4):
        raise ModelError(f"{anchors_path} has anchors of shape {anchors.shape}, not (896, 4)")
    return BlazeFaceBatch(
        BlazeFaceDetector(
            device,
            back_model=back,
            path_to_detector=str(path),
            path_to_anchor=str(anchors_path),
        )
    )


def _blazeface_back(store: ModelStore, device: str) -> Detector:
    return _blazeface(store, device, back=True)


def _anchors(path: Path) -> NDArray[np.float32]:
    try:
        return np.asarray(np.load(path, allow_pickle=False), np.float32)
    except (ValueError, OSError, EOFError) as error:
        raise ModelError(f"{path} is not an array of anchors ({error}); fetch it again") from error


def _boxes(detections: Any) -> Boxes:
    """Boxes (n, 5) of what a detector of the package returns, an array, a tensor or a list."""
    if torch.is_tensor(detections):
        detections = detections.numpy()
    return np.asarray(detections, np.float64).reshape(-1, 5)


_LOADERS: dict[str, Callable[[ModelStore, str], Detector]] = {
    "s3fd": _s3fd,
    "blazeface": _blazeface,
    "blazeface_back": _blazeface_back,
    "retinaface": _retinaface,
    "yunet": _yunet,
}
