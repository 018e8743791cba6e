"""The demo: a world of phantoms from nothing to a report, going on where it stopped."""

from __future__ import annotations

import json
import socket
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
from rich.console import Console

import hqvox.demo.run
import hqvox.demo.training
from hqvox.demo.run import run_demo
from hqvox.errors import HqvoxError
from hqvox.phantom.world import COLUMNS
from hqvox.release.read import release_names
from hqvox.report.truth import compare_with_truth
from models.geometry import eye_centres
from tests.helpers.owned import assert_owned
from tests.helpers.synthetic_build import face_landmarks, make_build


def demo(folder: Path, **options: int) -> hqvox.demo.run.Demo:
    sizes = {"identities": 2, "photos": 10, "workers": 0} | options
    return run_demo(folder, Console(quiet=True), **sizes)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.mark.slow(seconds=40)
def test_demo_from_nothing_to_report_and_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "demo"
    monkeypatch.setattr(hqvox.demo.training, "STEPS", (3, 2))

    def stop(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    ports = []
    for step in ("make_world", "run_build", "write_release", "train_demo", "render_report"):
        with monkeypatch.context() as patch, ExitStack() as stack:
            patch.setattr(hqvox.demo.run, step, stop)
            if step == "write_release":  # somebody else has taken the port meanwhile
                stack.enter_context(socket.create_server(("127.0.0.1", ports[-1])))
            with pytest.raises(KeyboardInterrupt):
                demo(folder)
        ports.append(json.loads((folder / "demo.json").read_text()).get("port"))
    assert ports[0] is None
    assert ports[1] != ports[2] == ports[3] == ports[4]
    # From here on everything is there: nothing is served any more.
    monkeypatch.setattr(hqvox.demo.run, "Website", stop)
    # Every step before the last was done, and the sizes of the first run hold.
    made = demo(folder, identities=99)
    assert made.written is None
    assert json.loads((folder / "demo.json").read_text())["identities"] == 2
    assert "Against the truth" in made.report.read_text()
    assert sum(row.count for row in made.truth) >= 20
    good = next(row for row in made.truth if row.defect == "good")
    assert good.kept > 0
    told = {row.defect: (row.count, row.kept, row.named) for row in made.truth}
    assert told["http_client_error"] == (1, 0, 1)  # the first decoy; the second is no image
    assert 'id="crawl"' in made.report.read_text()
    assert made.generated is not None
    assert 2 == made.generated.trained_on == len(made.generated.people)
    assert made.report.read_text().count("generated from 5 s, fused") == 2

    assert_owned(made.workspace)

    before = bytes_of(folder)
    monkeypatch.setattr(hqvox.demo.training, "STEPS", (4, 3))  # a run keeps those it began with
    assert bytes_of((again := demo(folder)).report.parent) == before
    assert release_names(again.workspace) == ["demo"]

    folder.rename(tmp_path / "moved")
    moved = demo(tmp_path / "moved")
    assert release_names(moved.workspace) == ["demo"]
    assert bytes_of(moved.report.parent / "workspace" / "stages") == {
        name.removeprefix("workspace/stages/"): data
        for name, data in before.items()
        if name.startswith("workspace/stages/")
    }


def test_demo_refuses_a_folder_that_holds_something_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("not a demo")
    with pytest.raises(HqvoxError, match="not empty, and not a demo; name a new folder"):
        demo(tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["thesis.txt"]


def test_demo_on_a_file_is_one_clear_line(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(HqvoxError, match="a file stands where a folder is needed"):
        demo(file)


def write_truth(path: Path) -> None:
    """What the hand-made build's first identity was, with one lie: photo 0 was turned away."""
    (x, y), (x2, y2) = eye_centres(face_landmarks(120, 130, 40)).tolist()
    (x3, y3), (x4, y4) = eye_centres(face_landmarks(200, 60, 34)).tolist()
    one, two = f"{x},{y},{x2},{y2},40", f"{x3},{y3},{x4},{y4},34"
    name = "photos/Ada Lovelace"
    lines = [
        f"{name}/0.jpg,Ada,turned,0,Ada,turned_away,,240,300,{one},20,0,0,neutral,0",
        f"{name}/1.jpg,Ada,broken,,,not_an_image,,,,,,,,,,,,,",
        f"{name}/2.jpg,Ada,good,0,Ada,,,240,300,{one},0,0,0,neutral,0",
        f"{name}/3.jpg,Ada,good,0,Ada,,,240,300,{one},0,0,0,neutral,0",
        f"{name}/4.jpg,Ada,two_people,0,Ada,,,240,300,{one},0,0,0,neutral,0",
        f"{name}/4.jpg,Ada,two_people,1,Eve,someone_else,,240,300,{two},0,0,0,neutral,0",
        f"{name}/7.jpg,Ada,nodding,0,Ada,turned_away,,240,300,{one},0,20,0,neutral,0",
        f"{name}/12.jpg,Ada,copy,,,duplicate,{name}/2.jpg,,,,,,,,,,,,",
    ]
    path.write_text("\n".join([",".join(COLUMNS), *lines, ""]), "utf-8")


def test_build_is_compared_with_the_truth_face_by_face(tmp_path: Path) -> None:
    workspace = make_build(tmp_path / "w", tmp_path / "photos")
    write_truth(tmp_path / "truth.csv")
    rows = {row.defect: row for row in compare_with_truth(workspace, tmp_path / "truth.csv")}
    assert list(rows) == ["good", "duplicate", "not_an_image", "someone_else", "turned_away"]
    # Photo 2 was refused as the duplicate, its copy kept: that is as good as the other way round.
    assert (rows["duplicate"].count, rows["duplicate"].named) == (1, 1)
    assert (rows["good"].count, rows["good"].kept) == (3, 2)
    assert rows["good"].otherwise == Counter({"no_face": 1})
    assert (rows["someone_else"].named, rows["not_an_image"].named) == (1, 1)
    # Tilted is the same defect; the photo that the build kept was not found out.
    assert (rows["turned_away"].named, rows["turned_away"].kept) == (1, 1)
