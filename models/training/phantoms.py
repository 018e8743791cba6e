"""Rendered people as training samples, read from a folder of ``truth.json`` and PNG pictures.

``python -m hqvox.phantom.samples KIND --out DIR`` writes such a folder; its docstring gives the
layout. Here the folder is only read, so that a training depends on files and not on the renderer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from models.errors import ModelError
from models.protocols import Photo

FORMAT = 1


@dataclass(frozen=True)
class PhantomSample:
    """A rendered picture of one person, with the truth.

    ``picture``: uint8 RGB (height, width, 3); ``mask``: uint8 (height, width) of 0 and 255, or
    None in a folder without masks; ``pupils_xy``: float64 (2, 2), left in the picture first;
    ``landmarks_xy``: float64 (68, 2), iBUG's order; both in pixels, (0, 0) the centre of the
    top-left one. Angles in degrees: ``yaw_deg`` > 0 turns to the picture's right, ``pitch_deg`` > 0
    looks up, ``roll_deg`` > 0 tips clockwise. The head is pitched first, then turned, then rolled.
    """

    name: str
    picture: Photo
    mask: NDArray[np.uint8] | None
    pupils_xy: NDArray[np.float64]
    landmarks_xy: NDArray[np.float64]
    yaw_deg: float
    pitch_deg: float
    roll_deg: float


def read_phantoms(folder: Path, kind: str) -> Iterator[PhantomSample]:
    """Yield the samples of a folder in order, decoding one picture at a time.

    ``kind``: ``masks`` or ``landmarks``. Raises ModelError, before the first sample, where the
    folder is missing, incomplete or of another kind, and at a picture that cannot be read.
    """
    remedy = f"write it with `python -m hqvox.phantom.samples {kind} --out {folder}`"
    try:
        truth = json.loads((folder / "truth.json").read_text("utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{folder}: no truth.json; {remedy}") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / 'truth.json'}: cannot be read ({error}); {remedy}") from None
    if truth.get("format") != FORMAT or truth.get("kind") != kind:
        raise ModelError(f"{folder}: does not hold samples of {kind}; {remedy}")
    return (_sample(folder, row, remedy) for row in truth["samples"])


def _sample(folder: Path, row: dict[str, Any], remedy: str) -> PhantomSample:
    picture = _pixels(folder / row["picture"], cv2.IMREAD_COLOR, remedy)
    mask = _pixels(folder / row["mask"], cv2.IMREAD_GRAYSCALE, remedy) if "mask" in row else None
    return PhantomSample(
        row["picture"],
        np.ascontiguousarray(picture[..., ::-1]),
        mask,
        np.array(row["pupils_xy"], dtype=np.float64),
        np.array(row["landmarks_xy"], dtype=np.float64),
        row["yaw_deg"],
        row["pitch_deg"],
        row["roll_deg"],
    )


def _pixels(file: Path, flags: int, remedy: str) -> NDArray[np.uint8]:
    pixels = cv2.imread(str(file), flags)
    if pixels is None:
        raise ModelError(f"{file}: missing or not a picture; {remedy}")
    return np.asarray(pixels, np.uint8)
