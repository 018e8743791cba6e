"""`hqvox import sf2f-checkpoint`: a generator that the released SF2F code trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hqvox.cli.common import say
from hqvox.errors import HqvoxError


def sf2f_checkpoint(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A .pt file of SF2F's train.py, stripped or not.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="CKPT", help="Where to write it as a checkpoint of hqvox."
        ),
    ] = None,
) -> None:
    """Read a checkpoint of the released SF2F code, say what is in it, write it as one of ours.

    Nothing in the file is run. The generator's pictures are those of the released code; its
    discriminators and optimisers are left behind.

    Example: hqvox import sf2f-checkpoint best_L1_with_model.pt --out sf2f.pt
    """
    from hqvox.trainer.checkpoint import generator_state, save
    from hqvox.trainer.speech_input import Normaliser
    from models.sf2f.released import read_released

    if out is not None and out.exists():
        raise HqvoxError(f"{out}: is there already; name another file for --out, or remove it")
    released = read_released(file)
    generator, spec = released.build(), released.spec
    trained = "" if released.iterations is None else f", {released.iterations:,} iterations"
    say(f"{file}: a generator of SF2F's released code{trained}")
    for part, kind in (("encoder", spec.encoder), ("fuser", spec.fuser), ("decoder", spec.decoder)):
        module = getattr(generator, part)
        size = 0 if module is None else sum(p.numel() for p in module.parameters())
        say(f"{part}: {'none' if module is None else f'{kind}, {size:,} parameters'}")
    pictures = ", ".join(f"{px} × {px}" for px in spec.resolutions)
    say(f"log-mel: {spec.n_filters} filters, embedding: {spec.embedding_dim}, pictures: {pictures}")
    for note in released.notes:
        say(f"! {note}")
    if out is None:
        say("nothing written; --out CKPT keeps it for hqvox generate and hqvox evaluate")
        return
    meta = {
        "normalise": Normaliser().as_dict(),
        "step": released.iterations or 0,
        "source": file.name,
    }
    save(out, generator_state(generator, meta))
    say(str(out))
