"""The paper's protocol: which crops, the ground truth, the runs, and what is missing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from hqvox.errors import HqvoxError
from hqvox.trainer.data import Split, TrainingData
from hqvox.trainer.evaluate import (
    FUSED,
    LENGTHS,
    LONG,
    SHORT,
    Condition,
    Protocol,
    Speaker,
    classified_faces,
    evaluate,
    fuse,
    generate,
    quick_metrics,
    real_embeddings,
    real_faces,
    real_scores,
)
from hqvox.trainer.metric_networks import MetricNetworks, batched, load_metric_networks
from hqvox.trainer.metrics import (
    Score,
    cosine,
    inception_scores,
    l1,
    normalised,
    recall_at_k,
)
from hqvox.trainer.speech_input import Normaliser
from models.sf2f.generator import Generator, build_generator
from models.sf2f.spec import GeneratorSpec
from models.store import ModelStore
from tests.helpers.tiny_release import make_tiny_release

TWICE = Protocol(runs=2, crops=3)


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(1)
    spec = GeneratorSpec(width=0.0625, embedding_dim=16, fuser="attention")
    return build_generator(spec).eval()


@pytest.fixture(scope="module")
def networks() -> MetricNetworks:
    """An embedding that can be followed by hand: four colours of the picture's quarters."""

    def quarters(pictures: torch.Tensor) -> torch.Tensor:
        small = torch.nn.functional.adaptive_avg_pool2d(pictures, 2).flatten(1)
        return torch.nn.functional.normalize(small - 0.5, dim=1)

    def classify(pictures: torch.Tensor) -> np.ndarray:
        return (20 * quarters(pictures)).softmax(dim=1).numpy()

    def inception(pictures: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        return classify(pictures), quarters(pictures).numpy()

    return MetricNetworks(batched(quarters, "cpu"), "quarters", classify, inception)


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """Twelve people of test, as many as the scores need and more."""
    folder = tmp_path_factory.mktemp("crowd")
    release = make_tiny_release(folder / "r", train=2, val=0, test=12)
    return TrainingData.open(release, (64,), cache_dir=folder / "c").split("test")


def test_crops_have_the_lengths_asked_for_and_lie_within_an_utterance():
    protocol = Protocol(seed=5)
    frames = [90, 300, 1200]
    for condition in (SHORT, LONG, *LENGTHS):
        drawn = [protocol.length(condition, run, crop) for run in range(4) for crop in range(4)]
        low, high = condition.frames
        assert low <= min(drawn) <= max(drawn) <= high
        assert len(set(drawn)) == 1 or low != high
        for run in range(4):
            for crop in range(4):
                piece = protocol.crop(frames, condition, run, crop, 0)
                assert piece.stop - piece.start == protocol.length(condition, run, crop)
                assert 0 <= piece.start < piece.stop <= frames[piece.utterance]


def test_the_longest_utterance_serves_where_none_is_long_enough():
    assert Protocol().crop([90, 300, 120], LONG, 0, 0, 0) == (1, 0, 300)


def test_crops_differ_by_run_crop_and_person_and_are_the_same_again():
    draws = {
        (run, crop, person, seed): Protocol(seed=seed).crop([5000] * 9, SHORT, run, crop, person)
        for run in range(2)
        for crop in range(2)
        for person in range(2)
        for seed in range(2)
    }
    assert len(set(draws.values())) == len(draws)
    assert Protocol(seed=1).crop([5000] * 9, SHORT, 0, 1, 0) == draws[0, 1, 0, 1]
    # A fused and a whole crop of the same length are the same speech.
    assert Protocol().crop([5000] * 9, LONG, 0, 0, 0) == Protocol().crop([5000] * 9, FUSED, 0, 0, 0)


def test_speech_is_padded_before_it_is_normalised(tiny_data: TrainingData):
    """As in training; only where each utterance has its own mean does padding come after."""
    split = tiny_data.split("test")
    far = Condition("too long", (2000, 2000))
    for kind, padded in (("sf2f", -10.9915 / 3.1661), ("utterance", 0.0)):
        speaker = Speaker(split, Normaliser(kind), Protocol())
        [window] = speaker.windows(0, far, 0, 0)
        assert window.shape == (40, 2000)
        longest = max(int(tiny_data.utterances.frames[u]) for u in split.utterances_of[0])
        torch.testing.assert_close(window[:, longest:], torch.full((40, 2000 - longest), padded))
        assert (window[:, :longest] != padded).any(dim=0).all()


def test_fused_crops_are_windows_of_125_frames_every_63(tiny_data: TrainingData):
    split = tiny_data.split("train")
    longest = [max(tiny_data.utterances.frames[rows]) for rows in split.utterances_of]
    person = int(np.argmax(longest))
    assert longest[person] >= 251
    some = Condition("2.51 s", (251, 251))
    speaker = Speaker(split, Normaliser(), Protocol())
    whole = speaker.windows(person, some, 0, 0)[0]
    cut = speaker.windows(person, some, 0, 0, 125)
    assert len(cut) == 3
    for number, window in enumerate(cut):
        torch.testing.assert_close(window, whole[:, 63 * number : 63 * number + 125])


def test_fusing_ignores_how_many_windows_others_have(generator: Generator):
    torch.manual_seed(0)
    speeches = [torch.randn(count, 40, 125) for count in (1, 5, 3)]
    with torch.inference_mode():
        together = fuse(generator, speeches)
        alone = torch.cat([fuse(generator, [speech]) for speech in speeches])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_without_a_fuser_embeddings_are_averaged():
    torch.manual_seed(0)
    plain = build_generator(GeneratorSpec(width=0.0625, embedding_dim=16)).eval()
    speech = torch.randn(4, 40, 125)
    with torch.inference_mode():
        mean = plain.embed(speech).mean(dim=0)
        found = fuse(plain, [speech])[0]
    torch.testing.assert_close(found, mean / mean.norm())


def test_an_evaluation_is_its_metrics_averaged_over_runs(crowd, generator, networks):
    split = crowd
    evaluation = evaluate(
        generator, Normaliser(), split, [SHORT, FUSED], networks, TWICE, with_fid=True
    )
    assert (evaluation.identities, evaluation.gallery) == (12, 12)
    assert set(evaluation.real) == {"vfs", "inception"}
    speaker = Speaker(split, Normaliser(), TWICE)
    truth = real_embeddings(split, 64, networks)
    for result in evaluation.results:
        runs = []
        for run in range(2):
            crops = [generate(generator, speaker, result.condition, run, c) for c in range(3)]
            queries = np.concatenate([networks.embed(pictures) for pictures in crops])
            who = np.tile(np.arange(12), 3)
            recalls = recall_at_k(queries, who, truth).values()
            runs.append([cosine(queries, truth[who]), l1(queries, truth[who]), *recalls])
        names = ["cosine", "l1", "recall_1", "recall_2", "recall_5", "recall_10"]
        for name, values in zip(names, zip(*runs, strict=True), strict=True):
            assert result.scores[name].mean == pytest.approx(np.mean(values))
            assert result.scores[name].deviation == pytest.approx(np.std(values))
        assert {"vfs", "inception", "fid"} <= set(result.scores)


def test_a_score_is_of_one_picture_of_each_person(crowd, generator, networks):
    """Pooled over the crops, a score would grow with their number."""
    one = MetricNetworks(classify=networks.classify)
    [result] = evaluate(generator, Normaliser(), crowd, [SHORT], one, TWICE).results
    speaker = Speaker(crowd, Normaliser(), TWICE)
    values = [
        inception_scores(
            networks.classify(generate(generator, speaker, SHORT, run, crop)), seed=[run, crop]
        )
        for run in range(2)
        for crop in range(3)
    ]
    assert result.scores["vfs"] == Score.of(np.concatenate(values))


def test_real_faces_are_scored_on_as_many_pictures(crowd, generator, networks):
    sizes: list[int] = []

    def classify(pictures: torch.Tensor) -> np.ndarray:
        sizes.append(len(pictures))
        return networks.classify(pictures)

    given = classified_faces(crowd, 64, MetricNetworks(classify=classify))
    assert sum(sizes) == len(given.probabilities["vfs"]) == 36
    # Everybody is sure to be a class of their own, so the score says how many people a split has.
    own = np.repeat(np.eye(12, dtype=np.float32), 3, axis=0)
    sure = real_scores(given._replace(probabilities={"vfs": own}), [3] * 12, passes=4)
    assert sure["vfs"].mean == pytest.approx(np.mean([2, 2, 3, 2, 3]))
    first = real_scores(given, [3] * 12, 4)
    assert first == real_scores(given, [3] * 12, 4)
    assert first != real_scores(given, [3] * 12, 4, seed=1)


def test_crops_that_are_cut_once_are_the_same_in_every_run(crowd, generator, networks):
    calls: list[tuple[int, int]] = []
    once = replace(TWICE, crop_once=True)
    [same] = evaluate(
        generator, Normaliser(), crowd, [SHORT], networks, once,
        on_progress=lambda done, total: calls.append((done, total)),
    ).results  # fmt: skip
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert same.scores["cosine"].deviation == same.scores["recall_1"].deviation == 0
    [first] = evaluate(
        generator, Normaliser(), crowd, [SHORT], networks, replace(TWICE, runs=1)
    ).results
    assert same.scores["cosine"] == first.scores["cosine"]
    assert same.scores["vfs"] != first.scores["vfs"]  # pictures are dealt to other splits
    [apart] = evaluate(generator, Normaliser(), crowd, [SHORT], networks, TWICE).results
    assert apart.scores["cosine"].deviation > 0


def test_ground_truth_is_over_all_real_faces(tiny_data, networks):
    split = tiny_data.split("val")
    truth = real_embeddings(split, 64, networks)
    for person, rows in enumerate(split.faces_of):
        faces = torch.from_numpy(np.array(tiny_data.faces[64][rows])).float() / 255
        own = normalised(networks.embed(faces)).mean(axis=0)
        np.testing.assert_allclose(truth[person], own / np.linalg.norm(own), atol=1e-6)
    assert sum(len(pictures) for pictures, _ in real_faces(split, 64)) == 6


def test_the_same_arguments_give_the_same_figures(tiny_data, generator, networks):
    split = tiny_data.split("test")
    torch.manual_seed(7)
    first = evaluate(generator, Normaliser(), split, [SHORT], networks, TWICE)
    state = torch.get_rng_state()
    again = evaluate(generator, Normaliser(), split, [SHORT], networks, TWICE)
    assert first.results == again.results
    assert torch.equal(state, torch.get_rng_state())
    other = evaluate(generator, Normaliser(), split, [SHORT], networks, replace(TWICE, seed=1))
    assert other.results != first.results


def test_what_is_missing_is_left_out_and_the_rest_is_measured(crowd, generator, networks):
    split = crowd
    [result] = evaluate(
        generator, Normaliser(), split, [SHORT], MetricNetworks(classify=networks.classify), TWICE
    ).results
    assert set(result.scores) == {"vfs"}
    [result] = evaluate(
        generator, Normaliser(), split, [SHORT], MetricNetworks(networks.embed, "quarters"), TWICE
    ).results
    assert "vfs" not in result.scores
    assert "recall_10" in result.scores


def test_missing_weights_name_the_command_that_gets_them(tmp_path, monkeypatch):
    monkeypatch.setenv("HQVOX_OFFLINE", "1")
    store = ModelStore(cache_dir=tmp_path)
    missing = load_metric_networks(store).missing
    assert "hqvox models pull facenet_vggface2" in missing["similarity and retrieval"]
    assert "dlib_resnet" in missing["similarity and retrieval"]
    assert "hqvox models pull vggface2_resnet50" in missing["VFS"]
    assert "hqvox models pull inception_v3" in missing["IS and FID"]
    assert not load_metric_networks(store, "dlib_resnet", scores=False).missing
    with pytest.raises(HqvoxError, match="there are facenet_vggface2, arcface_r50, dlib_resnet"):
        load_metric_networks(store, "vggface2_resnet50")


def test_a_face_is_measured_alike_whatever_stands_beside_it():
    embed = load_metric_networks(ModelStore(), "dlib_resnet", scores=False).embed
    assert embed is not None
    torch.manual_seed(0)
    pictures = torch.rand(3, 3, 64, 64)
    together = embed(pictures)
    np.testing.assert_array_equal(embed(pictures[1:2])[0], together[1])
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, rtol=1e-5)


def test_quick_metrics_measure_a_training_run(crowd, generator, networks):
    split = crowd
    torch.manual_seed(7)
    state = torch.get_rng_state()
    quick = {"networks": networks, "normaliser": Normaliser(), "seed": 3}
    found = quick_metrics(generator, split, fused=False, **quick)
    assert {"cosine", "l1", "recall_1", "recall_5", "recall_10", "vfs"} <= set(found)
    truth = real_embeddings(split, 64, networks)
    assert quick_metrics(generator, split, fused=False, truth=truth, **quick) == found
    assert quick_metrics(generator, split, fused=True, **quick) != found
    assert torch.equal(state, torch.get_rng_state())


def test_a_part_without_people_and_other_filters_are_refused(tmp_path, generator, networks):
    release = make_tiny_release(tmp_path / "r", train=2, val=0, test=1, filters=64)
    data = TrainingData.open(release, (64,), cache_dir=tmp_path / "c")
    with pytest.raises(HqvoxError, match="nobody in val"):
        evaluate(generator, Normaliser(), data.split("val"), [SHORT], networks, TWICE)
    with pytest.raises(HqvoxError, match=r"64 mel filters, the checkpoint needs 40"):
        evaluate(generator, Normaliser(), data.split("test"), [SHORT], networks, TWICE)
