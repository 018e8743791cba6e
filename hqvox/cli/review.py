"""`hqvox review`: start the review UI; tokens for who may use it; decisions in and out."""

from __future__ import annotations

import importlib.util
from typing import Annotated, Literal

import typer

from hqvox.cli import review_exchange
from hqvox.cli.common import CONTEXT, WorkspaceArgument, console, default_command, say
from hqvox.errors import HqvoxError
from hqvox.runner.bars import progress_bar
from hqvox.workspace.layout import Workspace

app = typer.Typer(
    cls=default_command("open"),
    help="Have people choose the faces of a release, in a browser.",
    no_args_is_help=True,
    context_settings=CONTEXT,
    epilog="Example: hqvox review work, which means hqvox review open work",
)
tokens = typer.Typer(
    help="Named tokens: who may review from other machines.",
    no_args_is_help=True,
    context_settings=CONTEXT,
)
app.add_typer(tokens, name="token")
review_exchange.register(app)


@app.command("open")
def review(
    workspace: WorkspaceArgument,
    address: Annotated[
        str,
        typer.Option(
            help="Address to listen on. Any but this machine's own (127.0.0.1, ::1, localhost) "
            "needs people to sign in: see hqvox review token."
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Default: the first that is free, from 8501 on."),
    ] = None,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Print the address, open no browser.")
    ] = False,
    name: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar="NAME",
            help="Under which name decisions are written, where nobody signs in. "
            "Default: the user's name.",
        ),
    ] = None,
    sign_in: Annotated[
        bool,
        typer.Option(
            "--sign-in", help="Have people sign in on 127.0.0.1 too, as behind a reverse proxy."
        ),
    ] = False,
) -> None:
    """Open the review UI in a browser: one person after another, 3 to 7 faces of each.

    The word open can be left out. The printed address holds a token, new at each start: who has it
    is the lead. Every decision is saved at once; stop with Ctrl-C at any time.

    Example: hqvox review work --as ada
    """
    open_review(
        workspace, address=address, port=port, browser=not no_browser, name=name, sign_in=sign_in
    )


def open_review(
    workspace: str,
    *,
    address: str = "127.0.0.1",
    port: int | None = None,
    browser: bool = True,
    name: str | None = None,
    sign_in: bool = False,
) -> None:
    """Serve the review UI until it is stopped. Raises HqvoxError where it cannot be."""
    opened = Workspace.open(workspace)
    need_extra()
    from annotator.server.credentials import entrance
    from annotator.server.launch import Options, is_loopback, must_sign_in
    from annotator.server.serve import prepare, serve, url

    options = Options(workspace, name, sign_in)
    with progress_bar(console, "candidates") as show:
        chosen = prepare(opened, options, address, port, show)
    where = entrance(url(address, chosen), local=not must_sign_in(address, options))
    say(f"review of {workspace} at {where} (Ctrl-C stops; all is saved at once)")
    if not is_loopback(address):
        say("tokens travel as they are over http: put a proxy with TLS before it (docs/review.md)")
    serve(opened, options, address, chosen, browser)


def need_extra() -> None:
    """Raises HqvoxError where the extra ``review`` is not installed."""
    for module in ("streamlit", "sqlalchemy"):
        if importlib.util.find_spec(module) is None:
            raise HqvoxError(
                f"the review UI needs {module}; install it with: pip install 'hqvox[review]'"
            )


@tokens.command("add")
def token_add(
    workspace: WorkspaceArgument,
    name: Annotated[str, typer.Argument(help="Whose it is; decisions are written under it.")],
    role: Annotated[
        Literal["annotator", "lead"],
        typer.Option(help="A lead also settles disagreements, and undoes what others decided."),
    ] = "annotator",
) -> None:
    """Make a token for somebody. It is shown only now and stored nowhere.

    Example: hqvox review token add work ada --role lead
    """
    from annotator.log.access import TokenFile

    token = TokenFile(Workspace.open(workspace)).add(name, role)
    typer.echo(token)
    say(
        f"for {name}, {role}; shown this once. They paste it into the sign-in page, or you send "
        "them its address with #token=... added at the end."
    )


@tokens.command("remove")
def token_remove(
    workspace: WorkspaceArgument, name: Annotated[str, typer.Argument(help="Whose it is.")]
) -> None:
    """Remove a token: its owner can save nothing from then on.

    Example: hqvox review token remove work ada
    """
    from annotator.log.access import TokenFile

    TokenFile(Workspace.open(workspace)).remove(name)
    say(f"{name} can no longer sign in by token")


@tokens.command("list")
def token_list(workspace: WorkspaceArgument) -> None:
    """Who has a token, and in which role.

    Example: hqvox review token list work
    """
    from annotator.log.access import TokenFile

    names = TokenFile(Workspace.open(workspace)).names()
    for name, role in names.items():
        say(f"{name}  {role}")
    if not names:
        say(f"nobody yet; make one with: hqvox review token add {workspace} NAME")
