"""`hqvox release` and `hqvox stats`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from hqvox.cli.common import SetOption, WorkspaceArgument, console
from hqvox.release.read import Release
from hqvox.release.split import PARTS
from hqvox.release.stats import PAPER, PartStats, release_stats, table_1
from hqvox.release.write import Written, write_release
from hqvox.workspace import Workspace

SHOWN = 10
"""Dropped identities that are named before the rest is counted."""


def release(
    workspace: WorkspaceArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the release, e.g. v1.")],
    auto: Annotated[
        bool,
        typer.Option(
            "--auto", help="Take the best 3 to 7 faces of an identity where nobody reviewed."
        ),
    ] = False,
    split: Annotated[
        str,
        typer.Option(
            metavar="official|seed:N",
            help="official: by position in the metadata file; seed:N: a tenth each, drawn by seed.",
        ),
    ] = "official",
    settings: SetOption = None,
) -> None:
    """Write a finished dataset: masked and original crops, manifest, split, checksums.

    A release never changes: a name is used once. Identities with too few faces are left out; how
    few is release.min_faces, as the paper 3.

    Example: hqvox release work v1 --auto
    """
    opened = Workspace.open(workspace)
    bar = Progress(
        TextColumn("[bold]faces"),
        BarColumn(bar_width=40),
        MofNCompleteColumn(),
        console=console,
        transient=True,
    )
    with bar:
        task = bar.add_task("", total=None)
        written = write_release(
            opened,
            name,
            opened.config(settings or []),
            auto=auto,
            split=split,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    print_release(written)
    console.print(
        f"table 1: hqvox stats {workspace} {name}", markup=False, highlight=False, soft_wrap=True
    )


def print_release(written: Written) -> None:
    """What was released, what was left out, and where it is."""
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
    console.print(table)
    if written.dropped:
        named = ", ".join(f"{row['name']} ({row['faces']})" for row in written.dropped[:SHOWN])
        rest = len(written.dropped) - SHOWN
        console.print(
            f"left out, with too few faces: {escape(named)}"
            + (f" and {rest:,} more (all in release.json)" if rest > 0 else ""),
            highlight=False,
        )
    console.print("chosen by quality; not reviewed by people (reviewed = false in the manifest)")
    console.print(
        f"{written.folder}\nto look at: {written.folder}/contact_sheets/001.jpg",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def stats(
    workspace: WorkspaceArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the release.")],
) -> None:
    """Table 1 of the paper for a release, beside the paper's own figures.

    Example: hqvox stats work v1
    """
    found = Release(Workspace.open(workspace), name)
    print_stats(name, release_stats(found))


def print_stats(name: str, ours: tuple[PartStats, ...]) -> None:
    """Both tables, ours and the paper's."""
    for title, figures in ((name, ours), ("HQ-VoxCeleb (SF2F, table 1)", PAPER)):
        table = Table(title=escape(title), title_justify="left")
        table.add_column("", min_width=13)
        for part in figures:
            table.add_column(part.part, justify="right", no_wrap=True, min_width=7)
        for attribute, values in table_1(figures):
            table.add_row(attribute, *values)
        console.print(table)
