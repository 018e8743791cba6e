"""`hqvox train` and `hqvox runs`."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, NoReturn

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
from hqvox.release.read import Release, find_release
from hqvox.runner.bars import progress_bars
from hqvox.trainer.runs import CHECKPOINTS, CONFIG, HIGHER_IS_BETTER, LAST, find_runs, held
from hqvox.workspace.outputs import register_output, workspace_of

if TYPE_CHECKING:
    from hqvox.trainer.config import TrainConfig
    from hqvox.trainer.loop import TrainOutcome


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
    sweep: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Train each point of a grid of settings into a folder of its own below --out; "
            "table-14 is the paper's grid. The same command goes on where it was stopped.",
        ),
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
    from hqvox.cli.train_display import print_plan
    from hqvox.trainer.session import refuse_taken

    release = find_release(data)
    job = Job(recipe, data, release, tuple(settings or ()), start, device)
    if sweep is not None:
        if resume:
            raise HqvoxError("--sweep goes on by itself; leave --resume out")
        train_sweep(job, sweep, out, dry_run)
        return
    config = run_config(recipe, out, list(job.settings), resume)
    if dry_run:
        refuse_taken(out, resume)
        print_plan(config, release, device)
        return
    outcome = train_one(job, config, out, resume)
    if outcome is None:
        return
    if outcome.state == "stopped":
        _say_stopped(outcome, job, out, "--resume")
    last = quote(str(out / CHECKPOINTS / LAST))
    if config.task == "speakers":
        say(f"finished; train a generator with it by --set stage1.encoder_weights={last}")
        return
    say(f"finished; measure it with: hqvox evaluate {last} --data {quote(data)}")


@dataclass(frozen=True)
class Job:
    """What a command asks to train, and on what."""

    recipe: str
    data: str
    release: Release
    settings: tuple[str, ...]
    start: Path | None
    device: str | None


def train_one(job: Job, config: TrainConfig, out: Path, resume: bool) -> TrainOutcome | None:
    """Train one run and say its best figures; None in a process that is not the leader."""
    from hqvox.cli.train_display import TrainDisplay
    from hqvox.trainer.loop import train as run_training
    from hqvox.trainer.session import refuse_taken

    leader = int(os.environ.get("RANK", 0)) == 0
    if leader:
        refuse_taken(out, resume)
        # Before it begins, for a run that is killed leaves checkpoints too.
        place = workspace_of(job.release.storage)
        note = register_output(place, "training run", out, job.release.name)
        if note:
            say(note)
    with progress_bars(console) as bars, TrainDisplay(console) as display:
        outcome = run_training(
            config,
            job.release,
            out,
            resume=resume,
            start=job.start,
            device=job.device,
            on_event=display,
            on_progress=bars,
        )
    if not leader:
        return None
    for name, value in outcome.best.items():
        say(f"best {name}: {value:.4g} (best_{name}.pt)")
    return outcome


def _say_stopped(outcome: TrainOutcome, job: Job, out: Path, option: str) -> NoReturn:
    """Say how to go on, with ``option``, and end as a command does that a signal stopped."""
    settled = "".join(f" --set {quote(setting)}" for setting in job.settings)
    say(
        f"stopped after step {outcome.step} of {outcome.steps}, and saved; go on with: hqvox train "
        f"{quote(job.recipe)} --data {quote(job.data)} --out {quote(str(out))}{settled} {option}"
    )
    raise typer.Exit(128 + (outcome.signal or signal.SIGINT))


def train_sweep(job: Job, file: str, out: Path, dry_run: bool) -> None:
    """Train every point of a sweep that is not finished, one after the other; print the table.

    Points that another process is training are passed over, so one command for each GPU shares the
    work. A point that fails, for example because its loss is not finite, does not stop the others.
    """
    from hqvox.cli.train_display import print_plan
    from hqvox.trainer.recipes import load_train_config
    from hqvox.trainer.sweep import read_sweep, sweep_table, write_sweep_table

    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise HqvoxError("--sweep trains each point in one process; run it without torchrun")
    grid = read_sweep(file)
    # All of them before the first begins: a mistake in the last line of the file shows now.
    configs: dict[str, TrainConfig] = {}
    names: dict[str, str] = {}
    for point in grid.points:
        try:
            config = load_train_config(job.recipe, [*job.settings, *point.settings])
        except HqvoxError as error:
            raise HqvoxError(f"{file}: {point.name}: {error}") from None
        same = names.setdefault(config.model_dump_json(), point.name)
        if same != point.name:
            raise HqvoxError(f"{file}: {same} and {point.name} are the same; give each value once")
        configs[point.name] = config
    if dry_run:
        say(f"{len(grid.points)} points; the first of them:")
        print_plan(next(iter(configs.values())), job.release, job.device)
        return
    failed: dict[str, str] = {}
    for number, (name, config) in enumerate(configs.items(), 1):
        folder = out / name
        begun = (folder / CONFIG).is_file()
        say(f"point {number} of {len(grid.points)}: {name}")
        if held(folder):
            say("another process is training it")
            continue
        try:
            outcome = train_one(job, config, folder, resume=begun)
        except HqvoxError as error:
            failed[name] = str(error)
            say(f"failed: {error}")
            continue
        if outcome is not None and outcome.state == "stopped":
            _say_stopped(outcome, job, out, f"--sweep {quote(file)}")
    headings, rows = sweep_table(grid, out, list(failed))
    roomy_console().print(text_table(headings, rows, align="l", frame=False), highlight=False)
    say(str(write_sweep_table(headings, rows, out)))
    if failed:
        raise HqvoxError(
            f"{len(failed)} of {len(grid.points)} points failed, first {next(iter(failed))}: "
            f"{next(iter(failed.values()))}"
        )


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
        list[Path] | None,
        typer.Argument(
            metavar="[DIR]...", help="Runs, or folders that hold runs. Default: this folder."
        ),
    ] = None,
) -> None:
    """List training runs and their best figures, those of the fused speech where there are any.

    Example: hqvox runs runs
    """
    columns = ("run", "recipe", "release", "state", "step", "steps/s", *HIGHER_IS_BETTER)
    rows = []
    for run in find_runs(folders or [Path()]):
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
