"""The index of audio files, by identity.

A folder at any depth below the audio folder belongs to an identity if its name is the identity's id
or name: ``wav/id10001/<video>/<n>.wav`` (VoxCeleb1), ``dev/aac/id00012/<video>/<n>.m4a``
(VoxCeleb2), ``vox1/A.J._Buckley/<n>.wav``. So does a file named after an identity
(``A.J._Buckley.wav``). A CSV gives identity and path. Files of no known identity are counted and
listed.
"""

from __future__ import annotations

import csv
import io
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote, unquote_to_bytes

from hqvox.errors import HqvoxError
from hqvox.speech.listing import ListedFolder, Listing
from hqvox.workspace.identities import safe_name
from hqvox.workspace.tables import Row

NOT_AUDIO = frozenset(
    b".txt .csv .tsv .json .jsonl .yaml .yml .xml .html .htm .md .pdf .jpg .jpeg .png .gif .webp "
    b".bmp .tif .tiff .svg .npy .npz .pkl .pickle .pt .h5 .parquet .zip .tar .gz .tgz .bz2 .xz .7z "
    b".rar .md5 .sha256 .log .py .sh .lab .textgrid .rttm .part .crdownload .tmp".split()
)
"""Suffixes of files that are skipped; all others are tried, and their content decides."""

_ID = re.compile(r"id\d{5}")


class AudioFile(NamedTuple):
    """A file with one utterance of an identity."""

    identity_id: str
    video: str
    """Folder below the identity's; empty where there is none."""
    utterance: str
    """The rest of the path, without suffix; unique within its video."""
    root: str
    path: str
    """Percent-encoded, below ``root``."""
    size: int
    """Bytes; -1 if unknown."""
    mtime_ns: int

    @property
    def location(self) -> Path:
        """Path of the file."""
        below = unquote_to_bytes(self.path)
        return Path(os.fsdecode(os.path.join(os.fsencode(self.root), below)))


@dataclass
class AudioIndex:
    """The files of every identity, and counts of the others."""

    files: dict[str, list[AudioFile]] = field(default_factory=dict)
    """By identity id, in order of source and path; identities without files are left out."""
    unknown: Counter[str] = field(default_factory=Counter)
    """Ids, names or folders of no known identity, and their files (0: not searched)."""
    ambiguous: Counter[str] = field(default_factory=Counter)
    """Names shared by several identities, and their files."""
    passed_over: int = 0
    """Files whose suffix shows that they are no audio."""

    def count(self) -> int:
        """Number of files that belong to an identity."""
        return sum(map(len, self.files.values()))


class Names:
    """Identities by id, name, name as a folder, and folder of photographs."""

    def __init__(self, identities: Sequence[Row]) -> None:
        self._subsets: dict[str, dict[str, str]] = {}
        """By name: identity id to subset."""
        for row in identities:
            names = {row["identity_id"], row["name"], safe_name(row["name"])}
            if row["folder"]:
                names.add(unquote(row["folder"], errors="surrogateescape"))
            for name in names:
                subsets = self._subsets.setdefault(_normal(name), {})
                subsets[row["identity_id"]] = row["subset"]

    def get(self, name: str, hint: str = "") -> list[str]:
        """Ids of the identities of that name; vox1 or vox2 in the path ``hint`` selects one."""
        subsets = self._subsets.get(_normal(name), {})
        if len(subsets) < 2:
            return list(subsets)
        return [key for key, subset in subsets.items() if subset in hint.lower()] or list(subsets)


def index_folders(roots: Sequence[Path], identities: Sequence[Row], listing: Listing) -> AudioIndex:
    """Index everything below ``roots``. Raises HqvoxError where a root cannot be read."""
    index = AudioIndex()
    names = Names(identities)
    for root in roots:
        path = os.fsencode(root)
        folder = listing.folder(path)
        if folder is None:
            raise HqvoxError(f"{root}: the folder of audio cannot be read; name one that can")
        _Walk(index, names, listing, path).visit(path, folder, None, (), None)
    return _unique(index)


def index_csv(file: Path, identities: Sequence[Row]) -> AudioIndex:
    """Index the files that a CSV names: columns ``identity`` (id or name) and ``path``.

    Paths are relative to the CSV's folder, or absolute. Raises HqvoxError where a column or a
    value is missing.
    """
    index = AudioIndex()
    names = Names(identities)
    try:
        text = file.read_text("utf-8-sig")
    except OSError as error:
        raise HqvoxError(f"{file}: {error.strerror}; name a CSV with identity,path") from None
    except UnicodeDecodeError:
        raise HqvoxError(f"{file}: not UTF-8 text; save it as UTF-8 CSV") from None
    root = os.fspath(file.resolve().parent)
    for identity, path in _csv_rows(file, text):
        found_ids = names.get(identity, path)
        if len(found_ids) != 1:
            (index.ambiguous if found_ids else index.unknown)[identity] += 1
            continue
        try:
            status = os.stat(os.path.join(root, path))
            size, mtime_ns = status.st_size, status.st_mtime_ns
        except (OSError, ValueError):  # packing it gives the reason
            size, mtime_ns = -1, 0
        parts = Path(os.path.splitext(path)[0]).parts or (path,)
        own = [i for i, part in enumerate(parts) if found_ids[0] in names.get(part, path)]
        below = parts[own[0] + 1 :] if own and own[0] + 1 < len(parts) else parts[-2:]
        video, utterance = below[0] if len(below) > 1 else "", "/".join(below[1:]) or below[0]
        index.files.setdefault(found_ids[0], []).append(
            AudioFile(
                found_ids[0], video, utterance, root, quote(os.fsencode(path)), size, mtime_ns
            )
        )
    return _unique(index)


def _csv_rows(file: Path, text: str) -> list[tuple[str, str]]:
    """Identity and path of every line. Raises HqvoxError where a column or a value is missing."""
    rows = []
    reader = csv.DictReader(io.StringIO(text))
    try:
        if not {"identity", "path"} <= set(reader.fieldnames or ()):
            columns = ", ".join(reader.fieldnames or ()) or "none"
            raise HqvoxError(f"{file}: needs the columns identity and path; found {columns}")
        for record in reader:
            identity, path = record["identity"], record["path"]
            if not identity or not path:
                raise HqvoxError(f"{file}:{reader.line_num}: identity or path is empty; give both")
            rows.append((identity, path))
    except csv.Error as error:
        raise HqvoxError(f"{file}:{reader.line_num + 1}: {error}; check its quotes") from None
    return rows


def merged(indexes: Sequence[AudioIndex]) -> AudioIndex:
    """Several indexes as one."""
    whole = AudioIndex()
    for index in indexes:
        for identity_id, files in index.files.items():
            whole.files.setdefault(identity_id, []).extend(files)
        whole.unknown.update(index.unknown)
        whole.ambiguous.update(index.ambiguous)
        whole.passed_over += index.passed_over
    return _unique(whole)


class _Walk:
    def __init__(self, index: AudioIndex, names: Names, listing: Listing, root: bytes) -> None:
        self.index, self.names, self.listing = index, names, listing
        self.root = os.fsdecode(root)
        self.skip = len(os.path.join(root, b""))

    def visit(
        self,
        path: bytes,
        folder: ListedFolder,
        owner: str | None,
        below: tuple[str, ...],
        unknown: str | None,
    ) -> None:
        """Add a folder. ``owner``: its identity; ``below``: folders between the owner's and it.

        ``unknown``: the name of no known identity that its files are counted under.
        """
        prefix = quote(path[self.skip :] + b"/") if len(path) > self.skip else ""
        for name, size, mtime_ns in zip(folder.names, folder.sizes, folder.mtimes_ns, strict=True):
            stem, ending = os.path.splitext(name)
            if ending.lower() in NOT_AUDIO:
                self.index.passed_over += 1
                continue
            whose, parts = owner, (*below, _text(stem))
            if whose is None:
                ids = self.names.get(parts[-1], prefix)
                if len(ids) != 1:
                    label = parts[-1] if ids else unknown or unquote(prefix) or parts[-1]
                    (self.index.ambiguous if ids else self.index.unknown)[label] += 1
                    continue
                whose = ids[0]
            video, utterance = (parts[0], "/".join(parts[1:])) if parts[1:] else ("", parts[0])
            self.index.files.setdefault(whose, []).append(
                AudioFile(whose, video, utterance, self.root, prefix + quote(name), size, mtime_ns)
            )
        paths = self.listing.below(path, folder)
        if owner is not None:
            for child in paths:
                self._descend(child, owner, (*below, _text(os.path.basename(child))), None)
            return
        named = [(child, _text(os.path.basename(child))) for child in paths]
        owners = [self.names.get(shown, prefix) for _, shown in named]
        beside = any(len(ids) == 1 for ids in owners)
        for (child, shown), ids in zip(named, owners, strict=True):
            if len(ids) == 1:
                self._descend(child, ids[0], (), None)
            elif ids:
                self.index.ambiguous[shown] += 0
            elif _ID.fullmatch(shown):
                # An identity of VoxCeleb outside this workspace: there may be thousands.
                self.index.unknown[shown] += 0
            else:
                self._descend(child, None, (), unknown or (shown if beside else None))

    def _descend(
        self, path: bytes, owner: str | None, below: tuple[str, ...], unknown: str | None
    ) -> None:
        folder = self.listing.folder(path)
        if folder is not None:
            self.visit(path, folder, owner, below, unknown)


def _unique(index: AudioIndex) -> AudioIndex:
    """Number utterances that share a name within a video."""
    for files in index.files.values():
        seen: set[tuple[str, str]] = set()
        for number, file in enumerate(files):
            utterance, copy = file.utterance, 1
            while (file.video, utterance) in seen:
                copy += 1
                utterance = f"{file.utterance}~{copy}"
            seen.add((file.video, utterance))
            if copy > 1:
                files[number] = file._replace(utterance=utterance)
    return index


def _normal(name: str) -> str:
    """NFC of a name: systems compose accents differently."""
    return unicodedata.normalize("NFC", name)


def _text(name: bytes) -> str:
    """A name as text; percent-encoded where it is not UTF-8."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        return quote(name)
