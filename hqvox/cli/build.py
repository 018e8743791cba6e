"""`hqvox build`: bring a workspace up to date."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer

from hqvox.cli.common import RecipeOption, SetOption, WorkspaceArgument, console, say, text_table
from hqvox.cli.status import print_funnel
from hqvox.config.build import BuildConfig
from hqvox.errors import HqvoxError
from hqvox.runner.build import Executor, photos_gone, plan_build, run_build
from hqvox.runner.plan import ShardJob
from hqvox.runner.progress import Display
from hqvox.workspace.layout import Workspace
from hqvox.workspace.measures import counted
from models.store import ModelStore
from pipelines.chain import STAGE_NAMES, Stages

SHOWN = 4
"""Reasons to wait that are listed."""


def build(
    workspace: WorkspaceArgument,
    stage: Annotated[
        str | None, typer.Option(help="Bring this stage up to date, with what it needs.")
    ] = None,
    only: Annotated[
        bool, typer.Option("--only", help="With --stage: refuse to touch any other stage.")
    ] = False,
    start: Annotated[
        str | None, typer.Option("--from", help="Run this stage and what follows, even if current.")
    ] = None,
    to: Annotated[str | None, typer.Option("--to", help="Stop after this stage.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=1024,
            help="Processes; 0: in this one. Default: one per core; with Ray, what has room.",
        ),
    ] = None,
    executor: Annotated[
        Executor,
        typer.Option(help="ray: actors of the cluster at RAY_ADDRESS, or of one started here."),
    ] = "local",
    recipe: RecipeOption = None,
    settings: SetOption = None,
    retry_failed: Annotated[
        bool,
        typer.Option("--retry-failed", help="Try photos again that failed for a transient reason."),
    ] = False,
    refresh: Annotated[
        bool,
        typer.Option("--refresh", help="Ask servers whether photos changed; others stay."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would run and why; run nothing.")
    ] = False,
) -> None:
    """Run every stage that is missing or stale, like make. Stop it at any time and run it again.

    --set and --recipe hold for this run; write them into hqvox.yaml to keep them.

    Example: hqvox build work --stage align
    """
    if stage and to:
        raise HqvoxError("give --stage or --to, not both: they mean the same")
    if only and not (stage or to):
        raise HqvoxError("--only needs --stage: which stage to run alone")
    if executor == "ray" and workers == 0:
        raise HqvoxError("--executor ray needs at least one worker; leave out --workers 0")
    opened = Workspace.open(workspace)
    config = opened.config(settings or [], recipe)
    gone = photos_gone(opened, config)
    if gone:
        # Built all the same, every photograph would count as taken away, and the work be lost.
        raise HqvoxError(gone)
    store = ModelStore()

    def plan() -> list[ShardJob]:
        target = stage or to
        return plan_build(
            opened,
            config,
            store,
            target=target,
            start=start,
            only=target if only else None,
            retry_failed=retry_failed,
            refresh=refresh,
        )

    if dry_run:
        jobs = plan()
        print_plan(jobs, config, store)
        print_sources(opened, jobs, config, store)
        return
    with opened.lock():
        jobs = plan()
        if not jobs:
            say(f"{workspace}: up to date")
            return
        store.ensure(needed_weights(jobs, config, store))
        shards = opened.shards()
        stages = STAGE_NAMES[min(job.first for job in jobs) : max(job.last for job in jobs) + 1]
        total = sum(len(shards[job.shard]) for job in jobs)
        with Display(console, stages, total) as display:
            result = run_build(
                opened,
                config,
                jobs,
                workers=workers,
                executor=executor,
                on_event=display,
                retry_failed=retry_failed,
                refresh=refresh,
            )
    print_funnel(opened)
    rate = result.photos / result.wall_seconds
    console.print(
        f"{counted(result.photos, 'photo')}, {counted(result.faces, 'face')} in "
        f"{result.wall_seconds:.1f} s ({rate:.1f} photos/s)",
        highlight=False,
    )
    waiting = {failed.error for failed in result.failed if failed.trace == failed.error}
    if waiting and all(failed.error in waiting for failed in result.failed):
        # No defects: sources of photographs that cannot answer now.
        raise HqvoxError(
            f"{len(result.failed)} of {len(jobs)} shards wait: "
            + "; ".join(sorted(waiting)[:SHOWN])
        )
    if result.failed:
        first = result.failed[0]
        raise HqvoxError(
            f"{len(result.failed)} of {len(jobs)} shards failed, first {first.job.shard}: "
            f"{first.error}; traces are in {opened.storage.shown('failed')}; run the same command "
            "again to retry them"
        )


def needed_weights(jobs: list[ShardJob], config: BuildConfig, store: ModelStore) -> list[str]:
    """Registry names of the weights that the jobs' stages load."""
    return Stages(config, store).networks({name for job in jobs for name in job.stages})


def print_sources(
    workspace: Workspace, jobs: list[ShardJob], config: BuildConfig, store: ModelStore
) -> None:
    """Where photographs would be looked for, what that comes to, and what it lacks."""
    looked_for = {job.shard for job in jobs if job.first == 0}
    if not looked_for:
        return
    shards = workspace.shards()
    rows = [row for shard in sorted(looked_for) for row in shards[shard]]
    discover = Stages(config, store, workspace.storage).discover
    most = config.discover.most
    each = "all photographs" if most is None else f"up to {counted(most, 'photograph')}"
    lines = [
        f"{counted(len(rows), 'identity')} in {counted(len(looked_for), 'shard')} to look for, "
        f"{each} each",
        *discover.forecast(rows),
        *(f"missing: {line}" for line in discover.missing()),
    ]
    if config.discover.remote and not config.download.contact:
        lines.append("missing: download.contact, an e-mail address or a page about who crawls")
    for line in lines:
        say(line)


def print_plan(jobs: list[ShardJob], config: BuildConfig, store: ModelStore) -> None:
    """What would run and why, grouped."""
    if not jobs:
        console.print("up to date: nothing to run")
        return
    rows = []
    groups = Counter((job.first, job.last, job.why) for job in jobs)
    for (first, last, why), count in groups.items():
        names = STAGE_NAMES[first : last + 1]
        run = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
        rows.append((str(count), run, f"{names[0]}: {why}"))
    console.print(text_table(("shards", "stages", "because"), rows, title="what would run"))
    missing = [n for n in needed_weights(jobs, config, store) if not store.present(n)]
    if missing:
        console.print(
            f"weights missing: {', '.join(missing)}; get them with "
            f"`hqvox models pull {' '.join(missing)}`",
            highlight=False,
        )
