"""Finding faces again in another build: the photograph by its hash, the face by its place.

A rebuild may number a photograph's faces differently (another detector, another score) and shift
their boxes a little; the photograph's bytes stay what they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from annotator.log.decisions import FaceRef

SAME_FACE_IOU = 0.5
"""Boxes of one photograph that overlap at least this much (intersection over union) are one face:
the faces of two people hardly ever reach it, two detectors' boxes of one face usually exceed it."""


def iou(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes (left, top, right, bottom), 0 to 1; 0 for empty ones."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    inner = width * height
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return inner / (areas[0] + areas[1] - inner)


def find_faces(
    refs: Sequence[FaceRef], rows: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any] | None]:
    """Of every reference its row (``photo_id``, ``face``, ``box_xyxy``), None where it is gone.

    A reference takes the row of its photograph whose box overlaps its own most, by at least
    :data:`SAME_FACE_IOU`; each row is given once, to the earlier reference.
    """
    of_photo: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        of_photo.setdefault(row["photo_id"], []).append(row)
    found: list[Mapping[str, Any] | None] = []
    for ref in refs:
        there = of_photo.get(ref.photo_id, [])
        best = max(there, key=lambda row: iou(ref.box_xyxy, row["box_xyxy"]), default=None)
        if best is not None and iou(ref.box_xyxy, best["box_xyxy"]) < SAME_FACE_IOU:
            best = None
        if best is not None:
            of_photo[ref.photo_id] = [row for row in there if row is not best]
        found.append(best)
    return found
