"""The crops that ``pspnet_portrait`` is trained on, cut once and held in memory."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from models.geometry import ALIGNED_LEFT_EYE, IPD_PER_SIDE
from models.store import ModelStore
from models.training.phantoms import read_phantoms
from models.training.segmentation.crops import (
    FaceCrop,
    HeadFinder,
    LabelledPhoto,
    cut,
    head_eyes,
    read_people,
    read_teacher,
    split_people,
)

CANVAS_PX = 288
MARGIN = 1.25
"""Crops are cut this much wider than the aligned one, so that a shifted sample shows photograph."""
VAL_PX = 256
BY_HAND, BY_TEACHER, PHANTOM = 0, 1, 2
"""Source of a crop's mask."""


@dataclass(frozen=True)
class TrainSet:
    """Training and validation crops, all uint8.

    ``images`` (n, CANVAS_PX, CANVAS_PX, 3), RGB; ``masks`` and ``inside`` (n, CANVAS_PX,
    CANVAS_PX), 0 to 255, as in :class:`~models.training.segmentation.crops.Crop`; ``kinds`` (n,),
    the source of each mask: BY_HAND, BY_TEACHER or PHANTOM; ``backgrounds`` (m, CANVAS_PX,
    CANVAS_PX, 3), RGB, without people; ``val_images`` and ``val_masks``, VAL_PX a side, cut exactly
    as the align stage cuts. ``of_val`` (n,) and ``background_of_val`` (m,) are 1 where a training
    crop or a background comes from a validation photograph.
    """

    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    inside: NDArray[np.uint8]
    kinds: NDArray[np.uint8]
    of_val: NDArray[np.uint8]
    backgrounds: NDArray[np.uint8]
    background_of_val: NDArray[np.uint8]
    val_images: NDArray[np.uint8]
    val_masks: NDArray[np.uint8]

    def without_val(self) -> TrainSet:
        """Return the set without crops and backgrounds of validation photographs."""
        kept, free = self.of_val == 0, self.background_of_val == 0
        return replace(
            self,
            images=self.images[kept],
            masks=self.masks[kept],
            inside=self.inside[kept],
            kinds=self.kinds[kept],
            of_val=self.of_val[kept],
            backgrounds=self.backgrounds[free],
            background_of_val=self.background_of_val[free],
        )


def prepare(data: Path, phantoms: Path, cache: Path | None = None) -> TrainSet:
    """Cut the crops of the development data and of the rendered samples in folder ``phantoms``.

    The test photographs are never read. If the file ``cache`` exists, the set is loaded from it,
    whatever it was made from; if not, it is written. Raises ModelError for missing or unreadable
    data.
    """
    if cache is not None and cache.exists():
        with np.load(cache) as stored:
            return TrainSet(**{f.name: stored[f.name] for f in fields(TrainSet)})
    finder = HeadFinder(ModelStore())
    people = read_people(data, finder)
    split = split_people(people)
    crops: list[FaceCrop] = []
    of_val: list[bool] = []
    for labelled in people:
        if split[labelled.name] != "test":
            eyes = head_eyes(labelled) or heads_from_mask(labelled)
            crops += [cut(labelled, e, CANVAS_PX, MARGIN) for e in eyes]
            of_val += [split[labelled.name] == "val"] * len(eyes)
    hand = len(crops)
    for labelled in read_teacher(data, finder):
        crops += [cut(labelled, e, CANVAS_PX, MARGIN) for e in head_eyes(labelled)[:1]]
    taught = len(crops) - hand
    rendered = phantom_crops(phantoms)
    crops += rendered
    val = [cut(p, e, VAL_PX) for p in people if split[p.name] == "val" for e in head_eyes(p)]
    rng = np.random.default_rng(0)
    shown = [p for p in people if split[p.name] != "test"]
    free = [(b, split[p.name] == "val") for p in shown for b in person_free(p, rng)]
    made = TrainSet(
        np.stack([c.image for c in crops]),
        np.stack([c.mask for c in crops]),
        np.stack([c.inside for c in crops]),
        np.repeat(
            np.array([BY_HAND, BY_TEACHER, PHANTOM], np.uint8), [hand, taught, len(rendered)]
        ),
        np.array(of_val + [False] * (taught + len(rendered)), np.uint8),
        np.array([b for b, _ in free], np.uint8).reshape(-1, CANVAS_PX, CANVAS_PX, 3),
        np.array([of for _, of in free], np.uint8),
        np.array([c.image for c in val], np.uint8).reshape(-1, VAL_PX, VAL_PX, 3),
        np.array([c.mask for c in val], np.uint8).reshape(-1, VAL_PX, VAL_PX),
    )
    if cache is not None:
        np.savez(cache, **{f.name: getattr(made, f.name) for f in fields(TrainSet)})
    return made


def phantom_crops(folder: Path) -> list[FaceCrop]:
    """Cut the head of every rendered sample in ``folder`` like a photograph's, with its exact mask.

    Raises ModelError where the folder holds no samples of masks.
    """
    crops = []
    for sample in read_phantoms(folder, "masks"):
        assert sample.mask is not None
        eyes = sample.pupils_xy
        labelled = LabelledPhoto(
            sample.name, sample.picture, sample.mask, eyes[None], np.empty((0, 128))
        )
        crops.append(cut(labelled, eyes, CANVAS_PX, MARGIN))
    return crops


def heads_from_mask(labelled: LabelledPhoto, min_side: int = 80) -> list[NDArray[np.float64]]:
    """Estimate the eyes (2, 2) of people shown at full length, from their outlines alone.

    For people whose face is turned away or was not detected. A standing adult is about 7 heads
    tall; the aligned crop is about 1.7 heads wide, with the crown 0.37 crops above the eyes.
    Outlines that give a crop below ``min_side`` pixels are left out.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(labelled.mask, connectivity=4)
    eyes = []
    for i in range(1, count):
        _, top, width, height, _ = stats[i]
        side = 1.7 * height / 7
        if height > 2 * width and side >= min_side:
            x = float(np.flatnonzero(labels[top + max(1, int(side) // 8)] == i).mean())
            half = side * (0.5 - ALIGNED_LEFT_EYE[0])
            y = top + 0.37 * side
            eyes.append(np.array([[x - half, y], [x - half + IPD_PER_SIDE * side, y]]))
    return eyes


def person_free(
    labelled: LabelledPhoto, rng: np.random.Generator, tries: int = 12, keep: int = 3
) -> list[NDArray[np.uint8]]:
    """Return up to ``keep`` squares (CANVAS_PX, CANVAS_PX, 3) of a photo that show no person."""
    height, width = labelled.mask.shape
    squares: list[NDArray[np.uint8]] = []
    for _ in range(tries):
        side = int(min(height, width) * rng.uniform(0.3, 0.8))
        y, x = rng.integers(height - side + 1), rng.integers(width - side + 1)
        window = np.s_[y : y + side, x : x + side]
        if side >= 64 and not labelled.mask[window].any() and len(squares) < keep:
            size = (CANVAS_PX, CANVAS_PX)
            square = cv2.resize(labelled.photo[window], size, interpolation=cv2.INTER_AREA)
            squares.append(np.asarray(square, np.uint8))
    return squares
