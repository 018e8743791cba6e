"""Listing runs: their state, how far they are, their best figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hqvox.errors import HqvoxError
from hqvox.trainer.log import read_log
from hqvox.trainer.runs import better, find_runs, hold, read_run, write_info


def make_run(folder: Path, lines: list[dict[str, Any]], **sitting: object) -> Path:
    folder.mkdir(parents=True)
    (folder / ".lock").touch()
    info = {"recipe": "sf2f-64", "release": {"name": "v1"}, "steps": 9, "sessions": [sitting]}
    write_info(folder, info)
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def trained(step: int, rate: float = 2.0) -> dict[str, Any]:
    speed = {"steps_per_second": rate}
    return {"kind": "train", "stage": 1, "step": step, "terms": {}, "speed": speed}


def evaluated(step: int, stage: int = 1, **figures: float) -> dict[str, Any]:
    return {"kind": "evaluate", "stage": stage, "step": step, "figures": figures}


def test_the_best_of_every_figure_in_the_last_stage(tmp_path: Path) -> None:
    lines = [evaluated(1, cosine=0.2, l1=9.0), evaluated(2, cosine=0.5, l1=11.0)]
    assert read_run(make_run(tmp_path / "a", lines)).best == {"cosine": 0.5, "l1": 9.0}
    lines.append(evaluated(3, stage=2, cosine=0.4, l1=10.0, recall_2=3.0))
    assert read_run(make_run(tmp_path / "b", lines)).best == {"cosine": 0.4, "l1": 10.0}


def test_what_is_better() -> None:
    assert better("cosine", 0.5, 0.4)
    assert better("l1", 9.0, 10.0)
    assert better("l1", 9.0, None)
    for name in ("cosine", "l1"):  # the first of two alike stays
        assert not better(name, 9.0, 9.0)
        assert not better(name, float("nan"), None)
        assert not better(name, float("nan"), 9.0)


def test_states(tmp_path: Path) -> None:
    make_run(tmp_path / "a", [trained(4, 1.0), trained(5, 3.0)], state="stopped")
    make_run(tmp_path / "deeper/b", [trained(3)])
    with hold(make_run(tmp_path / "deeper/c", [])):
        found = find_runs([tmp_path])
        assert [run.state for run in found] == ["stopped", "killed", "running"]
    assert [run.step for run in found] == [5, 3, 0]
    assert [run.steps_per_second for run in found] == [2.0, 2.0, None]


def test_steps_count_also_where_no_line_was_written_of_them(tmp_path: Path) -> None:
    assert read_run(make_run(tmp_path / "a", [trained(4)], state="stopped", to_step=7)).step == 7
    assert read_run(make_run(tmp_path / "b", [], from_step=3)).step == 3
    assert read_run(make_run(tmp_path / "c", [trained(5)], from_step=3)).step == 5


def test_a_line_cut_short_is_left_out_and_a_strange_one_named(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", [trained(1)])
    with (folder / "log.jsonl").open("a") as file:
        file.write('{"kind": "tra')
    assert [line["step"] for line in read_log(folder)] == [1]
    (folder / "log.jsonl").write_text("[1]\n")
    with pytest.raises(HqvoxError, match=r"log\.jsonl:1: not a line of a training log"):
        read_run(folder)
    for text in ("{", "[]", '{"sessions": 5}', '{"sessions": [1]}'):
        (folder / "run.json").write_text(text)
        with pytest.raises(HqvoxError, match=r"run\.json: damaged"):
            read_run(folder)
