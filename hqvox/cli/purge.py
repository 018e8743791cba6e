"""`hqvox purge`: take photographs, people and hosts down."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from annotator.log.place import has_store
from hqvox.cli.common import WorkspaceArgument, console, say
from hqvox.errors import HqvoxError
from hqvox.release.layout import FOLDER
from hqvox.runner.bars import progress_bar
from hqvox.speech.pack import FOLDER as SPEECH
from hqvox.takedown.purge import PurgePlan, plan_purge, run_purge
from hqvox.workspace.layout import Workspace
from hqvox.workspace.measures import counted
from hqvox.workspace.outputs import Output
from hqvox.workspace.takedowns import Takedown, normalised_host, url_digest

SHOWN = 10
"""Files of a release that are named before the rest is counted."""


def purge(
    workspace: WorkspaceArgument,
    identity: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="A person: all of their photographs, and their name."),
    ] = None,
    photo: Annotated[
        list[str] | None,
        typer.Option(metavar="SHA256", help="A photograph, by the SHA-256 of its bytes."),
    ] = None,
    host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="All that came from a host and the hosts below it."),
    ] = None,
    url: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="The photographs at an address, or on that page."),
    ] = None,
    reason: Annotated[
        str, typer.Option(help="Why, for the record, e.g. a ticket number. No personal data.")
    ] = "",
    exact: Annotated[
        bool,
        typer.Option("--exact", help="With --photo or --url: leave photographs that look the same"),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would go; change nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Take photographs down: erase them, and refuse them in every later crawl and build.

    Notes the takedown first, then erases from tables, pixels, logs and unfinished output. Releases
    never change: it names the files of each that hold what was taken down, and the exports, reports
    and training runs made from them. Each option may be given several times. Without any it
    finishes an interrupted purge.

    Example: hqvox purge work --identity id10001 --reason "request 17" --dry-run
    """
    asked = [Takedown("identity", value, reason) for value in identity or []]
    asked += [Takedown("photo", _sha256(value), reason) for value in photo or []]
    asked += [Takedown("host", _host(value), reason) for value in host or []]
    asked += [Takedown("url", url_digest(value), reason) for value in url or []]
    opened = Workspace.open(workspace)
    with opened.lock(purging=True):
        with console.status("searching"):
            plan = plan_purge(opened, asked, near_copies=not exact)
        print_purge(opened, plan)
        if dry_run:
            console.print("nothing was changed (--dry-run)")
            return
        anything = bool(plan.new or plan.shards or plan.spooled)
        if anything and not yes:
            typer.confirm("Take it down? This cannot be undone.", abort=True)
        with progress_bar(console, "shards") as show:
            run_purge(opened, plan, show)
    say("taken down" if anything else "nothing to take down")
    if plan.shards:
        say(f"next: hqvox build {workspace}, which makes the rest of the touched shards again")


def print_purge(workspace: Workspace, plan: PurgePlan) -> None:
    """Print what would be erased, what releases hold of it, and what hqvox cannot reach."""
    people = f", {counted(len(plan.identities), 'identity')} with name" if plan.identities else ""
    say(
        f"to go: {counted(len(plan.photos), 'photograph')}, "
        f"{counted(plan.candidates, 'candidate')}{people}, "
        f"in {len(plan.shards):,} of {len(workspace.shards()):,} shards"
    )
    if plan.near_copies:
        say(f"{plan.near_copies:,} of them look the same as what was named (--exact leaves them)")
    if plan.identities and workspace.storage.names(SPEECH):
        say(f"packed speech of their shards goes: `hqvox speech {workspace.url}` packs the rest")
    unreadable = [shard.shard for shard in plan.shards if shard.unreadable]
    if unreadable:
        say(f"shards that cannot be read go as a whole: {', '.join(unreadable)}")
    if plan.spooled:
        say(f"interrupted crawls hold {plan.spooled:,} of its addresses, which go")
    if plan.new and not (plan.shards or plan.spooled):
        say("nothing of it is here now; it is noted, so no crawl will fetch it")
    for name, files in plan.released.items():
        say(
            f"release {name} holds it in {len(files):,} files. Releases never change: delete "
            f"{workspace.storage.shown(f'{FOLDER}/{name}')}, tell those who received it, and "
            "release under a new name after the next build:"
        )
        for file in files[:SHOWN]:
            say(f"  {file}")
        if len(files) > SHOWN:
            say(f"  and {len(files) - SHOWN:,} more")
    for output in plan.outputs:
        say(_output_line(output))
    discover = workspace.config().discover
    if plan.candidates and discover.photos:
        say(f"your own files in {discover.photos} stay: delete there what must not stay")
    if plan.candidates and discover.urls.file:
        say(f"your own list {discover.urls.file} stays: delete there the lines that name it")
    if (plan.photos or plan.identities) and has_store(workspace):
        say("decisions on them go; files of `hqvox review export` stay: delete or renew them")
    if plan.photos:
        say("copies, and pictures that were written outside the workspace, stay: delete them")


def _output_line(output: Output) -> str:
    """What an export, a report or a training run may hold, and what to do about it."""
    of = f" of release {output.release}" if output.release else ""
    holds = {
        "export": "it has the same pictures, names and voices: delete it",
        "report": "it shows pictures: delete it",
        "training run": "its checkpoints name the people of train, its samples show faces: delete "
        "it, and train again",
    }[output.kind]
    gone = "" if output.exists else "; it is not there any more, so look where it went"
    return f"{output.kind}{of}, {output.date}: {output.path}: {holds}{gone}"


def _sha256(value: str) -> str:
    if not re.fullmatch("[0-9a-fA-F]{64}", value):
        raise HqvoxError(
            f"--photo {value}: not a SHA-256 in hexadecimal; `sha256sum FILE` gives a file's, and "
            "photo_id in a release's manifest is one"
        )
    return value.lower()


def _host(value: str) -> str:
    host = normalised_host(value.strip("[]"))
    if not re.fullmatch(r"[^\s/@?#:]+|[0-9a-f.:]*:[0-9a-f.:]*", host):
        raise HqvoxError(f"--host {value}: give the name alone, such as pictures.example.org")
    return host
