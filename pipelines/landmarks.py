"""Every face of a photo and its 68 points; after this stage a row is a face."""

from __future__ import annotations

from collections.abc import Sequence

import models.landmarks
from hqvox.config.build import LandmarksConfig
from hqvox.imaging.codec import UndecodableError
from hqvox.workspace.tables import Row
from models.protocols import FaceLandmarker, Faces, Photo
from models.store import ModelStore
from pipelines.faces import compute_device, to_photo
from pipelines.stage import Pixels, Stage

_COLUMNS = ("faces_in_photo", "box_xyxy", "face_score", "landmarks_xy", "other_boxes_xyxy")


def face_rows(row: Row, faces: Faces, scale: float) -> list[Row]:
    """One row per face of a photo, best score first, coordinates in px of the upright photo.

    ``faces``: as found in the working picture; ``scale``: its pixels per photo pixel. A photo
    without a face keeps its row, with ``face`` null and reason ``no_face``.
    """
    if len(faces) == 0:
        return [
            row | dict.fromkeys(_COLUMNS) | {"face": None, "faces_in_photo": 0, "reason": "no_face"}
        ]
    boxes = to_photo(faces.boxes_xyxy.reshape(-1, 2, 2), scale).reshape(-1, 4).tolist()
    points = to_photo(faces.landmarks_xy, scale).reshape(-1, 136).tolist()
    return [
        row
        | {
            "face": i,
            "faces_in_photo": len(faces),
            "box_xyxy": boxes[i],
            "face_score": float(faces.scores[i]),
            "landmarks_xy": points[i],
            "other_boxes_xyxy": [x for j, box in enumerate(boxes) if j != i for x in box],
        }
        for i in range(len(faces))
    ]


def network_name(config: LandmarksConfig) -> str:
    """Name of the network in :data:`models.landmarks.WEIGHTS` that a configuration asks for."""
    if config.network == "fan" and config.detector != "s3fd":
        return f"fan_{config.detector}"
    return config.network


class LandmarksStage(Stage):
    """Finds faces at working scale and gives each its own row."""

    name = "landmarks"
    reads = ()
    writes = _COLUMNS
    reasons = ()
    failures = ("undecodable", "no_face")
    reads_photos = True
    version = 2
    config: LandmarksConfig
    landmarker: FaceLandmarker

    def __init__(self, config: LandmarksConfig, store: ModelStore) -> None:
        super().__init__(config, store)
        self.networks = models.landmarks.WEIGHTS[network_name(config)]

    def load(self) -> None:
        """Load the landmark network."""
        self.landmarker = models.landmarks.load(
            network_name(self.config), self.store, compute_device()
        )

    def measure(self, rows: Sequence[Row], pixels: Pixels) -> list[Row]:
        """Find the faces of all photos at once; a photo of n faces leaves as n rows."""
        photos: list[Photo] = []
        scales: dict[int, float] = {}
        for i, row in enumerate(rows):
            try:
                photo, scale = pixels.working(row)
            except UndecodableError:
                continue
            photos.append(photo)
            scales[i] = scale
        faces = iter(self.landmarker(photos) if photos else [])
        out: list[Row] = []
        for i, row in enumerate(rows):
            if i in scales:
                out += face_rows(row, next(faces), scales[i])
            else:
                out.append(row | dict.fromkeys(_COLUMNS) | {"face": None, "reason": "undecodable"})
        return out
