"""Features of real faces, computed once and kept by face, where memory allows."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import torch

from hqvox.errors import HqvoxError
from hqvox.trainer.config import Switch
from hqvox.trainer.data import Part
from hqvox.trainer.features import FeatureNetwork, Features
from models.sf2f.colour import to_unit

SHARE_OF_MEMORY = 1 / 8
"""Of all memory of the device that the features of one resolution may take."""
CHUNK = {"cpu": 8, "cuda": 64}
"""Faces at once. Always that many, so that on a CPU a face's features have the same bits whenever
they are computed: convolutions of other batch sizes round otherwise."""


class RealFeatures:
    """The real side of the perceptual loss for a part's faces at one resolution; no gradients."""

    def __init__(
        self,
        network: FeatureNetwork,
        part: Part,
        px: int,
        *,
        device: torch.device | str = "cpu",
        cached: Switch = "auto",
        mirrored: bool = False,
    ) -> None:
        """``cached``: auto keeps what fits, in float32 or else float16; True must fit.

        ``mirrored``: pictures are mirrored at random, so nothing can be kept. Raises HqvoxError
        where ``cached`` is True and it does not fit.
        """
        self._network, self._device = network, torch.device(device)
        self._pictures = part.data.faces[px]
        self._rows = np.unique(np.concatenate([*part.faces_of, np.zeros(0, np.int64)]))
        slots = np.full(len(self._pictures), -1, np.int64)
        slots[self._rows] = np.arange(len(self._rows))
        self._slots = torch.from_numpy(slots).to(self._device)
        self._filled = np.zeros(len(self._rows), bool)
        self._kept: list[torch.Tensor] = []
        self._chunk = CHUNK.get(self._device.type, CHUNK["cpu"])
        self.dtype = None if cached is False or mirrored else self._fitting(px, cached)
        """float32, float16, or None where nothing is kept."""

    @property
    def bytes(self) -> int:
        """Of memory that is taken."""
        return sum(kept.nbytes for kept in self._kept)

    def of(self, face: torch.Tensor, pictures: torch.Tensor) -> Features:
        """Features of faces (n,), rows of the data; ``pictures``: them, ImageNet-normalised."""
        if self.dtype is None:
            return self._compute(to_unit(pictures))
        if not self._filled.all():
            if self._device.type == "cpu":
                slots = np.unique(self._slots[face].numpy())
                self._fill(slots[~self._filled[slots]])
            else:  # Looking which are missing would stop the GPU at every step.
                self.fill()
        at = self._slots[face]
        *maps, embedding = (kept[at].float() for kept in self._kept)
        return maps, embedding

    def fill(self, on_progress: Callable[[str, int, int], None] | None = None) -> None:
        """Compute all that is missing now, rather than when it is asked for."""
        missing = np.flatnonzero(~self._filled) if self.dtype is not None else np.zeros(0, int)
        for start in range(0, len(missing), self._chunk):
            self._fill(missing[start : start + self._chunk])
            if on_progress is not None:
                on_progress("real faces' features", start + self._chunk, len(missing))

    def _fill(self, slots: np.ndarray) -> None:
        for start in range(0, len(slots), self._chunk):
            some = slots[start : start + self._chunk]
            raw = np.zeros((self._chunk, *self._pictures.shape[1:]), np.uint8)
            raw[: len(some)] = self._pictures[self._rows[some]]
            maps, embedding = self._compute(torch.from_numpy(raw).to(self._device).float() / 255)
            into = torch.from_numpy(some).to(self._device)
            for kept, values in zip(self._kept, [*maps, embedding], strict=True):
                kept[into] = self._stored(values[: len(some)])
        self._filled[slots] = True

    def _stored(self, values: torch.Tensor) -> torch.Tensor:
        if self.dtype == torch.float16:  # Beyond its range lies infinity.
            values = values.clamp(-65504, 65504)
        return values.to(self.dtype)

    def _compute(self, unit_pictures: torch.Tensor) -> Features:
        with torch.no_grad(), torch.autocast(self._device.type, enabled=False):
            return self._network.features(unit_pictures)

    def _fitting(self, px: int, cached: Switch) -> torch.dtype | None:
        """The finest type whose features fit, the arrays for it made."""
        empty = torch.zeros((self._chunk, 3, px, px), device=self._device)
        maps, embedding = self._compute(empty)
        shapes = [tuple(values.shape[1:]) for values in (*maps, embedding)]
        numbers = len(self._rows) * sum(int(np.prod(shape)) for shape in shapes)
        allowed = _memory(self._device) * SHARE_OF_MEMORY
        for dtype in (torch.float32, torch.float16):
            if numbers * dtype.itemsize <= allowed:
                self._kept = [
                    torch.empty((len(self._rows), *shape), dtype=dtype, device=self._device)
                    for shape in shapes
                ]
                return dtype
        if cached is True:
            raise HqvoxError(
                f"speed.cache_features: the features of {len(self._rows):,} faces take "
                f"{numbers * 2 / 2**30:.1f} GiB, an eighth of the memory is {allowed / 2**30:.1f}; "
                "set speed.cache_features=auto"
            )
        return None


def _memory(device: torch.device) -> int:
    """All memory of a device, bytes; not what is free now, so that a resumed run does the same."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
