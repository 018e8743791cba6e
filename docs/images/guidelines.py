"""Phantom faces that keep the four guidelines for a good face, and some that do not.

python docs/images/guidelines.py [--out docs/images]

writes guideline-{angle,light,expression,background}.jpg, as docs/review.md shows them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from hqvox.imaging.composite import composite_on_white
from hqvox.imaging.pictures import KEPT, REFUSED, SheetRow, Tile, contact_sheet, encode_jpeg
from hqvox.phantom.faces import Light, PhantomPhoto, Pose, Scene, render_face
from hqvox.phantom.world import cast
from models.geometry import aligned_transform, eye_centres

SIDE_PX = 200
PHOTO_PX = 640
SEED = 7
JPEG_QUALITY = 86


@dataclass(frozen=True)
class Example:
    """A photograph, what is to be said of it, and how its mask is spoilt, if it is."""

    caption: str
    good: bool
    yaw_deg: float = 0.0
    pitch_deg: float = 0.0
    expression: str = "neutral"
    azimuth_deg: float = 12.0
    key: float = 0.72
    ambient: float = 0.46
    exposure: float = 1.0
    mask: str = ""


GUIDELINES: dict[str, Sequence[Example]] = {
    "angle": (
        Example("straight on", True),
        Example("3° to the side", True, yaw_deg=3),
        Example("turned by 12°", False, yaw_deg=12),
        Example("turned by 25°", False, yaw_deg=-25),
        Example("looks up by 14°", False, pitch_deg=14),
        Example("looks down by 14°", False, pitch_deg=-14),
    ),
    "light": (
        Example("even", True),
        Example("a soft slope", True, azimuth_deg=-20),
        Example("half in shadow", False, azimuth_deg=78, key=1.15, ambient=0.1),
        Example("hard light", False, azimuth_deg=-60, key=1.3, ambient=0.12),
        Example("burnt out", False, exposure=2.6),
        Example("too dark", False, exposure=0.16),
    ),
    "expression": (
        Example("neutral", True),
        Example("a slight smile", True, expression="slight_smile"),
        Example("laughs", False, expression="happiness"),
        Example("surprised", False, expression="surprise"),
        Example("angry", False, expression="anger"),
        Example("sad", False, expression="sadness"),
    ),
    "background": (
        Example("all of the person", True),
        Example("nothing but white", True),
        Example("background left", False, mask="wide"),
        Example("hair and ears cut", False, mask="narrow"),
        Example("a piece is missing", False, mask="hole"),
        Example("something beside", False, mask="beside"),
    ),
}


def picture(example: Example, number: int) -> NDArray[np.uint8]:
    """The aligned face on white, as annotators see it, uint8 RGB."""
    people = cast(SEED, 6)
    scene = Scene(
        pose=Pose(example.yaw_deg, example.pitch_deg, 0.0, (0.5, 0.45), 120.0, example.expression),
        width=PHOTO_PX,
        height=PHOTO_PX,
        light=Light(
            azimuth_deg=example.azimuth_deg,
            elevation_deg=26,
            key=example.key,
            ambient=example.ambient,
        ),
        exposure=example.exposure,
        backdrop="shelves" if example.mask else "studio",
    )
    photo = render_face(people[number], scene, np.random.default_rng([SEED, number]))
    return aligned_on_white(photo, example.mask)


def aligned_on_white(photo: PhantomPhoto, spoilt: str = "") -> NDArray[np.uint8]:
    """Cut as the align stage does, and put on white by the true mask, or by one that is spoilt."""
    matrix, side = aligned_transform(eye_centres(photo.faces[0].landmarks_xy))
    size = (round(side), round(side))
    crop = cv2.warpAffine(photo.image, matrix, size, borderMode=cv2.BORDER_REPLICATE)
    mask = photo.mask.astype(np.uint8) * 255
    alpha = np.asarray(cv2.warpAffine(mask, matrix, size), np.uint8)
    alpha = spoil(alpha, spoilt)
    alpha = np.asarray(cv2.GaussianBlur(alpha, (0, 0), size[0] / 250), np.uint8)
    return composite_on_white(np.asarray(crop, np.uint8), alpha)


def spoil(alpha: NDArray[np.uint8], how: str) -> NDArray[np.uint8]:
    """A mask (side, side) as a bad segmentation would have it."""
    side = len(alpha)
    reach = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side // 6, side // 6))
    spoilt = alpha.copy()
    if how == "wide":
        spoilt = np.asarray(cv2.dilate(alpha, reach), np.uint8)
    elif how == "narrow":
        spoilt = np.asarray(cv2.erode(alpha, reach), np.uint8)
    elif how == "hole":
        cv2.ellipse(spoilt, (side * 2 // 3, side // 4), (side // 6, side // 5), 0, 0, 360, 0, -1)
    elif how == "beside":
        cv2.rectangle(spoilt, (0, side // 5), (side // 6, side), 255, -1)
    return spoilt


def main() -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(description="Make the pictures of docs/review.md.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    folder = parser.parse_args().out
    for name, examples in GUIDELINES.items():
        tiles = [
            Tile(picture(example, number), [example.caption], KEPT if example.good else REFUSED)
            for number, example in enumerate(examples)
        ]
        sheet = contact_sheet([SheetRow("", tiles)], columns=len(tiles), side_px=SIDE_PX)
        (folder / f"guideline-{name}.jpg").write_bytes(encode_jpeg(sheet, JPEG_QUALITY))


if __name__ == "__main__":
    main()
