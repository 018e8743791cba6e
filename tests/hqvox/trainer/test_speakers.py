"""Voice encoders: their metrics by hand, and a training that a generator then takes."""

from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from hqvox.errors import HqvoxError
from hqvox.release.read import Release
from hqvox.trainer import checkpoint
from hqvox.trainer.loop import train
from hqvox.trainer.metrics import equal_error_rate, identification, spread
from hqvox.trainer.recipes import load_train_config
from hqvox.trainer.runs import read_run
from tests.helpers.tiny_release import make_tiny_release
from tests.helpers.training_runs import differences, log_without_times

HERE = (
    "model.n_filters=40",
    "data.front_end=sf2f",
    "model.width=0.05",
    "model.embedding_dim=16",
    "stage1.crop_frames=[60,90]",
    "speed.threads=1",
)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_identification_by_hand() -> None:
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(5), 3)
    rows = rng.normal(0, 1, (5, 8))[people] + rng.normal(0, 1, (15, 8))
    right = 0
    for clip, owner in enumerate(people):
        scores = []
        for person in range(5):
            others = [unit(rows)[i] for i in np.flatnonzero(people == person) if i != clip]
            mean = np.mean(others, axis=0)
            scores.append(unit(rows)[clip] @ mean / np.linalg.norm(mean))
        right += int(np.argmax(scores)) == owner
    assert 0 < right < 15
    assert identification(rows, people) == pytest.approx(100 * right / 15)
    # The third person has one clip: no query.
    assert identification(np.eye(5)[[0, 0, 1, 1, 2]], [0, 0, 1, 1, 2]) == 100.0
    assert math.isnan(identification(np.eye(2), [0, 1]))


def test_equal_error_rate_by_hand() -> None:
    rng = np.random.default_rng(1)
    people = np.repeat(np.arange(6), 4)
    rows = unit(rng.normal(0, 1, (6, 8))[people] + rng.normal(0, 0.9, (24, 8)))
    pairs = list(combinations(range(24), 2))
    scores = np.array([rows[a] @ rows[b] for a, b in pairs])
    same = np.array([people[a] == people[b] for a, b in pairs])
    rates = [((scores[same] < t).mean(), (scores[~same] >= t).mean()) for t in np.sort(scores)]
    nearest = min(rates, key=lambda pair: abs(pair[0] - pair[1]))
    assert equal_error_rate(rows, people) == pytest.approx(100 * np.mean(nearest), abs=1.5)
    assert equal_error_rate(np.eye(3)[[0, 0, 1, 1, 2, 2]], [0, 0, 1, 1, 2, 2]) == 0
    # Scores that say nothing: half of each kind is wrong.
    assert equal_error_rate(np.ones((6, 3)), [0, 0, 1, 1, 2, 2]) == pytest.approx(50)
    assert math.isnan(equal_error_rate(np.eye(2), [0, 1]))


def test_spread_by_hand() -> None:
    pictures = np.random.default_rng(2).random((4, 3, 5, 5))
    pairs = [np.sqrt(((a - b) ** 2).mean()) for a, b in combinations(pictures, 2)]
    assert spread(pictures) == pytest.approx(np.mean(pairs))
    assert spread(np.ones((3, 2))) == 0
    with pytest.raises(ValueError, match="two pictures"):
        spread(pictures[:1])


def test_an_encoder_learns_to_tell_strangers_apart_and_resumes(
    cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HQVOX_CACHE", str(cache_dir))
    release = make_tiny_release(tmp_path / "release", 20, 10, 0, utterances=4)
    # The mean of its voices is what these people differ by, so it must not be taken away.
    settings = (*HERE, "stage1.iterations=60", "cadence.evaluate_every=30", "data.normalise=sf2f")
    config = load_train_config("voice-embedding-tiny", settings)
    outcome = train(config, release, tmp_path / "run", device="cpu")
    lines = log_without_times(tmp_path / "run")
    terms = [line["terms"] for line in lines if line["kind"] == "train"]
    assert terms[-1]["total"] < 0.7 * terms[0]["total"]
    assert terms[-1]["accuracy"] > 0.5
    # Ten strangers: chance is 10 % and 50 %.
    assert outcome.best["accuracy"] > 50
    assert outcome.best["eer"] < 25
    assert read_run(tmp_path / "run").best["eer"] == outcome.best["eer"]
    assert (tmp_path / "run/checkpoints/best_eer.pt").is_file()

    half = load_train_config("voice-embedding-tiny", [*settings, "stage1.iterations=30"])
    train(half, release, tmp_path / "half", device="cpu")
    train(config, release, tmp_path / "half", device="cpu", resume=True)
    pair = [checkpoint.read(tmp_path / name / "checkpoints/last.pt") for name in ("run", "half")]
    assert differences(*pair) == []


def test_a_generator_takes_the_encoder(
    tiny: Release, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HQVOX_CACHE", str(cache_dir))
    voice = load_train_config("voice-embedding-tiny", [*HERE, "stage1.iterations=2"])
    train(voice, tiny, tmp_path / "voice", device="cpu")
    last = tmp_path / "voice/checkpoints/last.pt"
    given = [*HERE, "stage1.iterations=1", f"stage1.encoder_weights={last}"]
    for recipe in ("avp-gan-64-tiny", "voice2face-cmu-tiny"):
        train(load_train_config(recipe, given), tiny, tmp_path / recipe, device="cpu")
        content = checkpoint.read(tmp_path / recipe / "checkpoints/last.pt")
        for name, value in checkpoint.read(last)["generator"].items():
            if not name.endswith("num_batches_tracked"):
                assert differences(content["generator"][name], value) == [], name
    other = load_train_config("avp-gan-64-tiny", [*given, "data.normalise=sf2f"])
    with pytest.raises(HqvoxError, match=r"for data\.normalise=utterance, not sf2f"):
        train(other, tiny, tmp_path / "other", device="cpu")
