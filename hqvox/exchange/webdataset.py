"""WebDataset shards: plain tars of each split, in which a sample is a person, or a face.

A trainer that pairs any face of a person with any utterance wants all of a person in one sample:
``<key>.json``, ``<key>.masked.<n>.jpg``, ``<key>.origin.<n>.jpg``, ``<key>.log_mel.<n>.npy``.
One that trains on faces wants them shuffled: then faces and utterances are samples of their own, in
an order without people (by a hash).
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hqvox.exchange.people import ExchangedPerson, OnProgress, People
from hqvox.release.speech import to_json
from hqvox.release.split import PARTS
from hqvox.workspace.tables import Row

INDEX = "shards.json"
"""Samples of every shard."""
SPOKEN = ("video", "utterance", "seconds", "sha256")
"""Columns of an utterance that are exported."""


def write_webdataset(
    people: People, folder: Path, on_progress: OnProgress, shard_bytes: int
) -> None:
    """Write ``<split>-<number>.tar``, a sample a person, and ``shards.json``.

    A shard is closed by the sample that brings it to ``shard_bytes``. Raises HqvoxError where the
    release is damaged, OSError from the disk.
    """
    total, done, number = people.faces + people.utterances, 0, 0
    index: dict[str, dict[str, int]] = {}
    for part in PARTS:
        shards = TarShards(folder, part, shard_bytes)
        for person in people.of_part(part):
            shards.add(f"{number:07d}", _members(people, person))
            number += 1
            done += len(person.faces) + len(person.utterances)
            on_progress(done, total)
        index[part] = shards.finish()
    (folder / INDEX).write_bytes(to_json(index))


def write_webdataset_faces(
    people: People, folder: Path, on_progress: OnProgress, shard_bytes: int
) -> None:
    """Write ``<split>-faces-<number>.tar``, ``<split>-speech-<number>.tar`` and ``shards.json``.

    A sample is a face (``json``, ``masked.jpg``, ``origin.jpg``) or an utterance (``json``,
    ``log_mel.npy``); each names its person. Else as :func:`write_webdataset`.
    """
    total, done = people.faces + people.utterances, 0
    index: dict[str, dict[str, int]] = {}
    for part in PARTS:
        persons = people.of_part(part)
        samples: dict[str, list[tuple[str, ExchangedPerson, Row]]] = {
            "faces": [(f["masked_file"], p, f) for p in persons for f in p.faces],
            "speech": [(f"{u['file']} {u['offset']}", p, u) for p in persons for u in p.utterances],
        }
        for kind, rows in samples.items():
            shards = TarShards(folder, f"{part}-{kind}", shard_bytes)
            members = _face_members if kind == "faces" else _utterance_members
            rows.sort(key=lambda sample: hashlib.sha256(sample[0].encode()).digest())
            for number, (_, person, row) in enumerate(rows):
                shards.add(f"{number:08d}", members(people, person, row))
                done += 1
                on_progress(done, total)
            if rows:
                index[f"{part}-{kind}"] = shards.finish()
    (folder / INDEX).write_bytes(to_json(index))


def _face_members(
    people: People, person: ExchangedPerson, face: Row
) -> Iterator[tuple[str, bytes]]:
    about = person.identity | _without_person(face, person.identity)
    yield "json", json.dumps(about, ensure_ascii=False).encode()
    for kind in ("masked", "origin"):
        yield f"{kind}.jpg", people.picture(face, kind)


def _utterance_members(
    people: People, person: ExchangedPerson, utterance: Row
) -> Iterator[tuple[str, bytes]]:
    about = person.identity | {name: utterance[name] for name in SPOKEN}
    yield "json", json.dumps(about, ensure_ascii=False).encode()
    yield "log_mel.npy", _npy(people.log_mel(utterance))


def _npy(array: NDArray[np.float16]) -> bytes:
    sink = io.BytesIO()
    np.save(sink, array, allow_pickle=False)
    return sink.getvalue()


def _members(people: People, person: ExchangedPerson) -> Iterator[tuple[str, bytes]]:
    """Suffix and content of a sample's files."""
    spoken = [{name: row[name] for name in SPOKEN} for row in person.utterances]
    faces = [_without_person(face, person.identity) for face in person.faces]
    about = person.identity | {"faces": faces, "spoken": spoken}
    yield "json", json.dumps(about, ensure_ascii=False).encode()
    for number, face in enumerate(person.faces):
        for kind in ("masked", "origin"):
            yield f"{kind}.{number}.jpg", people.picture(face, kind)
    for number, row in enumerate(person.utterances):
        yield f"log_mel.{number}.npy", _npy(people.log_mel(row))


def _without_person(face: Row, identity: Row) -> Row:
    """A manifest row for JSON: times as ISO 8601, probabilities as a dict.

    Without the columns that the identity has as well.
    """
    return {name: plain(value) for name, value in face.items() if name not in identity}


def plain(value: Any) -> Any:
    """A table's value as JSON has it."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, list) and value and isinstance(value[0], tuple):
        return dict(value)
    return value


class TarShards:
    """The tars of one kind of samples, such as a split's, each closed when it is large enough."""

    def __init__(self, folder: Path, part: str, shard_bytes: int) -> None:
        self._folder, self._part, self._limit = folder, part, shard_bytes
        self._samples: dict[str, int] = {}
        self._tar: tarfile.TarFile | None = None

    def add(self, key: str, members: Iterator[tuple[str, bytes]]) -> None:
        """Append a sample: suffix and content of each of its files."""
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
