"""`hqvox explain`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit

import typer
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from hqvox.cli.common import WorkspaceArgument, console, say, text_table
from hqvox.config.build import BuildConfig
from hqvox.imaging.pictures import encode_jpeg
from hqvox.report.explain import (
    Subject,
    ended,
    find_subject,
    identity_picture,
    identity_rows,
    photo_picture,
    photo_rows,
)
from hqvox.workspace.identities import safe_name
from hqvox.workspace.layout import Workspace
from hqvox.workspace.measures import MEASURES, all_bounds, limit_text, value_of, value_text, within
from hqvox.workspace.storage import disk_error
from hqvox.workspace.tables import Row
from models.store import ModelStore
from pipelines.chain import STAGE_NAMES

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
        typer.Option(dir_okay=False, help="Where the picture goes. Default: explain-….jpg here."),
    ] = None,
) -> None:
    """Every measurement against its limit, and a picture with box, points, axes and mask.

    Example: hqvox explain work Adele/12.jpg
    """
    opened = Workspace.open(workspace)
    config = opened.config()
    match = find_subject(opened, subject)
    if match.candidate is None:
        _explain_identity(opened, match, out)
    else:
        _explain_photo(opened, config, match, out)


def _explain_photo(
    workspace: Workspace, config: BuildConfig, subject: Subject, out: Path | None
) -> None:
    rows = photo_rows(workspace, subject)
    first = rows[0]
    title = f"{subject.identity['name']}: {_file(first)}"
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
    picture = photo_picture(workspace, rows, title)
    if picture is None:
        console.print("no picture: the file cannot be decoded", highlight=False)
        return
    name = f"{subject.identity['identity_id']}-{subject.candidate}"
    _save(encode_jpeg(picture, 90), out, name)


def measurement_table(row: Row, config: BuildConfig, store: ModelStore, faces: int = 1) -> Table:
    """A face's measurements against the limits, stage by stage, with each stage's verdict."""
    table = text_table(
        ("stage", "measurement", "value", "limit", "", "verdict"),
        title=f"face {row['face']} of {faces}: {ended(row)}" if faces > 1 else ended(row),
        align="llrl",
    )
    bounds = all_bounds(config, store)
    reached = STAGE_NAMES.index(row["stage"]) if row["stage"] else -1
    for number, stage in enumerate(STAGE_NAMES):
        if number > reached:
            table.add_row(stage, "", "", "", "", "[dim]not reached[/dim]")
            continue
        refused = number == reached and row["reason"]
        off = "" if getattr(config, stage).enabled else " (filter is off)"
        verdict = f"[red]{row['reason']}[/red]" if refused else f"[green]kept[/green]{off}"
        lines = [
            (m, value_of(row, m.name), bounds.get(m.name)) for m in MEASURES if m.stage == stage
        ]
        lines = [line for line in lines if line[1] is not None]
        for index, (measure, value, bound) in enumerate(lines):
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
        if not lines:
            of = row["duplicate_of"] if stage == "duplicates" else None
            table.add_row(stage, "" if of is None else f"of photo {of}", "", "", "", verdict)
    return table


def _explain_identity(workspace: Workspace, subject: Subject, out: Path | None) -> None:
    identity = subject.identity
    rows = identity_rows(workspace, identity)
    also = [] if identity["identity_id"] == identity["name"] else [identity["identity_id"]]
    title = f"{identity['name']} ({', '.join([*also, identity['subset']])})"
    if not rows:
        console.print(f"{escape(title)}: no photos", highlight=False)
        return
    columns = ("photo", "file", "face", "ended", "quality", "similarity")
    cells = (
        (
            str(row["candidate"]),
            _file(row),
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
    picture = identity_picture(workspace, rows, f"{title}: {counts['kept']} kept of {len(rows)}")
    _save(encode_jpeg(picture, 90), out, identity["identity_id"])


def _file(row: Row) -> str:
    """Where a photo is, below its identity's folder; of a web address, the last part."""
    if "://" in row["url"]:
        return unquote(urlsplit(row["url"]).path).rsplit("/", 1)[-1] or row["url"]
    return unquote(row["url"]).split("/", 1)[-1]


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
