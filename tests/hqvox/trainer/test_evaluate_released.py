"""The released code's evaluation, beside the paper's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hqvox.errors import HqvoxError
from hqvox.trainer import checkpoint, report
from hqvox.trainer.checkpoint import generator_state
from hqvox.trainer.data import TrainingData
from hqvox.trainer.evaluate import real_faces
from hqvox.trainer.evaluate_released import (
    ALL,
    EACH,
    ReleasedEvaluator,
    evaluate_as_released,
    released_conditions,
    released_order,
)
from hqvox.trainer.loop import train
from hqvox.trainer.metric_networks import MetricNetworks, batched
from hqvox.trainer.metrics import (
    ground_truth,
    inception_scores,
    normalised,
    recall_at_k,
    recall_in_galleries,
)
from hqvox.trainer.report import evaluate_checkpoints
from hqvox.trainer.speech_input import Normaliser
from models.sf2f.colour import to_unit
from models.sf2f.generator import Generator, build_generator
from models.sf2f.spec import GeneratorSpec
from tests.helpers.tiny_release import make_tiny_release
from tests.helpers.training_runs import small_config


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    """Twelve people in test with three utterances of 0.9 to 16 s each."""
    folder = tmp_path_factory.mktemp("released")
    release = make_tiny_release(
        folder / "r", train=2, val=2, test=12, utterances=3, frames=(90, 1600)
    )
    return TrainingData.open(release, (64,), resize="bilinear", cache_dir=folder)


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(1)
    spec = GeneratorSpec(width=0.0625, embedding_dim=16, fuser="attention_released")
    return build_generator(spec).eval()


def quarters(pictures: torch.Tensor) -> torch.Tensor:
    small = F.adaptive_avg_pool2d(pictures, 2).flatten(1)
    return F.normalize(small - 0.5, dim=1)


def classify(pictures: torch.Tensor) -> np.ndarray:
    return (20 * quarters(pictures)).softmax(dim=1).numpy()


def inception(pictures: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    return classify(pictures), quarters(pictures).numpy()


NETWORKS = MetricNetworks(batched(quarters, "cpu"), "quarters", classify, inception)


def segments_by_hand(data: TrainingData, person: int) -> np.ndarray:
    """A plain loop over the utterances, whose names are 0, 1 and 2."""
    found = []
    for row in data.split("test").utterances_of[person]:
        log_mel = data.log_mel(row).astype(np.float32)
        for start in range(0, len(log_mel) - 124, 125):
            found.append(((log_mel[start : start + 125] - 10.9915) / 3.1661).T)
    return np.stack(found[:20])


def test_segments_do_not_overlap_and_are_20_at_most(data: TrainingData) -> None:
    split = data.split("test")
    evaluator = ReleasedEvaluator(split, Normaliser(), NETWORKS, 64)
    counts = []
    for person in range(len(split)):
        segments = evaluator.segments(person)
        np.testing.assert_allclose(segments, segments_by_hand(data, person), atol=1e-5)
        counts.append(len(segments))
    assert max(counts) == 20
    assert min(counts) < 20


def test_people_who_never_speak_long_enough_are_heard_padded(tmp_path: Path) -> None:
    release = make_tiny_release(tmp_path / "r", train=2, val=0, test=1, frames=(60, 90))
    split = TrainingData.open(release, (64,), cache_dir=tmp_path).split("test")
    segments = ReleasedEvaluator(split, Normaliser(), NETWORKS, 64).segments(0)
    assert segments.shape == (1, 40, 125)
    np.testing.assert_allclose(segments[0, :, 90:], -10.9915 / 3.1661, rtol=1e-5)


def test_people_are_ordered_by_subset_and_folder(data: TrainingData) -> None:
    split = data.split("test")
    names = [split.person_names[person] for person in released_order(split)]
    assert names == sorted(names)
    assert names != list(split.person_names), "Person_10 comes before Person_4"


@pytest.mark.parametrize("condition", [EACH, ALL])
def test_means_of_embeddings_are_compared_and_not_normalised(
    data: TrainingData, generator: Generator, condition: object
) -> None:
    split = data.split("test")
    figures = ReleasedEvaluator(split, Normaliser(), NETWORKS, 64).measure(generator, condition)
    found, truth = [], []
    for person in released_order(split):
        windows = torch.from_numpy(segments_by_hand(data, person))
        with torch.inference_mode():
            embeddings = generator.embed(windows)
            if condition is ALL:
                mask = torch.ones(1, len(windows), dtype=torch.bool)
                embeddings = generator.fuse(embeddings[None], mask)
            faces = to_unit(generator.decode(embeddings)[-1]).clamp(0, 1)
        found.append(quarters(faces).double().mean(dim=0).numpy())
        real = torch.from_numpy(np.array(data.faces[64][split.faces_of[person]])).float() / 255
        truth.append(quarters(real).double().mean(dim=0).numpy())
    means, real_means = np.stack(found), np.stack(truth)
    assert np.linalg.norm(real_means, axis=1).max() < 1
    assert figures["l1"][0] == pytest.approx(np.abs(means - real_means).sum(1).mean(), rel=1e-5)
    cosines = (normalised(means) * normalised(real_means)).sum(1)
    assert figures["cosine"][0] == pytest.approx(cosines.mean(), rel=1e-5)
    similar = normalised(means) @ normalised(real_means).T
    first = np.mean(similar.argmax(1) == np.arange(12))
    assert figures["recall_1"][0] == pytest.approx(100 * first)
    assert len(figures["vfs"]) == 5
    assert len(figures["inception"]) == 3


def test_the_mean_of_real_faces_need_not_be_normalised() -> None:
    rows, who = [[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]], [0, 0, 1]
    np.testing.assert_allclose(ground_truth(rows, who, 2, renormalise=False)[0], [0.5, 0.5])
    np.testing.assert_allclose(ground_truth(rows, who, 2)[0], [0.5**0.5] * 2)


def test_galleries_are_consecutive_people() -> None:
    rng = np.random.default_rng(3)
    truth = rng.normal(size=(250, 8))
    queries = truth + 2 * rng.normal(size=truth.shape)
    found = recall_in_galleries(queries, truth, ((0, 100), (100, 200), (200, 300)))
    each = []
    for first in (0, 100, 200):
        part = slice(first, first + 100)
        similar = normalised(queries[part]) @ normalised(truth[part]).T
        order = np.argsort(-similar, axis=1)
        each.append([np.mean(order[:, :k] == np.arange(len(order))[:, None]) * k for k in found])
    np.testing.assert_allclose(list(found.values()), 100 * np.mean(each, axis=0))
    everybody = recall_at_k(queries, np.arange(250), truth)
    assert found != pytest.approx(everybody)
    small = recall_in_galleries(queries[:40], truth[:40], ((0, 100), (100, 200)))
    assert small == pytest.approx(recall_at_k(queries[:40], np.arange(40), truth[:40]))


def test_the_inception_score_takes_pictures_in_order() -> None:
    rng = np.random.default_rng(0)
    rows = rng.dirichlet(np.ones(5), 11)
    scores = inception_scores(rows, 3, seed=None)
    for score, part in zip(scores, (rows[:3], rows[3:7], rows[7:]), strict=True):
        divergence = (part * np.log(part / part.mean(0))).sum(1).mean()
        assert score == pytest.approx(np.exp(divergence))
    assert not np.allclose(scores, inception_scores(rows, 3, seed=0))


def test_an_evaluation_has_a_result_for_each_condition(
    data: TrainingData, generator: Generator
) -> None:
    conditions = released_conditions(3, generator)
    assert conditions == [EACH, ALL]
    assert released_conditions(7, generator) == [ALL]
    assert released_conditions(7, build_generator(GeneratorSpec(width=0.05))) == [EACH]
    found = evaluate_as_released(
        generator, Normaliser(), data.split("test"), conditions, NETWORKS, with_fid=True
    )
    assert [result.condition for result in found.results] == conditions
    for result in found.results:
        names = {"cosine", "l1", "recall_1", "recall_2", "recall_5", "recall_10"}
        assert set(result.scores) == names | {"vfs", "inception", "fid"}
        assert result.scores["cosine"].deviation == 0
    again = evaluate_as_released(
        generator, Normaliser(), data.split("test"), conditions, NETWORKS, with_fid=True
    )
    assert found == again
    assert sum(len(pictures) for pictures, _ in real_faces(data.split("test"), 64)) == 36


def test_a_run_and_its_table_follow_the_recipes_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HQVOX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(report, "load_metric_networks", lambda *given, **options: NETWORKS)
    release = make_tiny_release(tmp_path / "r", train=4, val=6, test=6)
    config = small_config(
        "stage1.iterations=1", "stage2.iterations=1", recipe="sf2f-64-released-tiny"
    )
    heard: list[object] = []
    measure = ReleasedEvaluator.measure

    def listen(self, generator, condition, **given):
        heard.append(condition)
        return measure(self, generator, condition, **given)

    monkeypatch.setattr(ReleasedEvaluator, "measure", listen)
    train(config, release, tmp_path / "run")
    assert heard == [EACH, ALL]
    last = tmp_path / "run/checkpoints/last.pt"
    made = evaluate_checkpoints([last], release, 3, cache_dir=tmp_path)
    lengths = [row.second for row in made.table.rows if row.source == "run/last"]
    assert lengths == [EACH.length] * 2
    assert "measured as the released code does" in made.notes[0]
    as_paper = evaluate_checkpoints([last], release, 3, reading="paper", cache_dir=tmp_path)
    assert "runs: 10" in as_paper.notes[0]
    [row] = [
        row
        for row in evaluate_checkpoints([last], release, 7, cache_dir=tmp_path).table.rows
        if row.source == "run/last"
    ]
    assert row.scores
    with pytest.raises(HqvoxError, match="--table 4: the released code evaluates segments"):
        evaluate_checkpoints([last], release, 4, cache_dir=tmp_path)
    with pytest.raises(HqvoxError, match="--reading mine: there are recipe, paper, released"):
        evaluate_checkpoints([last], release, 3, reading="mine", cache_dir=tmp_path)
    imported = tmp_path / "imported.pt"
    checkpoint.save(imported, generator_state(build_generator(GeneratorSpec(width=0.05)), {}))
    with pytest.raises(HqvoxError, match=r"are measured differently .*--reading paper"):
        evaluate_checkpoints([last, imported], release, 3, cache_dir=tmp_path)
