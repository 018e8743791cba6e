"""`hqvox export` and `hqvox import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hqvox.cli.common import CONTEXT, console, say
from hqvox.cli.import_checkpoint import sf2f_checkpoint, voice2face_checkpoint
from hqvox.errors import HqvoxError
from hqvox.exchange.export import (
    SHARD_MB,
    Form,
    Kind,
    Samples,
    export_photos,
    export_release,
)
from hqvox.exchange.importing import Order, import_tree
from hqvox.exchange.push import import_hub, push_folder
from hqvox.exchange.tree import Tree, read_folders, read_tree
from hqvox.release.read import find_release
from hqvox.release.split import INITIALS
from hqvox.release.write import Written
from hqvox.runner.bars import progress_bar, progress_bars
from hqvox.workspace.layout import CONFIG, Workspace
from hqvox.workspace.outputs import register_output, workspace_of
from hqvox.workspace.storage import Storage

SHOWN = 20
"""Files that were not taken, of which each gets a line; the rest is counted."""

importing = typer.Typer(
    help="Take a published dataset in as a release to train on, or a published generator.",
    no_args_is_help=True,
    context_settings=CONTEXT,
)


def export(
    where: Annotated[
        str, typer.Argument(metavar="WORKSPACE|RELEASE", help="A workspace, or a release's folder.")
    ],
    names: Annotated[
        list[str], typer.Argument(metavar="[NAME] DIR", help="Name of the release; where to write.")
    ],
    form: Annotated[Form, typer.Option("--to", help="The form that is wanted.")],
    shard_mb: Annotated[
        int,
        typer.Option(min=1, max=100_000, help="webdataset, huggingface, photos: MB of a file."),
    ] = SHARD_MB,
    faces: Annotated[
        Kind, typer.Option(help="folders: which of a face's two pictures.")
    ] = Kind.MASKED,
    samples: Annotated[
        Samples, typer.Option(help="webdataset: a sample is a person with speech, or a face.")
    ] = Samples.PERSON,
    embeddings: Annotated[
        bool,
        typer.Option(
            "--embeddings",
            help="webdataset, huggingface: also the faces' embeddings, by which people can be "
            "recognised.",
        ),
    ] = False,
    push: Annotated[
        str | None,
        typer.Option(
            metavar="REPO", help="huggingface: then upload it as this dataset of the Hub, private."
        ),
    ] = None,
) -> None:
    """Write a release in the form that other code reads.

    sf2f: the tree and pickles of the released SF2F code. webdataset: tars, a sample a person, or a
    face. huggingface: opens with datasets.load_dataset(DIR). folders: <split>/<Name>/<n>.jpg.
    photos: tars of the photographs; of a workspace, without NAME, all that are no duplicates.

    Example: hqvox export work v1 --to sf2f SF2F/data/VoxCeleb
    """
    if len(names) > 2:
        raise HqvoxError(f"unexpected argument {names[2]}; see hqvox export --help")
    _check_options(form, samples, embeddings, push)
    if form is Form.PHOTOS and len(names) == 1 and Storage(where).exists(CONFIG):
        _export_photos(Workspace.open(where), Path(names[0]), shard_mb)
        return
    release = find_release(where, names[0] if len(names) == 2 else None)
    with progress_bar(console, "faces and utterances") as show:
        done = export_release(
            release,
            form,
            Path(names[-1]),
            shard_mb=shard_mb,
            kind=faces,
            samples=samples,
            embeddings=embeddings,
            on_progress=show,
        )
    note = register_output(workspace_of(release.storage), "export", Path(names[-1]), release.name)
    for line in (
        *done.notes,
        *([note] if note else []),
        f"{done.faces:,} faces, {done.utterances:,} utterances",
        names[-1],
    ):
        say(line)
    if push is not None:
        with console.status(f"uploading to {push}"):
            address = push_folder(Path(names[-1]), push)
        say(address)


def _check_options(form: Form, samples: Samples, embeddings: bool, push: str | None) -> None:
    """Raise HqvoxError for an option that the form does not have."""
    if samples is Samples.FACE and form is not Form.WEBDATASET:
        raise HqvoxError(f"--samples {samples.value} is for --to webdataset")
    if embeddings and form not in (Form.WEBDATASET, Form.HUGGINGFACE):
        raise HqvoxError("--embeddings is for --to webdataset and --to huggingface")
    if push is not None:
        if form is not Form.HUGGINGFACE:
            raise HqvoxError("--push is for --to huggingface")
        import_hub()  # before everything is written


def _export_photos(workspace: Workspace, target: Path, shard_mb: int) -> None:
    with progress_bar(console, "photographs") as show:
        count = export_photos(workspace, target, shard_mb=shard_mb, on_progress=show)
    note = register_output(workspace, "export", target)
    for line in (*([note] if note else []), f"{count:,} photographs", str(target)):
        say(line)


ImportWorkspace = Annotated[
    str, typer.Argument(metavar="WORKSPACE", help="Folder to make, or of an earlier import.")
]
ReleaseName = Annotated[str, typer.Option("--name", help="Name of the release.")]
Metadata = Annotated[
    list[Path] | None,
    typer.Option(
        "--voxceleb",
        exists=True,
        dir_okay=False,
        help="VoxCeleb's metadata, for ids, gender and nationality; may be given twice.",
    ),
]
NoSpeech = Annotated[
    bool, typer.Option("--no-speech", help="Faces alone, also of people without speech.")
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers", min=0, max=1024, help="Processes; 0: in this one. Default: one per core."
    ),
]


@importing.command("hq-voxceleb")
def hq_voxceleb(
    tree: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Holds vox1/masked_faces/<Name>/<n>.jpg and so on."),
    ],
    workspace: ImportWorkspace,
    name: ReleaseName = "imported",
    voxceleb: Metadata = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="official|initials|seed:N|FILE",
            help="Default: the tree's split.json; without one official where --voxceleb is given, "
            "else seed:0.",
        ),
    ] = None,
    no_speech: NoSpeech = False,
    workers: Workers = None,
) -> None:
    """Take HQ-VoxCeleb, or any aligned faces in its form, as a release, every face measured.

    Pictures go over as they are; no face is refused. Voices are its pickles; or index audio with
    `hqvox speech WORKSPACE --audio DIR` and import again under another --name.

    Example: hqvox import hq-voxceleb HQ-VoxCeleb work --name hq
    """
    dataset = read_tree(tree)
    _say_found(dataset)
    _import(dataset, workspace, Order(name, tuple(voxceleb or ()), split, not no_speech, workers))


@importing.command("vggface")
def vggface(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Holds <Name>/<n>.jpg.")],
    workspace: ImportWorkspace,
    name: ReleaseName = "vggface",
    voxceleb: Metadata = None,
    split: Annotated[
        str,
        typer.Option(
            metavar="official|initials|seed:N|FILE",
            help="initials: as voice2face splits this dataset, names from A and B val, C to E "
            "test, F to Z train.",
        ),
    ] = INITIALS,
    no_speech: NoSpeech = False,
    workers: Workers = None,
) -> None:
    """Take filtered VGGFace, a folder of faces for each person, as a release (SF2F, table 8).

    Pictures of any shape go over as they are, with their background, on which models are then
    trained; every face is measured and none refused. Names are those of VoxCeleb1's metadata
    (VGGFace1 ID). For voices run `hqvox speech WORKSPACE --audio DIR` and import again under
    another --name.

    Example: hqvox import vggface VGG_ALL_FRONTAL work --voxceleb vox1_meta.csv
    """
    dataset = read_folders(folder)
    count = sum(len(person.pictures) for person in dataset.folders)
    say(f"{dataset.root}: {len(dataset.folders):,} people, {count:,} faces")
    _import(dataset, workspace, Order(name, tuple(voxceleb or ()), split, not no_speech, workers))


def _import(dataset: Tree, workspace: str, order: Order) -> None:
    with progress_bars(console) as show:
        done = import_tree(dataset, workspace, order, show)
    _say_imported(done)
    say(str(done.folder))
    say(f"check it: hqvox release verify {workspace} {order.name}")


def _say_found(tree: Tree) -> None:
    pictures = [picture for folder in tree.folders for picture in folder.pictures.values()]
    both = sum(p.masked is not None and p.origin is not None for p in pictures)
    masked = sum(p.origin is None for p in pictures)
    say(
        f"{tree.root}: {len(tree.folders):,} people, {len(pictures):,} faces ({both:,} with both "
        f"pictures, {masked:,} on white only, {len(pictures) - both - masked:,} with background "
        f"only), {sum(len(folder.mels) for folder in tree.folders):,} utterances"
    )


def _say_imported(done: Written) -> None:
    info, own = done.info, done.info["import"]
    for line in done.problems[:SHOWN]:
        say(f"! {line}")
    if len(done.problems) > SHOWN:
        say(f"! and {len(done.problems) - SHOWN:,} files more that were not taken")
    people = {
        "with no voice: kept apart": len(info["faces_without_speech"]),
        "without a usable picture: left out": len(info["dropped"]),
        "not in the split file: left out": len(info["not_in_split_file"]),
    }
    for what, count in people.items():
        if count:
            say(f"people {what}: {count:,} (release.json names them)")
    faces = {
        "in which no face was found; released without measurements": own["no_face_found"],
        "whose eyes are more than 2 % of the side from HQ-VoxCeleb's": own["eyes_elsewhere"],
        "cut out here, as none on white was there": own["masked_made_here"],
        "that could not be cut out: on white is the same as with background": own[
            "masked_is_origin"
        ],
        "on white only: with background is the same": own["origin_is_masked"],
        "in two splits, kept as published": len(info["leaks"]["kept_faces"]),
    }
    for what, count in faces.items():
        if count:
            say(f"faces {what}: {count:,}")
    refused = own["would_refuse"]
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in refused.items()) or "none"
    say(f"measured, none refused; a build would have refused {sum(refused.values()):,}: {reasons}")
    parts = ", ".join(f"{part} {count:,}" for part, count in info["identities_of_parts"].items())
    speech = info["speech"]
    voices = f"{speech['utterances']:,} utterances" if speech else info["no_speech_because"]
    say(f"{info['identities']:,} people ({parts}), {info['images']:,} faces; speech: {voices}")


importing.command("sf2f-checkpoint")(sf2f_checkpoint)
importing.command("voice2face-checkpoint")(voice2face_checkpoint)
