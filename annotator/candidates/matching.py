"""Finding decided faces in another build: the photograph by its hash, the face by its box.

A rebuild may number a photograph's faces differently (another detector, another score) and shift
their boxes a little; the photograph's bytes stay what they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from annotator.log.decisions import FaceRef
from models.geometry import iou

SAME_FACE_IOU = 0.5
"""Boxes of one photograph that overlap at least this much (intersection over union) are one face:
the faces of two people hardly ever reach it, two detectors' boxes of one face usually exceed it."""


def find_faces(
    refs: Sequence[FaceRef], rows: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any] | None]:
    """The row of every reference (``photo_id``, ``face``, ``box_xyxy``), None where it is missing.

    A reference takes the row of its photograph whose box overlaps its own most, by at least
    :data:`SAME_FACE_IOU`; each row is given once, to the earlier reference.
    """
    of_photo: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        of_photo.setdefault(row["photo_id"], []).append(row)
    matches: list[Mapping[str, Any] | None] = []
    for ref in refs:
        rest = of_photo.get(ref.photo_id, [])
        best = max(rest, key=lambda row: iou(ref.box_xyxy, row["box_xyxy"]), default=None)
        if best is not None and iou(ref.box_xyxy, best["box_xyxy"]) < SAME_FACE_IOU:
            best = None
        if best is not None:
            of_photo[ref.photo_id] = [row for row in rest if row is not best]
        matches.append(best)
    return matches
