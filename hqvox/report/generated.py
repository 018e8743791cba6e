"""What the report says of faces that a trained model generated from voices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from models.protocols import Photo


@dataclass(frozen=True)
class GeneratedPerson:
    """A person: a real face, and what was generated from their voice."""

    name: str
    stranger: bool
    """Whether the model never saw or heard this person in training."""
    real: Photo
    generated: Sequence[tuple[str, Photo]]
    """How much speech, in words, and the face."""


@dataclass(frozen=True)
class GeneratedFaces:
    """A model's faces."""

    recipe: str
    steps: int
    trained_on: int
    """People."""
    people: Sequence[GeneratedPerson]
