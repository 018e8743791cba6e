"""`hqvox demo`: a world of phantoms, served, crawled, built, released, trained on and reported.

<folder>/demo.json   marks a demo: size of its world, whether it is made, port of its web site
  world/             photographs of invented people, truth.csv, and urls.csv of the web site
  world/voices/      their voices in VoxCeleb's layout, and truth.csv, written last
  workspace/         the build and its releases
  training/          a small model trained on the release
  report.html

Every step is skipped when its result is there and up to date, so a stopped demo goes on.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from hqvox.config.build import BuildConfig
from hqvox.config.file import merge
from hqvox.demo.training import train_demo
from hqvox.errors import HqvoxError
from hqvox.phantom.recordings import make_voices
from hqvox.phantom.website import HOST, Website, decoys, urls_csv
from hqvox.phantom.world import make_world
from hqvox.release.pool import cores, in_order
from hqvox.release.read import Release, release_names
from hqvox.release.write import Written, write_release
from hqvox.report.html import GeneratedFaces, render_report
from hqvox.report.truth import TruthRow, compare_with_truth
from hqvox.runner.bars import progress_bar
from hqvox.runner.build import plan_build, run_build
from hqvox.runner.plan import DOWNLOAD, ShardJob
from hqvox.runner.progress import Display
from hqvox.speech.build import plan_speech, run_speech, sources
from hqvox.speech.worker import SpeechEvent, SpeechProgress
from hqvox.workspace.identities import read_folders, to_table
from hqvox.workspace.layout import CONFIG, Workspace
from hqvox.workspace.storage import Storage, disk_error
from models.store import ModelStore
from pipelines.chain import STAGE_NAMES, Stages

MARKER = "demo.json"
SEED = 7
RELEASE = "demo"
CONTACT = "hqvox demo on this machine"
OWN_SERVER = {"host_connections": 8, "host_requests_per_second": 500.0, "backoff_seconds": 0.2}
"""Settings of the crawl that would be impolite towards anybody else's server."""
VOICES_TRUTH = "world/voices/truth.csv"


class Stopwatch:
    """Wall-clock seconds of each step of a demo, by the step's name, in the order of the steps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Add the time spent inside to the step ``name``."""
        started = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - started
            self.seconds[name] = self.seconds.get(name, 0.0) + spent


@dataclass(frozen=True)
class Demo:
    """What a demo made."""

    workspace: Workspace
    release: Release
    written: Written | None
    """None where the release was there from an earlier run."""
    truth: list[TruthRow]
    generated: GeneratedFaces | None
    """None where too few people were released to train on."""
    report: Path


def run_demo(
    folder: Path,
    console: Console,
    *,
    identities: int,
    photos: int,
    workers: int | None = None,
    watch: Stopwatch | None = None,
) -> Demo:
    """Make the demo in ``folder``, or go on where an earlier run stopped.

    ``identities`` and ``photos`` (per identity) count for a new world only. ``workers``: processes,
    by default one per core; 0 runs everything in this one. ``watch`` takes the time of each step.
    Raises HqvoxError where the folder holds something else, or the disk refuses.
    """
    watch = watch or Stopwatch()
    changed = build_demo(
        folder, console, identities=identities, photos=photos, workers=workers, watch=watch
    )
    workspace = Workspace.open(folder / "workspace")
    config = workspace.config()
    with watch.step("voices"):
        _make_voices(folder, console, workers)
    with watch.step("speech"):
        changed |= _pack_voices(workspace, folder / "world" / "voices", console)
    names = sorted(release_names(workspace), key=lambda name: (len(name), name))  # demo-10 last
    written = None
    if changed or not names:
        name = RELEASE if not names else f"{RELEASE}-{len(names) + 1}"
        with console.status("release"), watch.step("release"):
            written = write_release(workspace, name, config, auto=True)
    else:
        name = names[-1]
    release = Release(workspace, name)
    with watch.step("training"):
        generated = train_demo(folder / "training" / name, release, console)
    report = folder / "report.html"
    world = folder / "world"
    with console.status("report") as status, watch.step("report"):
        truth = compare_with_truth(workspace, world / "truth.csv", decoys(world))
        page = render_report(
            workspace,
            release,
            lambda what: status.update(f"report: {what}"),
            title=folder.resolve().name,
            truth=truth,
            generated=generated,
        )
        Storage(folder).write(report.name, page.encode())
    return Demo(workspace, release, written, truth, generated, report)


def build_demo(
    folder: Path,
    console: Console,
    *,
    identities: int,
    photos: int,
    workers: int | None,
    watch: Stopwatch,
) -> bool:
    """Make the photographs, crawl and build them; return whether the build changed.

    This is all that a review needs. Arguments and errors are those of :func:`run_demo`.
    """
    with watch.step("photographs"):
        _make_photographs(folder, console, identities, photos, workers)
    with watch.step("crawl and build"):
        return _crawl_and_build(folder, console, workers)


def _make_photographs(
    folder: Path, console: Console, identities: int, photos: int, workers: int | None
) -> None:
    """Begin a demo in ``folder`` and make its photographs, unless they are there."""
    storage = Storage(folder)
    try:
        names = {entry.name for entry in os.scandir(folder)} if folder.exists() else set()
    except OSError as error:
        raise disk_error(error, str(folder)) from None
    if names and MARKER not in names:
        raise HqvoxError(
            f"{folder}: not empty, and not a demo; name a new folder, for example "
            f"`hqvox demo {folder / 'demo'}`"
        )
    plan: dict[str, Any] = {"seed": SEED, "identities": identities, "photos": photos, "made": False}
    if names:
        plan |= json.loads(storage.read(MARKER))
    if plan["made"]:
        return
    storage.write(MARKER, _json(plan))
    run = partial(in_order, workers=cores() if workers is None else workers)
    try:
        with progress_bar(console, "photographs of invented people") as show:
            make_world(
                folder / "world", plan["seed"], plan["identities"], plan["photos"], show, run
            )
    except OSError as error:
        raise disk_error(error, str(error.filename or folder)) from error
    storage.write(MARKER, _json(plan | {"made": True}))


def _make_voices(folder: Path, console: Console, workers: int | None) -> None:
    """Make the voices of a demo's people, unless they are there."""
    storage = Storage(folder)
    if storage.exists(VOICES_TRUTH):
        return
    plan = json.loads(storage.read(MARKER))
    run = partial(in_order, workers=cores() if workers is None else workers)
    try:
        with progress_bar(console, "voices of invented people") as show:
            make_voices(
                folder / "world" / "voices",
                plan["seed"],
                plan["identities"],
                by_name=True,
                on_progress=show,
                run=run,
            )
    except OSError as error:
        raise disk_error(error, str(error.filename or folder)) from error


def _json(plan: dict[str, Any]) -> bytes:
    return json.dumps(plan, indent=1).encode()


def _crawl_and_build(folder: Path, console: Console, workers: int | None) -> bool:
    """Bring the build up to date; return whether it changed.

    The web site is served only while there is something to crawl, and always on the same port,
    because its address is part of the build's input.
    """
    world = folder / "world"
    port = json.loads(Storage(folder).read(MARKER)).get("port", 0)
    if port:
        workspace = _workspace(folder, port)
        jobs = plan_build(workspace, workspace.config(), ModelStore())
        if not any(job.first <= DOWNLOAD for job in jobs):
            return bool(jobs) and _build(workspace, console, workers)
    try:
        site = Website(world, port)
    except OSError as error:
        if not port:
            raise HqvoxError(f"cannot serve on this machine: {error.strerror}") from None
        site = Website(world)  # another program has the port: crawl again from a new address
    with site:
        return _build(_workspace(folder, site.port), console, workers)


def _pack_voices(workspace: Workspace, voices: Path, console: Console) -> bool:
    """Bring the speech up to date; return whether it changed."""
    config = workspace.config()
    with workspace.lock(), progress_bar(console, "speech") as show:
        places = sources(workspace, [voices], [], drop=True)  # the demo may have been moved
        plan = plan_speech(workspace, config.speech, places)
        files, done = sum(len(job.files) for job in plan.jobs), 0

        def take(event: SpeechEvent) -> None:
            nonlocal done
            if isinstance(event, SpeechProgress):
                done += event.files
                show(done, files)

        result = run_speech(workspace, config, plan, places, workers=0, on_event=take)
    if result.failed:
        raise HqvoxError(
            f"{workspace.url}: speech of {len(result.failed)} shards failed, first "
            f"{result.failed[0].error}; run the demo again"
        )
    return bool(plan.jobs or plan.gone)


def _workspace(folder: Path, port: int) -> Workspace:
    """Open the demo's workspace, or create it, configured to crawl the web site on ``port``."""
    root, urls = folder / "workspace", folder / "world" / "urls.csv"
    storage = Storage(folder)
    plan = json.loads(storage.read(MARKER))
    if plan.get("port") != port:
        storage.write(MARKER, _json(plan | {"port": port}))
    listed = urls_csv(folder / "world", f"http://{HOST}:{port}")
    if not urls.exists() or urls.read_bytes() != listed:
        storage.write("world/urls.csv", listed)
    own: dict[str, Any] = {
        "discover": {"sources": ["urls"], "urls": {"file": str(urls.resolve())}},
        "download": {"contact": CONTACT, "allow_hosts": [f"{HOST}:{port}"]} | OWN_SERVER,
    }
    if Workspace(root).storage.exists(CONFIG):
        workspace = Workspace.open(root)
        before = workspace.storage.read(CONFIG)
        now = _yaml(merge(yaml.safe_load(before), own))
        if now != before:  # the demo was moved, or has another port
            workspace.storage.write(CONFIG, now)
        return workspace
    # Embeddings of phantoms are more alike than those of people: strangers reach a cosine of 0.96.
    own["identity"] = {"min_similarity": 0.97}
    # Phantoms vary less than people, and their defects are rendered against narrower limits.
    own["pose"] = {"max_pitch_deg": 5.0}
    own["lighting"] = {"max_light_ratio": 2.0}
    own["emotion"] = {"max_smile_opening": 0.05, "max_smile_width": 0.92}
    text = _yaml({"format": 1, "recipe": "bundled"} | own).decode()
    return Workspace.create(root, text, to_table(read_folders(folder / "world" / "photos")))


def _yaml(values: dict[str, Any]) -> bytes:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode()


def _build(workspace: Workspace, console: Console, workers: int | None) -> bool:
    """Bring the build up to date; return whether it changed."""
    store, config = ModelStore(), workspace.config()
    with workspace.lock():
        jobs = plan_build(workspace, config, store)
        if not jobs:
            return False
        store.ensure(_weights(jobs, config, store))
        stages = STAGE_NAMES[min(job.first for job in jobs) :]
        shards = workspace.shards()
        total = sum(len(shards[job.shard]) for job in jobs)
        with Display(console, stages, total) as display:
            result = run_build(workspace, config, jobs, workers=workers, on_event=display)
    if result.failed:
        raise HqvoxError(
            f"{workspace.url}: {len(result.failed)} shards failed, first "
            f"{result.failed[0].job.shard}: {result.failed[0].error}; run the demo again"
        )
    return True


def _weights(jobs: list[ShardJob], config: BuildConfig, store: ModelStore) -> list[str]:
    return Stages(config, store).networks({name for job in jobs for name in job.stages})
