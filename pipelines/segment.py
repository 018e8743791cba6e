"""The person, cut out: a soft mask, and the crop blended onto white by it.

The network's probability is cleaned at its own scale: other people of the photo are cut away, of
what is left the piece that holds the face is kept, and holes in it are filled. Where the network is
not certain near the outline, alpha is solved from the picture (:mod:`models.segmentation.matting`).
A guided filter (He, Sun, Tang: Guided Image Filtering, 2013) then carries alpha to the crop's
resolution along the picture's own edges.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

import models.segmentation
from hqvox.config.build import SegmentConfig
from hqvox.workspace.tables import Row
from models.geometry import apply_transform
from models.protocols import PersonMasker, Photo
from models.segmentation.matting import BACKGROUND_BELOW, PERSON_ABOVE, matte
from models.store import ModelStore
from pipelines.faces import compute_device, landmarks_of
from pipelines.stage import Pixels, Stage

Mask = NDArray[np.bool_]
Map = NDArray[np.float32]

_HOLE_FRACTION = 0.004
"""Holes up to this share of the crop are filled wherever they are; in the face always."""
_BODY_REACH = 3.0
"""How far below a face its body claims pixels, in face heights."""
_SAME_FACE_IOU = 0.4
_BAND = 0.05
"""How far from the outline alpha may be between 0 and 1, in sides of the mask."""
_RADIUS_PX = 2
_COLOUR_VARIANCE = 1e-4
"""Radius of the guided filter's windows in the mask, and what is added to their variance."""
_HAZE = 0.1
"""Alpha below it becomes 0, and alpha above one minus it 1."""


def _resize(picture: cv2.typing.MatLike, side_px: int, interpolation: int) -> Map:
    size = (side_px, side_px)
    return np.asarray(cv2.resize(picture, size, interpolation=interpolation), dtype=np.float32)


def face_hull(landmarks_xy: NDArray[np.floating], size_px: int) -> Mask:
    """Convex hull of landmarks (68, 2), in pixels of a square map of ``size_px``."""
    canvas = np.zeros((size_px, size_px), dtype=np.uint8)
    hull = cv2.convexHull(np.round(np.asarray(landmarks_xy) * 8).astype(np.int32))
    cv2.fillConvexPoly(canvas, hull, 1, shift=3)
    return canvas.astype(bool)


def edge_confidence(probability: Map) -> float:
    """Mean certainty ``|2p - 1|`` within 3 % of the side of the outline p = 0.5, 0 without one."""
    person = (probability > 0.5).astype(np.uint8)
    reach = 2 * max(1, round(0.03 * len(probability))) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    band = cv2.dilate(person, kernel) != cv2.erode(person, kernel)
    return float(np.abs(2 * probability[band] - 1).mean()) if band.any() else 0.0


def own_territory(
    box_xyxy: NDArray[np.floating], others_xyxy: NDArray[np.floating], size_px: int
) -> Mask:
    """Where pixels are nearer to this face and the body below it than to any other face.

    ``box_xyxy`` (4,) and ``others_xyxy`` (n, 4) in pixels of a square map of ``size_px``. A person
    is taken as a line from the middle of the face down, three face heights long (one's own: to
    the foot of the crop), and distances count in face widths: two people side by side are parted
    midway between them. Boxes that overlap one's own by more than 0.4 are the same face.
    """
    grid_y, grid_x = np.indices((size_px, size_px), dtype=np.float32)

    def distance(box: NDArray[np.floating], reach: float) -> Map:
        width, height = float(box[2] - box[0]), float(box[3] - box[1])
        x, y = float(box[0] + box[2]) / 2, float(box[1] + box[3]) / 2
        down = np.clip(grid_y, y, y + reach * height)
        return np.asarray(np.hypot(grid_x - x, grid_y - down) / max(width, 1e-3), np.float32)

    own = distance(box_xyxy, np.inf)
    territory = np.ones((size_px, size_px), dtype=bool)
    for other in others_xyxy:
        corner = np.maximum(box_xyxy[:2], other[:2])
        overlap = float(np.prod(np.maximum(np.minimum(box_xyxy[2:], other[2:]) - corner, 0)))
        areas = [float(np.prod(box[2:] - box[:2])) for box in (box_xyxy, other)]
        if overlap <= _SAME_FACE_IOU * (sum(areas) - overlap):
            territory &= own <= distance(other, _BODY_REACH)
    return territory


def clean(probability: Map, hull: Mask, territory: Mask) -> Map:
    """Keep the one person whose face is ``hull``: others removed, holes filled; all (n, n)."""
    own = np.where(territory, probability, 0).astype(np.float32)
    person = ((own > 0.5) | hull).astype(np.uint8)
    _, labels = cv2.connectedComponents(person, connectivity=4)
    mine = labels == np.bincount(labels[hull]).argmax() if hull.any() else person.astype(bool)
    _, holes, stats, _ = cv2.connectedComponentsWithStats((~mine).astype(np.uint8), connectivity=4)
    filled, healed = mine.copy(), ~mine & hull
    size = len(probability)
    for label, (left, top, width, height, area) in enumerate(stats):
        at_border = left == 0 or top == 0 or left + width == size or top + height == size
        if label > 0 and not at_border and area <= _HOLE_FRACTION * size**2:
            filled |= holes == label
            healed |= holes == label
    # Within the piece that is kept the network's doubts must not show through: only a band along
    # its outline is soft, and that not where a hole was healed.
    reach = 2 * max(2, round(_BAND * size)) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    band = cv2.dilate(filled.astype(np.uint8), kernel) != cv2.erode(filled.astype(np.uint8), kernel)
    near_hole = cv2.dilate(healed.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    firm = filled & (~band | near_hole | (own <= 0.5) | _enclosed(filled, own))
    return np.where(firm, 1.0, np.where(band, own, 0)).astype(np.float32)


def _enclosed(filled: Mask, own: Map) -> Mask:
    """Uncertain pixels of a piece that no certain background, and no other piece, touches."""
    unknown = (own > BACKGROUND_BELOW) & (own < PERSON_ABOVE)
    outside = ~filled & ~unknown
    _, labels = cv2.connectedComponents(unknown.astype(np.uint8), connectivity=8)
    touched = labels[cv2.dilate(outside.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0]
    return unknown & filled & ~np.isin(labels, touched)


def refine(crop: Photo, probability: Map) -> Map:
    """Carry a clean mask (n, n) to the resolution of the crop, along the crop's edges.

    Alpha is solved at the mask's resolution, or at the crop's if that is lower. Returns alpha,
    float32 of the crop's size, 0 to 1.
    """
    side, size = len(crop), min(len(probability), len(crop))
    full: Map = np.asarray(crop.astype(np.float32) / 255, np.float32)
    guide = full if size == side else _resize(full, size, cv2.INTER_AREA)
    if size < len(probability):
        probability = _resize(probability, size, cv2.INTER_AREA)
    small = matte(guide, probability)
    if size == side:
        return _firm(small)
    slope, offset = _guided_coefficients(guide, small, _RADIUS_PX, _COLOUR_VARIANCE)
    alpha = _resize(offset, side, cv2.INTER_LINEAR)
    for channel in range(3):
        alpha += _resize(slope[..., channel], side, cv2.INTER_LINEAR) * full[..., channel]
    # The filter may leak along similar colours: away from the solved outline it does not count.
    kernel = np.ones((3, 3), np.uint8)
    low, high = (
        _resize(bound, side, cv2.INTER_LINEAR)
        for bound in (cv2.erode(small, kernel), cv2.dilate(small, kernel))
    )
    return _firm(np.clip(alpha, low, np.maximum(high, low)))


def _firm(alpha: Map) -> Map:
    """Alpha with its ends at 0 and 1: haze over the background and dips in the person removed."""
    return np.asarray(np.clip((alpha - _HAZE) / (1 - 2 * _HAZE), 0, 1), dtype=np.float32)


def _guided_coefficients(guide: Map, target: Map, radius: int, eps: float) -> tuple[Map, Map]:
    """Local linear model target ≈ slope · colour + offset, averaged over all windows."""
    window = (2 * radius + 1, 2 * radius + 1)

    def mean(x: Map) -> Map:
        return np.asarray(cv2.boxFilter(x, -1, window), dtype=np.float32)

    mean_guide, mean_target = mean(guide), mean(target)
    products = np.stack([guide[..., i] * guide[..., j] for i in range(3) for j in range(3)], -1)
    # OpenCV filters at most 4 channels at a time.
    second = np.stack([mean(products[..., k]) for k in range(9)], -1).reshape(*target.shape, 3, 3)
    covariance = second - mean_guide[..., :, None] * mean_guide[..., None, :]
    cross = mean(guide * target[..., None]) - mean_guide * mean_target[..., None]
    slope = np.linalg.solve(covariance + eps * np.eye(3, dtype=np.float32), cross[..., None])
    slope = slope[..., 0].astype(np.float32)
    offset = mean_target - (slope * mean_guide).sum(axis=-1)
    return mean(slope), mean(offset)


def inside_photo(
    transform: NDArray[np.floating], photo_size_px: tuple[int, int], side_px: int
) -> Map:
    """Share of each crop pixel that lies within the photo (width, height), (side, side), 0 to 1."""
    inverse = cv2.invertAffineTransform(np.asarray(transform, dtype=np.float64))
    grid_y, grid_x = np.indices((side_px, side_px), dtype=np.float64)
    inside = np.ones((side_px, side_px))
    for axis, length in enumerate(photo_size_px):
        at = inverse[axis, 0] * grid_x + inverse[axis, 1] * grid_y + inverse[axis, 2]
        inside *= np.clip(at + 1, 0, 1) * np.clip(length - at, 0, 1)
    return inside.astype(np.float32)


class SegmentStage(Stage):
    """Makes the mask of the aligned crop; refuses a face that it does not separate well."""

    name = "segment"
    reads = (
        "width_px",
        "height_px",
        "box_xyxy",
        "other_boxes_xyxy",
        "landmarks_xy",
        "transform",
        "crop_side_px",
        "aligned_offset",
        "aligned_bytes",
    )
    writes = (
        "person_fraction",
        "face_coverage",
        "edge_confidence",
        "mask_offset",
        "mask_bytes",
    )
    reasons = ("not_segmented",)
    version = 2
    config: SegmentConfig
    masker: PersonMasker

    def __init__(self, config: SegmentConfig, store: ModelStore) -> None:
        super().__init__(config, store)
        self.networks = models.segmentation.WEIGHTS[config.network]

    def load(self) -> None:
        """Load the mask network."""
        self.masker = models.segmentation.load(self.config.network, self.store, compute_device())

    def measure(self, rows: Sequence[Row], pixels: Pixels) -> list[Row]:
        """Mask all crops at once; measure how well the face is covered and the outline known."""
        if not rows:
            return []
        crops = [pixels.aligned(row) for row in rows]
        for row, crop, probability in zip(rows, crops, self.masker(crops), strict=True):
            alpha = self._mask(row, crop, np.asarray(probability, dtype=np.float32))
            row["person_fraction"] = float(alpha.mean() / 255)
            pixels.keep_mask(row, alpha)
        return list(rows)

    def _mask(self, row: Row, crop: Photo, probability: Map) -> NDArray[np.uint8]:
        """Alpha of one crop; also sets ``face_coverage`` and ``edge_confidence``."""
        size, side = len(probability), len(crop)
        transform = np.asarray(row["transform"], dtype=np.float64).reshape(2, 3)

        def to_map(xy: NDArray[np.floating]) -> NDArray[np.float64]:
            return (apply_transform(transform, xy) + 0.5) * (size / side) - 0.5

        def box_to_map(box: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
            # A box turned with the crop stays a box: its middle moves, its size is scaled.
            low, high = np.asarray(box, dtype=np.float64).reshape(2, 2)
            middle = to_map((low + high) / 2)
            scale = float(np.hypot(transform[0, 0], transform[1, 0])) * size / side
            return np.concatenate(
                [middle - (high - low) / 2 * scale, middle + (high - low) / 2 * scale]
            )

        hull = face_hull(to_map(landmarks_of(row)), size)
        row["face_coverage"] = float((probability[hull] > 0.5).mean()) if hull.any() else 0.0
        row["edge_confidence"] = edge_confidence(probability)
        others = np.asarray(row["other_boxes_xyxy"] or [], dtype=np.float64).reshape(-1, 4)
        territory = own_territory(
            box_to_map(row["box_xyxy"]), np.array([box_to_map(box) for box in others]), size
        )
        alpha = refine(crop, clean(probability, hull, territory))
        alpha *= inside_photo(transform, (row["width_px"], row["height_px"]), side)
        return np.asarray(np.rint(alpha * 255), dtype=np.uint8)
