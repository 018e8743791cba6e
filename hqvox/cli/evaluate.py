"""`hqvox evaluate` and `hqvox generate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box

from hqvox.cli.common import add_row, console, roomy_console, say, text_table
from hqvox.errors import HqvoxError
from hqvox.runner.bars import progress_bar, progress_bars

if TYPE_CHECKING:  # torch takes seconds, which `hqvox --help` should not
    from hqvox.api import FaceGenerator
    from hqvox.trainer.tables import FilledTable

EnhanceOption = Annotated[
    bool,
    typer.Option(
        "--enhance", help="Enhance the faces to 512 px by GFPGAN (hqvox models pull gfpgan_v1_4)."
    ),
]
EnhancerOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="As --enhance, by a file that hqvox train-enhancer fine-tuned."
    ),
]
WIDE = 150
"""Columns of a terminal that has room for deviations."""
TABLES = ("2", "3", "4", "5", "7", "8", "avp-4", "cross")
LEAST_SECONDS, MOST_SECONDS = 0.5, 600
"""Length of a crop, s."""
DeviceOption = Annotated[
    str | None,
    typer.Option(metavar="DEVICE", help="cpu, cuda, cuda:1 … Default: the GPU if there is one."),
]


def evaluate(
    data: Annotated[
        list[str],
        typer.Option(
            metavar="RELEASE",
            help="A release's folder, or WORKSPACE/NAME. Given again: one of the same people with "
            "other log-mels; each model takes the first that it can read.",
        ),
    ],
    checkpoints: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[CKPT...]", help="Checkpoints or runs of hqvox train; none for table 2."
        ),
    ] = None,
    table: Annotated[
        str,
        typer.Option(
            metavar="2|3|4|5|7|8|avp-4|cross",
            help="Which of SF2F's tables; 2: of real faces; avp-4: table 4 of AVP-GAN; cross: "
            "every model by the metrics of both papers.",
        ),
    ] = "3",
    split: Annotated[
        str,
        typer.Option(metavar="test|val|train", help="Whose faces and voices; table 2: also all."),
    ] = "test",
    seconds: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="MIN MAX",
            help="Length of the speech in place of the table's, for example 4 7 as in figure 5.",
        ),
    ] = None,
    runs: Annotated[int, typer.Option(min=1, max=1000, help="Evaluations (paper: 10).")] = 10,
    crops: Annotated[
        int, typer.Option(min=1, max=1000, help="Pieces of speech of each person (paper: 10).")
    ] = 10,
    crop_once: Annotated[
        bool,
        typer.Option(
            "--crop-once",
            help="Cut the speech once and evaluate the same crops in every run: the other reading "
            "of appendix E.2.",
        ),
    ] = False,
    reading: Annotated[
        str,
        typer.Option(
            metavar="recipe|paper|released",
            help="Measure as the paper says, as the released code does (one pass: --runs and "
            "--crops do not matter), or as the checkpoints' recipe says.",
        ),
    ] = "recipe",
    embedding: Annotated[
        str | None,
        typer.Option(
            metavar="NETWORK",
            help="What cosine, L1 and recall are measured by, for example dlib_resnet. Default: as "
            "the paper, facenet_vggface2; avp-4: arcface_r50.",
        ),
    ] = None,
    enhance: EnhanceOption = False,
    enhancer: EnhancerOption = None,
    fid: Annotated[bool, typer.Option("--fid", help="Also FID, by Inception v3.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the crops.")] = 0,
    device: DeviceOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Write table-N.csv, table-N.md and gallery-N.jpg there; of avp-4 also "
            "figure-6.jpg to figure-9.jpg.",
        ),
    ] = None,
) -> None:
    """Measure trained models as in the paper's tables, and print our figures beside the paper's.

    With --enhance each model is measured as it is and enhanced. A run's folder means its last
    checkpoint.

    Nothing is downloaded: what cannot be measured for want of weights is named, with the command
    that gets them. The same arguments give the same figures.

    Example: hqvox evaluate runs/sf2f/checkpoints/best_fused_recall_10.pt --data work/v1 --table 3
    """
    from hqvox.release.read import find_release
    from hqvox.trainer.evaluate import Protocol
    from hqvox.trainer.report import evaluate_checkpoints, evaluate_real_faces, write_evaluation
    from models.enhancement.gfpgan import load_enhancer

    if table not in TABLES:
        raise HqvoxError(f"--table {table}: there are {', '.join(TABLES)}")
    if (table == "2") is bool(checkpoints):
        raise HqvoxError(
            "--table 2 is of a release's real faces; leave the checkpoints out"
            if checkpoints
            else f"--table {table}: name one or more checkpoints to measure"
        )
    if seconds is not None:
        _check_seconds(seconds, table)
    if (enhance or enhancer) and table == "2":
        raise HqvoxError("--enhance: table 2 is of real faces, which are not enhanced")
    release, *also = [find_release(place) for place in data]
    if also and table == "2":
        raise HqvoxError("--table 2: is of one release; name one --data")
    protocol = Protocol(runs, crops, seed, crop_once)
    with progress_bars(console) as show:
        if not checkpoints:
            report = evaluate_real_faces(
                release,
                split=split,
                protocol=protocol,
                reading=reading,
                device=device,
                on_progress=show,
            )
        else:
            report = evaluate_checkpoints(
                checkpoints,
                release,
                int(table) if table.isdigit() else table,
                split=split,
                protocol=protocol,
                seconds=seconds,
                reading=reading,
                embedding=embedding,
                with_fid=fid,
                enhancer=load_enhancer(enhancer, device) if enhance or enhancer else None,
                also=also,
                device=device,
                on_progress=show,
            )
    print_table(report.table)
    for note in report.notes:
        say(note)
    if out is not None:
        for path in write_evaluation(report, out):
            say(str(path))


def _check_seconds(seconds: tuple[float, float], table: str) -> None:
    low, high = seconds
    if table == "2":
        raise HqvoxError("--seconds: table 2 is of real faces, without speech")
    if not LEAST_SECONDS <= low <= high <= MOST_SECONDS:
        raise HqvoxError(
            f"--seconds {low:g} {high:g}: from the shortest to the longest, between "
            f"{LEAST_SECONDS} and {MOST_SECONDS}"
        )


def print_table(filled: FilledTable) -> None:
    """Print a table: the paper's rows dim, ours beneath them.

    Deviations are printed where there is room for them; files have them in any case.
    """
    from hqvox.trainer.tables import PAPER, headings, lines

    wide = not console.is_terminal or console.width >= WIDE
    words = 2 + bool(filled.paper.second)
    shown = text_table(
        headings(filled),
        title=f"{filled.paper.name}: {filled.paper.title}",
        align="l" * words + "r",
        wrap=not wide,
    )
    shown.box = box.SIMPLE_HEAD
    for row, cells in zip(filled.rows, lines(filled, deviations=wide), strict=True):
        add_row(shown, cells, "dim" if row.source == PAPER else "bold")
    roomy_console().print(shown)


def generate(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CKPT", help="A checkpoint, or a run's folder.")
    ],
    audio: Annotated[
        Path, typer.Argument(metavar="AUDIO", help="A file with speech, or a folder of such.")
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="FILE|DIR", help="The picture; a folder of them."),
    ],
    windows: Annotated[
        bool,
        typer.Option(
            "--windows",
            help="Also the face of each window of 1.25 s, and of the speech heard whole, as in "
            "figure 4.",
        ),
    ] = False,
    enhance: EnhanceOption = False,
    enhancer: EnhancerOption = None,
    device: DeviceOption = None,
) -> None:
    """Generate the face of whoever speaks in an audio file, or in each file of a folder.

    Any audio or video that FFmpeg reads; speech is cut out as for a data set, and fused over
    windows of 1.25 s. Files of a folder without speech are named and left out.

    Example: hqvox generate runs/sf2f/checkpoints/last.pt speech.wav -o face.png
    """
    from hqvox.api import open_generator
    from hqvox.trainer.generate import audio_files, check_picture

    generator = open_generator(
        checkpoint, device, enhancer=enhancer or ("gfpgan_v1_4" if enhance else None)
    )
    if not audio.is_dir():
        check_picture(out)
        say(_generate_one(generator, audio, out, windows))
        return
    files = list(audio_files(audio))
    if not files:
        raise HqvoxError(f"{audio}: no files in it; name a folder of audio")
    refused = 0
    with progress_bar(console, "faces") as show:
        for done, file in enumerate(files, 1):
            # b.wav and b.mp3 must not meet: the whole name stays.
            target = out / file.relative_to(audio).with_name(f"{file.name}.png")
            try:
                _generate_one(generator, file, target, windows)
            except HqvoxError as error:
                refused += 1
                say(str(error))
            show(done, len(files))
    say(f"{len(files) - refused} of {len(files)} files have faces in {out}")
    if refused == len(files):
        raise HqvoxError(f"{audio}: no face could be generated")


def _generate_one(generator: FaceGenerator, audio: Path, out: Path, windows: bool) -> str:
    """Write one file's pictures; return what to say of it."""
    from hqvox.trainer.generate import save_picture

    made = generator.generate(audio, windows=windows)
    save_picture(made.face, out)
    for number, face in enumerate(made.windows, 1):
        save_picture(face, out.with_name(f"{out.stem}.window-{number:03d}{out.suffix}"))
    if made.whole is not None:
        save_picture(made.whole, out.with_name(f"{out.stem}.whole{out.suffix}"))
    count = f"{made.n_windows} window{'s' if made.n_windows != 1 else ''}"
    return f"{out}: {made.seconds:.1f} s of speech, {count}, fused by {made.fused_by}"
