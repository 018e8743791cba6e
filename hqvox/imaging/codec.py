"""Decoding of crawled photographs to upright sRGB pixels, and lossless PNG for stored crops.

Pillow decodes photographs; what it cannot decode raises :class:`UndecodableError`. Only formats
that photographs come in are opened. Types and sizes are read from the header, without decoding.
Colours with an embedded profile (Adobe RGB, Display P3, CMYK) are converted to sRGB.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import pillow_heif
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from models.protocols import Photo

Image.init()
pillow_heif.register_heif_opener(thumbnails=False)
FORMATS = tuple(
    name
    for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF", "JPEG2000")
    if name in Image.OPEN
)
"""Pillow's names of the formats that are opened, of those that this Pillow supports."""

# Pixel limits are the download stage's, checked on the header against the configuration.
Image.MAX_IMAGE_PIXELS = None

_ORIENTATION_TAG = 0x0112
_PNG_FAST = [cv2.IMWRITE_PNG_COMPRESSION, 1]


class UndecodableError(Exception):
    """The photo's bytes cannot be decoded; ``str()`` says why."""


@dataclass(frozen=True)
class Header:
    """Media type and upright size in pixels, read from the header."""

    media_type: str
    width_px: int
    height_px: int


def read_header(data: bytes) -> Header:
    """Type and upright size from the header alone. Raises UndecodableError."""
    with _open(data) as image:
        width, height = image.size
        if _orientation(image) >= 5:
            width, height = height, width
        media_type = Image.MIME.get(image.format or "", "image/unknown")
        return Header("image/jpeg" if image.format == "MPO" else media_type, width, height)


def decode(data: bytes, max_side_px: int | None = None) -> Photo:
    """Decode to upright uint8 RGB (height, width, 3), reduced to ``max_side_px`` if larger.

    Transparent parts become white, 16-bit samples are scaled to 8, and of an animation the first
    frame is taken. Colours are converted to sRGB by the embedded profile; a damaged profile is
    ignored. JPEGs are decoded at a reduced scale where that is enough. Raises UndecodableError.
    """
    with _open(data) as image:
        try:
            if max_side_px is not None and max(image.size) > max_side_px:
                factor = max_side_px / max(image.size)
                wanted = (int(image.width * factor) or 1, int(image.height * factor) or 1)
                # Twice the size: DCT scaling alone aliases, the area average below smooths it.
                image.draft("RGB", (wanted[0] * 2, wanted[1] * 2))
            image.load()
            upright = ImageOps.exif_transpose(image)
            pixels = np.ascontiguousarray(np.asarray(_to_rgb(_to_srgb(upright))))
        except _DECODER_ERRORS as error:
            raise UndecodableError(str(error) or type(error).__name__) from None
    return reduce_to(pixels, max_side_px) if max_side_px is not None else pixels


def reduce_to(pixels: Photo, max_side_px: int) -> Photo:
    """Area-average a picture down to a longer side of ``max_side_px``; smaller ones stay."""
    height, width = pixels.shape[:2]
    if max(height, width) <= max_side_px:
        return pixels
    factor = max_side_px / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


# What Pillow's decoders raise on damaged files; MemoryError comes from absurd sizes inside.
_DECODER_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    TypeError,
    KeyError,
    IndexError,
    OverflowError,
    AttributeError,
    RuntimeError,
    ZeroDivisionError,
    MemoryError,
)


def _open(data: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged EXIF warns; the pixels are what counts
            return Image.open(io.BytesIO(data), formats=FORMATS)
    except _DECODER_ERRORS as error:
        raise UndecodableError(str(error) or type(error).__name__) from None


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except _DECODER_ERRORS:
        return 1  # damaged EXIF: the picture stays as it is stored
    return value if isinstance(value, int) else 1


_PROFILED = {"RGB": "RGB", "RGBA": "RGBA", "L": "RGB", "CMYK": "RGB"}
"""Pixel modes whose colours a profile describes, and the mode of the converted picture."""
_SPACES = {"RGB": "RGB", "RGBA": "RGB", "L": "GRAY", "CMYK": "CMYK"}
_SAME_COLOUR = 1
"""Levels that a profile may move a colour by and still count as sRGB itself."""


def srgb_profile() -> bytes:
    """ICC profile of sRGB for pictures that are written; the same bytes every time."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[24:36] = bytes(12)  # the time at which it was made
    return bytes(profile)


def _to_srgb(image: Image.Image) -> Image.Image:
    """The picture in sRGB by its embedded profile; unchanged without a usable one."""
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or not profile:
        return image
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if image.mode not in _PROFILED:
        return image
    conversion = _conversion(profile, image.mode)
    if conversion is None:
        return image
    converted = ImageCms.applyTransform(image, conversion)
    return image if converted is None else converted


@lru_cache(maxsize=16)
def _conversion(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """How colours of a profile become sRGB; None where they are already, or it is damaged."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != _SPACES[mode]:
            return None
        conversion = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            _PROFILED[mode],
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        if mode in ("RGB", "L"):
            shades = _SHADES.convert(mode)
            moved = np.asarray(ImageCms.applyTransform(shades, conversion), dtype=np.int16)
            if np.abs(moved - np.asarray(shades.convert("RGB"))).max() <= _SAME_COLOUR:
                return None  # pixels that are sRGB keep their bits
    except (ImageCms.PyCMSError, *_DECODER_ERRORS):
        return None
    return conversion


_SHADES = Image.fromarray(
    (np.indices((6, 6, 6)) * 51).reshape(3, 6, 36).transpose(1, 2, 0).astype(np.uint8)
)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        samples = np.asarray(image, dtype=np.float64)
        top = 65535.0 if samples.max(initial=0) > 255 else 255.0
        grey = np.clip(samples / top * 255.0 + 0.5, 0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def encode_png(pixels: NDArray) -> bytes:
    """Lossless PNG of a BGR or grey uint8 array, compressed fast."""
    done, buffer = cv2.imencode(".png", np.ascontiguousarray(pixels), _PNG_FAST)
    assert done
    return buffer.tobytes()


def decode_png(data: bytes, flag: int = cv2.IMREAD_COLOR_RGB) -> NDArray[np.uint8]:
    """Pixels of a stored PNG, RGB by default, grey with ``cv2.IMREAD_GRAYSCALE``."""
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), flag), dtype=np.uint8)
