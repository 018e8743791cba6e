"""`hqvox models`: which weights there are, getting them, checking them."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape
from rich.text import Text

from hqvox.cli.common import CONTEXT, add_row, complete_build_recipe, console, text_table
from hqvox.cli.describe import describe
from models.errors import ModelError
from models.registry import of_recipe
from models.store import ModelStore

app = typer.Typer(
    help="The networks: describe them; list, fetch, verify their weights.",
    no_args_is_help=True,
    context_settings=CONTEXT,
)
app.command(epilog="Example: hqvox models describe sf2f-64")(describe)

Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Names of `list`.")]
Recipe = Annotated[
    str | None,
    typer.Option(
        help="All that a build recipe needs: paper, paper-exact, bundled, small.",
        autocompletion=complete_build_recipe,
    ),
]
All = Annotated[bool, typer.Option("--all", help="Every one of the registry.")]


@app.command("list")
def list_() -> None:
    """Show every weight file: task, licence, size, where it lies, which recipes use it."""
    store = ModelStore()
    columns = ("name", "task", "licence", "MB", "here", "recipes")
    weights = text_table(columns, align="lllrl", frame=False)
    for place in (columns.index("name"), columns.index("here")):
        weights.columns[place].no_wrap = True
    for name, entry in store.entries.items():
        local_file = store.find(name)
        size = "" if entry.size_mb is None else f"{entry.size_mb:.1f}"
        here = Text(local_file.source, "green") if local_file else Text("no", "dim")
        cells = (name, entry.task, entry.licence, size, here, ", ".join(entry.recipes))
        add_row(weights, cells)
    console.print(weights)
    console.print(
        f"cache: {store.cache_dir}   mirror: {store.mirror or 'none'}   "
        f"offline: {'yes' if store.offline else 'no'}",
        style="dim",
        markup=False,
        soft_wrap=True,
        highlight=False,
    )


@app.command(epilog="Example: hqvox models pull --recipe paper")
def pull(names: Names = None, recipe: Recipe = None, everything: All = False) -> None:
    """Fetch weights into the cache and verify them; valid files are not fetched again."""
    store = ModelStore()
    failed = []
    for name in _chosen(store, names, recipe, everything):
        try:
            console.print(
                f"{name}: {escape(str(store.pull(name)))}", soft_wrap=True, highlight=False
            )
        except ModelError as error:
            console.print(
                f"{name}: [red]{escape(str(error))}[/red]", soft_wrap=True, highlight=False
            )
            failed.append(name)
    if failed:
        raise ModelError(f"not fetched: {', '.join(failed)}")


@app.command(epilog="Example: hqvox models verify dlib_68")
def verify(names: Names = None, recipe: Recipe = None) -> None:
    """Hash the files that are here again and compare; all of them where no name is given."""
    store = ModelStore()
    wrong = []
    for name in _chosen(store, names, recipe, everything=not (names or recipe)):
        try:
            local_file = store.verify(name)
        except ModelError as error:
            console.print(
                f"{name}: [red]{escape(str(error))}[/red]", soft_wrap=True, highlight=False
            )
            wrong.append(name)
            continue
        state = "not here" if local_file is None else f"right ({local_file.source})"
        console.print(f"{name}: {state}", soft_wrap=True, highlight=False)
    if wrong:
        raise ModelError(f"not the published files: {', '.join(wrong)}")


@app.command(epilog="Example: hqvox models where dlib_68")
def where(name: Annotated[str, typer.Argument(help="A name of `list`.")]) -> None:
    """Print the path of a weight file on this machine; nothing is fetched."""
    local_file = ModelStore().find(name)
    if local_file is None:
        raise ModelError(
            f"weights '{name}' are not on this machine; run `hqvox models pull {name}`"
        )
    typer.echo(local_file.path)


def _chosen(
    store: ModelStore, names: list[str] | None, recipe: str | None, everything: bool
) -> list[str]:
    if sum((bool(names), recipe is not None, everything)) != 1:
        raise typer.BadParameter("give names, or --recipe NAME, or --all")
    if recipe is not None:
        return of_recipe(recipe)
    chosen = list(names or store.entries)
    for name in chosen:
        store.entry(name)
    return chosen
