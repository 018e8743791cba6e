"""Labelled photographs for training and measuring ``hqvox_neutral``.

A data folder holds ``images/`` and ``labels.csv`` with the columns image, identity, expression.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Collection
from dataclasses import dataclass, fields
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from models.errors import ModelError
from models.protocols import FaceLandmarker, Photo

SPLIT_FRACTIONS = {"train": 0.70, "val": 0.12, "test": 0.18}
"""Shares of the identities; all photographs of an identity are in one split."""

COLUMNS = ("image", "identity", "expression")


@dataclass(frozen=True)
class LabelledFaces:
    """The largest face of every photograph in which one was found.

    ``image``, ``identity``, ``expression``: strings (n,); ``box_xyxy``: float32 (n, 4);
    ``landmarks_xy``: float32 (n, 68, 2), both in pixels of the photograph; ``colour``: bool (n,),
    whether the photograph has colour.
    """

    image: NDArray[np.str_]
    identity: NDArray[np.str_]
    expression: NDArray[np.str_]
    box_xyxy: NDArray[np.float32]
    landmarks_xy: NDArray[np.float32]
    colour: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, index: NDArray[np.bool_]) -> LabelledFaces:
        return LabelledFaces(*(getattr(self, field.name)[index] for field in fields(self)))


def read_photo(path: Path) -> Photo:
    """Read a picture, uint8 RGB (height, width, 3). Raises ModelError if it cannot be decoded."""
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise ModelError(f"{path}: not a readable picture")
    return np.ascontiguousarray(bgr[..., ::-1])


def read_labels(data: Path) -> list[tuple[str, str, str]]:
    """Return (image, identity, expression) of every line of ``labels.csv``.

    Raises ModelError if the file or a column is missing.
    """
    path = data / "labels.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if missing := [c for c in COLUMNS if c not in (reader.fieldnames or ())]:
                raise ModelError(f"{path}: no column '{missing[0]}'; needed: {', '.join(COLUMNS)}")
            return [(row["image"], row["identity"], row["expression"]) for row in reader]
    except OSError as error:
        raise ModelError(
            f"{path}: cannot be read ({error.strerror}); give the folder that holds labels.csv and "
            "images/ as --data"
        ) from error


def split_of(identity: str, seed: int = 0) -> str:
    """Return train, val or test for an identity, from a hash of its name and the seed."""
    digest = hashlib.sha256(f"{seed}:{identity}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    for name, fraction in SPLIT_FRACTIONS.items():
        if position < fraction:
            return name
        position -= fraction
    return "test"


def in_split(faces: LabelledFaces, name: str, seed: int = 0) -> LabelledFaces:
    """Return the faces whose identity belongs to a split."""
    return faces[np.array([split_of(str(who), seed) == name for who in faces.identity], bool)]


def has_colour(photo: Photo) -> bool:
    """Whether an RGB picture's channels differ by more than compression noise."""
    return float(np.abs(photo[..., 0].astype(np.int16) - photo[..., 2]).mean()) > 1.0


def find_faces(
    data: Path, landmarker: FaceLandmarker, labels: list[tuple[str, str, str]]
) -> LabelledFaces:
    """Detect the largest face of each labelled photograph; those without one are left out.

    Raises ModelError if no face is detected or a photograph cannot be read.
    """
    rows: list[tuple[str, str, str]] = []
    boxes, points, colour = [], [], []
    for label in labels:
        photo = read_photo(data / "images" / label[0])
        faces = landmarker([photo])[0]
        if not len(faces):
            continue
        sides = faces.boxes_xyxy[:, 2:] - faces.boxes_xyxy[:, :2]
        largest = int(np.argmax(sides.prod(axis=1)))
        rows.append(label)
        boxes.append(faces.boxes_xyxy[largest])
        points.append(faces.landmarks_xy[largest])
        colour.append(has_colour(photo))
    if not rows:
        raise ModelError(f"{data}: no face found in any of {len(labels)} labelled photographs")
    image, identity, expression = (
        np.array(column, dtype=np.str_) for column in zip(*rows, strict=True)
    )
    return LabelledFaces(
        image, identity, expression, np.stack(boxes), np.stack(points), np.array(colour)
    )


def load_faces(
    data: Path,
    landmarker: FaceLandmarker,
    cache: Path | None = None,
    splits: Collection[str] = tuple(SPLIT_FRACTIONS),
    seed: int = 0,
) -> LabelledFaces:
    """Read labels and detect the faces of some splits, with an optional cache file (.npz).

    Without a cache only photographs of these splits are read. A missing cache is made from all
    photographs. An existing one is used unchanged if it names only photographs of ``labels.csv``
    with the same labels; otherwise ModelError is raised.
    """
    labels = read_labels(data)
    if cache is None:
        return find_faces(data, landmarker, [r for r in labels if split_of(r[1], seed) in splits])
    if cache.exists():
        faces = _read_cache(cache, labels)
    else:
        faces = find_faces(data, landmarker, labels)
        np.savez(cache, **{f.name: getattr(faces, f.name) for f in fields(faces)})
    return faces[np.array([split_of(str(who), seed) in splits for who in faces.identity], bool)]


def _read_cache(cache: Path, labels: list[tuple[str, str, str]]) -> LabelledFaces:
    try:
        with np.load(cache, allow_pickle=False) as stored:
            faces = LabelledFaces(*(stored[field.name] for field in fields(LabelledFaces)))
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{cache}: not a cache of faces; delete it to have it made") from error
    if not set(zip(faces.image, faces.identity, faces.expression, strict=True)) <= set(labels):
        raise ModelError(f"{cache}: made from other labels; delete it to have it made")
    return faces
