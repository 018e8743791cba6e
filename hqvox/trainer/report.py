"""`hqvox evaluate`: checkpoints in, one of the paper's tables with our rows out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from hqvox.errors import HqvoxError
from hqvox.imaging.pictures import encode_jpeg
from hqvox.release.read import Release
from hqvox.trainer.checkpoint import Loaded, load_generator
from hqvox.trainer.data import SPLITS, Split, TrainingData
from hqvox.trainer.evaluate import Protocol, check_filters, evaluate
from hqvox.trainer.evaluate_released import evaluate_as_released, released_conditions
from hqvox.trainer.generate import normaliser_of
from hqvox.trainer.metric_networks import PAPERS_EMBEDDING, MetricNetworks, load_metric_networks
from hqvox.trainer.metrics import GALLERY_SIZE
from hqvox.trainer.packing import Resize
from hqvox.trainer.samples import gallery
from hqvox.trainer.tables import (
    TABLE_2,
    EvaluatedCheckpoint,
    FilledTable,
    conditions_of,
    fill,
    to_csv,
    to_markdown,
)
from hqvox.workspace.storage import Storage
from models.inference import pick_device
from models.store import ModelStore

OnProgress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and of how much."""

BY_RECIPE = "recipe"
READINGS = (BY_RECIPE, "paper", "released")
HOW_RELEASED = (
    "measured as the released code does: one pass over at most 20 segments of each person, seed "
    "{seed}; ± of VFS and IS is over splits"
)


@dataclass(frozen=True)
class EvaluationReport:
    """A table with our rows, notes that are needed to read it, and a gallery."""

    table: FilledTable
    notes: list[str]
    gallery: Image.Image


def evaluate_checkpoints(
    checkpoints: Sequence[Path],
    release: Release,
    number: int,
    *,
    split: str = "test",
    protocol: Protocol | None = None,
    reading: str = BY_RECIPE,
    embedding: str = PAPERS_EMBEDDING,
    with_fid: bool = False,
    device: str | None = None,
    cache_dir: Path | None = None,
    on_progress: OnProgress = lambda what, done, total: None,
) -> EvaluationReport:
    """Evaluate checkpoints on a split of a release, for the paper's table ``number``.

    ``reading``: ``paper`` or ``released``, or that of the checkpoints' recipes.
    Raises HqvoxError for a file that cannot be read or a checkpoint that does not fit the release,
    ModelError for a device that cannot be used.
    """
    protocol = protocol or Protocol()
    split_name = next((name for name in SPLITS if name == split), None)
    if split_name is None:
        raise HqvoxError(f"--split {split}: there are {', '.join(SPLITS)}")
    torch_device = pick_device(device)
    networks = load_metric_networks(ModelStore(), embedding, str(torch_device))
    loaded = [load_generator(path) for path in checkpoints]
    labels = labels_of(checkpoints)
    released = reading_of(labels, loaded, reading) == "released"
    if released and number == 4:
        raise HqvoxError(
            "--table 4: the released code evaluates segments of 1.25 s only; measure lengths with "
            "--reading paper"
        )
    opened: dict[tuple[str, Resize, int], Split] = {}
    evaluated, shown = [], []
    for label, one in zip(labels, loaded, strict=True):
        settings = (one.config or {}).get("data", {})
        pictures, resize = settings.get("pictures", "masked"), settings.get("resize", "area")
        px = one.spec.resolutions[-1]
        key = (pictures, resize, px)
        if key not in opened:
            data = TrainingData.open(
                release,
                (px,),
                pictures=pictures,
                resize=resize,
                cache_dir=cache_dir,
                on_progress=on_progress,
            )
            opened[key] = data.split(split_name)
        people, normaliser = opened[key], normaliser_of(one)
        check_filters(one.generator, people)
        conditions = conditions_of(number, one)
        one.generator.to(torch_device)
        if released:
            result = evaluate_as_released(
                one.generator,
                normaliser,
                people,
                released_conditions(number, one.generator),
                networks,
                protocol.seed,
                with_fid=with_fid,
                on_progress=partial(on_progress, label),
            )
        else:
            result = evaluate(
                one.generator,
                normaliser,
                people,
                conditions,
                networks,
                protocol,
                with_fid=with_fid,
                on_progress=partial(on_progress, label),
            )
        evaluated.append(EvaluatedCheckpoint(label, one, result))
        shown.append((label, one, normaliser, conditions))
    picture = gallery(next(iter(opened.values())), shown, protocol)
    how = HOW_RELEASED.format(seed=protocol.seed) if released else _how(protocol)
    notes = notes_on(evaluated, networks, split_name, how, release.name)
    notes += seen_before(evaluated, set(next(iter(opened.values())).identity_ids))
    return EvaluationReport(fill(number, evaluated), notes, picture)


def _how(protocol: Protocol) -> str:
    once = ", the same crops in every run" if protocol.crop_once else ""
    return (
        f"runs: {protocol.runs}, crops of each person: {protocol.crops}{once}, seed "
        f"{protocol.seed}; ± is the deviation over runs; VFS and IS are of one picture of each "
        "person, ± over splits too"
    )


def reading_of(labels: Sequence[str], loaded: Sequence[Loaded], reading: str) -> str:
    """``paper`` or ``released``: as asked for, or as the checkpoints' recipes say.

    Checkpoints without a configuration, such as imported ones, are read as the paper does. Raises
    HqvoxError for another reading, and where the recipes differ.
    """
    if reading not in READINGS:
        raise HqvoxError(f"--reading {reading}: there are {', '.join(READINGS)}")
    if reading != BY_RECIPE:
        return reading
    own = [(one.config or {}).get("evaluation", {}).get("reading", "paper") for one in loaded]
    if len(set(own)) > 1:
        each = ", ".join(f"{label}: {name}" for label, name in zip(labels, own, strict=True))
        raise HqvoxError(
            f"the checkpoints' recipes are measured differently ({each}); choose one for all with "
            "--reading paper or --reading released"
        )
    return str(own[0])


def labels_of(checkpoints: Sequence[Path]) -> list[str]:
    """A short name for each checkpoint: its run's folder and file, or its file; else its path."""
    labels = []
    for path in checkpoints:
        inside = path.resolve().parent.name == "checkpoints"
        labels.append(f"{path.resolve().parent.parent.name}/{path.stem}" if inside else path.stem)
    return labels if len(set(labels)) == len(labels) else [str(path) for path in checkpoints]


def notes_on(
    evaluated: Sequence[EvaluatedCheckpoint],
    networks: MetricNetworks,
    split: str,
    how: str,
    release: str,
) -> list[str]:
    """Notes below a table: data, protocol, small galleries, another embedding, missing metrics.

    ``how``: the protocol in words.
    """
    people = evaluated[0].evaluation.identities
    notes = [f"{people} people of {split} of {release}; {how}"]
    if people < GALLERY_SIZE:
        notes.append(
            f"galleries are of {people} people, the paper's of {GALLERY_SIZE}: recall is not "
            "comparable with the paper's, only with chance as given"
        )
    if networks.embed is not None and networks.embedding != PAPERS_EMBEDDING:
        notes.append(
            f"cosine, L1 and recall are by {networks.embedding}, the paper's by FaceNet: they are "
            "not comparable"
        )
    notes += [f"{what} not measured: {why}" for what, why in networks.missing.items()]
    for one in evaluated[:1]:
        px = one.loaded.spec.resolutions[-1]
        for name, title in (("vfs", "VGGFace Score"), ("inception", "Inception Score")):
            if name in one.evaluation.real:
                score = one.evaluation.real[name]
                printed = TABLE_2[title][px]
                notes.append(
                    f"{title} of the real faces at {px} px, one of each person: {score.mean:.2f} "
                    f"± {score.deviation:.2f} (paper, table 2: {printed[0]} ± {printed[1]})"
                )
    notes += [_trained_on(one) for one in evaluated]
    return notes


def seen_before(evaluated: Sequence[EvaluatedCheckpoint], people: set[str]) -> list[str]:
    """Warn of checkpoints that were trained on people they are evaluated on."""
    notes = []
    for one in evaluated:
        known = people & set(one.loaded.meta.get("identities") or ())
        if known:
            notes.append(
                f"{one.label} was TRAINED on {len(known)} of these {len(people)} people: its "
                "figures say nothing about strangers"
            )
    return notes


def _trained_on(one: EvaluatedCheckpoint) -> str:
    meta, loaded = one.loaded.meta, one.loaded
    recipe = meta.get("recipe") or "imported from other code"
    facts = [f"{one.label}: {recipe}"]
    if "step" in meta:
        facts.append(f"step {meta['step']} of stage {meta.get('stage')}")
    if meta.get("features"):
        facts.append(f"perceptual loss by {meta['features']}")
    if loaded.spec.fuser is None:
        facts.append("no fuser")
    return ", ".join(facts)


def write_evaluation(report: EvaluationReport, out: Path) -> list[Path]:
    """Write table-N.csv, table-N.md and gallery-N.jpg into a folder. Raises HqvoxError."""
    name = f"table-{report.table.paper.number}"
    files = {
        f"{name}.csv": to_csv(report.table).encode(),
        f"{name}.md": to_markdown(report.table, report.notes).encode(),
        f"gallery-{report.table.paper.number}.jpg": encode_jpeg(report.gallery, 92),
    }
    storage = Storage(out)
    for file, content in files.items():
        storage.write(file, content)
    return [out / file for file in files]
