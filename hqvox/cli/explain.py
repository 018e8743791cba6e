"""`hqvox explain`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from hqvox.cli.common import WorkspaceArgument, console, say, text_table
from hqvox.config.build import BuildConfig
from hqvox.imaging.pictures import encode_jpeg
from hqvox.report.explain import (
    KEPT_VERDICT,
    NOT_REACHED,
    ended,
    file_name,
    find_subject,
    stage_results,
    subject_picture,
    subject_rows,
    title_of,
)
from hqvox.workspace.identities import safe_name
from hqvox.workspace.layout import Workspace
from hqvox.workspace.measures import limit_text, value_text, within
from hqvox.workspace.storage import disk_error
from hqvox.workspace.tables import Row
from models.store import ModelStore

_MARKS = {True: "[green]✓[/green]", False: "[red]✗[/red]", None: ""}


def explain(
    workspace: WorkspaceArgument,
    subject: Annotated[
        str,
        typer.Argument(
            metavar="PHOTO_OR_ID",
            help="An identity's id or name; or a photo: its path, url or SHA-256.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", dir_okay=False, help="The picture. Default: explain-….jpg here."
        ),
    ] = None,
) -> None:
    """Every measurement against its limit, and a picture with box, points, axes and mask.

    Example: hqvox explain work Adele/12.jpg
    """
    opened = Workspace.open(workspace)
    config = opened.config()
    match = find_subject(opened, subject)
    rows = subject_rows(opened, match)
    if match.candidate is None:
        name = match.identity["identity_id"]
        _print_identity(rows, title_of(match, rows))
    else:
        name = f"{match.identity['identity_id']}-{match.candidate}"
        _print_photo(rows, title_of(match, rows), config)
    if not rows:
        return
    picture = subject_picture(opened, match, rows)
    if picture is None:
        console.print("no picture: the file cannot be decoded", highlight=False)
        return
    _save(encode_jpeg(picture, 90), out, name)


def _print_photo(rows: Sequence[Row], title: str, config: BuildConfig) -> None:
    first = rows[0]
    console.print(f"[bold]{escape(title)}[/bold]", highlight=False)
    console.print(
        f"SHA-256 {first['photo_id'] or 'unknown'}"
        + (f", {first['width_px']} × {first['height_px']} px" if first["width_px"] else "")
        + (f", {first['media_type']}" if first["media_type"] else ""),
        highlight=False,
        soft_wrap=True,
    )
    if _origin(first):
        say(_origin(first))
    for row in rows:
        console.print(measurement_table(row, config, ModelStore(), faces=len(rows)))


def measurement_table(row: Row, config: BuildConfig, store: ModelStore, faces: int = 1) -> Table:
    """A face's measurements against the limits, stage by stage, with each stage's verdict."""
    table = text_table(
        ("stage", "measurement", "value", "limit", "", "verdict"),
        title=f"face {row['face']} of {faces}: {ended(row)}" if faces > 1 else ended(row),
        align="llrl",
    )
    for result in stage_results(row, config, store):
        stage = result.stage
        if result.verdict == NOT_REACHED:
            table.add_row(stage, "", "", "", "", f"[dim]{NOT_REACHED}[/dim]")
            continue
        kept = result.verdict == KEPT_VERDICT
        off = "" if result.enabled else " (filter is off)"
        verdict = f"[green]kept[/green]{off}" if kept else f"[red]{result.verdict}[/red]"
        for index, (measure, value, bound) in enumerate(result.measured):
            mark = _MARKS[within(measure, value, bound)]
            if bound is not None and measure.limit is not None and measure.limit.rule:
                mark = f"[dim]{mark}[/dim]"  # it does not decide alone
            table.add_row(
                stage if index == 0 else "",
                measure.label,
                value_text(measure, value),
                limit_text(measure, bound),
                mark,
                verdict if index == 0 else "",
            )
        if not result.measured:
            of = row["duplicate_of"] if stage == "duplicates" else None
            table.add_row(stage, "" if of is None else f"of photo {of}", "", "", "", verdict)
    return table


def _print_identity(rows: Sequence[Row], title: str) -> None:
    if not rows:
        console.print(f"{escape(title)}: no photos", highlight=False)
        return
    columns = ("photo", "file", "face", "ended", "quality", "similarity")
    cells = (
        (
            str(row["candidate"]),
            file_name(row),
            "" if row["face"] is None else str(row["face"]),
            Text(ended(row), "red" if row["reason"] else "green"),
            "" if row["quality"] is None else f"{row['quality']:.3f}",
            "" if row["core_similarity"] is None else f"{row['core_similarity']:.3f}",
        )
        for row in rows
    )
    console.print(text_table(columns, cells, title=title, align="rlrlr"))
    counts = Counter(ended(row) for row in rows)
    console.print(", ".join(f"{n} {what}" for what, n in counts.most_common()), highlight=False)


def _origin(row: Row) -> str:
    """Where a photo came from, as far as it is known; "" for a file of this machine."""
    if "://" not in row["url"]:
        return ""
    named = {"from": row["url"], "on": row["page_url"], "licence": row["licence"]}
    named |= {"by": row["author"]}
    return ", ".join(f"{what} {value}" for what, value in named.items() if value)


def _save(data: bytes, out: Path | None, name: str) -> None:
    path = out or Path(f"explain-{safe_name(name)}.jpg")
    try:
        path.write_bytes(data)
    except OSError as error:
        raise disk_error(error, str(path)) from None
    say(f"picture: {path}")
