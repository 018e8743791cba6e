"""`hqvox status`: the funnel, and what needs attention."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.markup import escape

from hqvox.cli.common import WorkspaceArgument, console, listed, printable, say, text_table
from hqvox.release.read import release_names
from hqvox.report.funnel import count_left_out, funnel, left_out
from hqvox.runner.build import photos_gone, plan_build
from hqvox.runner.plan import ShardJob
from hqvox.workspace.layout import Workspace
from hqvox.workspace.measures import counted
from models.store import ModelStore

SHOWN = 8
"""Names listed before the rest is counted."""


def status(
    workspace: WorkspaceArgument,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object, for programs.")
    ] = False,
) -> None:
    """Photos and faces in, kept, refused by reason, per stage; and what is not up to date.

    Example: hqvox status work
    """
    opened = Workspace.open(workspace)
    if not as_json:
        print_funnel(opened)
    config = opened.config()
    gone = photos_gone(opened, config)
    jobs = [] if gone else plan_build(opened, config, ModelStore())
    if as_json:
        typer.echo(json.dumps(status_record(opened, jobs, gone), ensure_ascii=False))
        return
    if gone:
        console.print(f"[red]{escape(gone)}[/red]", highlight=False, soft_wrap=True)
    if jobs:
        total = len(opened.shards())
        console.print(
            f"{len(jobs)} of {total} shards are not up to date ({escape(jobs[0].why)}); "
            f"run: hqvox build {escape(workspace)}",
            highlight=False,
        )
    failed: dict[str, list[str]] = {}
    for shard, record in opened.failures().items():
        failed.setdefault(record["error"], []).append(shard)
    for error, names in failed.items():
        which = f"shard{'s' * (len(names) > 1)} {listed(names, SHOWN)}"
        console.print(f"[red]{which} failed:[/red] {escape(error)}", highlight=False)


def status_record(
    workspace: Workspace, jobs: Sequence[ShardJob], gone: str | None
) -> dict[str, Any]:
    """What `hqvox status --json` prints. ``gone``: which photographs are missing, in words."""
    shards = workspace.shards()
    failures = {name: record["error"] for name, record in workspace.failures().items()}
    return {
        "workspace": workspace.url,
        "identities": sum(map(len, shards.values())),
        "shards": len(shards),
        "stages": [
            {
                "stage": step.stage,
                "entered": step.entered,
                "entered_unit": step.unit_in,
                "kept": step.kept,
                "kept_unit": step.unit_out,
                "refused": dict(step.refused),
            }
            for step in funnel(workspace)
        ],
        "up_to_date": not (jobs or gone),
        "stale": {job.shard: job.why for job in jobs},
        "photographs_missing": gone,
        "failed": failures,
        "left_out": count_left_out(workspace),
        "notes": workspace_notes(workspace),
        "releases": release_names(workspace),
    }


def print_funnel(workspace: Workspace) -> None:
    """The funnel as a table, then identities without photos or without a majority."""
    rows = []
    for step in funnel(workspace):
        reasons = ", ".join(f"{name} {count}" for name, count in step.refused.most_common())
        share = f"{100 * step.kept_share:.0f}" if step.entered else ""
        entered = counted(step.entered, step.unit_in)
        rows.append((step.stage, entered, counted(step.kept, step.unit_out), share, reasons))
    columns = ("stage", "in", "kept", "kept %", "refused by reason")
    console.print(text_table(columns, rows, title=workspace.url, align="lrrrl"))
    if line := left_out(workspace):
        say(line)
    for reason, names in workspace_notes(workspace).items():
        first = listed([" ".join(name.split()) for name in names], SHOWN)
        console.print(escape(printable(f"{reason}: {first}")), highlight=False)


def workspace_notes(workspace: Workspace) -> dict[str, list[str]]:
    """Identities to look at: those without photos, and those whose faces agree on nobody."""
    without: list[str] = []
    undecided: list[str] = []
    for shard, identities in workspace.shards().items():
        names = {row["identity_id"]: row["name"] for row in identities}
        discovered = workspace.read_stage("discover", shard, [])
        if discovered is not None:
            seen = set(discovered["identity_id"].to_pylist())
            without += [name for key, name in names.items() if key not in seen]
        faces = workspace.read_stage("identity", shard, ["reason"])
        if faces is not None:
            rows = faces.select(["identity_id", "reason"]).to_pylist()
            split = {r["identity_id"] for r in rows if r["reason"] == "no_majority"}
            undecided += [name for key, name in names.items() if key in split]
    notes = {"identities without photos": without, "no majority of faces": undecided}
    return {reason: names for reason, names in notes.items() if names}
