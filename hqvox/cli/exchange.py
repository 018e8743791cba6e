"""`hqvox export` and `hqvox import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hqvox.cli.common import CONTEXT, console
from hqvox.errors import HqvoxError
from hqvox.exchange.export import SHARD_MB, Form, Kind, export_release
from hqvox.release.read import find_release

importing = typer.Typer(
    help="Take a published dataset in, measured, as a release to train on.",
    no_args_is_help=True,
    context_settings=CONTEXT,
)


def export(
    where: Annotated[
        str, typer.Argument(metavar="WORKSPACE|RELEASE", help="A workspace, or a release's folder.")
    ],
    names: Annotated[
        list[str], typer.Argument(metavar="[NAME] DIR", help="Name of the release; where to write.")
    ],
    form: Annotated[Form, typer.Option("--to", help="The form that is wanted.")],
    shard_mb: Annotated[
        int,
        typer.Option(min=1, max=100_000, help="webdataset, huggingface: size of a file, MB."),
    ] = SHARD_MB,
    faces: Annotated[
        Kind, typer.Option(help="folders: which of a face's two pictures.")
    ] = Kind.MASKED,
) -> None:
    """Write a release in the form that other code reads.

    sf2f: the tree and pickles of the released SF2F code. webdataset: tars, a sample a person.
    huggingface: opens with datasets.load_dataset(DIR). folders: <split>/<Name>/<n>.jpg.

    Example: hqvox export work v1 --to sf2f SF2F/data/VoxCeleb
    """
    if len(names) > 2:
        raise HqvoxError(f"unexpected argument {names[2]}; see hqvox export --help")
    release = find_release(where, names[0] if len(names) == 2 else None)
    bar = Progress(
        TextColumn("[bold]faces and utterances"),
        BarColumn(bar_width=40),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    with bar:
        task = bar.add_task("", total=None)
        done = export_release(
            release,
            form,
            Path(names[-1]),
            shard_mb=shard_mb,
            kind=faces,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    for line in (*done.notes, f"{done.faces:,} faces, {done.utterances:,} utterances", names[-1]):
        say(line)


def say(line: str) -> None:
    """One line, with nothing in it that the terminal would act on."""
    text = "".join(c if c.isprintable() else "?" for c in line)
    console.print(text, markup=False, highlight=False, soft_wrap=True)
