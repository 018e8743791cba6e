"""`hqvox config`: show and check the configuration of a build."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from pydantic import BaseModel
from rich.markup import escape

from hqvox.cli.common import CONTEXT, RecipeOption, SetOption, WorkspaceArgument, console, say
from hqvox.config.build import BuildConfig
from hqvox.config.file import load_config
from hqvox.workspace.layout import Workspace

app = typer.Typer(
    help="Show and check a build's configuration.", no_args_is_help=True, context_settings=CONTEXT
)


@app.command()
def show(
    workspace: Annotated[
        str | None, typer.Argument(metavar="WORKSPACE", help="Left out: the defaults.")
    ] = None,
    settings: SetOption = None,
    recipe: RecipeOption = None,
) -> None:
    """Every setting: its value, what it means, with unit and source, and its default if it differs.

    Example: hqvox config show work
    """
    if workspace is None:
        config = load_config("", "--set", settings or [], recipe)
    else:
        config = Workspace.open(workspace).config(settings or [], recipe)
    defaults = BuildConfig()
    for name, field in BuildConfig.model_fields.items():
        _print(name, getattr(config, name), getattr(defaults, name), field.description)


@app.command()
def check(workspace: WorkspaceArgument) -> None:
    """Read hqvox.yaml and say whether it holds; an error names the line and the nearest key.

    Example: hqvox config check work
    """
    opened = Workspace.open(workspace)
    opened.config()
    say(f"{opened.storage.shown('hqvox.yaml')}: no errors")


def _print(name: str, value: object, default: object, meaning: str | None) -> None:
    # Whole lines, not a table: names and values are there to be copied and searched.
    if isinstance(value, BaseModel):
        for key, field in type(value).model_fields.items():
            inner = getattr(value, key), getattr(default, key)
            _print(f"{name}.{key}", *inner, field.description)
        return
    shown = escape(json.dumps(value, ensure_ascii=False))
    note = escape(meaning or "")
    if value != default:
        shown = f"[bold]{shown}[/bold]"
        note += f"; default {escape(json.dumps(default, ensure_ascii=False))}"
    console.print(f"{name}: {shown}  [dim]# {note}[/dim]", highlight=False, soft_wrap=True)
