"""`hqvox evaluate`: checkpoints in, one of the papers' tables with our rows out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hqvox.errors import HqvoxError
from hqvox.imaging.pictures import encode_jpeg
from hqvox.release.read import Release
from hqvox.trainer.checkpoint import Loaded, load_generator
from hqvox.trainer.data import SPLITS, Split, TrainingData
from hqvox.trainer.evaluate import (
    MIN_SCORED,
    SECONDS,
    Protocol,
    check_filters,
    classified,
    evaluate,
    joined,
    real_scores,
    score_splits,
)
from hqvox.trainer.evaluate_released import (
    INCEPTION_SPLITS,
    evaluate_as_released,
    released_conditions,
)
from hqvox.trainer.generate import normaliser_of
from hqvox.trainer.metric_networks import (
    ARCFACE,
    PAPERS_EMBEDDING,
    MetricNetworks,
    load_metric_networks,
)
from hqvox.trainer.metrics import GALLERY_SIZE, Score, inception_scores
from hqvox.trainer.packing import ReleaseCache, Resize
from hqvox.trainer.runs import CHECKPOINTS, LAST
from hqvox.trainer.samples import Shown, figures_of_avp_gan, gallery
from hqvox.trainer.session import describe_release
from hqvox.trainer.tables import (
    AVP_4,
    CROSS,
    SIDES,
    TABLE_2,
    EvaluatedCheckpoint,
    FilledTable,
    TableName,
    conditions_of,
    fill,
    fill_cross,
    fill_table_2,
    to_csv,
    to_markdown,
)
from hqvox.workspace.storage import Storage
from models.enhancement.gfpgan import FaceEnhancer
from models.inference import pick_device
from models.store import ModelStore

OnProgress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and of how much."""

BY_RECIPE = "recipe"
ALL_SPLITS = "all"
"""Every split together, for table 2."""
FACES_AT_ONCE = 256
"""Real faces that are scored in one batch."""
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
    gallery: Image.Image | None
    """None where nothing was generated (table 2)."""
    figures: Mapping[str, Image.Image] = field(default_factory=dict)
    """Further pictures, by name: figures 6 to 9 of AVP-GAN with its table 4."""


def evaluate_checkpoints(
    checkpoints: Sequence[Path],
    release: Release,
    number: TableName,
    *,
    split: str = "test",
    protocol: Protocol | None = None,
    seconds: tuple[float, float] | None = None,
    reading: str = BY_RECIPE,
    embedding: str | None = None,
    with_fid: bool = False,
    enhancer: FaceEnhancer | None = None,
    also: Sequence[Release] = (),
    device: str | None = None,
    cache_dir: Path | None = None,
    on_progress: OnProgress = lambda what, done, total: None,
) -> EvaluationReport:
    """Evaluate checkpoints, or runs' last ones, on a split of a release, for a paper's table.

    ``number``: of SF2F's table, ``avp-4`` or ``cross``. ``embedding``: what measures cosine in
    place of the paper's network. ``enhancer``: each checkpoint is measured as it is, and with its
    faces enhanced. ``also``: further releases of the same people, with other log-mels; a checkpoint
    is measured on the first release that it can read.
    ``seconds``: shortest and longest piece of speech, s, in place of the table's own lengths.
    ``reading``: ``paper`` or ``released``, or that of the checkpoints' recipes.
    Raises HqvoxError for a file that cannot be read or a checkpoint that does not fit the release,
    ModelError for a device that cannot be used.
    """
    protocol = protocol or Protocol()
    split_name = next((name for name in SPLITS if name == split), None)
    if split_name is None:
        raise HqvoxError(f"--split {split}: there are {', '.join(SPLITS)}")
    torch_device = pick_device(device)
    store = ModelStore()
    networks = load_metric_networks(
        store, embedding or of_paper(number), str(torch_device), scores=number != AVP_4
    )
    by_length = networks
    if number == CROSS and embedding is None:
        by_length = load_metric_networks(store, ARCFACE, str(torch_device), scores=False)
    checkpoints = [path / CHECKPOINTS / LAST if path.is_dir() else path for path in checkpoints]
    loaded = [load_generator(path) for path in checkpoints]
    labels = labels_of(checkpoints)
    if number in (AVP_4, CROSS):  # The other paper's: there is no released code to measure as.
        check_reading(reading)
        released = reading == "released"
    else:
        released = reading_of(labels, loaded, reading) == "released"
    if released and enhancer:
        raise HqvoxError(
            "--enhance: the released code enhances nothing; measure it with --reading paper"
        )
    if released and (number in (4, AVP_4, CROSS) or seconds):
        raise HqvoxError(
            f"{'--seconds' if seconds else f'--table {number}'}: the released code evaluates "
            "segments of 1.25 s only; measure lengths with --reading paper"
        )
    if also and number == 7:
        raise HqvoxError("--table 7: tells models by their release; name one --data")
    opened: dict[tuple[str, str, Resize, int], Split] = {}
    evaluated, shown = [], []
    for label, one in zip(labels, loaded, strict=True):
        settings = (one.config or {}).get("data", {})
        pictures, resize = settings.get("pictures", "masked"), settings.get("resize", "area")
        px = one.spec.resolutions[-1]
        home = fitting((release, *also), one)
        key = (home.url, pictures, resize, px)
        if key not in opened:
            data = TrainingData.open(
                home,
                (px,),
                pictures=pictures,
                resize=resize,
                cache_dir=cache_dir,
                on_progress=on_progress,
            )
            opened[key] = data.split(split_name)
            _check_same_people(list(opened.values()))
        people, normaliser = opened[key], normaliser_of(one)
        check_filters(one.generator, people)
        conditions = conditions_of(number, one, seconds)
        one.generator.to(torch_device)
        if released:
            assert isinstance(number, int), number
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
            evaluated.append(EvaluatedCheckpoint(label, one, result))
            shown.append(Shown(label, one, normaliser, conditions, people))
            continue
        for enhance in (None, enhancer) if enhancer else (None,):
            name = enhance.name if enhance else ""
            where = f"{label} + {name}" if name else label
            measured = partial(
                evaluate,
                one.generator,
                normaliser,
                people,
                protocol=protocol,
                with_fid=with_fid,
                enhance=enhance,
                on_progress=partial(on_progress, where),
            )
            result, longer = measured(conditions, networks), None
            if number == CROSS and by_length.embed is not None:
                only = replace(by_length, classify=None, inception=None)
                longer = measured(conditions_of(AVP_4, one), only)
            evaluated.append(EvaluatedCheckpoint(label, one, result, name, longer))
            shown.append(Shown(where, one, normaliser, conditions, people, enhance))
    picture = gallery(next(iter(opened.values())), shown, protocol)
    how = HOW_RELEASED.format(seed=protocol.seed) if released else _how(protocol)
    used = {url for url, *_ in opened}
    names = " and ".join(one.name for one in (release, *also) if one.url in used)
    notes = notes_on(evaluated, networks, split_name, how, names, of_paper(number))
    if number in (AVP_4, CROSS):
        notes += _notes_on_lengths(number, by_length, enhancer, people)
    notes += seen_before(evaluated, set(next(iter(opened.values())).identity_ids))
    checksum = describe_release(release)["checksum"]
    if number == CROSS:
        return EvaluationReport(fill_cross(evaluated), notes, picture)
    figures = {}
    if number == AVP_4:
        figures = figures_of_avp_gan(next(iter(opened.values())), shown, protocol)
    return EvaluationReport(fill(number, evaluated, checksum), notes, picture, figures)


def fitting(releases: Sequence[Release], loaded: Loaded) -> Release:
    """The first release whose log-mels a checkpoint reads; where none fits, the first of all."""
    if len(releases) > 1:
        needs = loaded.spec.n_filters, normaliser_of(loaded).front_end
        for release in releases:
            stats = release.speech_stats()
            if (int(stats["filters"]), str(stats.get("front_end", "sf2f"))) == needs:
                return release
    return releases[0]


def _check_same_people(splits: Sequence[Split]) -> None:
    first, last = splits[0], splits[-1]
    if set(first.identity_ids) != set(last.identity_ids):
        raise HqvoxError(
            f"{first.data.release.url} and {last.data.release.url}: other people in "
            f"{first.name}; name releases of the same people"
        )


def of_paper(number: TableName) -> str:
    """The network that measures cosine in a paper's table."""
    return ARCFACE if number == AVP_4 else PAPERS_EMBEDDING


def _notes_on_lengths(
    number: TableName, networks: MetricNetworks, enhancer: FaceEnhancer | None, people: Split
) -> list[str]:
    """What AVP-GAN's figures were measured by, for its table 4 and the cross table."""
    what = "cosine" if number == AVP_4 else "cosine by length of speech"
    notes = []
    if networks.embed is not None:
        other = "" if networks.embedding == ARCFACE else ", AVP-GAN's by ArcFace: not comparable"
        notes.append(f"{what} is by {networks.embedding}{other}")
    elif number == CROSS:
        notes += [f"{what} not measured: {why}" for why in networks.missing.values()]
    notes.append(
        "one face: equation 15 with one real face, its mean over the faces of each person; mean "
        "of faces: with the mean of their embeddings, as in SF2F"
    )
    longest = max(int(condition.frames[1]) for condition in SECONDS)
    frames = people.data.utterances.frames
    short = sum(int(frames[rows].max()) < longest for rows in people.utterances_of)
    if short:
        notes.append(
            f"{short} of {len(people)} people have no utterance of {longest // 100} s: of them the "
            "longest is taken whole"
        )
    if enhancer is not None:
        notes.append(f"+ {enhancer.name}: faces enhanced to {enhancer.side_px} px before measuring")
    return notes


def evaluate_real_faces(
    release: Release,
    *,
    split: str = "test",
    protocol: Protocol | None = None,
    reading: str = BY_RECIPE,
    device: str | None = None,
    cache_dir: Path | None = None,
    on_progress: OnProgress = lambda what, done, total: None,
) -> EvaluationReport:
    """Table 2: scores of a release's real faces at 64, 128 and 256 px. No voices are needed.

    On one face of each person, ``crops`` times, as generated faces are scored, and on all faces.
    ``split``: may be ``all``. ``reading``: ``released`` has three splits in order for the Inception
    Score. Raises HqvoxError where nobody is in the split, or no weights are there.
    """
    protocol = protocol or Protocol()
    if split not in (ALL_SPLITS, *SPLITS):
        raise HqvoxError(f"--split {split}: there are {', '.join((*SPLITS, ALL_SPLITS))}")
    check_reading(reading)
    networks = load_metric_networks(ModelStore(), PAPERS_EMBEDDING, str(pick_device(device)))
    if networks.classify is None and networks.inception is None:
        missing = (f"{what}: {networks.missing[what]}" for what in ("VFS", "IS and FID"))
        raise HqvoxError(f"--table 2: {'; '.join(missing)}")
    manifest = release.manifest(["identity_id", "split", "masked_file"]).to_pylist()
    of_split = [n for n, row in enumerate(manifest) if split in (ALL_SPLITS, row["split"])]
    faces_of: dict[str, list[int]] = {}
    for n in of_split:
        faces_of.setdefault(manifest[n]["identity_id"], []).append(n)
    rows = [n for of_person in faces_of.values() for n in of_person]
    counts = [len(of_person) for of_person in faces_of.values()]
    if len(counts) < MIN_SCORED:
        raise HqvoxError(
            f"{release.url}: {len(counts)} people in {split}; a score needs {MIN_SCORED}; name "
            f"another --split, or --split {ALL_SPLITS}"
        )
    files = [row["masked_file"] for row in manifest]
    packed = ReleaseCache(release, cache_dir).pictures(files, "masked", SIDES, on_progress)
    one, every = f"one of each of {len(counts)} people", f"all {len(rows)}"
    scores: dict[str, dict[int, dict[str, Score]]] = {one: {}, every: {}}
    for px in SIDES:
        parts = []
        for start in range(0, len(rows), FACES_AT_ONCE):
            pixels = np.asarray(packed[px][rows[start : start + FACES_AT_ONCE]])
            parts.append(classified(torch.from_numpy(pixels).float() / 255.0, networks))
            on_progress(f"{px} px", min(start + FACES_AT_ONCE, len(rows)), len(rows))
        faces = joined(parts)
        scores[one][px] = real_scores(faces, counts, protocol.crops, protocol.seed)
        scores[every][px] = {
            name: Score.of(values)
            for name, values in score_splits(faces.probabilities, protocol.seed).items()
        }
        if reading == "released" and "inception" in faces.probabilities:
            in_order = inception_scores(faces.probabilities["inception"], INCEPTION_SPLITS, None)
            scores[every][px]["inception"] = Score.of(in_order)
    notes = [
        f"{len(counts)} people of {split} of {release.name}; seed {protocol.seed}; ± is the "
        f"deviation over splits of the pictures; one of each: {protocol.crops} times, as generated "
        "faces are scored",
        "a score grows with the number of pictures: compare with one of as many",
        *(
            f"{what} not measured: {why}"
            for what, why in networks.missing.items()
            if what.startswith(("VFS", "IS"))
        ),
    ]
    return EvaluationReport(fill_table_2(scores, release.name), notes, None)


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
    check_reading(reading)
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


def check_reading(reading: str) -> None:
    """Raise HqvoxError for another reading."""
    if reading not in READINGS:
        raise HqvoxError(f"--reading {reading}: there are {', '.join(READINGS)}")


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
    paper: str = PAPERS_EMBEDDING,
) -> list[str]:
    """Notes below a table: data, protocol, small galleries, another embedding, missing metrics.

    ``how``: the protocol in words. ``paper``: the network that the paper measures cosine by.
    """
    people = evaluated[0].evaluation.identities
    notes = [f"{people} people of {split} of {release}; {how}"]
    retrieval = paper == PAPERS_EMBEDDING
    if retrieval and people < GALLERY_SIZE:
        notes.append(
            f"galleries are of {people} people, the paper's of {GALLERY_SIZE}: recall is not "
            "comparable with the paper's, only with chance as given"
        )
    if retrieval and networks.embed is not None and networks.embedding != paper:
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
    notes += [_trained_on(one) for one in evaluated if not one.enhancer]
    return notes


def seen_before(evaluated: Sequence[EvaluatedCheckpoint], people: set[str]) -> list[str]:
    """Warn of checkpoints that were trained on people they are evaluated on."""
    notes = []
    for one in evaluated:
        if one.enhancer:
            continue
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
    """Write table-N.csv, table-N.md and the pictures there are, such as gallery-N.jpg.

    Raises HqvoxError for errors of the disk.
    """
    name = f"table-{report.table.paper.number}"
    files = {
        f"{name}.csv": to_csv(report.table).encode(),
        f"{name}.md": to_markdown(report.table, report.notes).encode(),
    }
    if report.gallery is not None:
        files[f"gallery-{report.table.paper.number}.jpg"] = encode_jpeg(report.gallery, 92)
    files |= {f"{name}.jpg": encode_jpeg(image, 92) for name, image in report.figures.items()}
    storage = Storage(out)
    for file, content in files.items():
        storage.write(file, content)
    return [out / file for file in files]
