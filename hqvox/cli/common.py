"""What the commands share: consoles, common arguments, lines and tables of text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from inspect import Parameter, signature
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

CONTEXT = {"help_option_names": ["-h", "--help"]}


class PlainConsole(Console):
    """Prints text from outside as text: file names may hold control sequences, or ``:b:``."""

    def __init__(self, **options: Any) -> None:
        super().__init__(emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Text of what is printed, with "?" for what a terminal would act on."""
        return super().render_str(printable(text, keep="\n\t"), **options)


console = PlainConsole()
errors = PlainConsole(stderr=True)

WorkspaceArgument = Annotated[
    str, typer.Argument(metavar="WORKSPACE", help="Folder (or s3:// prefix) of the build.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a setting, e.g. --set pose.max_yaw_deg=8"
    ),
]


def complete_build_recipe() -> list[str]:
    """Names of the recipes of a build, for the completion of a shell."""
    from hqvox.config.file import recipe_names

    return recipe_names()


def complete_train_recipe() -> list[str]:
    """Names of the recipes of training, for the completion of a shell."""
    from hqvox.trainer.recipes import recipe_names

    return recipe_names()


RecipeOption = Annotated[
    str | None,
    typer.Option(
        autocompletion=complete_build_recipe,
        help="Named defaults: bundled (nothing to download), paper (the paper's networks), "
        "paper-exact (the paper's filters too, and none of ours), or small (bundled, with wider "
        "limits for few photographs a person).",
    ),
]


def printable(text: str, keep: str = "") -> str:
    """The text with "?" for each character that a terminal would act on, but those in ``keep``.

    Names and addresses come from outside and may hold control sequences.
    """
    return "".join(c if c.isprintable() or c in keep else "?" for c in text)


def say(line: str, to: Console = console) -> None:
    """Print one line of plain text, which may come from outside, without wrapping it."""
    to.print(printable(line), markup=False, highlight=False, soft_wrap=True)


def listed(names: Sequence[str], most: int) -> str:
    """The first ``most`` names, separated by commas; the rest is counted."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest:,} more" if rest > 0 else "")


def text_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str | Text]] = (),
    *,
    title: str = "",
    align: str = "l",
    frame: bool = True,
    wrap: bool = True,
) -> Table:
    """A table of text, which may come from outside: ``str`` is shown as it is, not as markup.

    ``columns``: the headings; where all are empty no heading is shown. ``align``: ``l`` or ``r``
    for each column; the last letter holds for the columns that follow. ``frame``: with lines
    around the cells. ``wrap=False``: no cell is broken into lines.
    """
    made = Table(
        title=escape(printable(title)) or None,
        title_justify="left",
        show_header=any(columns),
        box=box.HEAVY_HEAD if frame else None,
        header_style=None if frame else "bold",
        pad_edge=frame,
    )
    for number, heading in enumerate(columns):
        right = align[min(number, len(align) - 1)] == "r"
        made.add_column(
            escape(printable(heading)), justify="right" if right else "left", no_wrap=not wrap
        )
    for row in rows:
        add_row(made, row)
    return made


def add_row(to: Table, cells: Iterable[str | Text], style: str | None = None) -> None:
    """Add a row of text to a table: ``str`` is shown as it is, not as markup."""
    shown = (c if isinstance(c, Text) else escape(printable(c, keep="\n")) for c in cells)
    to.add_row(*shown, style=style)


def default_command(name: str) -> type[TyperGroup]:
    """A group of commands in which this command's name can be left out.

    With ``write``, ``hqvox release WORKSPACE NAME`` means ``hqvox release write WORKSPACE NAME``.
    """

    class Group(TyperGroup):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            if args and args[0] not in (*self.commands, *CONTEXT["help_option_names"]):
                args = [name, *args]
            return super().parse_args(ctx, args)

    return Group


QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print nothing but errors and what --json asks for.")
]


def make_quietable(app: typer.Typer) -> None:
    """Give every command of an app and of its groups the option ``--quiet``."""
    for command in app.registered_commands:
        assert command.callback is not None
        command.callback = _quietable(command.callback)
    for group in app.registered_groups:
        assert group.typer_instance is not None
        make_quietable(group.typer_instance)


def _quietable(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command's function with one option more, by which its lines are not printed."""

    @wraps(command)
    def run(*args: Any, quiet: bool, **options: Any) -> Any:
        console.quiet = quiet
        return command(*args, **options)

    plain = signature(command, eval_str=True)
    asked = Parameter("quiet", Parameter.KEYWORD_ONLY, default=False, annotation=QuietOption)
    parameters = [*plain.parameters.values(), asked]
    run.__signature__ = plain.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def roomy_console() -> Console:
    """Where a wide table goes: what is written to a file or a pipe need not fit anything."""
    return console if console.is_terminal else PlainConsole(width=300, quiet=console.quiet)
