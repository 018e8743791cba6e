"""WebDataset shards: plain tars of each split, in which a sample is a person.

A trainer pairs any face of a person with any utterance, so all of a person is in one sample:
``<key>.json``, ``<key>.masked.<n>.jpg``, ``<key>.origin.<n>.jpg``, ``<key>.log_mel.<n>.npy``.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from hqvox.exchange.people import ExchangedPerson, OnProgress, People
from hqvox.release.speech import to_json
from hqvox.release.split import PARTS
from hqvox.workspace.tables import Row

INDEX = "shards.json"


def write_webdataset(
    people: People, folder: Path, on_progress: OnProgress, shard_bytes: int
) -> None:
    """Write ``<split>-<number>.tar`` and ``shards.json``.

    A shard is closed by the sample that brings it to ``shard_bytes``. Raises HqvoxError where the
    release is damaged, OSError from the disk.
    """
    total, done, number = people.faces + people.utterances, 0, 0
    index: dict[str, dict[str, int]] = {}
    for part in PARTS:
        shards = _Shards(folder, part, shard_bytes)
        for person in people.of_part(part):
            shards.add(f"{number:07d}", _members(people, person))
            number += 1
            done += len(person.faces) + len(person.utterances)
            on_progress(done, total)
        index[part] = shards.finish()
    (folder / INDEX).write_bytes(to_json(index))


def _members(people: People, person: ExchangedPerson) -> Iterator[tuple[str, bytes]]:
    """Suffix and content of a sample's files."""
    spoken = [
        {name: row[name] for name in ("video", "utterance", "seconds", "sha256")}
        for row in person.utterances
    ]
    faces = [_without_person(face, person.identity) for face in person.faces]
    about = person.identity | {"faces": faces, "spoken": spoken}
    yield "json", json.dumps(about, ensure_ascii=False).encode()
    for number, face in enumerate(person.faces):
        for kind in ("masked", "origin"):
            yield f"{kind}.{number}.jpg", people.picture(face, kind)
    for number, row in enumerate(person.utterances):
        sink = io.BytesIO()
        np.save(sink, people.log_mel(row), allow_pickle=False)
        yield f"log_mel.{number}.npy", sink.getvalue()


def _without_person(face: Row, identity: Row) -> Row:
    """A manifest row for JSON: times as ISO 8601, probabilities as a dict.

    Without the columns that the identity has as well.
    """
    return {name: _plain(value) for name, value in face.items() if name not in identity}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, list) and value and isinstance(value[0], tuple):
        return dict(value)
    return value


class _Shards:
    """The tars of one split, each closed when it is large enough."""

    def __init__(self, folder: Path, part: str, shard_bytes: int) -> None:
        self._folder, self._part, self._limit = folder, part, shard_bytes
        self._samples: dict[str, int] = {}
        self._tar: tarfile.TarFile | None = None

    def add(self, key: str, members: Iterator[tuple[str, bytes]]) -> None:
        if self._tar is None:
            name = f"{self._part}-{len(self._samples):06d}.tar"
            self._tar = tarfile.open(  # noqa: SIM115 - closed below, or by finish
                self._folder / name, "w", format=tarfile.USTAR_FORMAT
            )
            self._samples[name] = 0
        for suffix, data in members:
            info = tarfile.TarInfo(f"{key}.{suffix}")
            info.size = len(data)
            self._tar.addfile(info, io.BytesIO(data))
        self._samples[list(self._samples)[-1]] += 1
        if self._tar.offset >= self._limit:
            self._tar.close()
            self._tar = None

    def finish(self) -> dict[str, int]:
        """Close; samples by shard."""
        if self._tar is not None:
            self._tar.close()
        return self._samples
