"""`hqvox release`, `hqvox release verify` and `hqvox stats`."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from hqvox.cli.common import CONTEXT, SetOption, WorkspaceArgument, console
from hqvox.release.read import Release, find_release
from hqvox.release.split import PARTS
from hqvox.release.stats import (
    PAPER,
    PAPER_DATASETS,
    PartStats,
    compare,
    dataset_row,
    differences,
    release_stats,
    table_1,
)
from hqvox.release.verify import Check, verify_release
from hqvox.release.write import Written, write_release
from hqvox.runner.bars import progress_bar, progress_bars
from hqvox.workspace.layout import Workspace
from hqvox.workspace.tables import Row

SHOWN = 10
"""Identities, or failures of a check, that are named before the rest is counted."""
WRITE = "write"


class _WritesByDefault(TyperGroup):
    """`hqvox release WORKSPACE NAME` means `hqvox release write WORKSPACE NAME`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command's name where it was left out."""
        if args and args[0] not in self.commands and args[0] not in CONTEXT["help_option_names"]:
            args = [WRITE, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_WritesByDefault,
    help="Write a finished dataset, or check one.",
    no_args_is_help=True,
    context_settings=CONTEXT,
    epilog="Example: hqvox release work v1 --auto, which means hqvox release write work v1 --auto",
)


@app.command(WRITE)
def release(
    workspace: WorkspaceArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the release, e.g. v1.")],
    auto: Annotated[
        bool,
        typer.Option(
            "--auto", help="Take the best 3 to 7 faces of each by quality, whatever people chose."
        ),
    ] = False,
    split: Annotated[
        str,
        typer.Option(
            metavar="official|seed:N|FILE",
            help="official: by position in the metadata file; seed:N: a tenth each, drawn by seed; "
            "FILE: a split.json, or a CSV with the columns identity,part.",
        ),
    ] = "official",
    no_speech: Annotated[
        bool, typer.Option("--no-speech", help="Faces alone, also of people without speech.")
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="Processes. Default: one per core."),
    ] = None,
    settings: SetOption = None,
) -> None:
    """Write a finished dataset: faces, voices, manifest, split, datasheet, checksums.

    Faces are those that people chose (hqvox review), or with --auto the best by quality.
    The word write can be left out. A release never changes: a name is used once. Identities with
    too few faces are left out (release.min_faces, as the paper 3), and where the workspace has
    speech, those without any.

    Example: hqvox release work v1 --auto
    """
    opened = Workspace.open(workspace)
    with progress_bars(console) as show:
        written = write_release(
            opened,
            name,
            opened.config(settings or []),
            auto=auto,
            split=split,
            speech=not no_speech,
            workers=workers,
            on_progress=show,
        )
    print_release(written)
    _say(f"table 1: hqvox stats {workspace} {name}")
    _say(f"check it: hqvox release verify {workspace} {name}")


def print_release(written: Written) -> None:
    """What was released, what was left out, and where it is."""
    plan, info = written.plan, written.info
    table = Table()
    table.add_column("")
    for part in ("total", *PARTS):
        table.add_column(part, justify="right")
    of_part = {
        part: [r for r in written.identities if part in ("total", r["split"])]
        for part in ("total", *PARTS)
    }
    table.add_row("identities", *(f"{len(rows):,}" for rows in of_part.values()))
    table.add_row("images", *(f"{sum(r['images'] for r in rows):,}" for rows in of_part.values()))
    if info["speech"]:
        spoken = (sum(r["utterances"] or 0 for r in rows) for rows in of_part.values())
        table.add_row("utterances", *(f"{count:,}" for count in spoken))
    console.print(table)
    _name("left out, with too few faces", plan.too_few, "faces")
    _name("kept apart, faces but no speech", plan.without_speech, "faces")
    _name("kept apart, speech but too few faces", plan.speech_only, "utterances")
    _name("left out, not in the split file", plan.unassigned, "faces")
    if plan.split.unknown:
        named = ", ".join(plan.split.unknown[:SHOWN])
        _say(f"in the split file, but not to be released: {len(plan.split.unknown):,} ({named} …)")
    if plan.leaks:
        _say(
            f"left out, in two splits: {len(plan.leaks):,} faces of the evaluation splits "
            "(release.json says which)"
        )
    if not info["speech"]:
        _say(f"faces alone: {info['no_speech_because']}")
    if not written.contact:
        _say("no contact for takedown requests in the datasheet; set release.contact")
    _say_selection(info)
    _say(f"{written.folder}\nto look at: {written.folder}/contact_sheets/001.jpg")


def _say_selection(info: dict[str, Any]) -> None:
    """Who chose the faces, and what people left out; ``info``: ``release.json``."""
    if not info["reviewed"]:
        _say("chosen by quality; not reviewed by people (reviewed = false in the manifest)")
        return
    told = info["review"]
    people = ", ".join(f"{name} ({count:,})" for name, count in told["reviewers"].items())
    _say(f"chosen by people: {people}")
    for reason, count in told["dropped"].items():
        _say(f"dropped by people, {reason}: {count:,}")
    if told["undecided"]:
        _say(f"not decided on: {told['undecided']:,} identities with enough candidates")
    if told["disputed"]:
        _say(f"disputed, waiting for a lead: {told['disputed']:,}")
    gone = [f"{row['name']} ({row['left']} of {row['chosen']} left)" for row in told["faces_gone"]]
    if gone:
        rest = f" and {len(gone) - SHOWN:,} more" if len(gone) > SHOWN else ""
        _say(f"chosen faces that are no longer in the build: {', '.join(gone[:SHOWN])}{rest}")


def _name(what: str, rows: list[Row], counted: str) -> None:
    if rows:
        named = ", ".join(f"{row['name']} ({row[counted]})" for row in rows[:SHOWN])
        rest = len(rows) - SHOWN
        _say(f"{what}: {named}" + (f" and {rest:,} more (all in release.json)" if rest > 0 else ""))


def _say(line: str) -> None:
    text = "".join(c if c.isprintable() or c == "\n" else "?" for c in line)
    console.print(text, markup=False, highlight=False, soft_wrap=True)


WhereArgument = Annotated[
    str, typer.Argument(metavar="WORKSPACE|RELEASE", help="A workspace, or a release's folder.")
]
NameArgument = Annotated[
    str | None, typer.Argument(metavar="[NAME]", help="Name of the release in the workspace.")
]


@app.command()
def verify(where: WhereArgument, name: NameArgument = None) -> None:
    """Check a release: every file, table, picture and voice, and that the split leaks nobody.

    Reads everything; ends with exit code 1 where something is wrong.

    Example: hqvox release verify work v1
    """
    found = find_release(where, name)
    with progress_bar(console, "files") as show:
        checks = verify_release(found, show)
    print_checks(found.name, checks)
    if any(check.failures for check in checks):
        raise typer.Exit(1)


def print_checks(name: str, checks: list[Check]) -> None:
    """The table of checks, then every failure in a line of its own."""
    table = Table(title=escape(name), title_justify="left")
    for column in ("", "check", "", "wrong"):
        table.add_column(column, justify="right" if column == "wrong" else "left")
    colours = {"✓": "green", "✗": "red", "–": "dim"}
    for check in checks:
        wrong = f"{len(check.failures):,}" if check.failures else ""
        mark = f"[{colours[check.mark]}]{check.mark}[/]"
        table.add_row(mark, check.name, escape(check.impossible or check.what), wrong)
    console.print(table)
    for check in checks:
        for line in check.failures[:SHOWN]:
            _say(f"✗ {check.name}: {line}")
        rest = len(check.failures) - SHOWN
        if rest > 0:
            _say(f"✗ {check.name}: and {rest:,} more")


def stats(
    where: WhereArgument,
    name: NameArgument = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="RELEASE",
            help="Compare with another: its name in the workspace, WORKSPACE/NAME, or its folder.",
        ),
    ] = None,
) -> None:
    """Tables 1 and 6 of the paper for a release, beside the paper's own figures.

    Example: hqvox stats work v2 --against v1
    """
    found = find_release(where, name)
    ours = release_stats(found)
    if against is None:
        print_stats(found.name, ours)
        print_datasets(found)
        _say_selection(found.info())
    else:
        _print_comparison(found, ours, _other(where, name, against))


def _other(where: str, name: str | None, against: str) -> Release:
    if name is not None and "/" not in against:
        return find_release(where, against)
    return find_release(against)


def print_stats(name: str, ours: tuple[PartStats, ...]) -> None:
    """Both tables 1, ours and the paper's."""
    for title, figures in ((name, ours), ("HQ-VoxCeleb (SF2F, table 1)", PAPER)):
        _print_parts(title, table_1(figures))


def _print_parts(title: str, rows: list[tuple[str, list[str]]]) -> None:
    table = Table(title=escape(title), title_justify="left")
    table.add_column("", min_width=15)
    for part in ("total", *PARTS):
        table.add_column(part, justify="right", no_wrap=True, min_width=7)
    for attribute, values in rows:
        table.add_row(attribute, *values)
    console.print(table)


def print_datasets(found: Release) -> None:
    """Table 6: our row below the paper's."""
    table = Table(title="beside other datasets (SF2F, table 6)", title_justify="left")
    for column in ("dataset", "identities", "images", "utterances", "normalised faces"):
        table.add_column(column, justify="left" if column in ("dataset",) else "right")
    for row in (*PAPER_DATASETS, dataset_row(found)):
        cells = (row.dataset, row.identities, row.images, row.utterances, row.normalised)
        table.add_row(*(escape(cell) for cell in cells))
    console.print(table)


def _print_comparison(found: Release, ours: tuple[PartStats, ...], other: Release) -> None:
    theirs = release_stats(other)
    _print_parts(found.name, table_1(ours))
    _print_parts(other.name, table_1(theirs))
    _print_parts(f"{found.name} less {other.name}", differences(ours, theirs))
    result = compare(found, other)
    table = Table(title="in common", title_justify="left")
    for column in ("", "both", f"only {found.name}", f"only {other.name}"):
        table.add_column(escape(column), justify="left" if not column else "right")
    for what, both, mine, others in result.rows:
        table.add_row(what, f"{both:,}", f"{mine:,}", f"{others:,}")
    console.print(table)
    if result.moved:
        named = ", ".join(f"{i} ({mine}, was {was})" for i, mine, was in result.moved[:SHOWN])
        _say(f"on another side of the split: {len(result.moved):,}: {named}")
    for key, mine, was in result.settings:
        _say(f"{key}: {mine}, was {was}")
