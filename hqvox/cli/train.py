"""`hqvox train` and `hqvox runs`."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from hqvox.cli.common import (
    SetOption,
    complete_train_recipe,
    console,
    roomy_console,
    say,
    text_table,
)
from hqvox.errors import HqvoxError
from hqvox.release.read import find_release
from hqvox.runner.bars import progress_bars
from hqvox.trainer.runs import CHECKPOINTS, CONFIG, HIGHER_IS_BETTER, LAST, find_runs
from hqvox.workspace.outputs import register_output, workspace_of

if TYPE_CHECKING:
    from hqvox.trainer.config import TrainConfig


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="A recipe's name, e.g. sf2f-64, or its file.",
            autocompletion=complete_train_recipe,
        ),
    ],
    data: Annotated[
        str,
        typer.Option(metavar="RELEASE", help="A release's folder, or WORKSPACE/NAME."),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="DIR", help="Where the run goes: checkpoints, log, samples."
        ),
    ],
    settings: SetOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the run in --out was left.")
    ] = False,
    start: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="CKPT",
            help="Begin with a checkpoint's weights, for example stage 2 "
            "alone with --set stage1.iterations=0.",
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1. Default: a GPU where there is one.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, say what would be trained; stop.")
    ] = False,
) -> None:
    """Train a speech-to-face model on a release: first encoder and decoder, then the fuser.

    The recipe voice-embedding trains a voice encoder alone, to recognise speakers, which
    voice2face-cmu and avp-gan-64 need.

    Stop it at any time with Ctrl-C, and go on with --resume. On several GPUs: torchrun
    --nproc-per-node 8 --no-python hqvox train …

    Example: hqvox train sf2f-64 --data work/v1 --out runs/sf2f-64
    """
    # Torch takes seconds to import, and the other commands do without.
    from hqvox.cli.train_display import TrainDisplay, print_plan
    from hqvox.trainer.loop import train as run_training
    from hqvox.trainer.session import refuse_taken

    release = find_release(data)
    config = run_config(recipe, out, settings or [], resume)
    if dry_run:
        refuse_taken(out, resume)
        print_plan(config, release, device)
        return
    leader = int(os.environ.get("RANK", 0)) == 0
    if leader:
        refuse_taken(out, resume)
        # Before it begins, for a run that is killed leaves checkpoints too.
        note = register_output(workspace_of(release.storage), "training run", out, release.name)
        if note:
            say(note)
    with progress_bars(console) as bars, TrainDisplay(console) as display:
        outcome = run_training(
            config,
            release,
            out,
            resume=resume,
            start=start,
            device=device,
            on_event=display,
            on_progress=bars,
        )
    if not leader:
        return
    for name, value in outcome.best.items():
        say(f"best {name}: {value:.4g} (best_{name}.pt)")
    if outcome.state == "stopped":
        settled = "".join(f" --set {quote(setting)}" for setting in settings or [])
        say(
            f"stopped after step {outcome.step} of {outcome.steps}, and saved; go on with: "
            f"hqvox train {quote(recipe)} --data {quote(data)} --out {quote(str(out))}{settled} "
            "--resume"
        )
        raise typer.Exit(128 + (outcome.signal or signal.SIGINT))
    last = quote(str(out / CHECKPOINTS / LAST))
    if config.task == "speakers":
        say(f"finished; train a generator with it by --set stage1.encoder_weights={last}")
        return
    say(f"finished; measure it with: hqvox evaluate {last} --data {quote(data)}")


def run_config(recipe: str, out: Path, settings: list[str], resume: bool) -> TrainConfig:
    """The configuration to train with: the recipe's, or where a run goes on, the run's own.

    ``settings`` win over both. Raises HqvoxError where the run is of another recipe.
    """
    from hqvox.trainer.recipes import load_train_config

    mine = load_train_config(recipe, settings)
    written = out / CONFIG
    if not (resume and written.is_file()):
        return mine
    before = load_train_config(written, settings)
    if before.recipe != mine.recipe:
        raise HqvoxError(
            f"{out}: a run of recipe {before.recipe}, not {mine.recipe}; name that recipe, or "
            "another --out"
        )
    return before


def runs(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Runs, or folders that hold runs.")
    ],
) -> None:
    """List training runs and their best figures, those of the fused speech where there are any.

    Example: hqvox runs runs
    """
    columns = ("run", "recipe", "release", "state", "step", "steps/s", *HIGHER_IS_BETTER)
    rows = []
    for run in find_runs(folders):
        rate = "" if run.steps_per_second is None else f"{run.steps_per_second:.2f}"
        best = (run.best.get(figure) for figure in HIGHER_IS_BETTER)
        rows.append(
            (
                str(run.folder),
                run.recipe,
                run.release,
                run.state,
                f"{run.step:,}/{run.steps:,}",
                rate,
                *("" if value is None else f"{value:.4g}" for value in best),
            )
        )
    shown = text_table(columns, rows, align="llllr", frame=False)
    roomy_console().print(shown, highlight=False)
