"""A tree in the published dataset's form: which people, pictures and voices it has.

``<subset>/{masked_faces,origin_faces}/<Name>/<n>.jpg`` and, if there,
``<subset>/mel_spectrograms/<Name>/*.pickle`` and ``split.json``. Names are brought to one Unicode
form (NFC), as the same name is spelt differently by different systems.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hqvox.errors import HqvoxError
from hqvox.release.layout import KINDS
from hqvox.workspace.identities import USER_SUBSET

FACES = {folder: kind for kind, folder in KINDS.items()}
SUBSETS = ("vox1", "vox2")
MELS = "mel_spectrograms"
SPLIT = "split.json"
PICTURES = {
    ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".heic", ".jp2"
}  # fmt: skip


@dataclass
class Picture:
    """A face: one or both of its pictures."""

    stem: str
    masked: Path | None = None
    origin: Path | None = None

    @property
    def measured(self) -> Path:
        """The one that is measured: as photographed, where that is there."""
        path = self.origin or self.masked
        assert path is not None
        return path


@dataclass
class PersonFolder:
    """A person of the tree."""

    subset: str
    name: str
    """Of the folder, NFC."""
    pictures: dict[str, Picture] = field(default_factory=dict)
    """By stem."""
    mels: list[Path] = field(default_factory=list)

    def ordered(self) -> list[Picture]:
        """Pictures in natural order: 2 before 10."""
        return [self.pictures[stem] for stem in sorted(self.pictures, key=_natural)]


@dataclass
class Tree:
    """The people of a tree, by subset and name; and a line for each file that was not taken."""

    root: Path
    folders: list[PersonFolder]
    problems: list[str]
    split: Path | None
    aligned: bool = True
    """Whether the pictures are crops in HQ-VoxCeleb's geometry; else they may have any shape."""


def read_tree(root: Path) -> Tree:
    """List a tree without opening its files. Raises HqvoxError where it is not in that form."""
    try:
        tops = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    except OSError as error:
        raise HqvoxError(
            f"{root}: {error.strerror}; name the folder that holds vox1 and vox2"
        ) from None
    kinds = (*FACES, MELS)
    subsets = {top: root / top for top in tops if _has(root / top, FACES)}
    if _has(root, FACES):  # without subsets
        subsets = {USER_SUBSET: root}
    if not subsets:
        raise HqvoxError(
            f"{root}: not a tree in HQ-VoxCeleb's form; expected "
            f"{root}/vox1/masked_faces/<Name>/<n>.jpg, found "
            f"{', '.join(tops[:5]) or 'no folders'}"
        )
    folders: dict[tuple[str, str], PersonFolder] = {}
    problems: list[str] = []
    for subset, top in subsets.items():
        for kind in kinds:
            for path, name in _entries(top / kind, problems):
                if not path.is_dir():
                    problems.append(f"{path}: not in a person's folder; left out")
                    continue
                folder = folders.setdefault((subset, name), PersonFolder(subset, name))
                _take(folder, kind, path, problems)
    tree = Tree(
        root,
        [folders[key] for key in sorted(folders)],
        problems,
        root / SPLIT if (root / SPLIT).is_file() else None,
    )
    if not any(folder.pictures for folder in tree.folders):
        raise HqvoxError(
            f"{root}: no pictures in {' or '.join(FACES)}; expected "
            f"{root}/vox1/masked_faces/<Name>/<n>.jpg, and the same under origin_faces"
        )
    return tree


def read_folders(root: Path) -> Tree:
    """List a dataset with a folder of pictures for each person, such as filtered VGGFace.

    The people are VoxCeleb1's, as filtered VGGFace names them. A picture is both pictures of a
    face: it keeps its background. Raises HqvoxError where there is no picture.
    """
    problems: list[str] = []
    if not root.is_dir():
        raise HqvoxError(f"{root}: no such folder; name the one that holds a folder per person")
    folders = []
    for path, name in _entries(root, problems):
        if not path.is_dir():
            problems.append(f"{path}: not in a person's folder; left out")
            continue
        folder = PersonFolder(SUBSETS[0], name)
        _take(folder, KINDS["origin"], path, problems)
        for picture in folder.pictures.values():
            picture.masked = picture.origin
        if folder.pictures:
            folders.append(folder)
    if not folders:
        raise HqvoxError(f"{root}: no pictures; expected {root}/<Name>/<n>.jpg")
    return Tree(root, sorted(folders, key=lambda f: f.name), problems, None, aligned=False)


def nfc(name: str) -> str:
    """The name in one Unicode form."""
    return unicodedata.normalize("NFC", name)


def _has(top: Path, kinds: dict[str, str]) -> bool:
    return any((top / kind).is_dir() for kind in kinds)


def _take(person: PersonFolder, kind: str, folder: Path, problems: list[str]) -> None:
    """Add the files of one of a person's folders; what is not taken gets a line in ``problems``."""
    for path, name in _entries(folder, problems):
        if kind == MELS:
            if name.lower().endswith((".pickle", ".pkl")):
                person.mels.append(path)
            else:
                problems.append(f"{path}: not a pickle; left out")
            continue
        stem, ending = os.path.splitext(name)
        if ending.lower() not in PICTURES:
            problems.append(f"{path}: not a picture by its name; left out")
            continue
        picture = person.pictures.setdefault(stem, Picture(stem))
        before = getattr(picture, FACES[kind])
        if before is not None:
            problems.append(f"{path}: {before.name} is there under the same number; left out")
            continue
        setattr(picture, FACES[kind], path)


def _entries(folder: Path, problems: list[str]) -> Iterator[tuple[Path, str]]:
    """Path of everything in a folder but hidden files, sorted, and its name as NFC."""
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return
    except OSError as error:
        problems.append(f"{folder}: {error.strerror}; left out")
        return
    for name in names:
        if name.startswith("."):
            continue
        try:
            name.encode()
        except UnicodeEncodeError:
            shown = os.fsencode(name).decode(errors="replace")
            problems.append(f"{folder}/{shown}: the name is not UTF-8; rename it; left out")
            continue
        yield folder / name, nfc(name)


def _natural(name: str) -> tuple[list[tuple[int, int, str]], str]:
    parts = [part for part in re.split(r"(\d+)", name) if part]
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts], name
