"""Distances between copies of a face, and between people: the basis of a release's limits.

    python benchmarks/leaks.py --photos DATA/expressions --people 900

``--photos``: a folder with ``labels.csv`` (columns image, identity) and ``images/``. One
photograph per person is compared with copies of itself and with those of all others. The copies:
cropped by up to 6 % on each side, reduced to 50 to 90 %, JPEG quality 70; reduced to 60 %, quality
60; quality 50.
"""

from __future__ import annotations

import argparse
import csv
import io
import random
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

import models.embedding
import models.landmarks
from hqvox.config.build import ReleaseConfig
from models.store import ModelStore
from pipelines.duplicates import perceptual_hash

Print = tuple[NDArray[np.float32], NDArray[np.uint8]]
"""Embedding, and the 64 bits of the photograph's perceptual hash."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--people", type=int, default=900)
    arguments = parser.parse_args()
    with (arguments.photos / "labels.csv").open(encoding="utf-8") as file:
        first: dict[str, str] = {}
        for row in csv.DictReader(file):
            first.setdefault(row["identity"], row["image"])
    chosen = sorted(first)
    random.Random(0).shuffle(chosen)
    store = ModelStore()
    landmarker = models.landmarks.load("dlib68", store)
    embedder = models.embedding.load("dlib_resnet", store)

    def measure(photo: NDArray[np.uint8]) -> Print | None:
        faces = landmarker([photo])[0]
        if len(faces) != 1:
            return None
        crop = embedder.crop(photo, faces.landmarks_xy[0])
        value = np.array([perceptual_hash(photo)], dtype=">u8")
        return embedder([crop])[0], np.unpackbits(value.view(np.uint8))

    rng = np.random.default_rng(0)
    prints: list[Print] = []
    copied: dict[str, list[tuple[Print, Print]]] = {}
    for name in chosen[: arguments.people]:
        with Image.open(arguments.photos / "images" / first[name]) as picture:
            photo = np.asarray(picture.convert("RGB"))
        original = measure(photo)
        if original is None:
            continue
        prints.append(original)
        for kind, variant in copies(photo, rng).items():
            again = measure(variant)
            if again is not None:
                copied.setdefault(kind, []).append((original, again))
    show(prints, copied)


def copies(photo: NDArray[np.uint8], rng: np.random.Generator) -> dict[str, NDArray[np.uint8]]:
    """The same photograph as others publish it, see the module."""
    height, width = photo.shape[:2]
    top, bottom = (rng.uniform(0, 0.06, 2) * height).astype(int)
    left, right = (rng.uniform(0, 0.06, 2) * width).astype(int)
    cropped = photo[top : height - bottom, left : width - right]
    return {
        "cropped, reduced": compressed(reduced(cropped, rng.uniform(0.5, 0.9)), 70),
        "reduced": compressed(reduced(photo, 0.6), 60),
        "compressed": compressed(photo, 50),
    }


def reduced(photo: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    return cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def compressed(photo: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    sink = io.BytesIO()
    Image.fromarray(photo).save(sink, "JPEG", quality=quality)
    with Image.open(sink) as picture:
        return np.asarray(picture.convert("RGB"))


def show(prints: list[Print], copied: dict[str, list[tuple[Print, Print]]]) -> None:
    limits = ReleaseConfig()
    cosine, bits = limits.min_face_similarity, limits.max_photo_distance_bits
    table = Table(title=f"{len(prints)} people", title_justify="left")
    for column in (
        "", "pairs", "cosine: 1 %", "99 %", "most", f"≥ {cosine}", "bits: least", f"≤ {bits}"
    ):  # fmt: skip
        table.add_column(column, justify="left" if not column else "right")
    embeddings = np.array([e for e, _ in prints])
    hashes = np.array([h for _, h in prints], dtype=np.float32) * 2 - 1
    pairs = np.triu_indices(len(prints), 1)
    everybody = (embeddings @ embeddings.T)[pairs], (32 - hashes @ hashes.T / 2)[pairs]
    rows = {"other people": everybody} | {
        kind: (
            np.array([a[0] @ b[0] for a, b in both]),
            np.array([(a[1] != b[1]).sum() for a, b in both]),
        )
        for kind, both in copied.items()
    }
    for kind, (similar, apart) in rows.items():
        low, high = np.percentile(similar, [1, 99])
        table.add_row(
            kind, f"{len(similar):,}", f"{low:.3f}", f"{high:.3f}", f"{similar.max():.3f}",
            f"{(similar >= cosine).mean():.2%}", f"{apart.min():.0f}",
            f"{(apart <= bits).mean():.2%}",
        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()
