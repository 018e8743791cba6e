"""A stage's surroundings in memory: pixels, networks that answer as told, faces of known pose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hqvox.imaging.codec import UndecodableError
from models.protocols import Faces, Photo
from models.store import ModelStore
from pipelines.face_model.face_shape import MEAN_FACE

Row = dict[str, Any]
STORE = ModelStore()


def face_points(
    x: float = 200.0,
    y: float = 180.0,
    ipd_px: float = 80.0,
    yaw_deg: float = 0.0,
    pitch_deg: float = 0.0,
    roll_deg: float = 0.0,
) -> NDArray[np.float64]:
    """68 points of the mean face, pitched, then turned, then rolled; the eyes' middle at (x, y)."""
    p, t, r = np.radians([pitch_deg, yaw_deg, roll_deg])
    pitch = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    yaw = np.array([[np.cos(t), 0, np.sin(t)], [0, 1, 0], [-np.sin(t), 0, np.cos(t)]])
    roll = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    turned = MEAN_FACE @ (roll @ yaw @ pitch).T
    return turned[:, :2] * ipd_px + [x, y]


def box_of(points: NDArray[np.floating]) -> list[float]:
    """Box around landmarks."""
    return [*points.min(axis=0).tolist(), *points.max(axis=0).tolist()]


def face_row(points: NDArray[np.floating] | None = None, candidate: int = 0, **more: Any) -> Row:
    """A row as the landmarks stage leaves it."""
    points = face_points() if points is None else points
    row = {
        "identity_id": "id1",
        "candidate": candidate,
        "face": 0,
        "photo_id": f"{candidate:064x}",
        "width_px": 400,
        "height_px": 400,
        "photo_bytes": 1000,
        "faces_in_photo": 1,
        "box_xyxy": box_of(points),
        "other_boxes_xyxy": [],
        "face_score": 1.0,
        "landmarks_xy": points.ravel().tolist(),
        "reason": None,
    }
    return row | more


def plain_photo(value: int | Sequence[int] = 128, width: int = 400, height: int = 400) -> Photo:
    """A photo of one colour."""
    return np.broadcast_to(np.asarray(value, np.uint8), (height, width, 3)).copy()


class MemoryPixels:
    """Photos, crops and masks by candidate; ``None`` stands for bytes that cannot be decoded."""

    def __init__(self, photos: dict[int, Photo | None] | Photo, scale: float = 1.0) -> None:
        self.photos = photos
        self.scale = scale
        self.crops: dict[int, Photo] = {}
        self.masks: dict[int, NDArray[np.uint8]] = {}

    def native(self, row: Row) -> Photo:
        photo = self.photos[row["candidate"]] if isinstance(self.photos, dict) else self.photos
        if photo is None:
            raise UndecodableError("broken")
        return photo

    def working(self, row: Row) -> tuple[Photo, float]:
        photo = self.native(row)
        size = tuple(round(length * self.scale) for length in photo.shape[1::-1])
        return np.asarray(cv2.resize(photo, size, interpolation=cv2.INTER_AREA)), self.scale

    def aligned(self, row: Row) -> Photo:
        return self.crops[row["candidate"]]

    def mask(self, row: Row) -> NDArray[np.uint8]:
        return self.masks[row["candidate"]]

    def keep_photo(self, row: Row, data: bytes) -> None:
        raise AssertionError("none of these stages fetches photos")

    def keep_aligned(self, row: Row, crop: Photo) -> None:
        self.crops[row["candidate"]] = crop
        row["aligned_offset"], row["aligned_bytes"] = 0, crop.nbytes

    def keep_mask(self, row: Row, alpha: NDArray[np.uint8]) -> None:
        self.masks[row["candidate"]] = alpha
        row["mask_offset"], row["mask_bytes"] = 0, alpha.nbytes


class FakeLandmarker:
    """Finds the given point sets, (68, 2) in working pixels, in every photo."""

    name = "fake"

    def __init__(self, *faces: NDArray[np.float64]) -> None:
        self.faces = faces
        self.calls: list[int] = []

    def __call__(self, photos: Sequence[Photo]) -> list[Faces]:
        self.calls.append(len(photos))
        points = np.array(self.faces, dtype=np.float32).reshape(-1, 68, 2)
        boxes = np.array([box_of(face) for face in self.faces], dtype=np.float32).reshape(-1, 4)
        scores = -np.arange(len(points), dtype=np.float32)
        return [Faces(boxes, scores, points) for _ in photos]


class FakeClassifier:
    """Answers with the probabilities it was given, in turn."""

    name = "fake"
    classes = ("neutral", "happiness", "other")
    neutral_threshold = 0.6

    def __init__(self, *probabilities: tuple[float, float, float]) -> None:
        self.probabilities = np.array(probabilities, dtype=np.float32)
        self.cropped: list[NDArray[np.float32]] = []

    def crop(
        self, photo: Photo, box_xyxy: NDArray[np.float32], landmarks_xy: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        self.cropped.append(landmarks_xy)
        return landmarks_xy

    def __call__(self, crops: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        assert len(crops) == len(self.probabilities)
        return self.probabilities


class FakeEmbedder:
    """Takes the photo's top-left pixel for the person: equal colours are the same person."""

    name = "fake"
    dim = 3
    same_person_cosine = 0.9

    def crop(self, photo: Photo, landmarks_xy: NDArray[np.float32]) -> Photo:
        return photo[:1, :1]

    def __call__(self, crops: Sequence[Photo]) -> NDArray[np.float32]:
        vectors = np.array([crop[0, 0] for crop in crops], dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class FakeMasker:
    """Gives the same probability map for every crop."""

    name = "fake"

    def __init__(self, probability: NDArray[np.float32]) -> None:
        self.probability = probability
        self.input_px = len(probability)

    def __call__(self, crops: Sequence[Photo]) -> NDArray[np.float32]:
        return np.stack([self.probability] * len(crops))
