"""The demo's training: a small SF2F on the few people of its release, and what it makes of voices.

A demonstration that the steps fit together, not a measurement: about ten people, a minute. What a
model learns from enough people is measured by ``benchmarks/known_answers.py``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console

from hqvox.release.read import Release
from hqvox.report.generated import GeneratedFaces, GeneratedPerson
from hqvox.runner.bars import progress_bars
from hqvox.trainer.checkpoint import load_generator
from hqvox.trainer.data import SPLITS, TrainingData
from hqvox.trainer.evaluate import FUSED, SHORT, Protocol, Speaker, generate
from hqvox.trainer.generate import normaliser_of, to_photo
from hqvox.trainer.loop import Event, Stepped, train
from hqvox.trainer.recipes import load_train_config
from hqvox.trainer.runs import CHECKPOINTS, LAST
from models.sf2f.colour import from_unit

RECIPE = "sf2f-64-tiny"
STEPS = (360, 40)
"""Of stages 1 and 2: about a minute on two cores."""


def train_demo(folder: Path, release: Release, console: Console) -> GeneratedFaces | None:
    """Train on a release into ``folder``, or go on; return faces of everybody's voices.

    None where fewer than two people of the release are to be trained on. Raises HqvoxError.
    """
    if not release.has_speech or release.identities().num_rows < 2:
        return None
    stage1, stage2 = STEPS
    config = load_train_config(
        RECIPE,
        [
            f"stage1.iterations={stage1}",
            f"stage2.iterations={stage2}",
            f"cadence.evaluate_every={stage1 + stage2}",
            f"cadence.samples_every={stage1 + stage2}",
            # Four times the recipe's: a minute is short, and a handful of people is soon learned.
            "optimiser.learning_rate=0.002",
            # So small a model gains little by more, and waits for them on a busy machine.
            "speed.threads=1",
        ],
    )
    cache = folder / "cache"
    data = TrainingData.open(release, config.model.resolutions, cache_dir=cache)
    if len(data.split("train")) < 2:
        return None
    run = folder / "run"
    last = run / CHECKPOINTS / LAST
    if not (last.is_file() and load_generator(last).meta["step"] == stage1 + stage2):
        with progress_bars(console) as show:

            def take(event: Event) -> None:
                if isinstance(event, Stepped):
                    show("training", event.step, event.steps)

            outcome = train(config, release, run, resume=True, device="cpu", on_event=take)
        if outcome.state == "stopped":
            raise KeyboardInterrupt  # it has saved itself; the demo goes on another time
    return faces_of_voices(data, last)


def faces_of_voices(data: TrainingData, checkpoint: Path) -> GeneratedFaces:
    """A real face of everybody, and those generated from their voices; strangers first."""
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
