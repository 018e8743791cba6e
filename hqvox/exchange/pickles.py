"""Voices of an imported tree: its pickles of log-mels, packed into the workspace.

Pickles come from outside, and unpickling calls what a pickle names. These are read by a reader that
knows numpy arrays, text and numbers, and refuses every other name without importing it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from hqvox.exchange.tree import PersonFolder
from hqvox.speech.pack import PackWriter, SpeechPack
from hqvox.workspace.layout import Workspace
from hqvox.workspace.storage import disk_error
from hqvox.workspace.tables import UTTERANCES, Row
from models.embedding.numpy_pickle import read_array_record
from models.errors import ModelError

FILTERS = 40
"""Mel filters of the published log-mels."""
_KEY = "pickles"
"""Of a shard's fingerprint."""
_LEAST, _MOST = -100.0, 100.0
"""Natural logs of filter energies lie well within."""


@dataclass(frozen=True)
class PackedPickles:
    """How many pickles were packed, and why the others were not."""

    packed: int
    refused: list[str]
    """A line for each pickle that was not taken."""


def read_utterance(path: Path) -> tuple[NDArray[np.float32], str, str]:
    """Log-mel (frames, 40), and clip and utterance id, of a pickle.

    Raises ModelError where the file names anything but arrays, or is not an utterance.
    """
    try:
        content = read_array_record(path)
    except ModelError as error:
        raise ModelError(str(error).removesuffix("; fetch it again")) from None
    features = content.get("LogMel_Features")
    if not isinstance(features, np.ndarray) or features.ndim != 2:
        raise ModelError(f"{path}: holds no LogMel_Features of ({FILTERS}, frames)")
    if features.shape[0] != FILTERS:
        if features.shape[1] != FILTERS:
            raise ModelError(f"{path}: LogMel_Features is {features.shape}, not ({FILTERS}, …)")
        features = features.T
    values = np.asarray(features.T, dtype=np.float32)
    if not len(values):
        raise ModelError(f"{path}: LogMel_Features holds no frame")
    if not ((values >= _LEAST) & (values <= _MOST)).all():
        raise ModelError(f"{path}: LogMel_Features holds values that are not natural logs")
    ids = [str(content.get(key, "")) for key in ("clipid", "wavid")]
    if not ids[1]:
        ids = ["", path.stem]
    return values, ids[0], ids[1]


def from_elsewhere(workspace: Workspace) -> bool:
    """Whether the workspace has speech that was not packed from pickles."""
    pack = SpeechPack(workspace)
    return any(_KEY not in (pack.fingerprint(shard) or {_KEY: []}) for shard in pack.shards())


def pack_pickles(
    workspace: Workspace,
    people: Sequence[tuple[Row, PersonFolder]],
    on_progress: Callable[[int, int], None],
) -> PackedPickles:
    """Pack every person's pickles; shards whose files did not change are left as they are."""
    total, done = sum(len(folder.mels) for _, folder in people), 0
    shards: dict[str, list[tuple[Row, PersonFolder]]] = {}
    for row, folder in people:
        shards.setdefault(row["shard"], []).append((row, folder))
    pack = SpeechPack(workspace)
    for shard, members in shards.items():
        fingerprint = {_KEY: [_listing(path) for _, f in members for path in f.mels]}
        if pack.fingerprint(shard) != fingerprint:
            _pack(workspace, shard, members, fingerprint)
        done += sum(len(folder.mels) for _, folder in members)
        on_progress(done, total)
    pack = SpeechPack(workspace)
    return PackedPickles(pack.index().num_rows, [r["detail"] for r in pack.refused().to_pylist()])


def _pack(
    workspace: Workspace,
    shard: str,
    people: Sequence[tuple[Row, PersonFolder]],
    fingerprint: dict[str, list[list[object]]],
) -> None:
    writer = PackWriter(workspace, shard, FILTERS)
    try:
        for row, folder in people:
            seen: set[tuple[str, str]] = set()
            for path in folder.mels:
                _add(writer, row["identity_id"], folder, path, seen)
        writer.commit(fingerprint)
    except OSError as error:
        raise disk_error(error, str(error.filename or workspace.url)) from error
    finally:
        writer.discard()


def _add(
    writer: PackWriter,
    identity_id: str,
    folder: PersonFolder,
    path: Path,
    seen: set[tuple[str, str]],
) -> None:
    row: Row = dict.fromkeys(UTTERANCES.names) | {
        "identity_id": identity_id,
        "path": quote(f"{folder.subset}/{folder.name}/{path.name}"),
        "seconds": 0.0,
    }
    try:
        log_mel, video, utterance = read_utterance(path)
    except ModelError as error:
        row |= {"video": "", "utterance": path.stem, "reason": "unreadable", "detail": str(error)}
        writer.add(row, None)
        return
    if (video, utterance) in seen:  # its ids are taken: named by its file
        utterance = path.stem
    seen.add((video, utterance))
    row |= {
        "video": video,
        "utterance": utterance,
        "seconds": len(log_mel) / 100,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    writer.add(row, log_mel)


def _listing(path: Path) -> list[object]:
    try:
        status = os.stat(path)
    except OSError as error:
        return [str(path), error.errno, None]
    return [str(path), status.st_size, status.st_mtime_ns]
