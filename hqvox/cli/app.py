"""`hqvox`: the commands put together, and errors turned into one line."""

# ruff: noqa: E402 - what holds during the imports comes before them

from __future__ import annotations

import errno
import os
import signal
import sys
import threading

# Ctrl-C during the imports, which take a second, ends the process without a traceback.
_ON_CTRL_C = signal.getsignal(signal.SIGINT)
_IN_MAIN_THREAD = threading.current_thread() is threading.main_thread()
if _IN_MAIN_THREAD:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

# Each worker computes on one thread; libraries that read this at import must see it first.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import typer

import hqvox
from hqvox.cli import (
    build,
    config,
    demo,
    doctor,
    enhance,
    evaluate,
    exchange,
    explain,
    init,
    models,
    purge,
    release,
    report,
    review,
    speech,
    status,
    train,
)
from hqvox.cli.common import CONTEXT, errors, make_quietable, printable
from hqvox.errors import HqvoxError
from hqvox.workspace.storage import disk_error
from models.errors import ModelError

if _IN_MAIN_THREAD:
    signal.signal(signal.SIGINT, _ON_CTRL_C)

app = typer.Typer(
    name="hqvox",
    help="From folders of photographs to a curated, aligned, background-free face dataset.",
    no_args_is_help=True,
    context_settings=CONTEXT,
    pretty_exceptions_enable=False,
)
app.command()(init.init)
app.command()(build.build)
app.command()(speech.speech)
app.command()(status.status)
app.command()(explain.explain)
app.add_typer(release.app, name="release")
app.command()(release.stats)
app.command()(exchange.export)
app.add_typer(exchange.importing, name="import")
app.command()(report.report)
app.add_typer(review.app, name="review")
app.command()(evaluate.evaluate)
app.command()(evaluate.generate)
app.command()(train.train)
app.command()(train.runs)
app.command()(enhance.train_enhancer)
app.command()(purge.purge)
app.command()(demo.demo)
app.command()(doctor.doctor)
app.add_typer(config.app, name="config")
app.add_typer(models.app, name="models")
make_quietable(app)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(hqvox.__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version."
    ),
) -> None:
    """Curated voice-face datasets in HQ-VoxCeleb's form."""


def main() -> None:
    """Entry point of the console script: bad input ends in one line, never a traceback."""
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except OSError as error:
        if error.filename is not None or error.errno != errno.ENOSPC:
            raise
        # The interpreter writes what is left when it ends, which would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        errors.print(f"hqvox: {disk_error(error, 'standard output')}", soft_wrap=True)
        sys.exit(1)
    except (HqvoxError, ModelError) as error:
        errors.print(f"[red]hqvox:[/red] {escape_line(str(error))}", soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        errors.print("hqvox: stopped; run the same command again to go on", soft_wrap=True)
        sys.exit(130)


def escape_line(text: str) -> str:
    """One line, with nothing in it that the terminal or rich would act on."""
    return printable(" ".join(text.split())).replace("[", r"\[")


if __name__ == "__main__":
    main()
