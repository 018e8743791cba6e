"""The crops that ``pspnet_portrait`` is trained on, cut once and kept in memory."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from hqvox.phantom.faces import FaceIdentity, Light, Pose, Scene, render_face
from hqvox.phantom.scenery import BACKDROPS
from models.geometry import ALIGNED_LEFT_EYE, IPD_PER_SIDE
from models.store import ModelStore
from models.training.segmentation.crops import (
    Crop,
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
"""Crops are cut this much wider than the aligned one, so that a shifted sample is still photo."""
VAL_PX = 256
BY_HAND, BY_TEACHER, PHANTOM = 0, 1, 2
"""Where a crop's mask comes from."""


@dataclass(frozen=True)
class TrainSet:
    """Training crops (n, CANVAS_PX, CANVAS_PX), RGB where coloured, uint8, with ``kinds`` (n,)
    telling whence their masks come; person-free ``backgrounds``; validation crops of VAL_PX, cut
    exactly as the align stage does. ``of_val`` (n,) and ``background_of_val`` are 1 where a
    training crop or background comes from a validation photograph."""

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
        """Return the set without what comes from validation photographs, to choose on them."""
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


def prepare(data: Path, phantoms: int, cache: Path | None = None) -> TrainSet:
    """Cut the crops of the development data and of ``phantoms`` phantoms.

    The test photographs are never touched. Where the file ``cache`` exists, it is taken instead,
    whatever it was made from; where it does not, it is written.
    """
    if cache is not None and cache.exists():
        with np.load(cache) as stored:
            return TrainSet(**{f.name: stored[f.name] for f in fields(TrainSet)})
    finder = HeadFinder(ModelStore())
    people = read_people(data, finder)
    split = split_people(people)
    crops: list[Crop] = []
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
    crops += phantom_crops(phantoms)
    val = [cut(p, e, VAL_PX) for p in people if split[p.name] == "val" for e in head_eyes(p)]
    rng = np.random.default_rng(0)
    shown = [p for p in people if split[p.name] != "test"]
    free = [(b, split[p.name] == "val") for p in shown for b in person_free(p, rng)]
    made = TrainSet(
        np.stack([c.image for c in crops]),
        np.stack([c.mask for c in crops]),
        np.stack([c.inside for c in crops]),
        np.repeat(np.array([BY_HAND, BY_TEACHER, PHANTOM], np.uint8), [hand, taught, phantoms]),
        np.array(of_val + [False] * (taught + phantoms), np.uint8),
        np.array([b for b, _ in free], np.uint8).reshape(-1, CANVAS_PX, CANVAS_PX, 3),
        np.array([of for _, of in free], np.uint8),
        np.array([c.image for c in val], np.uint8).reshape(-1, VAL_PX, VAL_PX, 3),
        np.array([c.mask for c in val], np.uint8).reshape(-1, VAL_PX, VAL_PX),
    )
    if cache is not None:
        np.savez(cache, **{f.name: getattr(made, f.name) for f in fields(TrainSet)})
    return made


def phantom_crops(count: int, seed: int = 0) -> list[Crop]:
    """Render ``count`` phantoms, one head each, cut like photographs but with exact masks."""
    crops = []
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        size = int(CANVAS_PX * rng.uniform(0.95, 1.4))
        pose = Pose(
            yaw_deg=float(rng.normal(0, 8)),
            pitch_deg=float(rng.normal(0, 5)),
            roll_deg=float(rng.normal(0, 6)),
            eyes_xy=(float(rng.uniform(0.44, 0.56)), float(rng.uniform(0.44, 0.52))),
            ipd_px=IPD_PER_SIDE * CANVAS_PX / MARGIN,
        )
        light = Light(azimuth_deg=float(rng.uniform(-70, 70)), warmth=float(rng.normal(0, 0.3)))
        kind = str(rng.choice(BACKDROPS))
        scene = Scene(pose=pose, width=size, height=size, light=light, backdrop=kind)
        shot = render_face(FaceIdentity.sample(rng), scene, rng)
        eyes = shot.faces[0].pupils_xy
        mask = np.where(shot.mask, 255, 0).astype(np.uint8)
        labelled = LabelledPhoto(f"phantom {i}", shot.image, mask, eyes[None], np.empty((0, 128)))
        crops.append(cut(labelled, eyes, CANVAS_PX, MARGIN))
    return crops


def heads_from_mask(labelled: LabelledPhoto, min_side: int = 80) -> list[NDArray[np.float64]]:
    """Guess where the eyes of people seen whole would be, from their outlines alone.

    A standing adult is some 7 heads tall, and the aligned crop some 1.7 heads wide with the
    crown 0.37 crops above the eyes. For people whose face is turned away or not found.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(labelled.mask, connectivity=4)
    found = []
    for i in range(1, count):
        _, top, width, height, _ = stats[i]
        side = 1.7 * height / 7
        if height > 2 * width and side >= min_side:
            x = float(np.flatnonzero(labels[top + max(1, int(side) // 8)] == i).mean())
            half = side * (0.5 - ALIGNED_LEFT_EYE[0])
            y = top + 0.37 * side
            found.append(np.array([[x - half, y], [x - half + IPD_PER_SIDE * side, y]]))
    return found


def person_free(
    labelled: LabelledPhoto, rng: np.random.Generator, tries: int = 12, keep: int = 3
) -> list[NDArray[np.uint8]]:
    """Cut up to ``keep`` squares without people out of a photo, resampled to CANVAS_PX."""
    height, width = labelled.mask.shape
    found: list[NDArray[np.uint8]] = []
    for _ in range(tries):
        side = int(min(height, width) * rng.uniform(0.3, 0.8))
        y, x = rng.integers(height - side + 1), rng.integers(width - side + 1)
        window = np.s_[y : y + side, x : x + side]
        if side >= 64 and not labelled.mask[window].any() and len(found) < keep:
            size = (CANVAS_PX, CANVAS_PX)
            square = cv2.resize(labelled.photo[window], size, interpolation=cv2.INTER_AREA)
            found.append(np.asarray(square, np.uint8))
    return found
