"""`hqvox demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from hqvox.cli.common import console
from hqvox.cli.release import print_release, print_stats
from hqvox.cli.status import print_funnel
from hqvox.demo import run_demo
from hqvox.release.stats import release_stats
from hqvox.report.truth import GOOD, TruthRow


def demo(
    folder: Annotated[
        Path,
        typer.Argument(metavar="[DIR]", file_okay=False, help="A new folder, or an earlier demo."),
    ] = Path("hqvox-demo"),
    identities: Annotated[
        int, typer.Option(min=6, max=1000, help="Invented people in a new demo.")
    ] = 12,
    photos: Annotated[
        int, typer.Option(min=8, max=300, help="Photographs of each in a new demo.")
    ] = 20,
    workers: Annotated[
        int | None,
        typer.Option(min=0, max=1024, help="Processes; 0: in this one. Default: one per core."),
    ] = None,
) -> None:
    """Photograph invented people, crawl them, build, release, and write a report with pictures.

    Their web site is served on this machine only, with the web's usual faults. No download, no
    photographs needed; a few minutes. Stop it and run it again to go on.

    Example: hqvox demo hqvox-demo
    """
    made = run_demo(folder, console, identities=identities, photos=photos, workers=workers)
    print_funnel(made.workspace)
    if made.written is not None:
        print_release(made.written)
    print_truth(made.truth)
    print_stats(made.release.name, release_stats(made.release))
    console.print(
        f"{made.seconds:.0f} s\nreport: {made.report.resolve()}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def print_truth(rows: list[TruthRow]) -> None:
    """What was rendered, and what the build said of it."""
    table = Table(title="against the truth", title_justify="left")
    for heading in ("made", "faces", "kept", "refused for it", "for something else"):
        table.add_column(heading, justify="left" if heading == "made" else "right")
    for row in rows:
        named = "" if row.defect == GOOD else str(row.named)
        table.add_row(row.defect, str(row.count), str(row.kept), named, str(row.otherwise.total()))
    console.print(table)
