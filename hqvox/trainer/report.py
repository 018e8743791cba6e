"""Evaluating checkpoints for one of the paper's tables, from files to files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from hqvox.errors import HqvoxError
from hqvox.imaging.pictures import encode_jpeg
from hqvox.release.read import Release
from hqvox.trainer.checkpoint import load_generator
from hqvox.trainer.data import SPLITS, Part, TrainingData
from hqvox.trainer.evaluate import check_filters, evaluate
from hqvox.trainer.gallery import gallery
from hqvox.trainer.generate import normaliser_of, pick_device
from hqvox.trainer.judges import PAPERS_EMBEDDING, Judges, load_judges
from hqvox.trainer.metrics import GALLERY_SIZE
from hqvox.trainer.paper_tables import TABLE_2
from hqvox.trainer.protocol import Protocol
from hqvox.trainer.tables import Evaluated, FilledTable, conditions_of, fill, to_csv, to_markdown
from hqvox.workspace.storage import Storage
from models.store import ModelStore

OnProgress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and of how much."""


@dataclass(frozen=True)
class EvaluationReport:
    """A table with our rows, what must be known to read it, and a gallery."""

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
    embedding: str = PAPERS_EMBEDDING,
    with_fid: bool = False,
    device: str | None = None,
    cache_dir: Path | None = None,
    on_progress: OnProgress = lambda what, done, total: None,
) -> EvaluationReport:
    """Evaluate checkpoints on a split of a release, for the paper's table ``number``.

    Raises HqvoxError for what cannot be read or does not fit.
    """
    protocol = protocol or Protocol()
    chosen = next((name for name in SPLITS if name == split), None)
    if chosen is None:
        raise HqvoxError(f"--split {split}: there are {', '.join(SPLITS)}")
    where = pick_device(device)
    judges = load_judges(ModelStore(), embedding, str(where))
    loaded = [load_generator(path) for path in checkpoints]
    labels = labels_of(checkpoints)
    opened: dict[tuple[str, int], Part] = {}
    evaluated, shown = [], []
    for label, one in zip(labels, loaded, strict=True):
        pictures = (one.config or {}).get("data", {}).get("pictures", "masked")
        key = (pictures, one.spec.resolutions[-1])
        if key not in opened:
            data = TrainingData.open(
                release,
                key[1:],
                pictures=pictures,
                cache_dir=cache_dir,
                on_progress=on_progress,
            )
            opened[key] = data.part(chosen)
        part, normaliser = opened[key], normaliser_of(one)
        check_filters(one.generator, part)
        conditions = conditions_of(number, one)
        one.generator.to(where)
        result = evaluate(
            one.generator,
            normaliser,
            part,
            conditions,
            judges,
            protocol,
            with_fid=with_fid,
            on_progress=partial(on_progress, label),
        )
        evaluated.append(Evaluated(label, one, result))
        shown.append((label, one, normaliser, conditions))
    picture = gallery(next(iter(opened.values())), shown, protocol)
    notes = notes_on(evaluated, judges, chosen, protocol, release.name)
    notes += seen_before(evaluated, set(next(iter(opened.values())).identity_ids))
    return EvaluationReport(fill(number, evaluated), notes, picture)


def labels_of(checkpoints: Sequence[Path]) -> list[str]:
    """Short names that tell the checkpoints apart: a run's folder and the file, or the file."""
    labels = []
    for path in checkpoints:
        inside = path.resolve().parent.name == "checkpoints"
        labels.append(f"{path.resolve().parent.parent.name}/{path.stem}" if inside else path.stem)
    return labels if len(set(labels)) == len(labels) else [str(path) for path in checkpoints]


def notes_on(
    evaluated: Sequence[Evaluated],
    judges: Judges,
    split: str,
    protocol: Protocol,
    release: str,
) -> list[str]:
    """What a reader must know: data, protocol, small galleries, another embedding, what lacks."""
    people = evaluated[0].evaluation.identities
    notes = [
        f"{people} people of {split} of {release}; runs: {protocol.runs}, crops of each person: "
        f"{protocol.crops}, seed {protocol.seed}; ± is the deviation over runs (of VFS and IS over "
        "splits too)"
    ]
    if people < GALLERY_SIZE:
        notes.append(
            f"galleries are of {people} people, the paper's of {GALLERY_SIZE}: recall is not "
            "comparable with the paper's, only with chance as given"
        )
    if judges.embed is not None and judges.embedding != PAPERS_EMBEDDING:
        notes.append(
            f"cosine, L1 and recall are by {judges.embedding}, the paper's by FaceNet: they are "
            "not comparable"
        )
    notes += [f"{what} not measured: {why}" for what, why in judges.missing.items()]
    for one in evaluated[:1]:
        px = one.loaded.spec.resolutions[-1]
        for name, title in (("vfs", "VGGFace Score"), ("inception", "Inception Score")):
            if name in one.evaluation.real:
                score = one.evaluation.real[name]
                theirs = TABLE_2[title][px]
                notes.append(
                    f"{title} of the real faces at {px} px: {score.mean:.2f} ± "
                    f"{score.deviation:.2f} (paper, table 2: {theirs[0]} ± {theirs[1]})"
                )
    notes += [_trained_on(one) for one in evaluated]
    return notes


def seen_before(evaluated: Sequence[Evaluated], people: set[str]) -> list[str]:
    """Warn of checkpoints that were trained on people whom they are evaluated on."""
    notes = []
    for one in evaluated:
        known = people & set(one.loaded.meta.get("identities") or ())
        if known:
            notes.append(
                f"{one.label} was TRAINED on {len(known)} of these {len(people)} people: its "
                "figures say nothing of strangers"
            )
    return notes


def _trained_on(one: Evaluated) -> str:
    meta, loaded = one.loaded.meta, one.loaded
    recipe = meta.get("recipe") or "generator of another code, imported"
    parts = [f"{one.label}: {recipe}"]
    if "step" in meta:
        parts.append(f"step {meta['step']} of stage {meta.get('stage')}")
    if meta.get("features"):
        parts.append(f"perceptual loss by {meta['features']}")
    if loaded.spec.fuser is None:
        parts.append("no fuser")
    return ", ".join(parts)


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
