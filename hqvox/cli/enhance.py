"""`hqvox train-enhancer`."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from hqvox.cli.common import SetOption, console, say
from hqvox.release.read import find_release
from hqvox.runner.bars import progress_bars
from hqvox.workspace.outputs import register_output, workspace_of


def train_enhancer(
    data: Annotated[
        str,
        typer.Option(metavar="RELEASE", help="A release's folder, or WORKSPACE/NAME."),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="DIR", help="Where the run goes: checkpoints, log."),
    ],
    settings: SetOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the run in --out was left.")
    ] = False,
    start: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="A GFPGAN to begin with. Default: the published one "
            "(hqvox models pull gfpgan_v1_4).",
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1. Default: a GPU where there is one.")
    ] = None,
) -> None:
    """Fine-tune GFPGAN on a release's faces, as AVP-GAN does, for --enhancer.

    Training faces are made bad (blur, shrinking, noise, JPEG) and restored. A stop loses what came
    after the last checkpoint; go on with --resume. The run's config.yaml names the source of every
    number.

    Example: hqvox train-enhancer --data work/v1 --out runs/enhancer
    """
    # Torch takes seconds to import, and the other commands do without.
    from hqvox.trainer.enhancement.config import enhancement_config
    from hqvox.trainer.enhancement.train import fine_tune
    from hqvox.trainer.session import refuse_taken

    release = find_release(data)
    config = enhancement_config(settings or [])
    refuse_taken(out, resume)
    note = register_output(workspace_of(release.storage), "training run", out, release.name)
    if note:
        say(note)
    try:
        with progress_bars(console) as bars:
            tuned = fine_tune(
                config, release, out,
                start=start, resume=resume, device=device, on_note=say, on_progress=bars,
            )  # fmt: skip
    except KeyboardInterrupt:
        say("stopped; go on after the last checkpoint with the same command and --resume")
        raise typer.Exit(130) from None
    say(
        f"finished at step {tuned.step}: reconstruction loss of {tuned.faces} faces "
        f"{tuned.before:.4g} before, {tuned.after:.4g} after"
    )
    file = quote(str(tuned.enhancer))
    say(f"use it with: hqvox generate CKPT AUDIO -o face.png --enhancer {file}")
