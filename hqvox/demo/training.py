"""The demo's training: a small SF2F model on the few people of its release, and its faces.

A demonstration that the steps fit together, not a measurement: about ten people, less than a
minute. ``benchmarks/known_answers.py`` measures what a model learns from enough people.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
from rich.console import Console

from hqvox.release.read import Release
from hqvox.report.html import GeneratedFaces, GeneratedPerson
from hqvox.runner.bars import progress_bars
from hqvox.trainer.checkpoint import load_generator
from hqvox.trainer.data import SPLITS, TrainingData
from hqvox.trainer.evaluate import FUSED, SHORT, Protocol, Speaker, generate
from hqvox.trainer.generate import normaliser_of, to_photo
from hqvox.trainer.loop import Event, Stepped, train
from hqvox.trainer.recipes import load_train_config
from hqvox.trainer.runs import CHECKPOINTS, CONFIG, LAST
from models.sf2f.colour import from_unit

RECIPE = "sf2f-64-tiny"
STEPS = (280, 40)
"""Steps of stages 1 and 2: the fewest after which the faces are easily told apart."""


def train_demo(folder: Path, release: Release, console: Console) -> GeneratedFaces | None:
    """Train on a release into ``folder``, or resume; return faces generated from all voices.

    None if fewer than two people of the release are in the train split. Raises HqvoxError.
    """
    if not release.has_speech or release.identities().num_rows < 2:
        return None
    run = folder / "run"
    stage1, stage2 = _steps(run)
    config = load_train_config(
        RECIPE,
        [
            f"stage1.iterations={stage1}",
            f"stage2.iterations={stage2}",
            f"cadence.evaluate_every={stage1 + stage2}",
            f"cadence.samples_every={stage1 + stage2}",
            # Four times the recipe's, since steps are few and a handful of people is soon learned.
            "optimiser.learning_rate=0.002",
            # Layers this small gain little from a second thread. On a machine whose cores are busy,
            # oneDNN's threads spin while they wait for each other: a step takes ten times as long.
            "speed.threads=1",
        ],
    )
    cache = folder / "cache"
    data = TrainingData.open(release, config.model.resolutions, cache_dir=cache)
    if len(data.split("train")) < 2:
        return None
    last = run / CHECKPOINTS / LAST
    if not (last.is_file() and load_generator(last).meta["step"] == stage1 + stage2):
        with progress_bars(console) as show:

            def take(event: Event) -> None:
                if isinstance(event, Stepped):
                    show("training", event.step, event.steps)

            outcome = train(config, release, run, resume=True, device="cpu", on_event=take)
        if outcome.state == "stopped":
            raise KeyboardInterrupt  # the run is saved; the next demo resumes it
    return faces_of_voices(data, last)


def _steps(run: Path) -> tuple[int, int]:
    """Return the steps of stages 1 and 2: those that a run in ``run`` began with, else STEPS."""
    config = run / CONFIG
    if not config.is_file():
        return STEPS
    begun = yaml.safe_load(config.read_text("utf-8"))
    return begun["stage1"]["iterations"], begun["stage2"]["iterations"]


def faces_of_voices(data: TrainingData, checkpoint: Path) -> GeneratedFaces:
    """Return each person's real face and those generated from their voice, unseen people first."""
    loaded = load_generator(checkpoint)
    normaliser, protocol = normaliser_of(loaded), Protocol()
    people = []
    for split_name in reversed(SPLITS):
        split = data.split(split_name)
        if not len(split):
            continue
        speaker = Speaker(split, normaliser, protocol)
        made = [
            from_unit(generate(loaded.generator, speaker, condition, 0, 0))
            for condition in (SHORT, FUSED)
        ]
        px = loaded.spec.resolutions[-1]
        for i, name in enumerate(split.person_names):
            real = np.ascontiguousarray(data.faces[px][split.faces_of[i][0]].transpose(1, 2, 0))
            pictures = [("1.25 s", to_photo(made[0][i])), ("5 s, fused", to_photo(made[1][i]))]
            people.append(GeneratedPerson(name, split_name != "train", real, pictures))
    steps = int(loaded.meta["step"])
    return GeneratedFaces(RECIPE, steps, len(data.split("train")), people)
