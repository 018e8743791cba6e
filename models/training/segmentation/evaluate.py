"""Measure the mask networks: ``python -m models.training.segmentation.evaluate --data DIR``.

Compares head crops of the test photographs of ``data/people``, cut as the align stage cuts them,
with their hand-made masks. Where a crop extends beyond the photo, picture and mask repeat their
edge. IoU and the outline's F-score are computed at 256 px a side, with the mask thresholded at 0.5,
of the network's probability and of the alpha that is solved from it. A pixel is soft whose value is
between 0.05 and 0.95.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from models.errors import ModelError
from models.protocols import PersonMasker, Photo
from models.segmentation import WEIGHTS, load
from models.segmentation.matting import matte
from models.store import ModelStore
from models.training.segmentation.crops import (
    FaceCrop,
    HeadFinder,
    cut,
    head_eyes,
    read_people,
    split_people,
)
from models.training.segmentation.metrics import boundary_f, mean_iou, person_iou

EVALUATION_PX = 256
TOLERANCE_PX = 3.0
"""Tolerance of outline points: 1.2 % of the crop's side, 5 % of the eye distance."""

SOFT = (0.05, 0.95)
"""Alpha of pixels that are neither person nor background."""


@dataclass(frozen=True)
class MaskScore:
    """Figures of one crop, each 0 to 1; ``miou`` is the mean over person and background."""

    miou: float
    person: float
    boundary: float


def held_out_crops(data: Path, store: ModelStore, split: str = "test") -> list[FaceCrop]:
    """Return the head crops of a split of ``data/people``, EVALUATION_PX a side."""
    photos = read_people(data, HeadFinder(store))
    split_of = split_people(photos)
    return [
        cut(photo, eyes, EVALUATION_PX)
        for photo in photos
        if split_of[photo.name] == split
        for eyes in head_eyes(photo)
    ]


def grey(image: Photo) -> Photo:
    """Return the picture in grey, uint8 (height, width, 3)."""
    return np.asarray(cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB))


def predict(masker: PersonMasker, images: list[Photo]) -> NDArray[np.float32]:
    """Return person probability (n, EVALUATION_PX, EVALUATION_PX)."""
    size = (EVALUATION_PX, EVALUATION_PX)
    masks = [cv2.resize(m, size, interpolation=cv2.INTER_AREA) for m in masker(images)]
    return np.stack(masks)


def scores(masks: NDArray[np.float32], crops: list[FaceCrop]) -> list[MaskScore]:
    """Compare each mask, thresholded at 0.5, with that of its crop."""
    made = []
    for probability, crop in zip(masks, crops, strict=True):
        mask, truth = probability > 0.5, crop.mask > 127
        made.append(
            MaskScore(
                mean_iou(mask, truth),
                person_iou(mask, truth),
                boundary_f(mask, truth, TOLERANCE_PX),
            )
        )
    return made


def contact_sheet(
    masks: NDArray[np.float32], crops: list[FaceCrop], count: int = 20, columns: int = 5
) -> Photo:
    """Lay out ``count`` crops, each beside itself on white by its mask, RGB uint8."""
    tiles = []
    for probability, crop in list(zip(masks, crops, strict=True))[:count]:
        alpha = probability[..., None]
        on_white = crop.image * alpha + 255 * (1 - alpha)
        tiles.append(np.hstack([crop.image, on_white.round().astype(np.uint8)]))
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    return np.vstack(rows)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m models.training.segmentation.evaluate", description=__doc__
    )
    parser.add_argument("--data", type=Path, required=True, help="the development data")
    parser.add_argument("--split", choices=("test", "val"), default="test")
    parser.add_argument("--pictures", type=Path, help="write a contact sheet of 20 results (.png)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    store = ModelStore()
    try:
        crops = held_out_crops(args.data, store, args.split)
        print(
            f"{len(crops)} head crops of people/ ({args.split}), {EVALUATION_PX} px, "
            f"outline within {TOLERANCE_PX:g} px"
        )
        for name in WEIGHTS:
            if not store.present(name):
                print(f"{name}: weights not here, not measured")
                continue
            masker = load(name, store, args.device)
            _report(masker, crops, args.pictures if name == "pspnet_portrait" else None)
    except ModelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _report(masker: PersonMasker, crops: list[FaceCrop], pictures: Path | None) -> None:
    for version, change in (("colour", None), ("grey", grey)):
        images = [change(c.image) if change else c.image for c in crops]
        probability = predict(masker, images)
        masks = np.stack(
            [
                matte(np.asarray(i / 255, np.float32), p)
                for i, p in zip(images, probability, strict=True)
            ]
        )
        for kind, values in (("network", probability), ("matted", masks)):
            made = scores(values, crops)
            ious = np.array([s.person for s in made])
            soft = ((values > SOFT[0]) & (values < SOFT[1])).mean()
            print(
                f"{masker.name} {version}, {kind}: person IoU mean {ious.mean():.4f}, median "
                f"{np.median(ious):.4f}, lowest {ious.min():.4f}; mean of person and background "
                f"IoU {np.mean([s.miou for s in made]):.4f}; boundary F "
                f"{np.mean([s.boundary for s in made]):.4f}; soft pixels {soft:.1%}"
            )
        if pictures is not None and change is None:
            sheet = contact_sheet(masks, crops)
            if not cv2.imwrite(str(pictures), np.ascontiguousarray(sheet[..., ::-1])):
                raise ModelError(
                    f"{pictures}: cannot be written; give a .png in a folder that exists"
                )


if __name__ == "__main__":
    raise SystemExit(main())
