"""`hqvox export`: a release in the form that other code reads."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path, PurePosixPath

from hqvox.errors import HqvoxError
from hqvox.exchange.huggingface import write_huggingface
from hqvox.exchange.people import FolderNames, OnProgress, People, put
from hqvox.exchange.photos import released_photos, write_photos
from hqvox.exchange.sf2f import elsewhere, write_sf2f
from hqvox.exchange.tree import SUBSETS
from hqvox.exchange.webdataset import write_webdataset, write_webdataset_faces
from hqvox.release.read import Release
from hqvox.workspace.layout import Workspace
from hqvox.workspace.storage import TEMPORARY, disk_error

SHARD_MB = 512
"""Default size at which a shard or a Parquet file is closed, MB."""


class Form(Enum):
    """The forms a release can be exported to."""

    SF2F = "sf2f"
    WEBDATASET = "webdataset"
    HUGGINGFACE = "huggingface"
    FOLDERS = "folders"
    PHOTOS = "photos"


class Kind(Enum):
    """The two pictures of a face."""

    MASKED = "masked"
    ORIGIN = "origin"


class Samples(Enum):
    """What a sample of WebDataset is."""

    PERSON = "person"
    FACE = "face"


@dataclass(frozen=True)
class Exported:
    """A finished export."""

    faces: int
    utterances: int
    notes: list[str]
    """What the form could not hold as it is."""


def export_release(
    release: Release,
    form: Form,
    target: Path,
    *,
    shard_mb: int = SHARD_MB,
    kind: Kind = Kind.MASKED,
    samples: Samples = Samples.PERSON,
    embeddings: bool = False,
    on_progress: OnProgress = lambda done, total: None,
) -> Exported:
    """Write ``release`` to ``target`` in a form. The same release gives the same bytes.

    The target appears complete or not at all. ``shard_mb``: of WebDataset, Hugging Face and
    photographs. ``kind``: of folders, which hold one picture a face. ``samples``: of WebDataset.
    ``embeddings``: WebDataset and Hugging Face also have each face's. Raises HqvoxError where the
    target is taken, the release damaged, or the disk refuses.
    """
    check_target(target)  # before thousands of rows are read
    people = People(release, embeddings)
    if not people.faces:
        raise HqvoxError(f"{release.url}: no face in it; there is nothing to export")
    shard_bytes = shard_mb * 1_000_000
    write_samples = write_webdataset if samples is Samples.PERSON else write_webdataset_faces
    photos = released_photos(people) if form is Form.PHOTOS else None
    writers: dict[Form, Callable[[Path], None]] = {
        Form.SF2F: lambda folder: write_sf2f(people, folder, on_progress),
        Form.WEBDATASET: lambda folder: write_samples(people, folder, on_progress, shard_bytes),
        Form.HUGGINGFACE: lambda f: write_huggingface(people, f, on_progress, shard_bytes),
        Form.FOLDERS: lambda folder: write_folders(people, folder, on_progress, kind.value),
    }
    on_progress(0, people.faces + people.utterances)
    notes = []
    with whole_folder(target) as folder:
        if photos is None:
            writers[form](folder)
        else:
            workspace, faces_of = photos
            written = write_photos(workspace, folder, on_progress, shard_bytes, faces_of)
            notes.append(f"{written:,} photographs")
            if written < len(faces_of):
                notes.append(
                    f"{len(faces_of) - written:,} photographs are no longer in {workspace.url}"
                )
        for name, data in people.papers().items():
            put(folder, name, data)
    if form is Form.SF2F and elsewhere(people):
        notes.append(
            f"{elsewhere(people):,} people are of neither {SUBSETS[0]} nor {SUBSETS[1]}, the "
            f"subsets that the SF2F code knows: they are in {SUBSETS[0]}"
        )
    if form in (Form.FOLDERS, Form.PHOTOS) and people.utterances:
        notes.append(f"{form.value} hold pictures only: the voices are left out")
    if form is Form.SF2F and people.filters not in (0, 40):
        notes.append(f"the SF2F code expects 40 mel filters; this release has {people.filters}")
    spoken = 0 if form in (Form.FOLDERS, Form.PHOTOS) else people.utterances
    return Exported(people.faces, spoken, notes)


def export_photos(
    workspace: Workspace,
    target: Path,
    *,
    shard_mb: int = SHARD_MB,
    on_progress: OnProgress = lambda done, total: None,
) -> int:
    """Write all photographs of a workspace that are no duplicates; return how many.

    As :func:`export_release`. Raises HqvoxError also where the workspace is not built so far.
    """
    with whole_folder(target) as folder:
        return write_photos(workspace, folder, on_progress, shard_mb * 1_000_000)


def check_target(target: Path) -> None:
    """Raise HqvoxError unless nothing, or an empty folder, is at ``target``."""
    try:
        taken = target.is_symlink() or (
            target.exists() and (not target.is_dir() or any(target.iterdir()))
        )
    except OSError as error:
        raise disk_error(error, str(target)) from None
    if taken:
        raise HqvoxError(
            f"{target}: it exists and is not empty; name a folder that does not exist yet, "
            "or an empty one"
        )


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary sibling that is renamed to ``target`` when the block ends.

    Where the block raises, nothing is left. Raises HqvoxError where ``target`` is taken or the
    disk refuses.
    """
    check_target(target)
    target = target.absolute()
    # The leftover of a killed command has the same name: it is removed.
    temporary = target.parent / f".{target.name}{TEMPORARY}"
    try:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.mkdir(parents=True)
        yield temporary
        os.sync()  # one flush of everything: file by file, thousands would take minutes
        check_target(target)
        if target.exists():
            target.rmdir()
        os.rename(temporary, target)
    except OSError as error:
        raise disk_error(error, str(error.filename or target)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_folders(people: People, folder: Path, on_progress: OnProgress, kind: str) -> None:
    """Write ``<split>/<Name>/<n>.jpg``, as image classifiers read them.

    ``kind``: ``masked`` or ``origin``. No voices.
    Raises HqvoxError where the release is damaged, OSError from the disk.
    """
    names = FolderNames()
    total, done = people.faces, 0
    for person in people:
        identity = person.identity
        # One name a person in all splits: a folder name then means one person.
        name = names.give("", identity["folder"], identity["subset_folder"])
        for face in person.faces:
            leaf = PurePosixPath(face[f"{kind}_file"]).name
            put(folder, f"{identity['split']}/{name}/{leaf}", people.picture(face, kind))
        done += len(person.faces)
        on_progress(done, total)
