"""The review part of the demo: a reference picture of every invented person."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

import numpy as np
from rich.console import Console

from annotator.candidates.originals import REFERENCES
from hqvox.demo.run import MARKER
from hqvox.imaging.pictures import encode_jpeg
from hqvox.phantom.identity import FaceIdentity
from hqvox.phantom.portraits import portrait
from hqvox.phantom.world import cast, world_names
from hqvox.release.pool import cores, in_order
from hqvox.runner.bars import progress_bar
from hqvox.workspace.storage import Storage

REFERENCE_PX = 256


def add_references(folder: Path, console: Console, workers: int | None = None) -> None:
    """Render a reference picture of everybody in a demo's world, unless it is there.

    JPEG, ``REFERENCE_PX`` a side. The reviewer compares faces with it. It is none of the world's
    photographs, and no stage reads it. ``workers``: processes, by default one per core; 0 runs in
    this one.
    """
    storage = Storage(folder)
    plan = json.loads(storage.read(MARKER))
    files = [
        f"workspace/{REFERENCES}/{quote(name, safe='')}.jpg"
        for name in world_names(plan["identities"])
    ]
    missing = [number for number, file in enumerate(files) if not storage.exists(file)]
    if not missing:
        return
    people = cast(plan["seed"], plan["identities"])
    tasks = [(plan["seed"], number, people[number]) for number in missing]
    pictures = in_order(_reference, tasks, cores() if workers is None else workers)
    with progress_bar(console, "reference pictures") as show:
        for done, (number, picture) in enumerate(zip(missing, pictures, strict=True), 1):
            storage.write(files[number], picture)
            show(done, len(missing))


def _reference(task: tuple[int, int, FaceIdentity]) -> bytes:
    """Return the reference picture of a world's person, from its seed, number and identity."""
    seed, number, person = task
    _, picture = portrait(person, REFERENCE_PX, np.random.default_rng([seed, number, 20_000]))
    return encode_jpeg(picture, 90)
