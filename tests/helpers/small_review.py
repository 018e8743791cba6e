"""A small build to review, made without networks."""

from __future__ import annotations

from pathlib import Path

from tests.helpers.synthetic_build import make_build

NAMES = (
    "Ada Lovelace",
    "<script>alert(1)</script>",
    "Few Faces",
    "Nobody",
    "Bedřich Ω",
    *(f"Person {n}" for n in range(20)),
)
FACES = 14
"""Faces that each of them has to choose from, but the third and fourth."""


def make_review(folder: Path, names: tuple[str, ...] = NAMES) -> Path:
    """A finished build of these people, of whom the first four are told apart by their names."""
    (folder / "photos").mkdir(parents=True)
    make_build(folder / "work", folder / "photos", names, photos_per_identity=24)
    return folder / "work"
