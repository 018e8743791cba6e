"""What models learn from phantoms, whose voices and faces have a known dependence.

    python benchmarks/known_answers.py OUT                             everything: half an hour
    python benchmarks/known_answers.py OUT --train 30 --val 6 --test 12 --steps 40 --runs 1
    python benchmarks/known_answers.py OUT --avp-gan --seeds 3 --runs 2       AVP-GAN, CBAM or not

Makes a corpus of phantoms whose voices share known traits with their faces, and a release of it.
Trains sf2f-64-tiny and voice2face-64-tiny and measures them on unseen people, between two baselines
without training: the mean face, which needs no voice (floor), and a ridge regression from the true
traits of the voice to the face's embedding (ceiling). A stopped run resumes with the same command.
Writes OUT/known_answers.{json,md}, curves.png and gallery.jpg.

With ``--avp-gan`` it trains avp-gan-64-tiny and avp-gan-64-no-cbam-tiny instead, each with some
seeds, on a release of the same corpus with voice2face's front end. Each seed first pretrains a
voice encoder, which both share. Writes OUT/avp_gan.{json,md}, avp_gan_curves.png and
avp_gan_gallery.jpg.

Nothing is selected on the test people: settings and the strength of the regression were chosen on
val, and models are those of the last step.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from scipy.stats import binom

from hqvox.imaging.pictures import encode_jpeg
from hqvox.phantom.corpus import CorpusPlan, make_corpus
from hqvox.release.read import Release, find_release
from hqvox.runner.bars import progress_bar
from hqvox.trainer.checkpoint import load_generator
from hqvox.trainer.data import Split, TrainingData
from hqvox.trainer.evaluate import (
    FUSED,
    LONG,
    SHORT,
    Condition,
    Protocol,
    Speaker,
    diversity,
    evaluate,
    generate,
    real_embeddings,
    real_faces,
)
from hqvox.trainer.generate import normaliser_of
from hqvox.trainer.log import read_log
from hqvox.trainer.metric_networks import MetricNetworks, load_metric_networks
from hqvox.trainer.metrics import chance, cosine, l1, normalised, recall_at_k
from hqvox.trainer.recipes import load_train_config
from hqvox.trainer.runs import CHECKPOINTS, INFO, LAST, read_info
from hqvox.trainer.samples import Shown, gallery
from models.store import ModelStore

RECIPES = {"sf2f-64-tiny": "SF2F", "voice2face-64-tiny": "voice2face"}
COLOURS = {"sf2f-64-tiny": "#1f5a94", "voice2face-64-tiny": "#d0745f"}
RELEASE = "phantoms"
EMBEDDING = "dlib_resnet"
PX = 64
HQVOX = [sys.executable, "-m", "hqvox.cli.app"]
RIDGES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
"""Strengths of the regression that val chooses from."""
console = Console()


@dataclass(frozen=True)
class Row:
    """A line of the result: what it is, and its figures by name (% for recall)."""

    name: str
    length: str
    figures: dict[str, float]
    deviations: dict[str, float]


def make_release(out: Path, plan: CorpusPlan, front_end: str = "sf2f") -> Release:
    """Make the corpus and a release of it, or take those that are there."""
    corpus, workspace = out / "corpus", workspace_of(out, front_end)
    if (workspace / "releases" / RELEASE / "release.json").exists():
        return find_release(str(workspace), RELEASE)
    with progress_bar(console, RELEASE) as show:
        split = make_corpus(corpus, plan, on_progress=show)
    meta = out / "vox1_meta.csv"
    with (corpus / "identities.csv").open(encoding="utf-8") as lines:
        rows = [[r["id"], r["name"], r["gender"], "", "dev"] for r in csv.DictReader(lines)]
    heads = ["VoxCeleb1 ID", "VGGFace1 ID", "Gender", "Nationality", "Set"]
    meta.write_text("\n".join("\t".join(row) for row in [heads, *rows]) + "\n", "utf-8")
    tree = [str(corpus), str(workspace), "--voxceleb", str(meta), "--split", str(split)]
    for command in (
        # The first makes the workspace's people, whom the voices are then packed for.
        ["import", "hq-voxceleb", *tree, "--name", "faces", "--no-speech"],
        [
            "speech",
            str(workspace),
            "--audio",
            str(corpus / "wav"),
            "--set",
            f"speech.front_end={front_end}",
        ],
        ["import", "hq-voxceleb", *tree, "--name", RELEASE],
    ):
        subprocess.run([*HQVOX, *command], check=True)
    return find_release(str(workspace), RELEASE)


def workspace_of(out: Path, front_end: str) -> Path:
    """Where the log-mels of a front end are."""
    return out / ("workspace" if front_end == "sf2f" else f"workspace-{front_end}")


def train_models(out: Path, settings: list[str]) -> dict[str, float]:
    """Train all recipes side by side, or go on; return the minutes that each took.

    Each has its share of the cores: networks as small as these gain little from several threads.
    """
    threads = max(1, len(os.sched_getaffinity(0)) // len(RECIPES))
    given = [*settings, f"speed.threads={threads}"]
    with ThreadPoolExecutor(len(RECIPES)) as side_by_side:
        minutes = list(side_by_side.map(partial(train_model, out, given), RECIPES))
    return dict(zip(RECIPES, minutes, strict=True))


def train_model(out: Path, settings: list[str], recipe: str) -> float:
    """Train a recipe by `hqvox train`, which prints to OUT/<recipe>.log; return its minutes.

    Once as it stands, and, from there, a fifth of its steps at a fifth of its learning rate: at the
    recipe's own, batches as small as these keep the weights in motion.
    """
    if load_train_config(recipe).model.fuser is None:
        settings = [text for text in settings if not text.startswith("stage2.")]
    config = load_train_config(recipe, settings)
    slower = [
        f"optimiser.learning_rate={config.optimiser.learning_rate / 5:g}",
        f"stage1.iterations={config.stage1.iterations // 5}",
        f"seed={config.seed + 1}",
    ]
    first, second = rounds(out, recipe)
    _run(recipe, out, first, settings)
    _run(recipe, out, second, [*settings, *slower], ["--from", str(first / CHECKPOINTS / LAST)])
    return _minutes(first) + _minutes(second)


def rounds(out: Path, recipe: str) -> tuple[Path, Path]:
    """Where a recipe is trained: as it stands, and then more slowly. The second is measured."""
    return out / recipe, out / f"{recipe}-slower"


def _run(
    recipe: str,
    out: Path,
    folder: Path,
    settings: list[str],
    start: Sequence[str] = (),
    front_end: str = "sf2f",
) -> None:
    """Run `hqvox train`, or go on, unless it is done."""
    if (folder / INFO).exists() and read_info(folder)["sessions"][-1]["state"] == "finished":
        return
    data = workspace_of(out, front_end) / "releases" / RELEASE
    command = [*HQVOX, "train", recipe, "--data", str(data), "--out", str(folder)]
    command += ["--device", "cpu", *(part for text in settings for part in ("--set", text))]
    command += ["--resume"] if (folder / CHECKPOINTS / LAST).exists() else start
    with (out / f"{folder.name}.log").open("ab") as log:
        if code := subprocess.run(command, stdout=log, stderr=log).returncode:
            raise SystemExit(f"{recipe}: training ended with {code}; see {log.name}")


def _minutes(folder: Path) -> float:
    """What a run took, over all its sittings."""
    sittings = read_info(folder)["sessions"]
    ends = [[datetime.fromisoformat(x[key]) for key in ("started", "ended")] for x in sittings]
    return sum((end - start).total_seconds() for start, end in ends) / 60


def traits_of(corpus: Path, ids: tuple[str, ...]) -> NDArray[np.float64]:
    """The voice's traits of some people, their squares and products: (people, features)."""
    with (corpus / "traits.csv").open(encoding="utf-8") as lines:
        rows = {row["identity_id"]: row for row in csv.DictReader(lines)}
    names = [name for name in next(iter(rows.values())) if name.startswith("voice_")]
    traits = np.array([[float(rows[i][name]) for name in names] for i in ids])
    upper = np.triu_indices(traits.shape[1])
    return np.hstack([traits, (traits[:, :, None] * traits[:, None, :])[:, *upper]])


def ridge(
    x: NDArray[np.float64], y: NDArray[np.float64], strength: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Weights (features, d) of a ridge regression on standardised features, and what centres."""
    mean, std, middle = x.mean(axis=0), x.std(axis=0), y.mean(axis=0)
    z = (x - mean) / std
    weights = np.linalg.solve(z.T @ z + strength * np.eye(z.shape[1]), z.T @ (y - middle))
    return weights, mean, std, middle


def figures(
    queries: NDArray[np.float64], identity: NDArray[np.int64], truth: NDArray[np.float64]
) -> dict[str, float]:
    """The metrics of some queries."""
    unit = normalised(queries)
    figures = {"cosine": cosine(unit, truth[identity]), "l1": l1(unit, truth[identity])}
    recalls = recall_at_k(unit, identity, truth)
    return figures | {f"recall_{k}": value for k, value in recalls.items()}


def floor_and_ceiling(corpus: Path, data: TrainingData, networks: MetricNetworks) -> list[Row]:
    """What can be had without listening, and from the truth about the voice."""
    assert networks.embed is not None
    parts = {name: data.split(name) for name in ("train", "val", "test")}
    truth = {name: real_embeddings(part, PX, networks) for name, part in parts.items()}
    traits = {name: traits_of(corpus, part.identity_ids) for name, part in parts.items()}

    def guess(strength: float, name: str) -> NDArray[np.float64]:
        weights, mean, std, middle = ridge(traits["train"], truth["train"], strength)
        return (traits[name] - mean) / std @ weights + middle

    best = max(RIDGES, key=lambda s: cosine(guess(s, "val"), truth["val"]))
    everybody = np.arange(len(parts["test"]))
    total = sum(pictures.sum(dim=0) for pictures, _ in real_faces(parts["train"], PX))
    assert isinstance(total, torch.Tensor)
    mean_face = total / sum(len(rows) for rows in parts["train"].faces_of)
    same = np.repeat(normalised(networks.embed(mean_face[None])), len(everybody), axis=0)
    return [
        Row("mean face (floor)", "–", figures(same, everybody, truth["test"]), {}),
        Row(
            f"ridge from true traits (ceiling), λ = {best:g}",
            "–",
            figures(guess(best, "test"), everybody, truth["test"]),
            {},
        ),
    ]


def measure(
    recipe: str, out: Path, part: Split, networks: MetricNetworks, protocol: Protocol
) -> list[Row]:
    """A trained model's figures on a part."""
    loaded = load_generator(rounds(out, recipe)[1] / CHECKPOINTS / LAST)
    conditions = [SHORT, LONG, *([FUSED] if loaded.spec.fuser is not None else [])]
    with progress_bar(console, f"evaluating {recipe}") as show:
        evaluation = evaluate(
            loaded.generator,
            normaliser_of(loaded),
            part,
            conditions,
            networks,
            protocol,
            on_progress=show,
        )
    rows = []
    for result in evaluation.results:
        name = RECIPES[recipe]
        if name == "SF2F" and not result.condition.fused:
            name += " (no fuser)"
        means = {key: score.mean for key, score in result.scores.items()}
        deviations = {key: score.deviation for key, score in result.scores.items()}
        rows.append(Row(name, result.condition.length, means, deviations))
    return rows


def beats_chance(recall: float, k: int, people: int) -> float:
    """How likely chance reaches a Recall@k (%): a binomial tail, each person counted once.

    Several crops of a person are no independent trials, so they count as one.
    """
    hits = round(recall / 100 * people)
    return float(binom.sf(hits - 1, people, chance(k, people) / 100))


def draw_curves(out: Path, rows: list[Row], people: int, val_people: int) -> None:
    """Recall on val and the losses' terms over steps, and R@10 on the test people, one picture."""
    figure, axes = plt.subplots(2, 2, figsize=(12, 8), constrained_layout=True)
    recall, final, perceptual, others = axes.flat
    names = [f"{row.name}\n{row.length}".removesuffix("\n–").split(", λ")[0] for row in rows]
    values = [row.figures["recall_10"] for row in rows]
    errors = [row.deviations.get("recall_10", 0.0) for row in rows]
    final.barh(names, values, xerr=errors, color="#6f93b8")
    final.axvline(chance(10, people), c="#8a93a0", ls="--", lw=1)
    final.invert_yaxis()
    final.set(title=f"R@10 on {people} strangers, %", xlim=(0, 100))
    for recipe, name in RECIPES.items():
        log = _joined_log(out, recipe)
        for stage, style in ((1, "-"), (2, ":")):
            lines = [x for x in log if x["kind"] == "evaluate" and x["stage"] == stage]
            if not lines:
                continue
            steps = [x["step"] for x in lines]
            values = [_recall_10(x["figures"]) for x in lines]
            label = name + ("" if stage == 1 else ", fused 5 s")
            recall.plot(steps, values, style, marker="o", ms=3, c=COLOURS[recipe], label=label)
        lines = [x for x in log if x["kind"] == "train" and x["stage"] == 1]
        steps = [x["step"] for x in lines]
        for term in sorted(set(lines[0]["terms"]) - {"total"}) if lines else []:
            values = [x["terms"][term] for x in lines]
            place = perceptual if "perceptual" in term else others
            place.plot(steps, _smooth(values), lw=1, label=f"{name}: {term}")
    recall.axhline(chance(10, val_people), c="#8a93a0", ls="--", lw=1, label="chance")
    recall.set(title=f"R@10 on {val_people} people of val, %", xlabel="step", ylim=(0, 100))
    perceptual.set(title="perceptual loss (train)", xlabel="step", ylim=(0, None))
    others.set(title="other terms (train)", xlabel="step", yscale="log", ylim=(1e-4, 100))
    for place in axes.flat:
        place.grid(color="#e8ebef")
        place.spines[["top", "right"]].set_visible(False)
        if place is not final:
            place.legend(fontsize=7, frameon=False)
    figure.savefig(out / "curves.png", dpi=90)
    plt.close(figure)


def _joined_log(out: Path, recipe: str) -> list[dict[str, Any]]:
    """The lines of both rounds; stage 2 is drawn after stage 1 of both."""
    whole: list[dict[str, Any]] = []
    before = {1: 0, 2: 0}
    for folder in rounds(out, recipe):
        lines = read_log(folder)
        first = max((x["step"] for x in lines if x["stage"] == 1), default=0)
        last = max((x["step"] for x in lines), default=0)
        steps = {1: first, 2: last - first}
        for line in lines:
            done = line["step"] - (first if line["stage"] == 2 else 0)
            whole.append(line | {"step": before[line["stage"]] + done})
        before = {stage: before[stage] + steps[stage] for stage in before}
    for line in whole:
        line["step"] += before[1] if line["stage"] == 2 else 0
    return whole


def _recall_10(figures: dict[str, float]) -> float:
    return next(value for name, value in figures.items() if name.endswith("recall_10"))


def _smooth(values: list[float], over: int = 10) -> NDArray[np.float64]:
    window = min(over, len(values))
    padded = np.pad(np.array(values), (window - 1, 0), mode="edge")
    return np.convolve(padded, np.ones(window) / window, mode="valid")


def to_markdown(rows: list[Row], people: int) -> str:
    """The result as a table."""
    names = ["cosine", "l1", "recall_1", "recall_2", "recall_5", "recall_10"]
    text = ["| | speech | cosine | L1 | R@1 | R@2 | R@5 | R@10 |", "|---|---|" + "---|" * 6]
    random = {f"recall_{k}": chance(k, people) for k in (1, 2, 5, 10)}
    for row in [Row("chance", "–", random, {}), *rows]:
        cells = []
        for name in names:
            if name not in row.figures:
                cells.append("–")
                continue
            form = {"cosine": ".4f", "l1": ".3f"}.get(name, ".1f")
            deviation = row.deviations.get(name)
            more = "" if deviation is None else f" ± {format(deviation, form)}"
            cells.append(format(row.figures[name], form) + more)
        text.append(f"| {row.name} | {row.length} | " + " | ".join(cells) + " |")
    return "\n".join(text) + "\n"


def run(out: Path, plan: CorpusPlan, settings: list[str], protocol: Protocol) -> dict[str, Any]:
    """All of it; returns what is written to known_answers.json."""
    out.mkdir(parents=True, exist_ok=True)
    release = make_release(out, plan)
    data = TrainingData.open(release, (PX,))
    minutes = train_models(out, settings)
    networks = load_metric_networks(ModelStore(), EMBEDDING, scores=False)
    test = data.split("test")
    rows = floor_and_ceiling(out / "corpus", data, networks)
    for recipe in reversed(RECIPES):
        rows[-1:-1] = measure(recipe, out, test, networks, protocol)
    people = len(test)
    draw_curves(out, rows, people, len(data.split("val")))
    loaded = [(r, load_generator(rounds(out, r)[1] / CHECKPOINTS / LAST)) for r in RECIPES]
    shown = [
        Shown(RECIPES[r], x, normaliser_of(x), [SHORT, LONG] + [FUSED] * (x.spec.fuser is not None))
        for r, x in loaded
    ]
    (out / "gallery.jpg").write_bytes(encode_jpeg(gallery(test, shown, protocol, 96), 90))
    fused = next(row for row in rows if row.name == "SF2F")
    answers = {
        "people": people,
        "minutes": minutes,
        "rows": [vars(row) for row in rows],
        "chance_reaches_it": beats_chance(fused.figures["recall_10"], 10, people),
    }
    (out / "known_answers.json").write_text(json.dumps(answers, indent=1))
    (out / "known_answers.md").write_text(to_markdown(rows, people))
    return answers


AVP_GAN = {"avp-gan-64-tiny": "AVP-GAN", "avp-gan-64-no-cbam-tiny": "AVP-GAN (no CBAM)"}
AVP_COLOURS = {"avp-gan-64-tiny": "#1f5a94", "avp-gan-64-no-cbam-tiny": "#d0745f"}
VOICE2FACE = "voice2face"
AVP_CONDITIONS = (Condition("4 s", (400, 400)), Condition("8 s", (800, 800)))
"""As table 4 of the AVP-GAN paper; speech that is shorter is repeated."""


def train_avp_gan(out: Path, settings: list[str], seeds: int) -> dict[str, float]:
    """Train both recipes with every seed, two at a time; return the minutes that each took."""
    cores = len(os.sched_getaffinity(0))
    given = [*settings, f"speed.threads={max(1, cores // 2)}"]
    jobs = [(recipe, seed) for seed in range(seeds) for recipe in AVP_GAN]

    def voice(seed: int) -> None:
        pretraining = [f"seed={seed}", f"speed.threads={max(1, cores // 2)}"]
        folder = out / f"voice-{seed}"
        _run("voice-embedding-tiny", out, folder, pretraining, front_end=VOICE2FACE)

    def face(job: tuple[str, int]) -> float:
        recipe, seed = job
        weights = out / f"voice-{seed}" / CHECKPOINTS / LAST
        folder = out / f"{recipe}-{seed}"
        more = [f"seed={seed}", f"stage1.encoder_weights={weights}"]
        _run(recipe, out, folder, [*given, *more], front_end=VOICE2FACE)
        return _minutes(folder)

    with ThreadPoolExecutor(2) as side_by_side:
        list(side_by_side.map(voice, range(seeds)))
        minutes = list(side_by_side.map(face, jobs))
    return {f"{recipe}-{seed}": value for (recipe, seed), value in zip(jobs, minutes, strict=True)}


def avp_gan_figures(
    out: Path, part: Split, networks: MetricNetworks, protocol: Protocol, seeds: int
) -> dict[str, dict[str, list[dict[str, float]]]]:
    """Figures on a part: by recipe and length of speech, one set for each seed."""
    figures: dict[str, dict[str, list[dict[str, float]]]] = {}
    for recipe in AVP_GAN:
        for seed in range(seeds):
            loaded = load_generator(out / f"{recipe}-{seed}" / CHECKPOINTS / LAST)
            normaliser = normaliser_of(loaded)
            with progress_bar(console, f"evaluating {recipe}, seed {seed}") as show:
                evaluation = evaluate(
                    loaded.generator,
                    normaliser,
                    part,
                    AVP_CONDITIONS,
                    networks,
                    protocol,
                    on_progress=show,
                )
            speaker = Speaker(part, normaliser, protocol)
            for result in evaluation.results:
                means = {name: score.mean for name, score in result.scores.items()}
                pictures = generate(loaded.generator, speaker, result.condition, 0, 0)
                means["diversity"] = diversity(pictures, part)
                of_recipe = figures.setdefault(recipe, {})
                of_recipe.setdefault(result.condition.length, []).append(means)
    return figures


def avp_gan_table(
    figures: dict[str, dict[str, list[dict[str, float]]]], baselines: list[Row], people: int
) -> str:
    """Means over seeds, ± their standard error, and what CBAM gives, seed by seed."""
    names = ["cosine", "l1", "recall_1", "recall_5", "recall_10", "diversity"]
    text = ["| | speech | cosine | L1 | R@1 | R@5 | R@10 | diversity |", "|---|---|" + "---|" * 6]
    random = {f"recall_{k}": chance(k, people) for k in (1, 5, 10)}

    def line(name: str, length: str, sets: list[dict[str, float]], signed: bool = False) -> str:
        cells = []
        for key in names:
            values = np.array([one[key] for one in sets if key in one])
            form = {"cosine": ".4f", "l1": ".3f", "diversity": ".2f"}.get(key, ".1f")
            if not len(values):
                cells.append("–")
                continue
            cell = format(values.mean(), ("+" if signed else "") + form)
            if len(values) > 1:
                cell += f" ± {format(values.std(ddof=1) / len(values) ** 0.5, form)}"
            cells.append(cell)
        return f"| {name} | {length} | " + " | ".join(cells) + " |"

    text += [line("chance", "–", [random])]
    text += [line(row.name, "–", [row.figures]) for row in baselines]
    for recipe in reversed(AVP_GAN):
        text += [line(AVP_GAN[recipe], length, sets) for length, sets in figures[recipe].items()]
    with_cbam, without = (figures[recipe] for recipe in AVP_GAN)
    for length in with_cbam:
        pairs = zip(with_cbam[length], without[length], strict=True)
        gains = [
            {key: one[key] - other[key] for key in names if key in one} for one, other in pairs
        ]
        text.append(line("what CBAM gives", length, gains, signed=True))
    return "\n".join(text) + "\n"


def draw_avp_gan(out: Path, seeds: int, val_people: int) -> None:
    """Figures on val and losses over steps, a line for each seed."""
    figure, axes = plt.subplots(2, 2, figsize=(12, 8), constrained_layout=True)
    cosines, recalls, diversities, terms = axes.flat
    for recipe, name in AVP_GAN.items():
        for seed in range(seeds):
            log = read_log(out / f"{recipe}-{seed}")
            label = name if seed == 0 else None
            lines = [x for x in log if x["kind"] == "evaluate"]
            steps = [x["step"] for x in lines]
            of = {"cosine": cosines, "recall_10": recalls, "diversity": diversities}
            for key, place in of.items():
                values = [x["figures"][key] for x in lines]
                place.plot(steps, values, marker="o", ms=3, c=AVP_COLOURS[recipe], label=label)
            lines = [x for x in log if x["kind"] == "train"]
            steps = [x["step"] for x in lines]
            for key, style in (("discriminator_64", "-"), ("classifier_64", ":"), ("gan", "--")):
                values = _smooth([x["terms"][key] for x in lines])
                what = f"{name}: {key}" if seed == 0 else None
                terms.plot(steps, values, style, lw=1, c=AVP_COLOURS[recipe], label=what)
    recalls.axhline(chance(10, val_people), c="#8a93a0", ls="--", lw=1, label="chance")
    cosines.set(title=f"cosine on {val_people} people of val", xlabel="step")
    recalls.set(title="R@10 on val, %", xlabel="step", ylim=(0, 100))
    diversities.set(title="diversity on val, of the real faces'", xlabel="step", ylim=(0, None))
    terms.set(title="terms (train)", xlabel="step", yscale="log")
    for place in axes.flat:
        place.grid(color="#e8ebef")
        place.spines[["top", "right"]].set_visible(False)
        place.legend(fontsize=7, frameon=False)
    figure.savefig(out / "avp_gan_curves.png", dpi=90)
    plt.close(figure)


def run_avp_gan(
    out: Path, plan: CorpusPlan, settings: list[str], protocol: Protocol, seeds: int
) -> None:
    """AVP-GAN with and without CBAM; writes and prints the table."""
    out.mkdir(parents=True, exist_ok=True)
    data = TrainingData.open(make_release(out, plan, VOICE2FACE), (PX,))
    minutes = train_avp_gan(out, settings, seeds)
    networks = load_metric_networks(ModelStore(), EMBEDDING, scores=False)
    test = data.split("test")
    figures = avp_gan_figures(out, test, networks, protocol, seeds)
    baselines = floor_and_ceiling(out / "corpus", data, networks)
    table = avp_gan_table(figures, baselines, len(test))
    loaded = [
        (recipe, load_generator(out / f"{recipe}-0" / CHECKPOINTS / LAST)) for recipe in AVP_GAN
    ]
    shown = [
        Shown(AVP_GAN[recipe], one, normaliser_of(one), AVP_CONDITIONS, test)
        for recipe, one in loaded
    ]
    (out / "avp_gan_gallery.jpg").write_bytes(encode_jpeg(gallery(test, shown, protocol, 96), 90))
    draw_avp_gan(out, seeds, len(data.split("val")))
    answers = {"people": len(test), "minutes": minutes, "figures": figures}
    (out / "avp_gan.json").write_text(json.dumps(answers, indent=1))
    (out / "avp_gan.md").write_text(table)
    console.print(table, markup=False, soft_wrap=True)
    took = ", ".join(f"{name} {value:.1f} min" for name, value in minutes.items())
    console.print(f"training: {took}")


def main() -> None:
    usual = CorpusPlan()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="a new folder, or one to go on in")
    for part in ("train", "val", "test"):
        parser.add_argument(f"--{part}", type=int, default=getattr(usual, part), help="people")
    parser.add_argument("--steps", type=int, help="of stage 1; by default the recipe's")
    parser.add_argument("--runs", type=int, default=10, help="evaluations")
    parser.add_argument("--crops", type=int, default=10, help="of each person in an evaluation")
    parser.add_argument("--avp-gan", action="store_true", help="AVP-GAN with and without CBAM")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each, with --avp-gan")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    arguments = parser.parse_args()
    plan = CorpusPlan(train=arguments.train, val=arguments.val, test=arguments.test)
    settings = list(arguments.settings)
    if arguments.steps:
        settings.append(f"stage1.iterations={arguments.steps}")
    protocol = Protocol(arguments.runs, arguments.crops)
    if arguments.avp_gan:
        run_avp_gan(arguments.out, plan, settings, protocol, arguments.seeds)
        return
    answers = run(arguments.out, plan, settings, protocol)
    console.print((arguments.out / "known_answers.md").read_text(), markup=False, soft_wrap=True)
    took = ", ".join(
        f"{recipe} {minutes:.1f} min" for recipe, minutes in answers["minutes"].items()
    )
    console.print(f"training: {took}")
    console.print(
        f"chance reaches SF2F's R@10 with probability {answers['chance_reaches_it']:.1e} "
        f"(binomial, {answers['people']} people)"
    )


if __name__ == "__main__":
    main()
