"""The work of ``hqvox speech`` on one shard: read, decode, cut to speech, log-mel, commit."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2

from hqvox.config.build import BuildConfig, SpeechConfig
from hqvox.runner.jobs import Finished, JobEvent, Work
from hqvox.speech.decode import AudioError
from hqvox.speech.index import AudioFile
from hqvox.speech.pack import PackWriter
from hqvox.speech.utterance import process, read_file
from hqvox.workspace.layout import Workspace
from hqvox.workspace.storage import disk_error
from hqvox.workspace.tables import Row


@dataclass(frozen=True)
class SpeechJob:
    """A shard to pack."""

    shard: str
    why: str
    files: tuple[AudioFile, ...]
    """The shard's files, identity by identity."""
    fingerprint: dict[str, Any]
    stages: tuple[str, ...] = ("speech",)
    """As the run's log names it."""


@dataclass(frozen=True)
class SpeechProgress:
    """All files of an identity are packed or refused."""

    shard: str
    identity_id: str
    files: int
    packed: int
    seconds: float
    """Speech packed."""
    source_seconds: float
    """Audio decoded."""
    refused: Counter[str]


SpeechEvent = JobEvent | SpeechProgress


def start_worker(root: str, config: BuildConfig) -> Work[SpeechJob]:
    """The work of a child process, which computes on one thread."""
    cv2.setNumThreads(0)
    return partial(pack_shards, Workspace(root), config.speech)


def pack_shards(
    workspace: Workspace,
    config: SpeechConfig,
    jobs: Sequence[SpeechJob],
    report: Callable[[SpeechEvent], None],
) -> None:
    """Pack shards, reporting each as Finished. Raises HqvoxError where the disk refuses."""
    for job in jobs:
        report(Finished(job, pack_shard(workspace, config, job, report)))


def pack_shard(
    workspace: Workspace,
    config: SpeechConfig,
    job: SpeechJob,
    report: Callable[[SpeechProgress], None],
) -> float:
    """Pack a shard and commit it; return the seconds it took.

    Raises HqvoxError where the disk refuses.
    """
    started = time.perf_counter()
    try:
        writer = PackWriter(workspace, job.shard, config.n_filters, config.front_end)
        try:
            for files in _by_identity(job.files):
                report(_pack_identity(writer, files, config))
            writer.commit(job.fingerprint)
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
            columns, log_mel = process(data, config)
            row |= columns
            name = f"{file.video}/{file.utterance}".removeprefix("/")
            first = seen.setdefault(row["sha256"], name)
            if log_mel is not None and first != name:
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
