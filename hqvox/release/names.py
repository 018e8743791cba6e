"""Names of a release, and of the folders in it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from hqvox.errors import HqvoxError
from hqvox.workspace.identities import safe_name
from hqvox.workspace.tables import Row

MAX_FOLDER_BYTES = 200
"""File systems take 255 bytes; letters outside ASCII take up to four each."""


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
    Two identities of a subset never share a folder, not even where capitals do not count: the
    first keeps the name, the others get their id appended.
    """
    taken: set[tuple[str, str]] = set()
    names: dict[str, tuple[str, str]] = {}
    for row in identities:
        subset = _fit(safe_name(row["subset"]))
        plain = _fit(safe_name(row["name"]))
        folder, number = plain, 1
        while (folded(subset), folded(folder)) in taken:
            own = safe_name(row["identity_id"]) if number == 1 else f"{number}"
            ending = _fit(own, MAX_FOLDER_BYTES // 2)
            folder = f"{_fit(plain, MAX_FOLDER_BYTES - len(ending.encode()) - 1)}-{ending}"
            number += 1
        taken.add((folded(subset), folded(folder)))
        names[row["identity_id"]] = (subset, folder)
    return names


def _fit(name: str, limit_bytes: int = MAX_FOLDER_BYTES) -> str:
    return name.encode()[:limit_bytes].decode(errors="ignore")


def folded(name: str) -> str:
    """What names have in common that file systems without capitals take for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def image_file(identity: Row, kind: str, number: int) -> str:
    """Path of a picture below the release; ``kind``: ``masked_faces`` or ``origin_faces``."""
    return f"{identity['subset_folder']}/{kind}/{identity['folder']}/{number}.jpg"
