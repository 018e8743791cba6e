"""Packing a workspace's speech: index, plan, run, record."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, cast

from hqvox.config.build import BuildConfig, SpeechConfig
from hqvox.errors import HqvoxError
from hqvox.runner.build import BuildResult, RunLog
from hqvox.runner.local import Failed, Finished, Started, run_pool
from hqvox.runner.processes import one_line
from hqvox.speech import utterance
from hqvox.speech.index import AudioFile, AudioIndex, index_csv, index_folders, merged
from hqvox.speech.listing import Listing
from hqvox.speech.pack import FOLDER, SpeechPack, remove_shard
from hqvox.speech.worker import SpeechProgress, SpeechTask, pack_shard, serve_speech
from hqvox.workspace.covered import Covered, Owner
from hqvox.workspace.layout import Workspace
from hqvox.workspace.takedowns import Takedowns

SOURCES = f"{FOLDER}/index/sources.json"
LISTING = f"{FOLDER}/index/folders.parquet"


def erase_listing(covered: Covered) -> None:
    """Remove the listing of audio folders, which bear names; it is made again when needed."""
    if covered.identities:
        covered.workspace.storage.remove(LISTING)


AUDIO_LISTING = Owner("listing of audio", (LISTING,), erase_listing)
AUDIO_SOURCES = Owner("folders of audio", (SOURCES,), None)

SpeechEvent = Started | Finished | Failed | SpeechProgress


@dataclass
class SpeechPlan:
    """What there is to pack."""

    index: AudioIndex
    listing: Listing
    tasks: list[SpeechTask]
    gone: list[str]
    """Shards that are packed but have no files any more."""


@dataclass
class SpeechResult:
    """What a run did."""

    packed: int = 0
    seconds: float = 0.0
    source_seconds: float = 0.0
    wall_seconds: float = 0.0
    refused: Counter[str] = field(default_factory=Counter)
    failed: list[Failed] = field(default_factory=list)


def sources(
    workspace: Workspace, audio: Sequence[Path], csvs: Sequence[Path], drop: bool
) -> dict[str, list[str]]:
    """Where the audio is: what was given, or what an earlier run was given.

    Raises HqvoxError where nothing is known, where a folder is missing or empty (a disk that is
    not mounted would count as all speech taken away), or where a place that an earlier run packed
    was not given again and ``drop`` is false.
    """
    before: dict[str, list[str]] = {"audio": [], "csv": []}
    if workspace.storage.exists(SOURCES):
        before = json.loads(workspace.storage.read(SOURCES))
    given = {
        "audio": [str(folder.resolve()) for folder in audio],
        "csv": [str(file.resolve()) for file in csvs],
    }
    if not (audio or csvs):
        given = before
        if not (given["audio"] or given["csv"]):
            raise HqvoxError(
                f"{workspace.url}: no audio named yet; give --audio FOLDER or --csv FILE"
            )
    for kind, places in before.items():
        missing = [place for place in places if place not in given[kind]]
        if missing and not drop:
            raise HqvoxError(
                f"{missing[0]} was packed before and is not named now; name it too (--{kind} "
                f"can be given several times), or --drop what came from it"
            )
    for place in given["audio"]:
        folder = Path(place)
        if not folder.is_dir() or not any(folder.iterdir()):
            raise HqvoxError(f"{place}: the folder of audio is not there, or empty; bring it back")
    return given


def plan_speech(
    workspace: Workspace,
    config: SpeechConfig,
    places: Mapping[str, Sequence[str]],
    *,
    rescan: bool = False,
) -> SpeechPlan:
    """Index the audio and find the shards that are missing or stale, and why."""
    # Whoever was taken down stays away, whatever lies in the folders of audio.
    takedowns = Takedowns.read(workspace)
    shards = {
        shard: [row for row in rows if not takedowns.covers_identity(row["identity_id"])]
        for shard, rows in workspace.shards().items()
    }
    identities = [row for rows in shards.values() for row in rows]
    listing = Listing() if rescan else Listing.load(workspace.storage, LISTING)
    folders = [Path(place) for place in places["audio"]]
    indexes = [index_folders(folders, identities, listing)] if folders else []
    indexes += [index_csv(Path(place), identities) for place in places["csv"]]
    index = merged(indexes)
    pack = SpeechPack(workspace)
    tasks, gone = [], [shard for shard in pack.shards() if shard not in shards]
    for shard, rows in shards.items():
        files = tuple(file for row in rows for file in index.files.get(row["identity_id"], ()))
        committed = pack.fingerprint(shard)
        if not files:
            if committed is not None:
                gone.append(shard)
            continue
        fingerprint = _fingerprint(config, files)
        if committed is None or committed["hash"] != fingerprint["hash"]:
            why = _difference(committed, fingerprint)
            tasks.append(SpeechTask(shard, why, files, fingerprint))
    return SpeechPlan(index, listing, tasks, gone)


def run_speech(
    workspace: Workspace,
    config: BuildConfig,
    plan: SpeechPlan,
    places: Mapping[str, Sequence[str]],
    *,
    workers: int,
    on_event: Callable[[SpeechEvent], None] = lambda event: None,
) -> SpeechResult:
    """Pack what the plan says. The caller holds ``workspace.lock()``.

    ``workers``: processes; 0 packs in this one. Raises HqvoxError where the disk refuses; what was
    committed until then stays.
    """
    result = SpeechResult()
    storage = workspace.storage
    storage.remove_leftovers(FOLDER)
    storage.write(SOURCES, json.dumps(dict(places), indent=1).encode())
    plan.listing.save(storage, LISTING)
    for shard in plan.gone:
        remove_shard(workspace, shard)
    if not plan.tasks:
        return result
    log = RunLog(workspace, config)

    def take(event: Any) -> None:
        if isinstance(event, SpeechProgress):
            result.packed += event.packed
            result.seconds += event.seconds
            result.source_seconds += event.source_seconds
            result.refused.update(event.refused)
        else:
            log.write(event)
            if isinstance(event, Failed):
                result.failed.append(event)
        on_event(event)

    started = time.perf_counter()
    try:
        if workers == 0:
            _run_here(workspace, config.speech, plan.tasks, take)
        else:
            _run_pool(workspace, config, plan.tasks, take, workers)
    finally:
        result.wall_seconds = time.perf_counter() - started
        log.close(BuildResult([], wall_seconds=result.wall_seconds))
    return result


def _run_pool(
    workspace: Workspace,
    config: BuildConfig,
    tasks: Sequence[SpeechTask],
    take: Callable[[Any], None],
    workers: int,
) -> None:
    # Workers are forked from a server; one that holds nothing but speech starts in half the time.
    multiprocessing.set_forkserver_preload(["hqvox.speech.worker"])
    forkserver.ensure_running()
    # The pool asks of a task only which shard it is.
    run_pool(workspace.url, config, cast(Any, tasks), take, workers, serve_speech)


def _run_here(
    workspace: Workspace,
    config: SpeechConfig,
    tasks: Sequence[SpeechTask],
    take: Callable[[SpeechEvent], None],
) -> None:
    for task in tasks:
        take(Started(cast(Any, task)))
        try:
            seconds = pack_shard(workspace, config, task, take)
        except HqvoxError:
            raise
        except Exception as error:  # a defect: the shard is marked, the rest goes on
            line = one_line(error)
            take(Failed(cast(Any, task), line, traceback.format_exc()))
        else:
            take(Finished(cast(Any, task), seconds))


def _fingerprint(config: SpeechConfig, files: Sequence[AudioFile]) -> dict[str, Any]:
    """What decides a shard's content. Where the audio's folder stands does not matter."""
    digest = hashlib.sha256()
    for file in files:
        known = (file.identity_id, file.video, file.utterance, file.path, file.size, file.mtime_ns)
        digest.update(json.dumps(known).encode())
    parts = {
        "config": config.model_dump(mode="json"),
        "version": utterance.VERSION,
        "input": digest.hexdigest(),
    }
    whole = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return {"hash": whole, "parts": parts}


def _difference(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> str:
    if before is None:
        return "not packed yet"
    old, new = before["parts"], now["parts"]
    changes = [
        f"{key} {json.dumps(old['config'].get(key))} → {json.dumps(value)}"
        for key, value in new["config"].items()
        if old["config"].get(key) != value
    ]
    changes += ["newer code"] if old["version"] != new["version"] else []
    changes += ["files changed"] if old["input"] != new["input"] else []
    return ", ".join(changes) or "what it is made from changed"
