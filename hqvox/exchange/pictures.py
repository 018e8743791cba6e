"""The pictures of an imported face as a release has them; a missing one is made from the other.

A picture that is a colour JPEG already is copied byte by byte; any other is decoded and
written as one. Where only the one with its background is there, it is cut out here.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hqvox.imaging.codec import UndecodableError, decode, decode_png
from hqvox.imaging.composite import composite_on_white_fast
from hqvox.imaging.pictures import encode_jpeg
from hqvox.release.pictures import FaceCrops, picture_problem
from hqvox.workspace.layout import Workspace
from hqvox.workspace.tables import Row
from models.protocols import Photo

_ORIENTATION_TAG = 0x0112
CUT_OUT, COPIED = "cut out here", "copied from the other"
"""How a picture was made that the tree does not have."""


@dataclass(frozen=True)
class PublishedCrop:
    """The pictures of a face in an imported tree, of which at least one is there."""

    masked: Path | None
    origin: Path | None
    size_px: tuple[int, int]
    """Width and height of both."""
    place: Row
    """``shard``, ``transform`` and where the mask lies, of which any may be null."""

    def crops(self, workspace: Workspace, jpeg_quality: int) -> FaceCrops | str:
        """Both pictures, or a line that says why neither can be used."""
        problems: list[str] = []
        loaded = {}
        for kind, path in (("masked", self.masked), ("origin", self.origin)):
            picture = None if path is None else _load(path, self.size_px, jpeg_quality)
            if isinstance(picture, str):
                problems.append(f"{path}: {picture}; not used")
            elif picture is not None:
                loaded[kind] = picture
        if not loaded:
            return "; ".join(problems)
        made_from = {}
        if "origin" not in loaded:
            loaded["origin"], made_from["origin"] = loaded["masked"], COPIED
        if "masked" not in loaded:
            cut = self._cut_out(workspace, loaded["origin"][1], jpeg_quality)
            loaded["masked"] = cut or loaded["origin"]
            made_from["masked"] = CUT_OUT if cut else COPIED
        (masked, pixels), (origin, _) = loaded["masked"], loaded["origin"]
        return FaceCrops(masked, origin, pixels, made_from, tuple(problems))

    def _cut_out(
        self, workspace: Workspace, pixels: Photo, jpeg_quality: int
    ) -> tuple[bytes, Photo] | None:
        """The picture on white, by the mask of the segment stage; None where there is none."""
        if self.place["mask_offset"] is None or self.place["transform"] is None:
            return None
        stored = workspace.pixels("mask", self.place)
        alpha: NDArray[np.uint8] = decode_png(stored, cv2.IMREAD_GRAYSCALE)
        # The mask is of our own crop of the picture: the inverse of its transform leads back.
        back = cv2.warpAffine(
            alpha,
            np.asarray(self.place["transform"], dtype=np.float64).reshape(2, 3),
            self.size_px,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        masked = composite_on_white_fast(pixels, np.asarray(back, dtype=np.uint8))
        return encode_jpeg(masked, jpeg_quality), masked


def _load(path: Path, size_px: tuple[int, int], quality: int) -> tuple[bytes, Photo] | str:
    """The JPEG and its pixels, or what is wrong with the file."""
    try:
        data = path.read_bytes()
        pixels = decode(data)
    except UndecodableError as error:
        return f"cannot be decoded ({error})"
    except OSError as error:
        return str(error.strerror)
    height, width = pixels.shape[:2]
    if (width, height) != size_px:
        other = f"{size_px[0]} × {size_px[1]}"
        return f"{width} × {height} px where the other picture has {other}"
    if not picture_problem(data, size_px) and _upright(data):
        return data, pixels
    return encode_jpeg(pixels, quality), pixels


def _upright(data: bytes) -> bool:
    with Image.open(io.BytesIO(data)) as image:
        return image.getexif().get(_ORIENTATION_TAG, 1) == 1
