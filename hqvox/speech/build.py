"""`hqvox speech`: index the audio, plan, run, record, summarise."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from hqvox.config.build import BuildConfig, SpeechConfig
from hqvox.errors import HqvoxError
from hqvox.runner.build import BuildResult, RunLog
from hqvox.runner.jobs import Failed, process_pool, run_here, run_jobs
from hqvox.runner.plan import difference, digest
from hqvox.speech import utterance
from hqvox.speech.index import AudioFile, AudioIndex, index_csv, index_folders, merged
from hqvox.speech.listing import Listing
from hqvox.speech.pack import FOLDER, SpeechPack, remove_shard
from hqvox.speech.worker import SpeechEvent, SpeechJob, SpeechProgress, pack_shards, start_worker
from hqvox.workspace.covered import Covered, Owner
from hqvox.workspace.layout import Workspace
from hqvox.workspace.takedowns import Takedowns
from pipelines.chain import STAGE_NAMES

SOURCES = f"{FOLDER}/index/sources.json"
LISTING = f"{FOLDER}/index/folders.parquet"
CLIPPED_FRACTION = 0.01
PRELOAD = ("hqvox.speech.worker",)
"""Imported once by the server that worker processes are forked from: nothing but speech, so that
they start in half the time."""


@dataclass
class SpeechPlan:
    """What to pack."""

    index: AudioIndex
    listing: Listing
    jobs: list[SpeechJob]
    gone: list[str]
    """Packed shards whose files are gone."""


@dataclass
class SpeechResult:
    """Totals of a run."""

    packed: int = 0
    seconds: float = 0.0
    source_seconds: float = 0.0
    wall_seconds: float = 0.0
    refused: Counter[str] = field(default_factory=Counter)
    failed: list[Failed] = field(default_factory=list)


@dataclass
class SpeechSummary:
    """Counts over a workspace."""

    utterances: int = 0
    seconds: float = 0.0
    """Speech, after VAD."""
    source_seconds: float = 0.0
    """The same utterances before VAD."""
    clipped: int = 0
    """Packed utterances with more than ``CLIPPED_FRACTION`` of their samples at full scale."""
    refused: Counter[str] = field(default_factory=Counter)
    with_speech: set[str] = field(default_factory=set)
    """Ids of identities with a packed utterance."""
    with_faces: set[str] | None = None
    """Ids of identities with a face that every stage kept; None if no shard is built."""


def sources(
    workspace: Workspace, audio: Sequence[Path], csvs: Sequence[Path], drop: bool
) -> dict[str, list[str]]:
    """Folders (``audio``) and lists (``csv``) of audio: those given, else those of the last run.

    Raises HqvoxError where there are none, where a folder is missing or empty (with a disk that is
    not mounted, all speech would be removed), or where one of the last run is not given again and
    ``drop`` is false.
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
    # Identities taken down stay out, even if their files are still in the folders of audio.
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
    jobs, gone = [], [shard for shard in pack.shards() if shard not in shards]
    for shard, rows in shards.items():
        files = tuple(file for row in rows for file in index.files.get(row["identity_id"], ()))
        committed = pack.fingerprint(shard)
        if not files:
            if committed is not None:
                gone.append(shard)
            continue
        fingerprint = _fingerprint(config, files)
        if committed is None or committed["hash"] != fingerprint["hash"]:
            why = "not packed yet"
            if committed is not None:
                why = difference(committed["parts"], fingerprint["parts"], "files changed")
            jobs.append(SpeechJob(shard, why, files, fingerprint))
    return SpeechPlan(index, listing, jobs, gone)


def run_speech(
    workspace: Workspace,
    config: BuildConfig,
    plan: SpeechPlan,
    places: Mapping[str, Sequence[str]],
    *,
    workers: int,
    on_event: Callable[[SpeechEvent], None] = lambda event: None,
) -> SpeechResult:
    """Run a plan. The caller holds ``workspace.lock()``.

    ``workers``: processes; 0 packs in this one. Raises HqvoxError where the disk refuses; what was
    committed before stays.
    """
    result = SpeechResult()
    storage = workspace.storage
    storage.remove_leftovers(FOLDER)
    storage.write(SOURCES, json.dumps(dict(places), indent=1).encode())
    plan.listing.save(storage, LISTING)
    for shard in plan.gone:
        remove_shard(workspace, shard)
    if not plan.jobs:
        return result
    log = RunLog(workspace, config)

    def take(event: SpeechEvent) -> None:
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

    batches = [[job] for job in plan.jobs]
    started = time.perf_counter()
    try:
        if workers == 0:
            work = partial(pack_shards, workspace, config.speech)
            run_here(batches, work, take)
        else:
            start = partial(start_worker, workspace.url, config)
            pool = process_pool(start, workers, batches, PRELOAD)
            run_jobs([pool], take, config.runner.max_deaths)
    finally:
        result.wall_seconds = time.perf_counter() - started
        log.close(BuildResult([], wall_seconds=result.wall_seconds))
    return result


def summarise(workspace: Workspace) -> SpeechSummary:
    """Read the indexes of all shards. Raises HqvoxError where one is damaged."""
    pack = SpeechPack(workspace)
    kept, refused = pack.index(), pack.refused()
    summary = SpeechSummary(
        utterances=kept.num_rows,
        seconds=pc.sum(kept["seconds"]).as_py() or 0.0,
        source_seconds=pc.sum(kept["source_seconds"]).as_py() or 0.0,
        clipped=pc.sum(pc.greater(kept["clipped_fraction"], CLIPPED_FRACTION)).as_py() or 0,
        refused=Counter(refused["reason"].to_pylist()),
        with_speech=set(kept["identity_id"].to_pylist()),
    )
    for shard in workspace.shards():
        faces = workspace.read_stage(STAGE_NAMES[-1], shard, ["reason"])
        if faces is not None:
            kept_faces = faces.filter(pc.is_null(faces["reason"]))
            ids = set(kept_faces["identity_id"].to_pylist())
            summary.with_faces = (summary.with_faces or set()) | ids
    return summary


def _fingerprint(config: SpeechConfig, files: Sequence[AudioFile]) -> dict[str, Any]:
    """What decides a shard's content. The place of the folder of audio does not matter."""
    inputs = hashlib.sha256()
    for file in files:
        key = (file.identity_id, file.video, file.utterance, file.path, file.size, file.mtime_ns)
        inputs.update(json.dumps(key).encode())
    settings = config.model_dump(mode="json")
    if config.front_end == "sf2f":
        # Speech that was packed before there were two front ends stays as it is.
        del settings["front_end"]
    parts = {
        "config": settings,
        "version": utterance.VERSION,
        "input": inputs.hexdigest(),
    }
    return {"hash": digest(parts), "parts": parts}


def erase_listing(covered: Covered) -> None:
    """Remove the listing of audio folders, which bear names; it is made again when needed."""
    if covered.identities:
        covered.workspace.storage.remove(LISTING)


AUDIO_LISTING = Owner("listing of audio", (LISTING,), erase_listing)
AUDIO_SOURCES = Owner("folders of audio", (SOURCES,), None)
