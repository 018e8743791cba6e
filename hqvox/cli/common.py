"""What the commands share: consoles and common arguments."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

CONTEXT = {"help_option_names": ["-h", "--help"]}

# No emoji: a name that holds ":b:" is printed as it is.
console = Console(emoji=False)
errors = Console(stderr=True, emoji=False)

WorkspaceArgument = Annotated[
    str, typer.Argument(metavar="WORKSPACE", help="Folder (or s3:// prefix) of the build.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a setting, e.g. --set pose.max_yaw_deg=8"
    ),
]
RecipeOption = Annotated[
    str | None,
    typer.Option(
        help="Named defaults: bundled (nothing to download), paper (the paper's networks), or "
        "small (bundled, with wider limits for few photographs a person)."
    ),
]


def say(line: str) -> None:
    """One line, with nothing in it that the terminal would act on."""
    text = "".join(c if c.isprintable() or c == "\n" else "?" for c in line)
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def roomy_console() -> Console:
    """Where a wide table goes: what is written to a file or a pipe need not fit anything."""
    return console if console.is_terminal else Console(emoji=False, width=300)
