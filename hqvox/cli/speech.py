"""`hqvox speech`: voices to packed log-mels."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hqvox.cli.common import SetOption, WorkspaceArgument, console, listed, printable, text_table
from hqvox.errors import HqvoxError
from hqvox.speech.build import SpeechPlan, plan_speech, run_speech, sources, summarise
from hqvox.speech.worker import SpeechEvent, SpeechProgress
from hqvox.workspace.layout import Workspace

SHOWN = 8
"""Names listed before the rest is counted."""
WORTH_WORKERS = 500
"""Files from which on worker processes are quicker, with the seconds they take to start."""
PLAIN_EVERY_SECONDS = 5.0
"""Without a terminal, a line at most this often."""


def speech(
    workspace: WorkspaceArgument,
    audio: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="Audio: VoxCeleb's tree, or folders named by id or name. Can be given several "
            "times. Left out: the folders of the run before.",
        ),
    ] = None,
    csv: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="CSV with the columns identity,path."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0, max=1024, help="Processes; 0: in this one. Default: one per core, few files: 0."
        ),
    ] = None,
    settings: SetOption = None,
    rescan: Annotated[
        bool,
        typer.Option("--rescan", help="List every folder again, also those that did not change."),
    ] = False,
    drop: Annotated[
        bool, typer.Option("--drop", help="Drop what came from folders that are not named now.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be packed and why; pack nothing.")
    ] = False,
) -> None:
    """Pack every identity's utterances as log-mels. Stop it at any time and run it again.

    Example: hqvox speech work --audio voxceleb/wav
    """
    opened = Workspace.open(workspace)
    config = opened.config(settings or [])
    places = sources(opened, audio or [], csv or [], drop)
    if dry_run:
        plan = plan_speech(opened, config.speech, places, rescan=rescan)
        print_index(plan)
        print_plan(plan)
        return
    with opened.lock():
        started = time.monotonic()
        plan = plan_speech(opened, config.speech, places, rescan=rescan)
        print_index(plan, time.monotonic() - started)
        files = sum(len(job.files) for job in plan.jobs)
        cores = len(os.sched_getaffinity(0)) if files >= WORTH_WORKERS else 0
        count = workers if workers is not None else cores
        with SpeechDisplay(console, files) as display:
            result = run_speech(opened, config, plan, places, workers=count, on_event=display)
    if plan.jobs:
        rate = result.source_seconds / max(result.wall_seconds, 1e-9)
        console.print(
            f"{result.packed} utterances packed, {result.refused.total()} refused in "
            f"{result.wall_seconds:.1f} s ({rate:.0f} times real time)",
            highlight=False,
        )
    elif not plan.gone:
        console.print("up to date", highlight=False)
    print_summary(opened)
    if result.failed:
        first = result.failed[0]
        raise HqvoxError(
            f"{len(result.failed)} of {len(plan.jobs)} shards failed, first {first.job.shard}: "
            f"{first.error}; traces are in {opened.storage.shown('runs')}; run the same command "
            "again to retry them"
        )


class SpeechDisplay:
    """A progress bar, or plain lines where there is no terminal. Use as a context manager."""

    def __init__(self, console: Console, files: int) -> None:
        self.console, self.files = console, files
        self.done = 0
        self.source_seconds = 0.0
        self.started = self._last_line = time.monotonic()
        self._bar = Progress(
            TextColumn("[bold]utterances"),
            BarColumn(bar_width=40),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal or not files,
        )
        self._task = self._bar.add_task("", total=files, rate="")

    def __enter__(self) -> SpeechDisplay:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def __call__(self, event: SpeechEvent) -> None:
        """Take in an event."""
        if not isinstance(event, SpeechProgress):
            return
        self.done += event.files
        self.source_seconds += event.source_seconds
        now = time.monotonic()
        rate = f"{self.source_seconds / max(now - self.started, 1e-9):.0f} × real time"
        self._bar.update(self._task, completed=self.done, rate=rate)
        if not self.console.is_terminal and now - self._last_line >= PLAIN_EVERY_SECONDS:
            self._last_line = now
            self.console.print(f"{self.done}/{self.files} utterances, {rate}", highlight=False)


def print_index(plan: SpeechPlan, seconds: float | None = None) -> None:
    """What was found, and what belongs to nobody."""
    index, listing = plan.index, plan.listing
    took = f" in {seconds:.1f} s" if seconds is not None else ""
    console.print(
        f"{index.count()} audio files of {len(index.files)} identities{took}; "
        f"{listing.listed} folders listed, {listing.recalled} unchanged",
        highlight=False,
    )
    if listing.unreadable:
        names = [os.fsdecode(path) for path in listing.unreadable]
        _print_names("folders that cannot be read", Counter(dict.fromkeys(names, 0)))
    _print_names("belongs to no identity of this workspace", index.unknown)
    _print_names("names that several identities have", index.ambiguous)


def print_plan(plan: SpeechPlan) -> None:
    """What would be packed and why, grouped."""
    if not plan.jobs and not plan.gone:
        console.print("up to date: nothing to pack")
        return
    rows = []
    shards = Counter(job.why for job in plan.jobs)
    for why, count in shards.items():
        files = sum(len(job.files) for job in plan.jobs if job.why == why)
        rows.append((str(count), str(files), why))
    if plan.gone:
        rows.append((str(len(plan.gone)), "0", "all files are gone: would be removed"))
    console.print(text_table(("shards", "files", "because"), rows, title="what would be packed"))


def print_summary(workspace: Workspace) -> None:
    """The workspace's speech as a table, and how it meets the faces."""
    summary = summarise(workspace)
    rows = [
        ("identities with speech", str(len(summary.with_speech))),
        ("utterances", str(summary.utterances)),
        ("hours of speech", f"{summary.seconds / 3600:.2f}"),
        ("hours before VAD", f"{summary.source_seconds / 3600:.2f}"),
    ]
    if summary.clipped:
        rows.append(("kept, but more than 1 % clipped", str(summary.clipped)))
    rows += [(f"refused: {name}", str(count)) for name, count in summary.refused.most_common()]
    faces = summary.with_faces
    if faces is not None:
        rows += [
            ("with speech and faces", str(len(summary.with_speech & faces))),
            ("with speech, no faces", str(len(summary.with_speech - faces))),
            ("with faces, no speech", str(len(faces - summary.with_speech))),
        ]
    console.print(text_table(("", ""), rows, title=f"speech of {workspace.url}", align="lr"))
    if faces is None:
        console.print(
            f"faces are not built yet: hqvox build {escape(workspace.url)}", highlight=False
        )


def _print_names(what: str, names: Counter[str]) -> None:
    if not names:
        return
    files = f", {names.total()} files" if names.total() else ""
    first = listed([" ".join(name.split()) for name in names], SHOWN)
    console.print(escape(printable(f"{what}: {len(names)}{files}: {first}")), highlight=False)
