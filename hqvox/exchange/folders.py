"""Pictures in plain folders: ``<split>/<Name>/<n>.jpg``, as image classifiers read them."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from hqvox.exchange.folder import put
from hqvox.exchange.people import FolderNames, OnProgress, People


def write_folders(people: People, folder: Path, on_progress: OnProgress, kind: str) -> None:
    """Write the pictures of one ``kind``, ``masked`` or ``origin``.

    Raises HqvoxError where the release is damaged, OSError from the disk.
    """
    names = FolderNames()
    total, done = people.faces, 0
    for person in people:
        own = person.identity
        # One name a person over all sides: a folder name then means one person.
        name = names.give("", own["folder"], own["subset_folder"])
        for face in person.faces:
            leaf = PurePosixPath(face[f"{kind}_file"]).name
            put(folder, f"{own['split']}/{name}/{leaf}", people.picture(face, kind))
        done += len(person.faces)
        on_progress(done, total)
