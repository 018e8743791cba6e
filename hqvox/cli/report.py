"""`hqvox report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hqvox.cli.common import WorkspaceArgument, console, say
from hqvox.release.read import Release, release_names
from hqvox.workspace.layout import Workspace
from hqvox.workspace.outputs import register_output
from hqvox.workspace.storage import disk_error


def report(
    workspace: WorkspaceArgument,
    release: Annotated[
        str | None,
        typer.Argument(metavar="[RELEASE]", help="Left out: the last release by name, if any."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", dir_okay=False, help="The file to write. Default: report.html here."
        ),
    ] = None,
) -> None:
    """Write one HTML file: the funnel, examples, histograms, released faces, table 1, time.

    Example: hqvox report work v1 --out report.html
    """
    # Imported here, so that other commands do not wait for matplotlib.
    from hqvox.report.html import render_report

    opened = Workspace.open(workspace)
    names = release_names(opened)
    name = release or (names[-1] if names else None)
    path = out or Path("report.html")
    with console.status("report") as status:
        page = render_report(
            opened,
            Release(opened, name) if name else None,
            lambda what: status.update(f"report: {what}"),
        )
    try:
        path.write_text(page, "utf-8")
    except OSError as error:
        raise disk_error(error, str(path)) from None
    note = register_output(opened, "report", path, name or "")
    if note:
        say(note)
    size = path.stat().st_size / 1e6
    say(f"{path.resolve()} ({size:.1f} MB)")
