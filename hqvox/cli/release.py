"""`hqvox release`, `hqvox release verify` and `hqvox stats`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from hqvox.cli.common import (
    CONTEXT,
    SetOption,
    WorkspaceArgument,
    console,
    default_command,
    listed,
    say,
    text_table,
)
from hqvox.errors import HqvoxError
from hqvox.imaging.pictures import encode_jpeg
from hqvox.release.beside import beside
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
from hqvox.workspace.storage import Storage
from hqvox.workspace.tables import Row

SHOWN = 10
"""Identities, or failures of a check, that are named before the rest is counted."""
app = typer.Typer(
    cls=default_command("write"),
    help="Write a finished dataset, or check one.",
    no_args_is_help=True,
    context_settings=CONTEXT,
    epilog="Example: hqvox release work v1 --auto, which means hqvox release write work v1 --auto",
)


@app.command("write")
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
            metavar="official|initials|seed:N|FILE",
            help="official: by position in the metadata file; initials: names from A and B val, "
            "C to E test, F to Z train; seed:N: a tenth each, drawn by seed; "
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

    Faces are those that people chose (hqvox review), or with --auto the best by quality, without
    those whose mask is doubtful (release.min_mask_certainty).
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
    say(f"table 1: hqvox stats {workspace} {name}")
    say(f"check it: hqvox release verify {workspace} {name}")


def print_release(written: Written) -> None:
    """What was released, what was left out, and where it is."""
    plan, info = written.plan, written.info
    of_part = {
        part: [r for r in written.identities if part in ("total", r["split"])]
        for part in ("total", *PARTS)
    }
    counts = {
        "identities": [len(rows) for rows in of_part.values()],
        "images": [sum(r["images"] for r in rows) for rows in of_part.values()],
    }
    if info["speech"]:
        counts["utterances"] = [
            sum(r["utterances"] or 0 for r in rows) for rows in of_part.values()
        ]
    cells = ((name, *(f"{count:,}" for count in of)) for name, of in counts.items())
    console.print(text_table(("", *of_part), cells, align="lr"))
    _name("left out, with too few faces", plan.too_few, "faces")
    _name("kept apart, faces but no speech", plan.without_speech, "faces")
    _name("kept apart, speech but too few faces", plan.speech_only, "utterances")
    _name("left out, not in the split", plan.unassigned, "faces")
    if plan.split.unknown:
        named = listed(plan.split.unknown, SHOWN)
        say(f"in the split file, but not to be released: {len(plan.split.unknown):,} ({named})")
    if plan.leaks:
        say(
            f"left out, in two splits: {len(plan.leaks):,} faces of the evaluation splits "
            "(release.json says which)"
        )
    if plan.doubted:
        say(
            f"left out, doubtful mask: {plan.doubted:,} faces (mask certainty below "
            f"{info['config']['release']['min_mask_certainty']:g}; release.min_mask_certainty)"
        )
    if not info["speech"]:
        say(f"faces alone: {info['no_speech_because']}")
    if not written.contact:
        say("no contact for takedown requests in the datasheet; set release.contact")
    _say_selection(info)
    say(str(written.folder))
    say(f"to look at: {written.folder}/contact_sheets/001.jpg")


def _say_selection(info: dict[str, Any]) -> None:
    """Who chose the faces, and what people left out; ``info``: ``release.json``."""
    if not info["reviewed"]:
        say("chosen by quality; not reviewed by people (reviewed = false in the manifest)")
        return
    review = info["review"]
    people = ", ".join(f"{name} ({count:,})" for name, count in review["reviewers"].items())
    say(f"chosen by people: {people}")
    for reason, count in review["dropped"].items():
        say(f"dropped by people, {reason}: {count:,}")
    if review["undecided"]:
        say(f"not decided on: {review['undecided']:,} identities with enough candidates")
    if review["disputed"]:
        say(f"disputed, waiting for a lead: {review['disputed']:,}")
    gone = [
        f"{row['name']} ({row['left']} of {row['chosen']} left)" for row in review["faces_gone"]
    ]
    if gone:
        say(f"chosen faces that are no longer in the build: {listed(gone, SHOWN)}")


def _name(what: str, rows: list[Row], counted: str) -> None:
    if rows:
        named = listed([f"{row['name']} ({row[counted]})" for row in rows], SHOWN)
        say(f"{what}: {named}" + (" (all in release.json)" if len(rows) > SHOWN else ""))


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
    opened = find_release(where, name)
    with progress_bar(console, "files") as show:
        checks = verify_release(opened, show)
    print_checks(opened.name, checks)
    if any(check.failures for check in checks):
        raise typer.Exit(1)


def print_checks(name: str, checks: list[Check]) -> None:
    """The table of checks, then every failure in a line of its own."""
    colours = {"✓": "green", "✗": "red", "–": "dim"}
    rows = (
        (
            Text(check.mark, colours[check.mark]),
            check.name,
            check.impossible or check.what,
            f"{len(check.failures):,}" if check.failures else "",
        )
        for check in checks
    )
    console.print(text_table(("", "check", "", "wrong"), rows, title=name, align="lllr"))
    for check in checks:
        for line in check.failures[:SHOWN]:
            say(f"✗ {check.name}: {line}")
        rest = len(check.failures) - SHOWN
        if rest > 0:
            say(f"✗ {check.name}: and {rest:,} more")


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
    gallery: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="With --against: a JPEG of the same people in both, as in figures 2 and 7.",
        ),
    ] = None,
) -> None:
    """Tables 1 and 6 of the paper for a release, beside the paper's own figures.

    Example: hqvox stats work v2 --against v1
    """
    if gallery is not None:
        if against is None:
            raise HqvoxError("--gallery: name the other dataset with --against")
        if gallery.suffix.lower() not in (".jpg", ".jpeg"):
            raise HqvoxError(f"--gallery {gallery}: end the name in .jpg")
    opened = find_release(where, name)
    ours = release_stats(opened)
    if against is None:
        print_stats(opened.name, ours)
        print_datasets(opened)
        _say_selection(opened.info())
    else:
        other = _other(where, name, against)
        _print_comparison(opened, ours, other)
        if gallery is not None:
            sheet = encode_jpeg(beside(opened, other), 92)
            Storage(gallery.parent).write(gallery.name, sheet)
            say(str(gallery))


def _other(where: str, name: str | None, against: str) -> Release:
    if name is not None and "/" not in against:
        return find_release(where, against)
    return find_release(against)


def print_stats(name: str, ours: tuple[PartStats, ...]) -> None:
    """Both tables 1, ours and the paper's."""
    for title, figures in ((name, ours), ("HQ-VoxCeleb (SF2F, table 1)", PAPER)):
        _print_parts(title, table_1(figures))


def _print_parts(title: str, rows: list[tuple[str, list[str]]]) -> None:
    known = [(attribute, values) for attribute, values in rows if set(values) != {"–"}]
    cells = ((attribute, *values) for attribute, values in known)
    parts = text_table(("", "total", *PARTS), cells, title=title, align="lr", wrap=False)
    for number, column in enumerate(parts.columns):
        column.min_width = 15 if number == 0 else 7
    console.print(parts)


def print_datasets(opened: Release) -> None:
    """Table 6: our row below the paper's."""
    columns = ("dataset", "identities", "images", "utterances", "normalised faces")
    rows = (
        (row.dataset, row.identities, row.images, row.utterances, row.normalised)
        for row in (*PAPER_DATASETS, dataset_row(opened))
    )
    title = "beside other datasets (SF2F, table 6)"
    console.print(text_table(columns, rows, title=title, align="lr"))


def _print_comparison(opened: Release, ours: tuple[PartStats, ...], other: Release) -> None:
    theirs = release_stats(other)
    _print_parts(opened.name, table_1(ours))
    _print_parts(other.name, table_1(theirs))
    _print_parts(f"{opened.name} less {other.name}", differences(ours, theirs))
    result = compare(opened, other)
    columns = ("", "both", f"only {opened.name}", f"only {other.name}")
    rows = ((what, *(f"{count:,}" for count in counts)) for what, *counts in result.rows)
    console.print(text_table(columns, rows, title="in common", align="lr"))
    if result.moved:
        named = ", ".join(f"{i} ({mine}, was {was})" for i, mine, was in result.moved[:SHOWN])
        say(f"on another side of the split: {len(result.moved):,}: {named}")
    for key, mine, was in result.settings:
        say(f"{key}: {mine}, was {was}")
