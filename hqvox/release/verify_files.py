"""The files of a release: which there should be, and which there are."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence, Set
from pathlib import Path, PurePosixPath

from hqvox.errors import HqvoxError
from hqvox.release.read import Release
from hqvox.release.target import CHECKSUMS
from hqvox.workspace.tables import Row

_SHEET = re.compile(r"contact_sheets/\d{3,}\.jpg")
AGAIN = "restore it from a whole copy, or release anew"


def safe(name: str) -> bool:
    """Whether the name stays below the release: relative, without ``..`` or control characters."""
    parts = PurePosixPath(name).parts
    return (
        bool(parts)
        and not name.startswith("/")
        and ".." not in parts
        and "\\" not in name
        and all(ord(c) >= 32 for c in name)
    )


def listed_sums(release: Release, failures: list[str]) -> dict[str, str]:
    """SHA-256 by file as ``SHA256SUMS`` lists them; what is wrong with it goes to ``failures``."""
    try:
        lines = release.read(CHECKSUMS).decode().splitlines()
    except (HqvoxError, UnicodeDecodeError) as error:
        failures.append(f"{CHECKSUMS}: cannot be read ({error}); {AGAIN}")
        return {}
    sums: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        match = re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line)
        if not match or not safe(match[2]) or match[2] in sums:
            failures.append(f"{CHECKSUMS}:{number}: no line of a checksum and a file; {AGAIN}")
        else:
            sums[match[2]] = match[1]
    return sums


def present_files(release: Release) -> dict[str, str]:
    """What lies below the release: name to kind, ``file`` or what else it is."""
    storage = release.storage
    if not storage.local:
        root = storage.path("").rstrip("/")
        found = storage.fs.find(root)
        return {str(path)[len(root) :].lstrip("/"): "file" for path in found}
    root_path = Path(storage.path(""))
    present: dict[str, str] = {}
    for folder, folders, files in os.walk(root_path):
        for name in [*files, *folders]:
            path = Path(folder) / name
            relative = path.relative_to(root_path).as_posix()
            if path.is_symlink():
                present[relative] = "link"
            elif name in files:
                present[relative] = "file" if path.is_file() else "special file"
    return present


def check_names(present: Mapping[str, str], sums: Mapping[str, str], needed: Set[str]) -> list[str]:
    """One line for each file that is extra, missing, or nothing that a release holds."""
    failures = []
    for name, kind in sorted(present.items()):
        if kind != "file":
            failures.append(f"{name}: a {kind}, not a file; remove it")
        elif name not in sums and name != CHECKSUMS:
            failures.append(f"{name}: not part of the release; remove it")
    for name in sorted(needed):
        if name not in sums:
            failures.append(f"{name}: not in {CHECKSUMS}; {AGAIN}")
    return failures


def unclaimed(sums: Mapping[str, str], needed: Set[str]) -> list[str]:
    """One line for each listed file that no table speaks of, though its checksum may agree."""
    return [
        f"{name}: listed in {CHECKSUMS}, but in no table; {AGAIN}"
        for name in sums
        if name not in needed and not _SHEET.fullmatch(name)
    ]


def other_pictures(sums: Mapping[str, str], faces: Sequence[Row]) -> list[str]:
    """One line for each picture that is another than the manifest's, whatever its checksum says."""
    return [
        f"{row[f'{kind}_file']}: not the picture of the manifest (SHA-256 differs); {AGAIN}"
        for row in faces
        for kind in ("masked", "origin")
        if sums.get(row[f"{kind}_file"], row[f"{kind}_sha256"]) != row[f"{kind}_sha256"]
    ]
