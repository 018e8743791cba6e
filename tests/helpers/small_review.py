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
IDS = (
    *(f"id{n}" for n in range(5)),
    "a__b",
    "__init__",
    "a space and 'both' \"quotes\"",
    "emoji 🦊 e\u0301",
    "#anchor?and=query&more",
    "../../etc/passwd",
    "<b>bold</b>",
    "a " + "long " * 30 + "id",
    "$$ID-x-y",
    "%s {curly} \\n",
    *(f"id{n}" for n in range(15, len(NAMES))),
)
"""Identity ids of people with :data:`NAMES`: any letters may be in them."""
FACES = 14
"""Faces that each of them has to choose from, but the third and fourth."""


def make_review(folder: Path, names: tuple[str, ...] = NAMES) -> Path:
    """A finished build of these people, of whom the first four are told apart by their names."""
    (folder / "photos").mkdir(parents=True)
    ids = IDS if names == NAMES else ()
    make_build(folder / "work", folder / "photos", names, photos_per_identity=24, ids=ids)
    return folder / "work"
