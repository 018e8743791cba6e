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
from hqvox.phantom.portraits import portrait
from hqvox.phantom.world import cast, world_names
from hqvox.runner.bars import progress_bar
from hqvox.workspace.storage import Storage

REFERENCE_PX = 256


def add_references(folder: Path, console: Console) -> None:
    """Render a reference picture of everybody in a demo's world, unless it is there.

    JPEG, ``REFERENCE_PX`` a side. The reviewer compares faces with it. It is none of the world's
    photographs, and no stage reads it.
    """
    storage = Storage(folder)
    plan = json.loads(storage.read(MARKER))
    files = {
        name: f"workspace/{REFERENCES}/{quote(name, safe='')}.jpg"
        for name in world_names(plan["identities"])
    }
    if all(storage.exists(file) for file in files.values()):
        return
    people = cast(plan["seed"], plan["identities"])
    with progress_bar(console, "reference pictures") as show:
        for number, (person, file) in enumerate(zip(people, files.values(), strict=True)):
            if not storage.exists(file):
                rng = np.random.default_rng([plan["seed"], number, 20_000])
                _, picture = portrait(person, REFERENCE_PX, rng)
                storage.write(file, encode_jpeg(picture, 90))
            show(number + 1, len(people))
