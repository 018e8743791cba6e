"""Faces from any audio file, whose speech is prepared as in a data set."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hqvox.errors import HqvoxError
from hqvox.imaging.pictures import encode_jpeg
from hqvox.speech.utterance import speech_of
from hqvox.trainer.checkpoint import Loaded
from hqvox.trainer.evaluate import fuse
from hqvox.trainer.sampler import REPEATED_FRAMES
from hqvox.trainer.speech_input import STRIDE_FRAMES, WINDOW_FRAMES, Normaliser
from hqvox.workspace.storage import Storage
from models.enhancement.gfpgan import FaceEnhancer
from models.protocols import Photo
from models.sf2f.colour import from_unit, to_unit

WINDOWS_AT_ONCE = 64
"""Windows that are decoded in one batch."""
PICTURES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class GeneratedFace:
    """Faces generated from a file's speech; RGB uint8 (px, px, 3)."""

    face: Photo
    windows: list[Photo]
    """Each window's face, in order; empty where they were not asked for."""
    whole: Photo | None
    """The face where the encoder hears the speech whole, without windows; as ``windows``."""
    seconds: float
    """Length of the speech, after voice activity detection."""
    n_windows: int
    fused_by: str
    """How the windows' embeddings were joined, in words."""


def generate_face(
    loaded: Loaded, audio: Path, *, windows: bool = False, enhance: FaceEnhancer | None = None
) -> GeneratedFace:
    """Generate the face of a file's speech. ``windows``: also the others of figure 4 (section 4).

    These are the face of each window, and the face of the speech heard whole, I_d.

    ``enhance``: what enhances the faces; they then have its side.
    Raises HqvoxError, in one line, for a file that is no audio or holds no speech.
    """
    normaliser = normaliser_of(loaded)
    log_mel, seconds = speech_of(audio, loaded.spec.n_filters, front_end=normaliser.front_end)
    generator = loaded.generator
    device = next(generator.parameters()).device
    fused_by = "the fuser" if generator.fuser is not None else "the mean of their embeddings"
    if normaliser.front_end == "voice2face":
        # As its authors do: the whole recording at once, 10 s at least.
        inputs = normaliser.whole(log_mel, REPEATED_FRAMES).to(device)
        fused_by = "hearing the recording whole"
    else:
        inputs = normaliser.windows(log_mel, WINDOW_FRAMES, STRIDE_FRAMES).to(device)
    with torch.inference_mode():
        face = generator.decode(fuse(generator, [inputs]))[-1]
        batches = inputs.split(WINDOWS_AT_ONCE) if windows else ()
        each = [photo for batch in batches for photo in to_photos(generator(batch)[-1], enhance)]
        whole = None
        if windows:
            heard = inputs
            if normaliser.front_end != "voice2face":
                heard = normaliser.whole(log_mel, WINDOW_FRAMES).to(device)
            whole = to_photos(generator(heard)[-1], enhance)[0]
    return GeneratedFace(
        face=to_photos(face, enhance)[0],
        windows=each,
        whole=whole,
        seconds=seconds,
        n_windows=len(inputs),
        fused_by=fused_by,
    )


def normaliser_of(loaded: Loaded) -> Normaliser:
    """The normaliser of a checkpoint's training.

    A checkpoint of the released code does not record it: then as that code does, or per utterance
    where the encoder is voice2face's own.
    """
    if "normalise" in loaded.meta:
        return Normaliser.from_dict(loaded.meta["normalise"])
    return Normaliser("utterance" if loaded.spec.encoder == "cmu" else "sf2f")


def to_photos(pictures: torch.Tensor, enhance: FaceEnhancer | None = None) -> list[Photo]:
    """ImageNet-normalised (n, 3, px, px), n at least 1, as photos, enhanced where asked for."""
    if enhance is not None:
        pictures = from_unit(enhance(to_unit(pictures.float(), clamped=True)))
    return [to_photo(picture) for picture in pictures]


def to_photo(picture: torch.Tensor) -> Photo:
    """ImageNet-normalised (3, px, px) to RGB uint8 (px, px, 3)."""
    unit = to_unit(picture[None].float(), clamped=True)[0]
    pixels = (unit * 255.0).round().to(torch.uint8).permute(1, 2, 0)
    return np.ascontiguousarray(pixels.cpu().numpy())


def audio_files(folder: Path) -> Iterator[Path]:
    """Every file below a folder but hidden ones, sorted, whatever its type."""
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).parts
        if path.is_file() and not any(name.startswith(".") for name in inside):
            yield path


def check_picture(out: Path) -> None:
    """Raise HqvoxError where ``out`` is not the name of a picture."""
    if out.is_dir():
        raise HqvoxError(f"{out}: is a folder; name a picture, for example {out / 'face.png'}")
    if out.suffix.lower() not in PICTURES:
        raise HqvoxError(f"{out}: not a picture's name; end it in {' or '.join(PICTURES)}")


def save_picture(photo: Photo, out: Path) -> None:
    """Write a picture in the format of its name, whole or not at all. Raises HqvoxError."""
    sink = io.BytesIO()
    if out.suffix.lower() == ".png":
        Image.fromarray(photo).save(sink, "PNG")
        data = sink.getvalue()
    else:
        data = encode_jpeg(photo, 95)
    Storage(out.parent).write(out.name, data)
