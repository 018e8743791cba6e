"""`hqvox demo`, and with --review the review UI on it."""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hqvox.cli.common import console, say, text_table
from hqvox.cli.release import print_release, print_stats
from hqvox.cli.review import need_extra, open_review
from hqvox.cli.status import print_funnel
from hqvox.release.stats import release_stats
from hqvox.report.truth import GOOD, TruthRow

if TYPE_CHECKING:
    from hqvox.demo.run import Stopwatch

IDENTITIES, PHOTOS = 12, 20
"""Invented people in a new demo, and photographs of each."""
REVIEWED, REVIEWED_PHOTOS = 28, 10
"""The same with --review: more than 20 of the 28 have enough faces to choose from, and the first of
them is on the screen within a minute."""


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
        int | None,
        typer.Option(
            min=8,
            max=300,
            help=f"Photographs of each in a new demo. Default: {PHOTOS}, or {REVIEWED_PHOTOS} with "
            "--review.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=0, max=1024, help="Processes; 0: in this one. Default: one per core."),
    ] = None,
    review: Annotated[
        bool,
        typer.Option(
            "--review",
            help="Open the review UI on the build, to choose faces yourself; no release, training "
            "or report.",
        ),
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
    photographs needed; about two minutes, or one until the review opens. Stop it and run it again
    to go on.

    Example: hqvox demo hqvox-demo --review
    """
    if review:
        need_extra()  # before the minute that the rest takes
    started = time.perf_counter()
    if workers != 0:
        start_forkserver()
    # Imported here, so that other commands do not wait for torch.
    from hqvox.demo.review import add_references
    from hqvox.demo.run import Stopwatch, build_demo, run_demo

    watch = Stopwatch()
    watch.seconds["loading libraries"] = time.perf_counter() - started
    size = {
        "identities": identities or (REVIEWED if review else IDENTITIES),
        "photos": photos or (REVIEWED_PHOTOS if review else PHOTOS),
    }
    if review:
        build_demo(folder, console, **size, workers=workers, watch=watch)
        with watch.step("reference pictures"):
            add_references(folder, console, workers)
        print_times(watch)
        open_review(str(folder / "workspace"), port=port, browser=not no_browser)
        return
    made = run_demo(folder, console, **size, workers=workers, watch=watch)
    print_funnel(made.workspace)
    if made.written is not None:
        print_release(made.written)
    print_truth(made.truth)
    print_stats(made.release.name, release_stats(made.release))
    print_times(watch)
    say(f"report: {made.report.resolve()}")


def start_forkserver() -> None:
    """Start the server that worker processes are forked from, importing what all of them need.

    It imports while this process imports. Workers that render or build then start at once.
    """
    multiprocessing.set_forkserver_preload(["hqvox.demo.run"])
    multiprocessing.forkserver.ensure_running()


def print_times(watch: Stopwatch) -> None:
    """Print how long each step took, and its share of the whole."""
    total = sum(watch.seconds.values())
    steps = watch.seconds | {"all": total}
    cells = ((name, f"{spent:.1f}", f"{spent / total:.0%}") for name, spent in steps.items())
    console.print(text_table(("step", "seconds", "share"), cells, title="time", align="lr"))


def print_truth(rows: list[TruthRow]) -> None:
    """Print, by defect, how many rendered faces the build kept and refused."""
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
