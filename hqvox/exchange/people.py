"""A release person by person, as every export reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hqvox.errors import HqvoxError
from hqvox.release.layout import (
    DATASHEET_FILE,
    FORMAT,
    IDENTITIES_FILE,
    LICENCES_FILE,
    MANIFEST_FILE,
    SPEECH_INDEX,
    folded,
)
from hqvox.release.manifest import MANIFEST
from hqvox.release.read import Release
from hqvox.release.split import PARTS
from hqvox.workspace.identities import safe_name
from hqvox.workspace.tables import Row

PAPERS = (LICENCES_FILE, DATASHEET_FILE)
"""Documents of a release that every export includes: whoever shares it must share them."""

EMBEDDINGS = ("embedding",)
"""Columns of the manifest by which a person can be recognised elsewhere."""

OnProgress = Callable[[int, int], None]
"""Called with how many faces and utterances are written, and of how many."""


@dataclass(frozen=True)
class ExchangedPerson:
    """An identity of a release, with its faces and utterances in the release's order."""

    identity: Row
    """Of ``identities.parquet``; its ``split`` is train, val or test."""
    faces: list[Row] = field(default_factory=list)
    """Of ``manifest.parquet``."""
    utterances: list[Row] = field(default_factory=list)
    """Of ``speech/index.parquet``."""


class People:
    """The people of a release; files are read on demand."""

    def __init__(self, release: Release, embeddings: bool = False) -> None:
        """``embeddings``: faces have them too; they identify people, so only who asks gets them.

        Raises HqvoxError where a table is missing, damaged or inconsistent.
        """
        self.release = release
        version = release.info().get("format")
        if version != FORMAT:
            raise HqvoxError(
                f"{release.url}: release format {version}, made by an older hqvox, cannot be "
                "exported; make the release again"
            )
        self._people = {
            row["identity_id"]: ExchangedPerson(row) for row in release.identities().to_pylist()
        }
        manifest = release.manifest()
        if not embeddings:
            manifest = manifest.drop_columns([n for n in EMBEDDINGS if n in manifest.column_names])
        self.columns = pa.schema(
            [field for field in MANIFEST if field.name in manifest.schema.names]
        )
        """What the rows of faces have, with types."""
        for row in manifest.to_pylist():
            self._of(row, MANIFEST_FILE).faces.append(row)
        self.filters = 0
        """Mel filters; 0 where the release has no speech."""
        if release.has_speech:
            self.filters = int(release.speech_stats()["filters"])
            for row in release.speech().to_pylist():
                self._of(row, SPEECH_INDEX).utterances.append(row)
        for person in self._people.values():
            part = person.identity["split"]
            if part not in PARTS:
                raise HqvoxError(
                    f"{release.url}: {person.identity['identity_id']} is in {part!r}, not train, "
                    "val or test; check the release with `hqvox release verify`"
                )

    def __iter__(self) -> Iterator[ExchangedPerson]:
        return iter(self._people.values())

    def of_part(self, part: str) -> list[ExchangedPerson]:
        """Those of train, val or test."""
        return [person for person in self if person.identity["split"] == part]

    @property
    def faces(self) -> int:
        """Faces of all."""
        return sum(len(person.faces) for person in self)

    @property
    def utterances(self) -> int:
        """Utterances of all."""
        return sum(len(person.utterances) for person in self)

    def picture(self, face: Row, kind: str) -> bytes:
        """JPEG of a face as released; ``kind``: ``masked`` or ``origin``. Raises HqvoxError."""
        return self.release.read(self.release.checked(face[f"{kind}_file"]))

    def log_mel(self, utterance: Row) -> NDArray[np.float16]:
        """Log-mel of an utterance (frames, filters), natural log. Raises HqvoxError."""
        return self.release.log_mel(utterance, self.filters)

    def papers(self) -> dict[str, bytes]:
        """Licences and datasheet, those that the release has."""
        names = [name for name in PAPERS if self.release.storage.exists(name)]
        return {name: self.release.read(name) for name in names}

    def _of(self, row: Row, table: str) -> ExchangedPerson:
        person = self._people.get(row["identity_id"])
        if person is None:
            raise HqvoxError(
                f"{self.release.url}: {table} names {row['identity_id']!r}, {IDENTITIES_FILE} "
                "does not; check the release with `hqvox release verify`"
            )
        return person


class FolderNames:
    """Names that differ even where the file system ignores case, within each of several folders."""

    def __init__(self) -> None:
        self._taken: set[tuple[str, str]] = set()

    def give(self, where: str, name: str, otherwise: str) -> str:
        """``name`` as a folder or file name; where taken, with ``otherwise`` appended."""
        plain = safe_name(name)
        chosen, number = plain, 1
        while (where, folded(chosen)) in self._taken:
            chosen = f"{plain}-{safe_name(otherwise)}" + ("" if number == 1 else f"-{number}")
            number += 1
        self._taken.add((where, folded(chosen)))
        return chosen


def put(folder: Path, name: str, data: bytes) -> None:
    """Write a file below the folder, making its folders. Raises OSError."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
