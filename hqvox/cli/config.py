"""`hqvox config`: show and check the configuration of a build."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from pydantic import BaseModel
from rich.markup import escape
from rich.table import Table

from hqvox.cli.common import CONTEXT, SetOption, WorkspaceArgument, console
from hqvox.config import BuildConfig
from hqvox.config_file import load_config
from hqvox.workspace import Workspace

app = typer.Typer(
    help="Show and check a build's configuration.", no_args_is_help=True, context_settings=CONTEXT
)


@app.command()
def show(
    workspace: Annotated[
        str | None, typer.Argument(metavar="WORKSPACE", help="Left out: the defaults.")
    ] = None,
    settings: SetOption = None,
    recipe: Annotated[str | None, typer.Option(help="bundled, paper or small.")] = None,
) -> None:
    """Every setting: its value, its default, and what it means, with unit and source.

    Example: hqvox config show work
    """
    if workspace is None:
        config = load_config("", "--set", settings or [], recipe)
    else:
        config = Workspace.open(workspace).config(settings or [], recipe)
    table = Table(show_lines=False)
    for title in ("setting", "value", "default", "meaning [unit] (source)"):
        table.add_column(title, overflow="fold")
    defaults = BuildConfig()
    for name, field in BuildConfig.model_fields.items():
        _add(table, name, getattr(config, name), getattr(defaults, name), field.description)
    console.print(table)


@app.command()
def check(workspace: WorkspaceArgument) -> None:
    """Read hqvox.yaml and say whether it holds; an error names the line and the nearest key.

    Example: hqvox config check work
    """
    opened = Workspace.open(workspace)
    opened.config()
    console.print(
        f"{opened.storage.path('hqvox.yaml')}: no errors",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _add(table: Table, name: str, value: object, default: object, meaning: str | None) -> None:
    if isinstance(value, BaseModel):
        for key, field in type(value).model_fields.items():
            inner = getattr(value, key), getattr(default, key)
            _add(table, f"{name}.{key}", *inner, field.description)
        return
    shown = escape(json.dumps(value, ensure_ascii=False))
    changed = value != default
    table.add_row(
        name,
        f"[bold]{shown}[/bold]" if changed else shown,
        escape(json.dumps(default, ensure_ascii=False)),
        escape(meaning or ""),
    )
