"""dlib's HOG face detector and 68-point shape predictor, looked at twice.

Detector: N. Dalal and B. Triggs, CVPR 2005, trained for frontal faces by dlib's author and built
into dlib; it finds faces of 80 px and more. Predictor: V. Kazemi and J. Sullivan, CVPR 2014,
trained on iBUG 300-W.

Scanning is nearly all of the cost and grows with area, so a photo is first looked at small, where
most portraits are settled, and at its own size or larger only where that does not do. The
predictor depends on the box it starts from, and the detector's boxes are coarse; so a first
prediction only tells where the face is, how large and how tilted, and the landmarks are then read
on a level crop of one size and on its mirror image, averaged over slightly moved boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import dlib
import numpy as np
from numpy.typing import NDArray

from models.errors import ModelError
from models.geometry import MIRRORED, eye_centres, iou, reduced
from models.protocols import Faces, Photo
from models.store import ModelStore

Grey = NDArray[np.uint8]

FIRST_SCAN_PX = 512
"""Long side of the first scan."""
PORTRAIT_SHARE = 0.25
PORTRAIT_SCORE = 1.0
"""A single face with at least this width, as a share of the long side, and this score ends the
search: any face that a finer scan could add is less than half as wide."""
SECOND_SCAN = (1.25, 1300)
THIRD_SCAN = (3.0, 1000)
"""Enlargement of the photo, and limit in pixels on its long side, of the finer scans. The second
finds pupils 28 px apart; the third runs only where nothing was found, and in small photos finds
pupils 12 px apart."""
LAST_BORDER = 0.25
LAST_THRESHOLD = -0.1
"""Where all scans find nothing: width of a border around the photo, as a share of its long side,
for faces that fill it; and the lowest score of a detection."""
SAME_FACE_IOU = 0.3

BOX_PER_RADIUS = 2.60
BOX_LIFT_PER_RADIUS = 0.175
"""Side of the detector's box and how far its centre lies above the landmarks' mean, as shares of
the landmarks' root-mean-square distance from their mean: medians over LFW faces."""
CROP_BOX_PX = 200
CROP_MARGIN_PX = 80
"""The level crop: side of the box in its middle, and margin around it."""
BOX_SHIFTS_PX = ((12, 0), (0, 12), (0, -12))
"""Shifts (x, y) of the boxes that predictions on the crop start from; the same on its mirror image.
The predictor errs differently on the two sides of a face. With both views it errs alike, and a face
and its mirror image give the same landmarks."""


class _Face(NamedTuple):
    score: float
    box_xyxy: NDArray[np.float64]


class Dlib68:
    """Finds faces with dlib's HOG detector and 68 landmarks with its shape predictor.

    Scores are the detector's, from -0.1 (doubtful) to about 3. Every photo is treated by itself.
    """

    name = "dlib68"

    def __init__(self, store: ModelStore) -> None:
        self._detector = dlib.get_frontal_face_detector()
        path = store.path("dlib_68")
        try:
            self._predictor = dlib.shape_predictor(str(path))
        except RuntimeError as error:
            raise ModelError(f"{path} is not a dlib shape predictor: {error}") from error

    def __call__(self, photos: Sequence[Photo]) -> list[Faces]:
        """Return the faces of each photo, in the photos' own pixel coordinates."""
        return [self._faces(photo) for photo in photos]

    def _faces(self, photo: Photo) -> Faces:
        grey: Grey = np.asarray(
            cv2.cvtColor(np.ascontiguousarray(photo), cv2.COLOR_RGB2GRAY), np.uint8
        )
        detected = sorted(self._detect(grey), key=lambda face: -face.score)
        landmarks = [self._landmarks(grey, face.box_xyxy) for face in detected]
        return Faces(
            boxes_xyxy=np.array([face.box_xyxy for face in detected], np.float32).reshape(-1, 4),
            scores=np.array([face.score for face in detected], np.float32),
            landmarks_xy=np.array(landmarks, np.float32).reshape(-1, 68, 2),
        )

    def _detect(self, grey: Grey) -> list[_Face]:
        long_px = max(grey.shape)
        faces = self._scan(grey, min(FIRST_SCAN_PX / long_px, SECOND_SCAN[0]))
        if len(faces) == 1:
            width = faces[0].box_xyxy[2] - faces[0].box_xyxy[0]
            if width >= PORTRAIT_SHARE * long_px and faces[0].score >= PORTRAIT_SCORE:
                return faces
        scanned = 0.0
        for enlargement, limit_px in (SECOND_SCAN, THIRD_SCAN):
            scale = min(enlargement, limit_px / long_px)
            if scale <= scanned:
                continue
            scanned = scale
            finer = self._scan(grey, scale)
            faces = finer + [
                face
                for face in faces
                if all(iou(face.box_xyxy, other.box_xyxy) < SAME_FACE_IOU for other in finer)
            ]
            if faces:
                return faces
        return self._last_look(grey)

    def _last_look(self, grey: Grey) -> list[_Face]:
        border = round(LAST_BORDER * max(grey.shape))
        wide = cv2.copyMakeBorder(grey, *(4 * (border,)), borderType=cv2.BORDER_REPLICATE)
        scale = min(FIRST_SCAN_PX / max(wide.shape), SECOND_SCAN[0])
        faces = self._scan(np.asarray(wide, np.uint8), scale, LAST_THRESHOLD)
        best = sorted(faces, key=lambda face: -face.score)[:1]
        return [_Face(face.score, face.box_xyxy - border) for face in best]

    def _scan(self, grey: Grey, scale: float, threshold: float = 0.0) -> list[_Face]:
        """Run the detector on the photo resized by ``scale``; boxes in the photo's pixels."""
        height, width = (max(1, round(side * scale)) for side in grey.shape)
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        scaled = cv2.resize(grey, (width, height), interpolation=how)
        rects, scores, _ = self._detector.run(scaled, 0, threshold)
        per_px = np.tile([grey.shape[1] / width, grey.shape[0] / height], 2)
        return [
            _Face(
                score,
                np.array([rect.left(), rect.top(), rect.right() + 1, rect.bottom() + 1]) * per_px,
            )
            for rect, score in zip(rects, scores, strict=True)
        ]

    def _landmarks(self, grey: Grey, box_xyxy: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return landmarks (68, 2) of the face in a box."""
        crop, to_crop = _level_crop(grey, self._predict(grey, box_xyxy))
        straight = self._averaged(crop)
        mirrored = self._averaged(np.ascontiguousarray(crop[:, ::-1]))[MIRRORED]
        mirrored[:, 0] = crop.shape[1] - 1 - mirrored[:, 0]
        mean = (straight + mirrored) / 2
        return (mean - to_crop[:, 2]) @ np.linalg.inv(to_crop[:, :2]).T

    def _averaged(self, crop: Grey) -> NDArray[np.float64]:
        corners = np.add(BOX_SHIFTS_PX, CROP_MARGIN_PX)
        predictions = [
            self._predict(crop, np.append(corner, corner + CROP_BOX_PX)) for corner in corners
        ]
        return np.asarray(np.mean(predictions, axis=0))

    def _predict(self, grey: Grey, box_xyxy: NDArray[np.floating]) -> NDArray[np.float64]:
        left, top, right, bottom = (round(float(value)) for value in box_xyxy)
        shape = self._predictor(grey, dlib.rectangle(left, top, right - 1, bottom - 1))
        return np.array([(point.x, point.y) for point in shape.parts()], dtype=np.float64)


def _level_crop(grey: Grey, landmarks_xy: NDArray[np.float64]) -> tuple[Grey, NDArray[np.float64]]:
    """Cut a face out level and at one size.

    Returns the crop and the 2 × 3 matrix that maps photo (x, y, 1) to crop (x, y).
    """
    mean = landmarks_xy.mean(axis=0)
    radius = max(float(np.sqrt(((landmarks_xy - mean) ** 2).sum(axis=1).mean())), 1.0)
    left_eye, right_eye = eye_centres(landmarks_xy)
    tilt = np.arctan2(*(right_eye - left_eye)[::-1])
    cos, sin = np.cos(tilt), np.sin(tilt)
    centre = mean + np.array([sin, -cos]) * BOX_LIFT_PER_RADIUS * radius
    scale = CROP_BOX_PX / (BOX_PER_RADIUS * radius)
    side = CROP_BOX_PX + 2 * CROP_MARGIN_PX
    turn = np.array([[cos, sin], [-sin, cos]]) * scale
    matrix = np.column_stack([turn, (side - 1) / 2 - turn @ centre])
    if scale > 0.5:
        return _warp(grey, matrix, side), matrix
    # Warping skips pixels when it shrinks this much: average them first, around the face only.
    reach = side / scale * 0.75
    x0, y0 = np.maximum(np.floor(centre - reach), 0).astype(int)
    x1, y1 = np.ceil(centre + reach).astype(int) + 1
    part = grey[y0:y1, x0:x1]
    if part.size == 0:
        return _warp(grey, matrix, side), matrix
    height, width = (max(1, round(length * scale)) for length in part.shape)
    from_part = np.column_stack([turn, matrix[:, 2] + turn @ np.array([x0, y0])])
    return _warp(*reduced(part, from_part, (width, height)), side), matrix


def _warp(grey: Grey, matrix: NDArray[np.float64], side: int) -> Grey:
    # Small faces are enlarged a lot: linear interpolation blurs them, which moves their points.
    crop = cv2.warpAffine(
        grey, matrix, (side, side), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(crop, np.uint8)
