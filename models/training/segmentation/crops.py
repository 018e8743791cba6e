"""Photographs with person masks, cut as the align stage cuts them, for training and measuring.

``data/people`` holds hand-made masks, ``data/expressions/teacher_masks`` masks that another
network made. dlib's detector and 68 points give the heads. The photographs of ``people`` are split
into train, val and test. Photographs of one person (dlib's face embedding) and near-duplicates
(perceptual hash) are in one split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import dlib
import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.errors import ModelError
from models.geometry import aligned_transform, eye_centres, reduced
from models.protocols import Photo
from models.store import ModelStore

MASK_EDGE = 127
SAME_PERSON_DISTANCE = 0.55
"""dlib's embedding: two faces closer than 0.6 are usually one person (dlib's documentation)."""
SAME_PICTURE_BITS = 10
MIN_IPD_PX = 12.0
"""Heads with eyes closer together than this are too small to measure an outline."""


@dataclass(frozen=True)
class LabelledPhoto:
    """RGB photo, person mask uint8 (height, width) of 0 and 255, eye centres (faces, 2, 2)."""

    name: str
    photo: Photo
    mask: NDArray[np.uint8]
    eyes_xy: NDArray[np.float64]
    embeddings: NDArray[np.float64]


@dataclass(frozen=True)
class FaceCrop:
    """A square cut from a labelled photo.

    ``image`` uint8 RGB (side, side, 3); ``mask`` uint8 (side, side), 0 to 255; ``inside`` uint8
    (side, side), 255 where the photo is and 0 where its edge was repeated.
    """

    name: str
    image: Photo
    mask: NDArray[np.uint8]
    inside: NDArray[np.uint8]


class HeadFinder:
    """Eye centres and embeddings of the faces in a photo, by dlib."""

    def __init__(self, store: ModelStore) -> None:
        self._detect = dlib.get_frontal_face_detector()
        self._points = dlib.shape_predictor(str(store.path("dlib_68")))
        self._embed = dlib.face_recognition_model_v1(str(store.path("dlib_resnet")))

    def __call__(
        self, photo: Photo, embed: bool
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return eye centres (faces, 2, 2) in pixels, left in image first, and (faces, 128)."""
        upsample = 1 if min(photo.shape[:2]) < 900 else 0
        eyes, embeddings = [], []
        for box in self._detect(photo, upsample):
            shape = self._points(photo, box)
            points = np.array([(p.x, p.y) for p in shape.parts()], dtype=np.float64)
            eyes.append(eye_centres(points))
            if embed:
                embeddings.append(np.array(self._embed.compute_face_descriptor(photo, shape)))
        return np.array(eyes).reshape(-1, 2, 2), np.array(embeddings).reshape(-1, 128)


def read_people(data: Path, finder: HeadFinder) -> list[LabelledPhoto]:
    """Read ``people/images`` with ``people/masks``, in the order of their names.

    Raises ModelError if the folder or a mask is missing or unreadable.
    """
    folder = data / "people" / "images"
    paths = sorted(folder.glob("*.jpg"))
    if not paths:
        raise ModelError(f"{folder}: no photographs (*.jpg); give the development data as --data")
    return [read_labelled(p, data / "people" / "masks" / f"{p.stem}.png", finder) for p in paths]


def read_teacher(
    data: Path, finder: HeadFinder, limit: int | None = None
) -> Iterator[LabelledPhoto]:
    """Yield the photographs of ``expressions`` that have a teacher mask, the mask tidied."""
    for mask_path in sorted((data / "expressions" / "teacher_masks").glob("*.png"))[:limit]:
        photo_path = data / "expressions" / "images" / f"{mask_path.stem}.jpg"
        labelled = read_labelled(photo_path, mask_path, finder, embed=False)
        yield LabelledPhoto(
            labelled.name,
            labelled.photo,
            tidy_mask(labelled.mask),
            labelled.eyes_xy,
            labelled.embeddings,
        )


def read_labelled(
    photo_path: Path, mask_path: Path, finder: HeadFinder, embed: bool = True
) -> LabelledPhoto:
    """Read one photograph and its mask; ``embed``: its faces' embeddings too (else none)."""
    photo = cv2.imread(str(photo_path), cv2.IMREAD_COLOR)
    mask = cv2.imread(str(mask_path), cv2.IMREAD_GRAYSCALE)
    for path, pixels in ((photo_path, photo), (mask_path, mask)):
        if pixels is None:
            raise ModelError(f"{path}: missing or not a picture")
    assert photo is not None
    assert mask is not None
    rgb: Photo = np.ascontiguousarray(photo[..., ::-1])
    if mask.shape != rgb.shape[:2]:
        mask = cv2.resize(mask, (rgb.shape[1], rgb.shape[0]), interpolation=cv2.INTER_NEAREST)
    binary = np.where(mask > MASK_EDGE, 255, 0).astype(np.uint8)
    eyes, embeddings = finder(rgb, embed)
    return LabelledPhoto(photo_path.name, rgb, binary, eyes, embeddings)


def tidy_mask(mask: NDArray[np.uint8], hole_fraction: float = 0.015) -> NDArray[np.uint8]:
    """Keep the largest part of a mask of 0 and 255 and fill holes up to a share of the picture."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    if count < 2:
        return mask
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    kept = np.where(labels == largest, 255, 0).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(255 - kept, connectivity=4)
    for i in range(1, count):
        if stats[i, cv2.CC_STAT_AREA] <= hole_fraction * mask.size:
            kept[labels == i] = 255
    return kept


def split_people(photos: list[LabelledPhoto]) -> dict[str, str]:
    """Map each photo's name to ``train`` (about 55 %), ``val`` (15 %) or ``test`` (30 %).

    Photographs that share a person or a picture share their group, and the group's split comes
    from the smallest SHA-256 of its pixels: it changes only where a group's members do.
    """
    parent = list(range(len(photos)))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    hashes = [imagehash.phash(Image.fromarray(p.photo)) for p in photos]
    for i, a in enumerate(photos):
        for j in range(i):
            b = photos[j]
            gaps = np.linalg.norm(a.embeddings[:, None] - b.embeddings[None], axis=-1)
            same_person = gaps.size > 0 and float(gaps.min()) < SAME_PERSON_DISTANCE
            if same_person or hashes[i] - hashes[j] <= SAME_PICTURE_BITS:
                parent[root(i)] = root(j)
    digests = [hashlib.sha256(p.photo.tobytes()).hexdigest() for p in photos]
    key: dict[int, str] = {}
    for i, digest in enumerate(digests):
        key[root(i)] = min(key.get(root(i), digest), digest)
    return {p.name: _part(key[root(i)]) for i, p in enumerate(photos)}


def _part(digest: str) -> str:
    share = int(digest[:8], 16) / 16**8
    return "train" if share < 0.55 else "val" if share < 0.70 else "test"


def head_eyes(labelled: LabelledPhoto) -> list[NDArray[np.float64]]:
    """Eye centres (2, 2) of a photo's faces that are large enough, on a person by its mask."""
    kept = []
    for eyes in labelled.eyes_xy:
        x, y = np.round(eyes.mean(axis=0)).astype(int)
        height, width = labelled.mask.shape
        on_person = 0 <= x < width and 0 <= y < height and labelled.mask[y, x] > MASK_EDGE
        if on_person and float(np.hypot(*(eyes[1] - eyes[0]))) >= MIN_IPD_PX:
            kept.append(eyes)
    return kept


def cut(
    labelled: LabelledPhoto, eyes_xy: NDArray[np.float64], side: int, margin: float = 1.0
) -> FaceCrop:
    """Cut the aligned crop around a head, ``margin`` times as wide, ``side`` pixels a side."""
    matrix, crop_side = aligned_transform(eyes_xy)
    inner = side / margin
    scale = inner / crop_side
    offset = (side - inner) / 2
    to_canvas = np.array(
        [[scale, 0, offset + (scale - 1) / 2], [0, scale, offset + (scale - 1) / 2]]
    )
    whole = to_canvas @ np.vstack([matrix, [0, 0, 1]])
    inside = np.full(labelled.mask.shape, 255, np.uint8)
    return FaceCrop(
        labelled.name,
        _warp(labelled.photo, whole, side, cv2.BORDER_REPLICATE),
        _warp(labelled.mask, whole, side, cv2.BORDER_REPLICATE),
        _warp(inside, whole, side, cv2.BORDER_CONSTANT),
    )


def _warp(
    pixels: NDArray[np.uint8], matrix: NDArray[np.float64], side: int, border: int
) -> NDArray[np.uint8]:
    """Affine resampling that averages where it shrinks."""
    shrink = min(1.0, float(np.hypot(matrix[0, 0], matrix[0, 1])))
    if shrink < 1.0:
        height, width = pixels.shape[:2]
        size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        pixels, matrix = reduced(pixels, matrix, size)
    warped = cv2.warpAffine(pixels, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=border)
    return np.asarray(warped, np.uint8)
