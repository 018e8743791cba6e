"""AVP-GAN's metric and table 4, the cross table of both papers, and evaluating enhanced faces."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from hqvox.cli.app import app
from hqvox.errors import HqvoxError
from hqvox.trainer import report
from hqvox.trainer.checkpoint import generator_state, save
from hqvox.trainer.evaluate import Protocol
from hqvox.trainer.evaluate import evaluate as measure
from hqvox.trainer.metric_networks import MetricNetworks, enhanced_first
from hqvox.trainer.metrics import cosine_to_one_face, normalised
from hqvox.trainer.report import evaluate_checkpoints, write_evaluation
from hqvox.trainer.speech_input import Normaliser
from hqvox.trainer.tables import AVP_4, AVP_TABLE_4, CROSS, PAPER, conditions_of
from models.enhancement.gfpgan import load_enhancer
from models.sf2f.generator import build_generator
from models.sf2f.spec import GeneratorSpec
from tests.helpers.tiny_gfpgan import save_tiny_gfpgan
from tests.helpers.tiny_release import make_tiny_release

SMALL = {"width": 0.05, "embedding_dim": 16}
AVP = {"encoder": "cmu", "decoder": "avp_gan", "n_filters": 64, **SMALL}
ONCE = Protocol(runs=1, crops=1)


def a_run(folder: Path, seed: int, recipe: str, front_end: str = "sf2f", **spec) -> Path:
    """A run's folder with a checkpoint of random weights in it."""
    torch.manual_seed(seed)
    generator = build_generator(GeneratorSpec(**spec))
    meta = {"recipe": recipe, "normalise": Normaliser("utterance", front_end=front_end).as_dict()}
    save(folder / "checkpoints" / "last.pt", generator_state(generator, meta))
    return folder


def see(pictures: torch.Tensor) -> np.ndarray:
    """A network of colours in the corners, (n, 12), of pictures of any size."""
    cells = torch.nn.functional.adaptive_avg_pool2d(pictures.float(), 2).flatten(1)
    return torch.nn.functional.normalize(cells - 0.5, dim=1).numpy()


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace the metrics' networks; returns the names that were asked for."""
    asked: list[str] = []

    def load(store, embedding, device, scores=True) -> MetricNetworks:
        asked.append(embedding)
        return MetricNetworks(see, embedding)

    monkeypatch.setattr(report, "load_metric_networks", load)
    return asked


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """3 people to test on, heard in 64 filters, for 6 to 8 s."""
    return make_tiny_release(
        tmp_path_factory.mktemp("wide") / "r", filters=64, frames=(600, 790), utterances=1
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Path]:
    root = tmp_path_factory.mktemp("runs")
    return [
        a_run(root / "cbam-0", 0, "avp-gan-64", attention=True, **AVP),
        a_run(root / "cbam-1", 1, "avp-gan-64", attention=True, **AVP),
        a_run(root / "plain", 2, "avp-gan-64-no-cbam", **AVP),
        a_run(root / "v2f", 3, "voice2face-cmu", **AVP | {"decoder": "cmu"}),
    ]


def test_the_cosine_to_one_face_is_the_mean_over_a_persons_faces():
    rng = np.random.default_rng(0)
    faces, queries = normalised(rng.normal(size=(2, 5, 7))), rng.normal(size=(2, 7))
    expected = np.mean(
        [
            query @ face / np.linalg.norm(query) / np.linalg.norm(face)
            for query, of in zip(queries, faces, strict=True)
            for face in of
        ]
    )
    assert cosine_to_one_face(queries, faces.mean(axis=1)) == pytest.approx(expected)


def test_the_printed_table_4():
    printed = {(row.method, row.length): row.one_face for row in AVP_TABLE_4.rows}
    assert printed == {
        ("voice2face", "4 s"): 0.408, ("AVP-GAN", "4 s"): 0.471, ("voice2face", "8 s"): 0.436,
        ("AVP-GAN (no CBAM)", "8 s"): 0.447, ("AVP-GAN", "8 s"): 0.511,
    }  # fmt: skip


def test_table_4_of_avp_gan_has_each_length_of_speech(release, runs, networks, tmp_path):
    made = evaluate_checkpoints(runs, release, AVP_4, protocol=ONCE, cache_dir=tmp_path)
    assert networks == ["arcface_r50"]
    assert list(made.table.columns) == ["cosine_face", "cosine"]
    ours = [row for row in made.table.rows if row.source != PAPER]
    assert {row.second for row in ours} == {"2 s", "4 s", "6 s", "8 s"}
    assert len(ours) == 16
    at = [(row.first, row.second, row.source) for row in made.table.rows]
    place = at.index(("AVP-GAN", "8 s", PAPER))
    assert at[place + 1 : place + 3] == [
        ("AVP-GAN", "8 s", "cbam-0/last"), ("AVP-GAN", "8 s", "cbam-1/last"),
    ]  # fmt: skip
    assert at[at.index(("AVP-GAN (no CBAM)", "8 s", PAPER)) + 1][2] == "plain/last"
    assert at[at.index(("voice2face", "4 s", PAPER)) + 1][2] == "v2f/last"
    for row in ours:  # The mean of unit vectors is shorter than 1.
        (face, _), (mean, _) = row.scores["cosine_face"], row.scores["cosine"]
        assert abs(face) < abs(mean)
    assert any("cosine is by arcface_r50" in note for note in made.notes)
    assert any("3 of 3 people have no utterance of 8 s" in note for note in made.notes)
    assert set(made.figures) == {"figure-6", "figure-8", "figure-9"}
    files = [path.name for path in write_evaluation(made, tmp_path / "out")]
    assert "table-avp-4.csv" in files
    assert "figure-8.jpg" in files
    text = (tmp_path / "out" / "table-avp-4.md").read_text()
    assert text.startswith("AVP-GAN's table 4. Cosine of generated and real faces")


def test_the_figures_are_those_of_the_definition(release, runs, networks, tmp_path):
    from hqvox.trainer.checkpoint import load_generator
    from hqvox.trainer.data import TrainingData
    from hqvox.trainer.evaluate import Speaker, generate
    from hqvox.trainer.generate import normaliser_of

    made = evaluate_checkpoints(runs[2:3], release, AVP_4, protocol=ONCE, cache_dir=tmp_path)
    one = load_generator(runs[2] / "checkpoints" / "last.pt")
    split = TrainingData.open(release, (64,), cache_dir=tmp_path).split("test")
    condition = conditions_of(AVP_4, one)[-1]
    assert condition.frames == (800, 800)
    speaker = Speaker(split, normaliser_of(one), ONCE)
    made_faces = see(generate(one.generator, speaker, condition, 0, 0))
    cosines = [
        query @ face
        for query, rows in zip(made_faces, split.faces_of, strict=True)
        for face in see(torch.from_numpy(np.array(split.data.faces[64][rows])) / 255)
    ]
    [row] = [r for r in made.table.rows if r.source == "plain/last" and r.second == "8 s"]
    assert row.scores["cosine_face"][0] == pytest.approx(np.mean(cosines), abs=1e-5)


def test_enhanced_faces_are_measured_beside_the_others(release, runs, networks, tmp_path):
    enhancer = load_enhancer(save_tiny_gfpgan(tmp_path / "fine.pth"))
    made = evaluate_checkpoints(
        runs[:1], release, AVP_4, protocol=ONCE, enhancer=enhancer, cache_dir=tmp_path
    )
    sources = [row.source for row in made.table.rows if row.second == "4 s"]
    assert sources == [PAPER, PAPER, "cbam-0/last", "cbam-0/last + fine"]
    plain, fine = [row for row in made.table.rows if row.second == "4 s" and row.source != PAPER]
    assert plain.scores["cosine"] != fine.scores["cosine"]
    assert any("+ fine: faces enhanced to 64 px" in note for note in made.notes)
    assert sum(note.startswith("cbam-0/last: avp-gan-64") for note in made.notes) == 1
    assert set(made.figures) == {"figure-6", "figure-7", "figure-9"}


def test_every_network_sees_the_enhanced_pictures(tmp_path):
    enhance = load_enhancer(save_tiny_gfpgan(tmp_path / "fine.pth"))
    seen = MetricNetworks(embed=see, classify=see, inception=lambda p: (see(p), see(p) * 2))
    pictures = torch.rand(70, 3, 16, 16)
    after = enhanced_first(seen, enhance)
    expected = see(enhance(pictures))
    np.testing.assert_allclose(after.embed(pictures), expected, atol=1e-6)
    np.testing.assert_allclose(after.classify(pictures), expected, atol=1e-6)
    np.testing.assert_allclose(after.inception(pictures)[1], expected * 2, atol=1e-6)
    assert enhanced_first(MetricNetworks(), enhance).embed is None


def test_the_cross_table_has_every_model_by_both_papers(runs, networks, tmp_path):
    frames = {"frames": (300, 900), "utterances": 1}
    narrow = make_tiny_release(tmp_path / "narrow", filters=40, **frames)
    wide = make_tiny_release(tmp_path / "wide", filters=64, **frames)
    sf2f = a_run(tmp_path / "sf2f", 5, "sf2f-64", fuser="attention", **SMALL)
    enhancer = load_enhancer(save_tiny_gfpgan(tmp_path / "fine.pth"))
    made = evaluate_checkpoints(
        [*runs, sf2f], narrow, CROSS, also=[wide], protocol=ONCE, enhancer=enhancer,
        cache_dir=tmp_path,
    )  # fmt: skip
    assert networks == ["facenet_vggface2", "arcface_r50"]
    rows = {(row.first, row.second, row.source): row for row in made.table.rows}
    printed = rows["voice2face", "–", PAPER].scores
    assert printed["cosine"] == (0.205, None)
    assert printed["cosine_face_8 s"] == (0.436, None)
    assert rows["AVP-GAN", "–", PAPER].scores == {
        "cosine_face_4 s": (0.471, None), "cosine_face_8 s": (0.511, None)
    }  # fmt: skip
    assert rows["SF2F", "sf2f-64", "sf2f/last"].scores["recall_1"][0] >= 0
    both = [rows["AVP-GAN", "avp-gan-64", f"cbam-{n}/last"].scores for n in (0, 1)]
    mean, deviation = rows["AVP-GAN", "avp-gan-64", "2 runs"].scores["cosine_face_8 s"]
    values = [scores["cosine_face_8 s"][0] for scores in both]
    assert mean == pytest.approx(np.mean(values))
    assert deviation == pytest.approx(np.std(values, ddof=1))
    assert ("AVP-GAN", "avp-gan-64 + fine", "2 runs") in rows
    assert len([row for row in made.table.rows if row.source != PAPER]) == 2 * 5 + 2 + 1
    assert rows["random", "-", "3 people"].scores["recall_1"][0] == pytest.approx(100 / 3)
    [out, *_] = write_evaluation(made, tmp_path / "out")
    heads = next(csv.reader(out.open()))
    assert out.name == "table-cross.csv"
    assert {"cosine", "R@10", "one face, 2 s", "mean, 8 s"} <= set(heads)
    assert made.notes[0].startswith("3 people of test of narrow and wide")


def test_releases_of_other_people_are_refused(runs, networks, tmp_path):
    narrow = make_tiny_release(tmp_path / "narrow", filters=40)
    wide = make_tiny_release(tmp_path / "wide", test=2, filters=64)
    sf2f = a_run(tmp_path / "sf2f", 5, "sf2f-64", **SMALL)
    with pytest.raises(HqvoxError, match="other people in test; name releases of the same"):
        evaluate_checkpoints([sf2f, runs[0]], narrow, CROSS, also=[wide], protocol=ONCE,
                             cache_dir=tmp_path)  # fmt: skip


def test_what_cannot_be_measured_that_way_is_one_line(release, runs, networks, tmp_path):
    enhancer = load_enhancer(save_tiny_gfpgan(tmp_path / "fine.pth"))
    for number, options, message in (
        (AVP_4, {"reading": "released"}, "--table avp-4: the released code evaluates segments"),
        (3, {"reading": "released", "enhancer": enhancer}, "--enhance: the released code"),
        (7, {"also": [release]}, "--table 7: tells models by their release"),
    ):
        with pytest.raises(HqvoxError, match=message):
            evaluate_checkpoints(runs[:1], release, number, protocol=ONCE, **options)


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["evaluate", *(str(a) for a in arguments)])


def test_the_command_measures_by_dlib_where_arcface_is_missing(
    release, runs, tmp_path, monkeypatch
):
    monkeypatch.setenv("HQVOX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HQVOX_MIRROR", raising=False)
    given = ["--data", release.url, "--runs", 1, "--crops", 1, "--device", "cpu"]
    fine = save_tiny_gfpgan(tmp_path / "f.pth")
    done = command(
        runs[0], *given, "--table", "avp-4", "--embedding", "dlib_resnet", "--enhancer", fine,
        "-o", tmp_path / "out",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "AVP-GAN's table 4" in done.output
    assert "cosine is by dlib_resnet, AVP-GAN's by ArcFace: not comparable" in done.output
    assert (tmp_path / "out" / "figure-7.jpg").is_file()
    lacking = command(runs[0], *given, "--table", "cross")
    assert lacking.exit_code == 0, lacking.output
    said = " ".join(lacking.output.split())
    assert (
        "cosine by length of speech not measured: weights 'arcface_r50' are missing: hqvox" in said
    )
    missing = command(runs[0], *given, "--table", "avp-4", "--enhance")
    assert "hqvox models pull gfpgan_v1_4" in str(missing.exception)


def test_evaluating_without_an_enhancer_is_as_before(release, runs, tmp_path):
    """The two calls differ in the enhancer alone."""
    from hqvox.trainer.checkpoint import load_generator
    from hqvox.trainer.data import TrainingData
    from hqvox.trainer.generate import normaliser_of

    one = load_generator(runs[0] / "checkpoints" / "last.pt")
    split = TrainingData.open(release, (64,), cache_dir=tmp_path).split("test")
    arguments = (one.generator, normaliser_of(one), split, conditions_of(AVP_4, one)[:1])
    plain = measure(*arguments, MetricNetworks(see), ONCE)
    same = measure(*arguments, MetricNetworks(see), ONCE, enhance=lambda pictures: pictures)  # type: ignore[arg-type]
    assert plain.results[0].scores == same.results[0].scores
