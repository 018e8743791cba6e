"""Packing one shard: its files read, decoded, cut to speech, made log-mels of, and committed."""

from __future__ import annotations

import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import cv2

from hqvox.config.build import BuildConfig, SpeechConfig
from hqvox.errors import HqvoxError
from hqvox.runner.processes import die_with_parent, one_line
from hqvox.speech.decode import AudioError
from hqvox.speech.index import AudioFile
from hqvox.speech.pack import PackWriter
from hqvox.speech.utterance import process, read_file
from hqvox.workspace.layout import Workspace
from hqvox.workspace.storage import disk_error
from hqvox.workspace.tables import Row


@dataclass(frozen=True)
class SpeechTask:
    """A shard to pack."""

    shard: str
    why: str
    files: tuple[AudioFile, ...]
    """The shard's files, identity by identity."""
    fingerprint: dict[str, Any]
    stages: tuple[str, ...] = ("speech",)
    """For the run's log."""


@dataclass(frozen=True)
class SpeechProgress:
    """An identity of a shard is through."""

    shard: str
    identity_id: str
    files: int
    packed: int
    seconds: float
    """Speech packed."""
    source_seconds: float
    """Audio decoded."""
    refused: Counter[str]


def pack_shard(
    workspace: Workspace,
    config: SpeechConfig,
    task: SpeechTask,
    report: Callable[[SpeechProgress], None],
) -> float:
    """Pack a shard and commit it; return the seconds it took.

    Raises HqvoxError where the disk refuses.
    """
    started = time.perf_counter()
    try:
        writer = PackWriter(workspace, task.shard, config.n_filters)
        try:
            for files in _by_identity(task.files):
                report(_pack_identity(writer, files, config))
            writer.commit(task.fingerprint)
        finally:
            writer.discard()
    except OSError as error:
        raise disk_error(error, str(error.filename or workspace.url)) from error
    return time.perf_counter() - started


def _by_identity(files: tuple[AudioFile, ...]) -> list[list[AudioFile]]:
    groups: dict[str, list[AudioFile]] = {}
    for file in files:
        groups.setdefault(file.identity_id, []).append(file)
    return list(groups.values())


def _pack_identity(
    writer: PackWriter, files: list[AudioFile], config: SpeechConfig
) -> SpeechProgress:
    seen: dict[str, str] = {}
    refused: Counter[str] = Counter()
    seconds = source_seconds = 0.0
    for file in files:
        row: Row = {
            "identity_id": file.identity_id,
            "video": file.video,
            "utterance": file.utterance,
            "path": file.path,
        }
        log_mel = None
        try:
            data = read_file(file.location, config)
        except AudioError as error:
            row |= {"reason": error.reason, "detail": error.detail or None, "seconds": 0.0}
        else:
            found, log_mel = process(data, config)
            row |= found
            own = f"{file.video}/{file.utterance}".removeprefix("/")
            first = seen.setdefault(row["sha256"], own)
            if log_mel is not None and first != own:
                log_mel = None
                row |= {"reason": "duplicate", "detail": f"the same bytes as {first}"}
        writer.add(row, log_mel)
        source_seconds += row.get("source_seconds") or 0.0
        if log_mel is None:
            refused[row["reason"]] += 1
        else:
            seconds += row["seconds"]
    packed = len(files) - refused.total()
    return SpeechProgress(
        writer.shard, files[0].identity_id, len(files), packed, seconds, source_seconds, refused
    )


def serve_speech(pipe: Connection, root: str, config: BuildConfig) -> None:
    """A worker process's life: take tasks until the parent closes the pipe."""
    cv2.setNumThreads(0)  # each worker computes on one thread
    threading.Thread(target=die_with_parent, daemon=True).start()
    workspace = Workspace(root)
    try:
        while True:
            task = pipe.recv()
            try:
                seconds = pack_shard(
                    workspace, config.speech, task, lambda done: pipe.send(("progress", done))
                )
            except HqvoxError as error:
                pipe.send(("stop", str(error)))
            except Exception as error:  # a defect: the shard is marked, the rest goes on
                pipe.send(("failed", (one_line(error), traceback.format_exc())))
            else:
                pipe.send(("done", seconds))
    except (EOFError, ConnectionError, KeyboardInterrupt):
        return  # the parent is done, or gone
