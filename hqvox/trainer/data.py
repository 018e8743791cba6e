"""A release as training reads it: faces and voices in arrays, and whose they are.

Faces are rows of one uint8 array for each resolution, in the manifest's order; utterances are rows
of the release's own index. A :class:`Split` lists each person's rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hqvox.errors import HqvoxError
from hqvox.release.read import Release
from hqvox.trainer.packing import OnProgress, ReleaseCache, Resize

SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")
Rows = NDArray[np.int64]
SplitColumns = tuple[list[str], list[str], list[Rows], list[Rows]]
"""Of a split's people: ids, names, rows of their faces and of their utterances."""


@dataclass(frozen=True)
class Utterances:
    """Where each utterance is stored: arrays (utterances,), in the order of the index."""

    file: NDArray[np.int64]
    """Number of the file of voices."""
    offset: Rows
    """First frame in that file."""
    frames: Rows
    """Length, frames of 10 ms."""


@dataclass(frozen=True)
class Split:
    """The people of train, val or test who have a face and a voice.

    A person's position here is the label that classifiers learn.
    """

    data: TrainingData
    name: SplitName
    identity_ids: tuple[str, ...]
    person_names: tuple[str, ...]
    faces_of: tuple[Rows, ...]
    """For each person, rows of ``data.faces[px]``; at least one."""
    utterances_of: tuple[Rows, ...]
    """For each person, rows of ``data.utterances``; at least one."""

    def __len__(self) -> int:
        return len(self.identity_ids)


class TrainingData:
    """A release's faces at some resolutions, and its voices; see :meth:`open`."""

    def __init__(
        self,
        release: Release,
        faces: dict[int, NDArray[np.uint8]],
        voices: list[NDArray[np.float16]],
        utterances: Utterances,
        people: dict[SplitName, SplitColumns],
        cache: ReleaseCache,
    ) -> None:
        self.release = release
        self.faces = faces
        """By side in px: uint8 (faces, 3, px, px), RGB, mapped."""
        self.voices = voices
        """float16 (frames, filters) each, log-mel (natural log), mapped."""
        self.utterances = utterances
        self.n_filters: int = voices[0].shape[1]
        self._cache = cache
        self._splits = {
            name: Split(
                self, name, tuple(ids), tuple(names), tuple(face_rows), tuple(utterance_rows)
            )
            for name, (ids, names, face_rows, utterance_rows) in people.items()
        }

    @classmethod
    def open(
        cls,
        release: Release,
        resolutions: Sequence[int],
        *,
        pictures: Literal["masked", "origin"] = "masked",
        resize: Resize = "area",
        cache_dir: Path | None = None,
        on_progress: OnProgress | None = None,
    ) -> TrainingData:
        """Open a release to train on; its pictures are packed into the cache the first time.

        ``resolutions``: sides of the pictures, px. ``pictures``: on white, or with their
        background. ``resize``: ``bilinear`` makes lower resolutions of every second pixel of the
        highest, as SF2F's released code. Raises HqvoxError for a release without speech or with
        fewer than two people, and for a file that is missing or damaged.
        """
        if not release.has_speech:
            raise HqvoxError(
                f"{release.url}: no voices in this release, and training needs them; run `hqvox "
                "speech WORKSPACE --audio DIR`, then release under a new name"
            )
        faces = release.manifest(["identity_id", "masked_file", "origin_file"])
        spoken = release.speech()
        identities = release.identities().select(["identity_id", "name", "split"])
        people = _people(identities, faces["identity_id"], spoken["identity_id"])
        count = sum(len(ids) for ids, *_ in people.values())
        if count < 2:
            raise HqvoxError(
                f"{release.url}: {count or 'no'} identity with face and voice; training needs two "
                "or more"
            )
        filters = int(release.speech_stats()["filters"])
        files = pc.unique(spoken["file"]).to_pylist()
        cache = ReleaseCache(release, cache_dir)
        voices = cache.voices(files, filters, on_progress)
        utterances = Utterances(
            pc.index_in(spoken["file"], pa.array(files)).to_numpy().astype(np.int64),
            spoken["offset"].to_numpy().astype(np.int64),
            spoken["frames"].to_numpy().astype(np.int64),
        )
        _check(release, files, voices, utterances)
        sides = resolutions if resize == "area" else [max(resolutions)]
        packed = cache.pictures(
            faces[f"{pictures}_file"].to_pylist(), pictures, sides, on_progress, resize
        )
        highest = packed[max(resolutions)]
        for px in set(resolutions) - set(sides):
            every = max(resolutions) // px
            packed[px] = highest[:, :, ::every, ::every]
        return cls(release, packed, voices, utterances, people, cache)

    def split(self, name: SplitName) -> Split:
        """The people of ``train``, ``val`` or ``test``; there may be none."""
        return self._splits[name]

    def log_mel(self, utterance: int) -> NDArray[np.float16]:
        """An utterance's log-mel, (frames, filters), natural log; a view of the mapped file."""
        table = self.utterances
        start = int(table.offset[utterance])
        return self.voices[table.file[utterance]][start : start + int(table.frames[utterance])]

    @property
    def front_end(self) -> str:
        """What the log-mels were made by, ``sf2f`` or ``voice2face``."""
        return str(self.speech_stats.get("front_end", "sf2f"))

    @cached_property
    def speech_stats(self) -> dict[str, Any]:
        """``speech/stats.json``: mean and variance over train."""
        return self.release.speech_stats()

    @cached_property
    def utterance_moments(self) -> NDArray[np.float32]:
        """Mean and deviation of every utterance and filter, (utterances, 2, filters), mapped.

        Computed in one pass the first time, then cached.
        """
        count = len(self.utterances.frames)
        shape = (count, 2, self.n_filters)

        def make() -> NDArray[np.float32]:
            moments = np.empty(shape, np.float32)
            for utterance in range(count):
                moments[utterance] = mean_deviation(self.log_mel(utterance))
            return moments

        return self._cache.array("utterances.npy", shape, make)


def mean_deviation(log_mel: NDArray[np.floating]) -> NDArray[np.float32]:
    """Mean and deviation over time of each filter, (2, filters), of (frames, filters)."""
    values = log_mel.astype(np.float64)
    # A filter that never changes would be divided by 0: 1e-5 is far below any voice's deviation.
    return np.stack([values.mean(axis=0), np.maximum(values.std(axis=0), 1e-5)]).astype(np.float32)


def _people(
    identities: pa.Table, of_faces: pa.ChunkedArray, of_utterances: pa.ChunkedArray
) -> dict[SplitName, SplitColumns]:
    """The people of each split who have both faces and utterances."""
    ids = identities["identity_id"].combine_chunks()
    faces, utterances = _rows_of(of_faces, ids), _rows_of(of_utterances, ids)
    people: dict[SplitName, SplitColumns] = {name: ([], [], [], []) for name in SPLITS}
    for row, face_rows, utterance_rows in zip(
        identities.to_pylist(), faces, utterances, strict=True
    ):
        if row["split"] in people and len(face_rows) and len(utterance_rows):
            columns = people[row["split"]]
            columns[0].append(row["identity_id"])
            columns[1].append(row["name"])
            columns[2].append(face_rows)
            columns[3].append(utterance_rows)
    return people


def _rows_of(owners: pa.ChunkedArray, ids: pa.Array) -> list[Rows]:
    """For each id, the rows whose owner it is, in ascending order."""
    position = pc.fill_null(pc.index_in(owners, ids), len(ids)).to_numpy()
    order = np.argsort(position, kind="stable").astype(np.int64)
    ends = np.searchsorted(position[order], np.arange(1, len(ids) + 1))
    return np.split(order[: ends[-1] if len(ends) else 0], ends[:-1])


def _check(
    release: Release,
    files: Sequence[str],
    voices: Sequence[NDArray[np.float16]],
    utterances: Utterances,
) -> None:
    """Raise HqvoxError where the index points outside its files."""
    lengths = np.array([len(array) for array in voices], np.int64)
    wrong = (utterances.offset < 0) | (utterances.frames < 1)
    wrong |= utterances.offset + utterances.frames > lengths[utterances.file]
    if wrong.any():
        where = release.storage.shown(files[int(utterances.file[np.argmax(wrong)])])
        raise HqvoxError(
            f"{where}: shorter than speech/index.parquet says; restore it, or make a new release"
        )
