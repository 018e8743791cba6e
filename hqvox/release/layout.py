"""What lies where in a release: the names of its files and folders, and the version of its format.

<workspace>/releases/<name>/
  <subset>/masked_faces/<Name>/<n>.jpg   a face on white
  <subset>/origin_faces/<Name>/<n>.jpg   the same crop with its background
  speech/<shard>.f16                     log-mels of the utterances of a shard's people
  speech/index.parquet                   one row per utterance
  speech/stats.json                      mean and variance of the log-mels of train
  manifest.parquet                       one row per face
  identities.parquet                     one row per identity
  split.json                             who trains, validates and tests
  LICENSES.csv                           licence, author and source of every photograph
  DATASHEET.md                           what the dataset is made of, and its limits
  contact_sheets/<number>.jpg            small pictures of everybody
  release.json                           counts, settings, hashes of weights
  SHA256SUMS                             of every other file
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import PurePosixPath

from hqvox.errors import HqvoxError
from hqvox.workspace.identities import safe_name
from hqvox.workspace.tables import Row

FORMAT = 2
"""Version of the layout of a release."""
FOLDER = "releases"
"""Of a workspace, where its releases are."""
MANIFEST_FILE = "manifest.parquet"
IDENTITIES_FILE = "identities.parquet"
SPLIT_FILE = "split.json"
LICENCES_FILE = "LICENSES.csv"
DATASHEET_FILE = "DATASHEET.md"
INFO = "release.json"
"""Written last on object storage: a folder without it is not a release."""
CHECKSUMS = "SHA256SUMS"
SPEECH_INDEX = "speech/index.parquet"
SPEECH_STATS = "speech/stats.json"
KINDS = {"masked": "masked_faces", "origin": "origin_faces"}
"""The two pictures of a face, and the folder of each."""
CONTACT_SHEET = re.compile(r"contact_sheets/\d{3,}\.jpg")
MAX_FOLDER_BYTES = 200
"""File systems take 255 bytes; letters outside ASCII take up to four each."""


def face_file(identity: Row, kind: str, stem: str) -> str:
    """Path of a picture below the release. ``kind``: of :data:`KINDS`; ``stem``: of its name."""
    return f"{identity['subset_folder']}/{KINDS[kind]}/{identity['folder']}/{stem}.jpg"


def speech_file(shard: str) -> str:
    """Path of a shard's log-mels below the release."""
    return f"speech/{shard}.f16"


def contact_sheet_file(number: int) -> str:
    """Path of a contact sheet below the release; ``number`` from 1."""
    return f"contact_sheets/{number:03d}.jpg"


def is_safe(name: str) -> bool:
    """Whether the name stays below the release: relative, without ``..`` or control characters."""
    parts = PurePosixPath(name).parts
    return (
        bool(parts)
        and not name.startswith("/")
        and ".." not in parts
        and "\\" not in name
        and all(ord(c) >= 32 for c in name)
    )


def check_name(name: str) -> None:
    """Raise HqvoxError unless it can name a release: letters, digits, dots, dashes, underscores."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name) or name.endswith(".tmp"):
        raise HqvoxError(
            f"{name!r} cannot name a release: use up to 64 letters, digits, dots, dashes and "
            "underscores, beginning with a letter or digit"
        )


def folder_names(identities: Sequence[Row]) -> dict[str, tuple[str, str]]:
    """Subset folder and identity folder of each identity, by identity id.

    ``identities``: all of a build's, in order, so that names do not depend on who is released.
    Two identities of a subset never share a folder, not even where the file system ignores case:
    the first keeps the name, the others get their id appended.
    """
    taken: set[tuple[str, str]] = set()
    names: dict[str, tuple[str, str]] = {}
    for row in identities:
        subset = _fit(safe_name(row["subset"]))
        plain = _fit(safe_name(row["name"]))
        folder, number = plain, 1
        while (folded(subset), folded(folder)) in taken:
            suffix = safe_name(row["identity_id"]) if number == 1 else f"{number}"
            ending = _fit(suffix, MAX_FOLDER_BYTES // 2)
            folder = f"{_fit(plain, MAX_FOLDER_BYTES - len(ending.encode()) - 1)}-{ending}"
            number += 1
        taken.add((folded(subset), folded(folder)))
        names[row["identity_id"]] = (subset, folder)
    return names


def _fit(name: str, limit_bytes: int = MAX_FOLDER_BYTES) -> str:
    return name.encode()[:limit_bytes].decode(errors="ignore")


def folded(name: str) -> str:
    """The form in which two names are equal where file systems ignore case."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
