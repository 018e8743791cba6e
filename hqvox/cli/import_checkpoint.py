"""`hqvox import sf2f-checkpoint` and `voice2face-checkpoint`: generators of released codes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hqvox.cli.common import say
from hqvox.errors import HqvoxError

if TYPE_CHECKING:
    from hqvox.trainer.speech_input import Normaliser
    from models.sf2f.released import Released


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
    from hqvox.trainer.speech_input import Normaliser
    from models.sf2f.released import read_released

    _refuse_taken(out)
    released = read_released(file)
    trained = "" if released.iterations is None else f", {released.iterations:,} iterations"
    say(f"{file}: a generator of SF2F's released code{trained}")
    _write(released, Normaliser(), file, out)


def voice2face_checkpoint(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Its generator.pth.")],
    voice: Annotated[
        Path,
        typer.Option(metavar="FILE", help="Its voice_embedding.pth, which the generator needs."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="CKPT", help="Where to write it as a checkpoint of hqvox."
        ),
    ] = None,
) -> None:
    """Read voice2face as its authors released it, say what is in it, write it as one checkpoint.

    Nothing in the files is run. The checkpoint works with log-mels of its own front end only: hqvox
    generate makes them, and hqvox evaluate needs a release that has them (hqvox speech WORKSPACE
    --set speech.front_end=voice2face).

    Example: hqvox import voice2face-checkpoint generator.pth --voice voice_embedding.pth --out v.pt
    """
    from hqvox.trainer.speech_input import Normaliser
    from models.sf2f.released import read_voice2face

    _refuse_taken(out)
    released = read_voice2face(file, voice)
    say(f"{file}, {voice}: voice2face as its authors released it")
    normaliser = Normaliser("utterance", short="repeat", front_end="voice2face")
    _write(released, normaliser, file, out)


def _refuse_taken(out: Path | None) -> None:
    if out is not None and out.exists():
        raise HqvoxError(f"{out}: is there already; name another file for --out, or remove it")


def _write(released: Released, normaliser: Normaliser, file: Path, out: Path | None) -> None:
    """Say what is in a generator, and write it where ``out`` names a file."""
    from hqvox.trainer.checkpoint import generator_state, save

    generator, spec = released.build(), released.spec
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
        "normalise": normaliser.as_dict(),
        "step": released.iterations or 0,
        "source": file.name,
    }
    save(out, generator_state(generator, meta))
    say(str(out))
