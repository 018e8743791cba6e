"""Batches of a step: what the sampler picks, gathered, normalised and put on the device.

There are two ways to the same values: on the device, from arrays that are kept there as a whole; or
on the host, for a GPU one step ahead in a thread and into pinned memory. Neither opens a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hqvox.errors import HqvoxError
from hqvox.trainer.config import TrainConfig
from hqvox.trainer.data import Split
from hqvox.trainer.sampler import Sampler, SpeechCrops, SpeechWindows
from hqvox.trainer.speech_input import Normaliser, check_front_end
from models.sf2f.colour import IMAGENET_MEAN, IMAGENET_STD

SHARE_OF_MEMORY = 0.5
"""Share of a GPU's free memory that the data may take; the rest is for the networks."""

UPLOADED_AT_ONCE = 4096
"""Utterances that are copied to a GPU at a time."""


@dataclass(frozen=True)
class Batch:
    """A batch of stage 1."""

    log_mel: torch.Tensor
    """float32 (n, filters, frames), normalised; one length per batch."""
    pictures: tuple[torch.Tensor, ...]
    """Per resolution, low to high: float32 (n, 3, px, px), RGB, ImageNet-normalised."""
    identity: torch.Tensor
    """int64 (n,), position in the split of whoever speaks."""
    face: torch.Tensor
    """int64 (n,), row of ``TrainingData.faces``."""
    face_identity: torch.Tensor
    """int64 (n,), position in the split of whose face it is."""


@dataclass(frozen=True)
class FusedBatch:
    """A batch of stage 2: windows instead of crops; else as :class:`Batch`."""

    windows: torch.Tensor
    """float32 (n, w, filters, frames), normalised; zeros where a person has fewer windows."""
    mask: torch.Tensor
    """bool (n, w), True for a window, False for padding."""
    pictures: tuple[torch.Tensor, ...]
    identity: torch.Tensor
    face: torch.Tensor

    @property
    def face_identity(self) -> torch.Tensor:
        """As ``identity``: a voice and a face of one person."""
        return self.identity


@dataclass
class _Gathered:
    """A batch on the host: windows (n, w, frames, filters), or crops (n, 1, frames, filters)."""

    log_mel: torch.Tensor
    mask: torch.Tensor
    pictures: list[torch.Tensor]
    numbers: torch.Tensor
    """int64 (4, n): identity, face, identity of the face, mirrored."""


def check_split(split: Split, config: TrainConfig) -> None:
    """Raise HqvoxError where a split has fewer than two people, or not the model's log-mels."""
    url, filters = split.data.release.url, split.data.n_filters
    if len(split) < 2:
        raise HqvoxError(
            f"{url}: {len(split) or 'no'} identity in {split.name}; training needs two or more"
        )
    if filters != config.model.n_filters:
        raise HqvoxError(
            f"{url}: its voices have {filters} mel filters, recipe {config.recipe} needs "
            f"{config.model.n_filters}; run `hqvox speech WORKSPACE --set "
            f"speech.n_filters={config.model.n_filters}`, then release under a new name"
        )
    check_front_end(split.data, config.data.front_end)


class BatchSource:
    """The batches of a training run. A step's batch does not depend on the steps before it."""

    def __init__(
        self,
        split: Split,
        config: TrainConfig,
        *,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """``rank`` of ``world`` processes, each with its share of every batch.

        Raises HqvoxError where the split has fewer than two people, the release has not the
        model's mel filters, or the processes cannot share a batch.
        """
        check_split(split, config)
        data = split.data
        self._split, self._data, self._config = split, data, config
        self._device = torch.device(device)
        self._sampler = Sampler(split, config, rank, world)
        self.normaliser = Normaliser.of(config, data)
        self._resolutions = config.model.resolutions
        self._moments = data.utterance_moments if self.normaliser.kind == "utterance" else None
        self._repeat = config.data.short == "repeat"
        self._scale, self._shift = _colour(self._device)
        self._pin = self._device.type == "cuda"
        self._ahead = ThreadPoolExecutor(1, "batches") if self._pin else None
        self._next: tuple[tuple[int, int], Future[_Gathered]] | None = None
        self.bytes = _bytes(split, self._resolutions)
        """Size of the split's voices and all pictures in a GPU's memory."""
        self.resident = self._fits()
        """Whether they are kept in the device's memory."""
        if self.resident:
            self._upload()

    def stage1(self, step: int) -> Batch:
        """The batch of a step, counted from 0."""
        if self.resident:
            crops = self._sampler.stage1(step)
            return self._crops_on_device(crops)
        log_mel, _, pictures, numbers = self._on_device(self._gathered(1, step))
        identity, face, face_identity = numbers
        return Batch(log_mel[:, 0], pictures, identity, face, face_identity)

    def stage2(self, step: int) -> FusedBatch:
        """The batch of a step, counted from 0."""
        log_mel, mask, pictures, numbers = self._on_device(self._gathered(2, step))
        return FusedBatch(log_mel, mask, pictures, numbers[0], numbers[1])

    def close(self) -> None:
        """Stop the thread that prepares the next batch."""
        if self._ahead is not None:
            self._ahead.shutdown(cancel_futures=True)

    # Gathering on the host.

    def _gathered(self, stage: int, step: int) -> _Gathered:
        """The batch of a step, prepared already if steps come in order; begins the next one."""
        if self._ahead is None:
            return self._gather(stage, step)
        key, waiting = self._next or (None, None)
        ready = waiting is not None and key == (stage, step)
        batch = waiting.result() if waiting and ready else self._gather(stage, step)
        self._next = ((stage, step + 1), self._ahead.submit(self._gather, stage, step + 1))
        return batch

    def _gather(self, stage: int, step: int) -> _Gathered:
        if stage == 1:
            crops = self._sampler.stage1(step)
            pairs = [np.array([pair]) for pair in zip(crops.utterance, crops.start, strict=True)]
            return self._gather_windows(pairs, 1, crops.frames, crops)
        config = self._config.stage2
        speech = self._sampler.stage2(step)
        return self._gather_windows(
            speech.windows, config.max_windows, config.window_frames, speech
        )

    def _gather_windows(
        self,
        pairs: list[NDArray[np.int64]],
        most: int,
        frames: int,
        sample: SpeechCrops | SpeechWindows,
    ) -> _Gathered:
        """``pairs``: for each person (w, 2), utterance and first frame, w at most ``most``."""
        # NumPy throughout: torch would wake all its threads for each of these small pieces.
        values = np.zeros((len(pairs), most, frames, self._data.n_filters), np.float32)
        mask = np.zeros((len(pairs), most), bool)
        for row, windows in enumerate(pairs):
            mask[row, : len(windows)] = True
            for column, (utterance, start) in enumerate(windows.tolist()):
                piece = self._data.log_mel(utterance)
                if self._repeat and len(piece) < start + frames:
                    piece = piece[np.arange(start, start + frames) % len(piece)]
                else:
                    piece = piece[start : start + frames]
                window = values[row, column, : len(piece)]
                window[:] = piece
                if self._moments is not None:
                    mean, std = self._moments[utterance]
                    window -= mean
                    window /= std
            if self._moments is None:
                filled = values[row, : len(windows)]
                filled -= self.normaliser.mean
                filled /= self.normaliser.std
        whose = sample.face_identity if isinstance(sample, SpeechCrops) else sample.identity
        numbers = np.stack([sample.identity, sample.face, whose, sample.mirrored])
        pictures = [self._data.faces[px][sample.face] for px in self._resolutions]
        return _Gathered(
            self._tensor(values), self._tensor(mask), [self._tensor(p) for p in pictures],
            self._tensor(numbers),
        )  # fmt: skip

    def _tensor(self, array: NDArray[Any]) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        return tensor.pin_memory() if self._pin else tensor

    def _on_device(
        self, batch: _Gathered
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...], list[torch.Tensor]]:
        """Log-mels, mask, pictures; identity, face and identity of the face."""
        log_mel = batch.log_mel.to(self._device, non_blocking=True).transpose(2, 3)
        if self._device.type == "cpu":
            log_mel = torch.from_numpy(np.ascontiguousarray(log_mel.numpy()))
        mask = batch.mask.to(self._device, non_blocking=True)
        *numbers, mirrored = batch.numbers.to(self._device, non_blocking=True)
        raw = [p.to(self._device, non_blocking=True) for p in batch.pictures]
        return log_mel.contiguous(), mask, self._coloured(raw, mirrored), numbers

    def _coloured(
        self, raw: list[torch.Tensor], mirrored: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Pictures uint8 (n, 3, px, px) as ImageNet-normalised float32, mirrored where asked."""
        if self._device.type == "cpu":
            scale, shift = self._scale.numpy(), self._shift.numpy()
            pictures = [torch.from_numpy(p.numpy() * scale - shift) for p in raw]
        else:
            pictures = [p.float() * self._scale - self._shift for p in raw]
        if self._config.data.flip:
            which = mirrored.bool().view(-1, 1, 1, 1)
            pictures = [torch.where(which, p.flip(3), p) for p in pictures]
        return tuple(pictures)

    # Gathering on the device.

    def _fits(self) -> bool:
        """Whether to keep the data in the device's memory. Raises HqvoxError (too little of it)."""
        wanted = self._config.speed.data_on_device
        if self._device.type != "cuda" or wanted is False:
            return wanted is True  # On a CPU auto leaves the files mapped.
        free, _ = torch.cuda.mem_get_info(self._device)
        if wanted is True and self.bytes > free:
            raise HqvoxError(
                f"speed.data_on_device: the data take {self.bytes / 2**30:.1f} GiB, the GPU has "
                f"{free / 2**30:.1f} free; set speed.data_on_device=false"
            )
        return wanted is True or self.bytes <= SHARE_OF_MEMORY * free

    def _upload(self) -> None:
        """Put the split's voices, end to end, and all pictures on the device."""
        data, table = self._data, self._data.utterances
        rows = np.unique(np.concatenate(self._split.utterances_of))
        ends = np.cumsum(table.frames[rows])
        voices = torch.empty(
            (int(ends[-1]), data.n_filters), dtype=torch.float16, device=self._device
        )
        offset = np.zeros(len(table.frames), np.int64)
        offset[rows] = ends - table.frames[rows]
        # Some at a time: all of them may not fit into the host's memory.
        for some in np.array_split(rows, -(-len(rows) // UPLOADED_AT_ONCE)):
            piece = np.concatenate([data.log_mel(row) for row in some.tolist()])
            start = int(offset[some[0]])
            voices[start : start + len(piece)] = torch.from_numpy(piece).to(self._device)
        self._voices = voices
        self._offset = torch.from_numpy(offset).to(self._device)
        self._frames = torch.from_numpy(table.frames.copy()).to(self._device)
        self._faces = [
            torch.from_numpy(np.array(data.faces[px])).to(self._device) for px in self._resolutions
        ]
        if self._moments is not None:
            self._moments_on_device = torch.from_numpy(np.array(self._moments)).to(self._device)

    def _crops_on_device(self, crops: SpeechCrops) -> Batch:
        columns = (
            crops.identity,
            crops.face,
            crops.face_identity,
            crops.mirrored,
            crops.utterance,
            crops.start,
        )
        numbers = self._tensor(np.stack(columns)).to(self._device, non_blocking=True)
        identity, face, face_identity, mirrored, utterance, start = numbers
        time = torch.arange(crops.frames, device=self._device) + start[:, None]
        length = self._frames[utterance][:, None]
        if self._repeat:
            time = time % length
        inside = time < length
        index = (self._offset[utterance][:, None] + time).where(inside, 0)
        values = self._voices[index].float()
        inside = inside[..., None]
        if self._moments is None:
            log_mel = self.normaliser.scaled(values.where(inside, 0))
        else:
            mean, std = self._moments_on_device[utterance].unbind(1)
            log_mel = ((values - mean[:, None]) / std[:, None]).where(inside, 0)
        raw = [faces[face] for faces in self._faces]
        pictures = self._coloured(raw, mirrored)
        log_mel = log_mel.transpose(1, 2).contiguous()
        return Batch(log_mel, pictures, identity, face, face_identity)


def _colour(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and shift, (3, 1, 1) each: uint8 · scale − shift is ImageNet-normalised."""
    mean, std = (
        torch.tensor(values, device=device).view(3, 1, 1)
        for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return 1 / (255 * std), mean / std


def _bytes(split: Split, resolutions: Sequence[int]) -> int:
    frames = split.data.utterances.frames
    voices = int(sum(frames[rows].sum() for rows in split.utterances_of)) * split.data.n_filters * 2
    return voices + sum(split.data.faces[px].nbytes for px in resolutions)
