"""The tree and the pickles that the released SF2F training code reads.

A folder for its ``data/VoxCeleb``: ``{vox1,vox2}/{masked_faces,origin_faces,mel_spectrograms}/
<Name>/`` and ``split.json``. That code knows two subsets; people of any other go to vox1.
"""

from __future__ import annotations

import pickle
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from hqvox.exchange.people import ExchangedPerson, FolderNames, OnProgress, People, put
from hqvox.exchange.tree import MELS, SPLIT, SUBSETS
from hqvox.release.layout import KINDS
from hqvox.release.speech import to_json
from hqvox.release.split import split_file
from hqvox.workspace.tables import Row

_NEW, _OLD = b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"


def write_sf2f(people: People, folder: Path, on_progress: OnProgress) -> None:
    """Write the tree. Raises HqvoxError where the release is damaged, OSError from the disk."""
    for subset in SUBSETS:
        for kind in (*KINDS.values(), MELS):  # that code lists all of them, empty or not
            (folder / subset / kind).mkdir(parents=True, exist_ok=True)
    names = FolderNames()
    total, done = people.faces + people.utterances, 0
    placed: list[Row] = []
    for person in people:
        own = person.identity
        subset = own["subset_folder"] if own["subset_folder"] in SUBSETS else SUBSETS[0]
        name = names.give(subset, own["folder"], own["subset_folder"])
        placed.append({"subset_folder": subset, "folder": name, "split": own["split"]})
        for face in person.faces:
            for kind, sub in KINDS.items():
                leaf = PurePosixPath(face[f"{kind}_file"]).name
                put(folder, f"{subset}/{sub}/{name}/{leaf}", people.picture(face, kind))
        for leaf, data in _pickles(people, person):
            put(folder, f"{subset}/{MELS}/{name}/{leaf}", data)
        done += len(person.faces) + len(person.utterances)
        on_progress(done, total)
    empty: dict[str, dict[str, list[str]]] = {s: {"train": [], "val": [], "test": []}
                                              for s in SUBSETS}  # fmt: skip
    put(folder, SPLIT, to_json(empty | split_file(placed)))


def elsewhere(people: People) -> int:
    """How many people are in neither subset, and so go to vox1."""
    return sum(person.identity["subset_folder"] not in SUBSETS for person in people)


def _pickles(people: People, person: ExchangedPerson) -> list[tuple[str, bytes]]:
    names = FolderNames()
    files: list[tuple[str, bytes]] = []
    for row in person.utterances:
        ids = {
            "spkid": row["identity_id"],
            "clipid": row["video"] or "0",
            "wavid": row["utterance"],
        }
        stem = names.give("", "_".join(ids.values()), str(len(files)))
        files.append((f"{stem}.pickle", utterance_pickle(people.log_mel(row), **ids)))
    return files


def utterance_pickle(log_mel: NDArray[np.floating], spkid: str, clipid: str, wavid: str) -> bytes:
    """Pickle of one utterance: ``LogMel_Features`` (filters, frames) float32, and three ids.

    ``log_mel``: (frames, filters), natural log. Protocol 3 and numpy's old module name, so that
    the Python 3 and numpy of that code's time read it.
    """
    features = np.array(log_mel.T, dtype=np.float32, order="C")
    content = {"LogMel_Features": features, "spkid": spkid, "clipid": clipid, "wavid": wavid}
    return pickle.dumps(content, protocol=3).replace(_NEW, _OLD, 1)
