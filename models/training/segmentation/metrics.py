"""Agreement of a person mask with the true one."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def person_iou(mask: Mask, truth: Mask) -> float:
    """Intersection over union of two boolean masks (height, width); 1 if both are empty."""
    union = int((mask | truth).sum())
    return int((mask & truth).sum()) / union if union else 1.0


def mean_iou(mask: Mask, truth: Mask) -> float:
    """Mean of the person's and the background's intersection over union."""
    return (person_iou(mask, truth) + person_iou(~mask, ~truth)) / 2


def boundary_f(mask: Mask, truth: Mask, tolerance_px: float) -> float:
    """F-score of two masks' outlines, 0 to 1 (Perazzi et al., CVPR 2016, contour accuracy F).

    A point is correct within ``tolerance_px`` of the other outline. 1 if both masks have no
    outline, 0 if only one has none.
    """
    a, b = outline(mask), outline(truth)
    if not a.any() or not b.any():
        return float(a.any() == b.any())
    precision = float((_distance(b)[a] <= tolerance_px).mean())
    recall = float((_distance(a)[b] <= tolerance_px).mean())
    total = precision + recall
    return 2 * precision * recall / total if total else 0.0


def outline(mask: Mask) -> Mask:
    """Pixels of the mask that touch its outside; the picture's border does not count."""
    padded = np.pad(mask.astype(np.uint8), 1, mode="edge")
    inner = cv2.erode(padded, np.ones((3, 3), np.uint8))[1:-1, 1:-1]
    return mask & (inner == 0)


def _distance(points: Mask) -> NDArray[np.float32]:
    free = np.where(points, 0, 255).astype(np.uint8)
    return np.asarray(cv2.distanceTransform(free, cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32)
