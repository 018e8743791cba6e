"""`hqvox demo`, and with --review the review UI on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hqvox.cli.common import console, say, text_table
from hqvox.cli.release import print_release, print_stats
from hqvox.cli.review import need_extra, open_review
from hqvox.cli.status import print_funnel
from hqvox.release.stats import release_stats
from hqvox.report.truth import GOOD, TruthRow

IDENTITIES = 12
"""Invented people in a new demo."""
REVIEWED = 28
"""In one that is to be reviewed: of 28, more than 20 have enough faces to choose from."""


def demo(
    folder: Annotated[
        Path,
        typer.Argument(metavar="[DIR]", file_okay=False, help="A new folder, or an earlier demo."),
    ] = Path("hqvox-demo"),
    identities: Annotated[
        int | None,
        typer.Option(
            min=6,
            max=1000,
            help=f"Invented people in a new demo. Default: {IDENTITIES}, or {REVIEWED} with "
            "--review.",
        ),
    ] = None,
    photos: Annotated[
        int, typer.Option(min=8, max=300, help="Photographs of each in a new demo.")
    ] = 20,
    workers: Annotated[
        int | None,
        typer.Option(min=0, max=1024, help="Processes; 0: in this one. Default: one per core."),
    ] = None,
    review: Annotated[
        bool, typer.Option("--review", help="Then open the review UI, to choose faces yourself.")
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Of the review UI. Default: a free one."),
    ] = None,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="With --review: print its address only.")
    ] = False,
) -> None:
    """Photograph invented people, crawl them, build, release, train a little, and report all of it.

    Their web site is served on this machine only, with the web's usual faults. No download, no
    photographs needed; a few minutes. Stop it and run it again to go on.

    Example: hqvox demo hqvox-demo --review
    """
    # Imported here, so that other commands do not wait for torch.
    from hqvox.demo.review import add_references
    from hqvox.demo.run import run_demo

    if review:
        need_extra()  # before the minutes that the rest takes
    count = identities or (REVIEWED if review else IDENTITIES)
    made = run_demo(folder, console, identities=count, photos=photos, workers=workers)
    print_funnel(made.workspace)
    if made.written is not None:
        print_release(made.written)
    print_truth(made.truth)
    print_stats(made.release.name, release_stats(made.release))
    say(f"{made.seconds:.0f} s")
    say(f"report: {made.report.resolve()}")
    if review:
        add_references(folder, console)
        open_review(made.workspace.url, port=port, browser=not no_browser)


def print_truth(rows: list[TruthRow]) -> None:
    """What was rendered, and what the build said of it."""
    columns = ("made", "faces", "kept", "refused for it", "for something else")
    cells = (
        (
            row.defect,
            str(row.count),
            str(row.kept),
            "" if row.defect == GOOD else str(row.named),
            str(row.otherwise.total()),
        )
        for row in rows
    )
    console.print(text_table(columns, cells, title="against the truth", align="lr"))
