"""The contract of a stage: what it declares, and the one method that does its work.

A stage never counts, times, commits or shows progress: the runner does that for all stages. It
maps rows to rows. A row is a dict of column name to value (:mod:`hqvox.workspace.tables`); a stage
adds the columns it declares. Its section of the configuration declares its limits, and the base
class sets ``row["reason"]`` where one is broken.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from hqvox.config.build import BuildConfig
from hqvox.workspace.measures import section_bounds, verdict
from hqvox.workspace.storage import Storage
from hqvox.workspace.tables import Row
from models.protocols import Photo
from models.store import ModelStore


class Pixels(Protocol):
    """Pixels of a row, decoded once for all stages; and where a stage stores those it makes."""

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
    """One step of a build. Subclasses declare the class variables and implement ``measure``."""

    name: ClassVar[str]
    reads: ClassVar[tuple[str, ...]]
    """Columns of earlier stages that it uses (the keys are always there)."""
    writes: ClassVar[tuple[str, ...]]
    """Columns it adds, all in its table of :data:`hqvox.workspace.tables.TABLES`."""
    reasons: ClassVar[tuple[str, ...]]
    """Reasons of the limits and of :meth:`compare`; ``enabled: false`` drops them."""
    failures: ClassVar[tuple[str, ...]] = ()
    """Reasons why a row cannot be processed further, the last of them for a row that could not be
    measured; ``enabled: false`` keeps them."""
    reads_photos: ClassVar[bool] = False
    """Whether it looks at decoded photos: how they are decoded is then part of its fingerprint."""
    compares: ClassVar[bool] = False
    """Whether it needs all rows of an identity together, see :meth:`compare`."""
    version: ClassVar[int]
    """Raised by hand whenever the same input would give another result."""
    networks: tuple[str, ...] = ()
    """Registry names of the weights in use; set by the constructor where there are any."""

    def __init__(self, config: Any, store: ModelStore) -> None:
        """``config``: the stage's section, :class:`hqvox.config.section.StageSection`."""
        self.config = config
        self.store = store

    @classmethod
    def of_build(cls, config: BuildConfig, store: ModelStore, storage: Storage | None) -> Self:
        """The stage of a build. ``storage``: the workspace's."""
        return cls(getattr(config, cls.name), store)

    def load(self) -> None:  # noqa: B027 - most stages have nothing to load
        """Load networks; called once per worker before the first batch, never while planning."""

    def settings(self) -> dict[str, Any]:
        """The part of the configuration that decides the stage's results, for its fingerprint."""
        settings: dict[str, Any] = self.config.model_dump(mode="json", exclude=self.config.idle())
        return settings

    def process(self, rows: Sequence[Row], pixels: Pixels) -> list[Row]:
        """Measure a batch; a measured row gets the reason of the first limit that it breaks.

        Only a stage that finds photos or faces returns more rows than it was given. All faces of a
        photo are in one batch; a batch never mixes identities.
        """
        measured = self.measure(rows, pixels)
        for row in measured:
            if row.get("reason") is None:
                row["reason"] = self.verdict(row)
        return measured

    def verdict(self, row: Row) -> str | None:
        """Reason of the first limit that a measured row breaks, or None."""
        if not self.config.limits:
            return None
        return verdict(self.config, section_bounds(self.config, self.network_bound), row)

    @abstractmethod
    def measure(self, rows: Sequence[Row], pixels: Pixels) -> list[Row]:
        """The same rows in order with columns added, and ``reason`` set where measuring failed."""

    def compare(self, rows: Sequence[Row]) -> None:  # noqa: B027 - most stages go row by row
        """Set ``reason`` (and columns) with all kept rows of an identity at hand."""

    def network_bound(self, setting: str) -> float | None:
        """The loaded network's threshold, for a limit whose setting is null."""
        raise NotImplementedError(f"stage {self.name}: no network sets {setting}")
