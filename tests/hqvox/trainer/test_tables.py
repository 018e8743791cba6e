"""Our rows in the paper's tables: where they stand, how they are written, what the notes say."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from hqvox.cli.app import app
from hqvox.errors import HqvoxError
from hqvox.release.read import Release
from hqvox.trainer import report
from hqvox.trainer.checkpoint import Loaded, load_generator, save
from hqvox.trainer.evaluate import FUSED, LENGTHS, LONG, SHORT, Condition, Evaluation, Result
from hqvox.trainer.metric_networks import MetricNetworks
from hqvox.trainer.metrics import Score, inception_scores
from hqvox.trainer.packing import ReleaseCache
from hqvox.trainer.report import evaluate_real_faces, labels_of, write_evaluation
from hqvox.trainer.tables import (
    PAPER,
    TABLE_2,
    TABLES,
    EvaluatedCheckpoint,
    ablation_of,
    conditions_of,
    fill,
    headings,
    lines,
    place_of,
    to_csv,
    to_markdown,
)
from models.sf2f.generator import build_generator
from models.sf2f.spec import GeneratorSpec
from tests.helpers.tiny_release import make_tiny_release

SMALL = {"width": 0.0625, "embedding_dim": 16}


def loaded(loss: dict[str, float] | None = None, **spec) -> Loaded:
    weights = {"l1": 10, "gan": 1, "classifier": 0.05, "perceptual": 100} | (loss or {})
    config = {"loss": {name: {"weight": value} for name, value in weights.items()}}
    full = GeneratorSpec(**SMALL | spec)
    return Loaded(build_generator(full), full, config, {"recipe": "test"})


def evaluated(label: str, one: Loaded, number: int, people: int = 378) -> EvaluatedCheckpoint:
    results = [
        Result(c, {"cosine": Score(0.25, 0.001), "recall_10": Score(12.5, 0.5)})
        for c in conditions_of(number, one)
    ]
    return EvaluatedCheckpoint(label, one, Evaluation(results, people, min(100, people)))


SF2F = {"fuser": "attention"}
V2F = {"encoder": "plain_released", "decoder": "deconvolution"}


def test_a_table_asks_for_its_own_speech():
    assert conditions_of(3, loaded(**SF2F)) == [SHORT, LONG, FUSED]
    assert conditions_of(3, loaded()) == [SHORT, LONG]
    assert conditions_of(4, loaded(**SF2F)) == list(LENGTHS)
    assert conditions_of(5, loaded(**SF2F)) == conditions_of(7, loaded(**SF2F)) == [FUSED]
    assert conditions_of(7, loaded()) == [LONG]


@pytest.mark.parametrize("number", sorted(TABLES))
def test_places_are_in_the_papers_words(number):
    """Every row of ours that a full set of models gives answers to one of the paper's."""
    known = {(row.method, row.length) for row in TABLES[number].rows}
    models = [loaded(**SF2F)]
    if number in (3, 8):
        models.append(loaded(**V2F))
    if number == 5:
        models += [loaded(resolutions=r, **SF2F) for r in ((128,), (64, 128))]
    if number == 7:
        terms = ("l1", "gan", "classifier", "perceptual")
        models += [loaded({term: 0}, **SF2F) for term in terms]
        models += [loaded(encoder="plain", **SF2F), loaded(decoder="deconvolution", **SF2F)]
    ours = [place_of(number, one, c) for one in models for c in conditions_of(number, one)]
    assert set(ours) <= known
    assert len(set(ours)) == len(ours)
    missing = {row.method for row in TABLES[number].rows if (row.method, row.length) not in ours}
    assert missing <= {"random", "LQ. Dataset"}


def test_other_lengths_of_speech_replace_the_tables():
    between = Condition("4 - 7 s", (400, 700))
    fused = Condition("4 - 7 s", (400, 700), fused=True)
    assert conditions_of(3, loaded(**SF2F), (4, 7)) == [between, fused]
    assert conditions_of(4, loaded(**SF2F), (4, 7)) == [between]
    assert conditions_of(5, loaded(**SF2F), (4, 7)) == [fused]
    assert conditions_of(7, loaded(), (4, 7)) == [between]
    [one] = conditions_of(3, loaded(), (2.5, 2.5))
    assert one == Condition("2.5 s", (250, 250))
    assert place_of(3, loaded(**SF2F), fused) == ("SF2F", "4 - 7 s")


def test_a_model_of_another_release_is_the_row_of_the_lq_dataset():
    here = loaded(**SF2F)
    here.meta["release"] = {"name": "hq", "url": "work/hq", "checksum": "a" * 64}
    assert ablation_of(here) == ablation_of(here, "a" * 64) == "Full Model"
    assert ablation_of(here, "b" * 64) == "LQ. Dataset"
    assert ablation_of(loaded(**SF2F), "b" * 64) == "Full Model"  # not known
    less = loaded({"gan": 0}, **SF2F)
    less.meta["release"] = here.meta["release"]
    assert ablation_of(less, "b" * 64) == "w/o LG, LQ. Dataset"
    table = fill(7, [evaluated("lq", here, 7)], "b" * 64)
    placed = [(row.first, row.source) for row in table.rows]
    at = placed.index(("LQ. Dataset", PAPER))
    assert placed[at : at + 3] == [
        ("LQ. Dataset", PAPER), ("LQ. Dataset", "lq"), ("Full Model", PAPER)
    ]  # fmt: skip
    assert fill(3, [evaluated("lq", here, 3)], "b" * 64).rows[3].first != "LQ. Dataset"


def test_table_2_has_real_faces_at_three_resolutions(tmp_path, monkeypatch):
    def see(pictures: torch.Tensor) -> np.ndarray:
        """Sure of one class for each colour of the hair: 8 people of 12 differ in it."""
        means = pictures[:, :, :8].mean(dim=(2, 3)) * pictures.shape[-1]
        return (means - means.min()).softmax(dim=1).numpy()

    networks = MetricNetworks(classify=see, missing={"IS and FID": "weights are missing: pull"})
    monkeypatch.setattr(report, "load_metric_networks", lambda *given: networks)
    release = make_tiny_release(tmp_path / "r", train=6, val=0, test=6)
    made = evaluate_real_faces(release, cache_dir=tmp_path)
    assert headings(made.table)[3:] == ["64 × 64", "128 × 128", "256 × 256"]
    shown = {(row.first, row.second): row for row in made.table.rows}
    assert shown["VGGFace Score", "–"].scores["256"] == (50.525, 1.862)
    one, every = (shown["VGGFace Score", which] for which in ("one of each of 6 people", "all 18"))
    for px in (64, 128, 256):
        pixels = ReleaseCache(release, tmp_path).pictures(
            release.manifest()["masked_file"].to_pylist(), "masked", [px], None
        )[px]
        faces = torch.from_numpy(np.array(pixels[-18:])).float() / 255
        values = inception_scores(see(faces))
        assert every.scores[str(px)] == pytest.approx((values.mean(), values.std()))
        assert one.scores[str(px)][0] < every.scores[str(px)][0]  # fewer pictures
    assert not shown["Inception Score", "all 18"].scores
    assert any("IS and FID not measured" in note for note in made.notes)
    whole = evaluate_real_faces(release, split="all", cache_dir=tmp_path)
    assert {row.second for row in whole.table.rows} == {"–", "one of each of 12 people", "all 36"}
    assert [path.name for path in write_evaluation(made, tmp_path / "out")] == [
        "table-2.csv", "table-2.md"
    ]  # fmt: skip
    with pytest.raises(HqvoxError, match="0 people in val; a score needs 5"):
        evaluate_real_faces(release, split="val", cache_dir=tmp_path)


def test_table_2_needs_weights_and_no_voices(tmp_path, monkeypatch, tiny: Release):
    monkeypatch.setenv("HQVOX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HQVOX_OFFLINE", "1")
    done = CliRunner().invoke(app, ["evaluate", "--table", "2", "--data", tiny.url])
    assert isinstance(done.exception, HqvoxError)
    assert "hqvox models pull vggface2_resnet50" in str(done.exception)
    assert "hqvox models pull inception_v3" in str(done.exception)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--table", "2", "x.pt"], "leave the checkpoints out"),
        (["--table", "3"], "name one or more checkpoints"),
        (["--table", "2", "--seconds", "4", "7"], "without speech"),
        (["x.pt", "--seconds", "7", "4"], "from the shortest to the longest"),
        (["x.pt", "--seconds", "0", "4"], "between 0.5 and 600"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_in_one_line(arguments, why, tiny: Release):
    done = CliRunner().invoke(app, ["evaluate", "--data", tiny.url, *arguments])
    assert isinstance(done.exception, HqvoxError), done.output
    assert why in str(done.exception)
    assert "\n" not in str(done.exception)


def test_what_lacks_more_than_one_thing_is_named_for_all_of_it():
    assert ablation_of(loaded({"gan": 0}, encoder="plain")) == "w/o LG, Baseline Encoder"
    assert ablation_of(loaded()) == "Full Model"


def test_our_rows_stand_below_the_papers_and_keep_their_order():
    table = fill(3, [evaluated(n, loaded(**SF2F), 3) for n in ("a", "b")])
    placed = [(row.first, row.second, row.source) for row in table.rows]
    at = placed.index(("SF2F", "5 s", PAPER))
    assert placed[at + 1 : at + 3] == [("SF2F", "5 s", "a"), ("SF2F", "5 s", "b")]
    assert ("random", "-", "378 people") in placed
    assert [p for p in placed if p[2] == PAPER] == [
        (row.method, row.length, PAPER) for row in TABLES[3].rows
    ]


def test_what_the_paper_has_no_row_for_comes_last():
    table = fill(7, [evaluated("odd", loaded({"gan": 0, "l1": 0}, **SF2F), 7)])
    assert table.rows[-1].first == "w/o L1, w/o LG"
    assert table.rows[-1].source == "odd"


def test_figures_are_written_as_the_paper_does_with_ours_in_full_in_the_csv():
    table = fill(3, [evaluated("a|b", loaded(**SF2F), 3, people=40)])
    ours = next(row for row in lines(table) if row[2] == "a|b")
    assert ours[3:] == ["0.250 ± 0.001", "–", "–", "–", "–", "12.50 ± 0.50", "–"]
    short = next(row for row in lines(table, deviations=False) if row[2] == "a|b")
    assert short[3] == "0.250"
    theirs = next(row for row in lines(table) if row[:3] == ["SF2F", "5 s", PAPER])
    assert theirs[3:] == ["0.317", "17.91", "5.75", "9.32", "20.36", "36.65", "19.49 ± 0.59"]
    markdown = to_markdown(table, ["a note"])
    assert "| SF2F | 5 s | paper | 0.317 |" in markdown
    assert "a\\|b" in markdown
    assert markdown.endswith("- a note\n")
    rows = list(csv.DictReader(io.StringIO(to_csv(table))))
    own = next(row for row in rows if row["source"] == "a|b")
    assert (float(own["cosine"]), float(own["cosine deviation"])) == (0.25, 0.001)
    assert own["VFS"] == ""
    chance = next(row for row in rows if row["source"] == "40 people")
    assert float(chance["R@10"]) == 25.0


def test_scores_that_the_paper_has_no_column_for_get_one():
    one = evaluated("a", loaded(**SF2F), 3)
    one.evaluation.results[0].scores["fid"] = Score(31.25, 0.0)
    assert headings(fill(3, [one]))[-1] == "FID"


def test_the_papers_full_model_is_the_same_in_every_table():
    rows = [TABLES[3].rows[-1], TABLES[5].rows[0], TABLES[7].rows[-1]]
    assert {(r.cosine, r.l1, r.recall, r.vfs and r.vfs[0]) for r in rows} == {
        (0.317, 17.91, (5.75, 9.32, 20.36, 36.65), 19.49)
    }
    assert {row.recall for t in (3, 8) for row in TABLES[t].rows[:1]} == {(1.0, 2.0, 5.0, 10.0)}
    assert TABLE_2["VGGFace Score"][64] == (48.720, 1.688)


def test_rows_that_the_paper_repeats_are_printed_as_published():
    """The contradictions of its tables, which docs/fidelity.md lists."""
    rows = {(n, r.method, r.length): r for n, table in TABLES.items() for r in table.rows}
    short = rows[4, "SF2F (no fuser)", "1 - 1.5 s"]
    single = rows[5, "single-resolution", "128 × 128"]
    assert short.recall == single.recall
    assert short.vfs == (18.53, 0.72)
    assert single.vfs == (18.53, 1.75)
    assert (short.cosine, short.l1) != (single.cosine, single.l1)
    lq, other = rows[7, "LQ. Dataset", ""], rows[8, "SF2F", "5 s"]
    assert (lq.cosine, lq.l1, lq.recall) == (other.cosine, other.l1, other.recall)
    worse = rows[8, "SF2F (no fuser)", "1.25 s"].recall[-1]
    assert worse < rows[8, "voice2face", "1.25 s"].recall[-1]


def test_labels_tell_checkpoints_apart(tmp_path):
    runs = [tmp_path / name / "checkpoints" / "last.pt" for name in ("a", "b")]
    assert labels_of(runs) == ["a/last", "b/last"]
    assert labels_of([tmp_path / "x.pt"]) == ["x"]
    same = [tmp_path / "p" / "x.pt", tmp_path / "q" / "x.pt"]
    assert labels_of(same) == [str(path) for path in same]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    spec = GeneratorSpec(fuser="attention", **SMALL)
    path = tmp_path / "model.pt"
    state = {"kind": "hqvox.generator", "spec": spec.as_dict()}
    save(path, state | {"generator": build_generator(spec).state_dict()})
    assert load_generator(path).spec == spec
    return path


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_evaluate_prints_the_table_and_writes_it(checkpoint, tiny: Release, tmp_path, monkeypatch):
    monkeypatch.setenv("HQVOX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HQVOX_OFFLINE", "1")
    said = run(
        "evaluate", checkpoint, "--data", tiny.url, "--runs", 1, "--crops", 2, "--crop-once",
        "--embedding", "dlib_resnet", "--out", tmp_path / "out", "--device", "cpu",
    )  # fmt: skip
    assert "the same crops in every run" in said
    assert "galleries are of 3 people" in said
    assert "by dlib_resnet, the paper's by FaceNet" in said
    assert "hqvox models pull vggface2_resnet50" in said
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["gallery-3.jpg", "table-3.csv", "table-3.md"]
    rows = list(csv.DictReader((tmp_path / "out" / "table-3.csv").open(encoding="utf-8")))
    ours = [row for row in rows if row["source"] == "model"]
    assert [row["length"] for row in ours] == ["1.25 s", "5 s", "5 s"]
    assert all(0 <= float(row["R@1"]) <= 100 and float(row["R@5"]) == 100 for row in ours)


def test_evaluate_without_facenet_says_so_and_goes_on(checkpoint, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("HQVOX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HQVOX_OFFLINE", "1")
    said = run(
        "evaluate", checkpoint, "--data", tiny.url, "--runs", 1, "--crops", 1, "--seconds", 4, 7
    )
    assert "4 - 7 s" in said
    assert "hqvox models pull facenet_vggface2" in said
    assert "--embedding dlib_resnet" in said
