"""The contract of a stage: what it declares, and the one method that does its work.

A stage never counts, times, commits or shows progress: the runner does that, once, for all. It
maps rows to rows. A row is a dict of column name to value (``hqvox.workspace.tables``); a stage
adds the columns it declares and sets ``row["reason"]`` where it rejects.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import Enum
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from hqvox.workspace.tables import Row
from models.protocols import Photo
from models.store import ModelStore


class Needs(Enum):
    """The pixels that a stage looks at."""

    NONE = "none"
    BYTES = "bytes"  # fetches or writes the photo's bytes itself
    PHOTO = "photo"  # the upright photo, at working scale or in full
    ALIGNED = "aligned"  # the aligned crop


class Scope(Enum):
    """What one decision is about."""

    PHOTO = "photo"
    FACE = "face"
    IDENTITY = "identity"  # decides in judge(), with all rows of an identity at hand


class Pixels(Protocol):
    """Pixels of a row, decoded once and handed down; and where a stage leaves the ones it makes."""

    def working(self, row: Row) -> tuple[Photo, float]:
        """Upright photo at working scale, and the scale (working px per photo px, at most 1).

        Raises :class:`hqvox.imaging.codec.UndecodableError`.
        """
        ...

    def native(self, row: Row) -> Photo:
        """Upright photo in full resolution. Raises
        :class:`hqvox.imaging.codec.UndecodableError`."""
        ...

    def aligned(self, row: Row) -> Photo:
        """Aligned crop, side ``crop_side_px``."""
        ...

    def mask(self, row: Row) -> NDArray[np.uint8]:
        """Alpha mask of the aligned crop, (side, side), 255 = person."""
        ...

    def keep_photo(self, row: Row, data: bytes) -> None:
        """Store the photo's bytes; sets ``photo_offset`` and ``photo_bytes``."""
        ...

    def keep_aligned(self, row: Row, crop: Photo) -> None:
        """Store the aligned crop, lossless; sets ``aligned_offset`` and ``aligned_bytes``."""
        ...

    def keep_mask(self, row: Row, alpha: NDArray[np.uint8]) -> None:
        """Store the alpha mask, lossless; sets ``mask_offset`` and ``mask_bytes``."""
        ...


class Stage(ABC):
    """One step of a build. Subclasses declare the class variables and implement ``process``."""

    name: ClassVar[str]
    reads: ClassVar[tuple[str, ...]]
    """Columns of earlier stages that it uses (the keys are always there)."""
    writes: ClassVar[tuple[str, ...]]
    """Columns it adds, all named in ``hqvox.workspace.tables.COLUMNS``."""
    reasons: ClassVar[tuple[str, ...]]
    """Judgements; with ``enabled: false`` they refuse nobody."""
    failures: ClassVar[tuple[str, ...]] = ()
    """Reasons after which there is nothing to go on with; ``enabled: false`` keeps them."""
    needs: ClassVar[Needs]
    scope: ClassVar[Scope]
    version: ClassVar[int]
    """Raised by hand whenever the same input would give another result."""
    networks: tuple[str, ...] = ()
    """Registry names of the weights in use; set by the constructor where there are any."""

    def __init__(self, config: Any, store: ModelStore) -> None:
        self.config = config
        self.store = store

    def load(self) -> None:  # noqa: B027 - most stages have nothing to load
        """Load networks; called once per worker before the first batch, never while planning."""

    @abstractmethod
    def process(self, rows: Sequence[Row], pixels: Pixels) -> list[Row]:
        """Measure a batch: the same rows in order with columns added and ``reason`` set.

        Only a stage that finds faces in photos returns more rows than it was given. Rows are
        whole photos' faces side by side; a batch never mixes identities.
        """

    def judge(self, rows: Sequence[Row]) -> None:
        """Identity scope only: set ``reason`` (and columns) with all of an identity's rows."""
        raise TypeError(f"stage {self.name} has scope {self.scope.value}: it judges row by row")
