"""Checkpoints: whole or not at all, and one line for every file that is not one."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hqvox.errors import HqvoxError
from hqvox.trainer import checkpoint
from models.sf2f.generator import Generator, GeneratorSpec, build_generator

SPEC = GeneratorSpec(width=0.05, embedding_dim=16, fuser="attention")


def training_state(generator: Generator, stage: int) -> dict:
    return {
        "kind": checkpoint.TRAINING,
        "spec": generator.spec.as_dict(),
        "generator": generator.state_dict(),
        "stage": stage,
        "step": 3,
        "config": {"seed": 1},
        "recipe": "sf2f-64",
    }


def one_line(error: pytest.ExceptionInfo[HqvoxError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_a_checkpoint_reads_back_and_its_names_share_its_bytes(tmp_path: Path) -> None:
    generator = build_generator(SPEC)
    path = tmp_path / "last.pt"
    checkpoint.save(path, training_state(generator, 2), ["best_l1.pt", "best_cosine.pt"])
    assert sorted(os.listdir(tmp_path)) == ["best_cosine.pt", "best_l1.pt", "last.pt"]
    assert path.stat().st_ino == (tmp_path / "best_l1.pt").stat().st_ino
    loaded = checkpoint.load_generator(path)
    assert loaded.spec == SPEC
    assert not loaded.generator.training
    assert loaded.config == {"seed": 1}
    assert loaded.meta == {"recipe": "sf2f-64", "stage": 2, "step": 3}
    for name, value in generator.state_dict().items():
        assert torch.equal(loaded.generator.state_dict()[name], value)


def test_names_are_copies_where_the_disk_knows_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*names: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    state = training_state(build_generator(SPEC), 2)
    checkpoint.save(tmp_path / "last.pt", state, ["best_l1.pt"])
    assert sorted(os.listdir(tmp_path)) == ["best_l1.pt", "last.pt"]
    assert (tmp_path / "best_l1.pt").read_bytes() == (tmp_path / "last.pt").read_bytes()


def test_an_older_best_checkpoint_survives_the_next_save(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    state = training_state(build_generator(SPEC), 1)
    checkpoint.save(path, state, ["best_l1.pt"])
    checkpoint.save(path, {**state, "step": 4})
    assert checkpoint.read(path)["step"] == 4
    assert checkpoint.read(tmp_path / "best_l1.pt")["step"] == 3


def test_the_fuser_of_stage_1_is_left_out_since_nothing_trained_it(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(path, training_state(build_generator(SPEC), 1))
    loaded = checkpoint.load_generator(path)
    assert loaded.generator.fuser is None
    assert loaded.spec.fuser is None


def test_a_generator_alone_loads_and_is_nothing_to_train_on_with(tmp_path: Path) -> None:
    path = tmp_path / "imported.pt"
    generator = build_generator(SPEC)
    checkpoint.save(path, checkpoint.generator_state(generator, {"source": "elsewhere"}))
    assert checkpoint.load_generator(path).generator.fuser is not None
    with pytest.raises(HqvoxError, match="holds only a generator") as error:
        checkpoint.read(path, [checkpoint.TRAINING])
    one_line(error)


@pytest.mark.parametrize("stop_bytes", [0, 1000, 180_000])
def test_a_full_disk_costs_no_checkpoint(tmp_path: Path, stop_bytes: int) -> None:
    path = tmp_path / "last.pt"
    state = training_state(build_generator(SPEC), 1)
    checkpoint.save(path, state, ["best_l1.pt"])
    assert path.stat().st_size > 180_000
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (stop_bytes, hard))
    try:
        with pytest.raises(HqvoxError, match="File too large") as error:
            checkpoint.save(path, {**state, "step": 9}, ["best_l1.pt"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(path) in one_line(error)
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before


KILLED_WHILE_SAVING = """
import os, signal, sys, torch
from pathlib import Path
from hqvox.trainer import checkpoint

def die(*args): os.kill(os.getpid(), signal.SIGKILL)
def cut_short(state, file): file.write(b"half"); file.flush(); die()
def replace_once(a, b, replace=os.replace): replace(a, b); die()

for folder in map(Path, sys.argv[1:]):
    if os.fork():
        print(os.waitstatus_to_exitcode(os.wait()[1]))
        continue
    if folder.name == "write": torch.save = cut_short
    if folder.name == "link": os.link = die
    if folder.name == "replace": os.replace = replace_once
    state = {"kind": checkpoint.TRAINING, "step": 2}
    checkpoint.save(folder / "last.pt", state, ["best_l1.pt"])
    os._exit(0)
"""


def test_a_kill_during_a_save_costs_no_checkpoint(tmp_path: Path) -> None:
    folders = [tmp_path / at for at in ("write", "link", "replace")]
    for folder in folders:
        state = {"kind": checkpoint.TRAINING, "step": 1}
        checkpoint.save(folder / "last.pt", state, ["best_l1.pt"])
    code = [sys.executable, "-c", KILLED_WHILE_SAVING, *map(str, folders)]
    done = subprocess.run(code, timeout=600, check=True, capture_output=True, text=True)
    assert done.stdout.split() == [str(-signal.SIGKILL)] * 3
    for folder in folders:
        last, best = folder / "last.pt", folder / "best_l1.pt"
        assert checkpoint.read(last)["step"] == 1
        # The best gets its name before the last does: never is a best lost that the last knows of.
        assert checkpoint.read(best)["step"] == (2 if folder.name == "replace" else 1)
        checkpoint.save(last, {"kind": checkpoint.TRAINING, "step": 3}, ["best_l1.pt"])
        assert checkpoint.read(last)["step"] == checkpoint.read(best)["step"] == 3


class _Runs:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (os.mkdir, (str(self.path),))


@pytest.mark.filterwarnings("error")  # a warning would be a second line
def test_a_checkpoint_that_holds_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    for name, write in (("torch.pt", torch.save), ("plain.pt", _dump)):
        path = tmp_path / name
        write({"kind": checkpoint.TRAINING, "evil": _Runs(tmp_path / "ran")}, path)
        with pytest.raises(HqvoxError, match="holds a pickle") as error:
            checkpoint.read(path)
        assert str(path) in one_line(error)
        assert not (tmp_path / "ran").exists()


def _dump(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


def test_files_that_are_no_checkpoints_are_named_in_one_line(tmp_path: Path) -> None:
    good = tmp_path / "good.pt"
    checkpoint.save(good, training_state(build_generator(SPEC), 1))
    data = good.read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.pt").write_text("hello, this is no checkpoint")
    (tmp_path / "empty.pt").write_bytes(b"")
    torch.save({"model_state": {"a": torch.zeros(1)}}, tmp_path / "foreign.pt")
    torch.save({"kind": checkpoint.TRAINING, "format": 99}, tmp_path / "newer.pt")
    torch.save({"kind": checkpoint.TRAINING, "format": 1, "stage": 1}, tmp_path / "hollow.pt")
    torch.save({"kind": "hqvox.later", "format": 1}, tmp_path / "later.pt")
    whole = training_state(build_generator(SPEC), 1) | {"format": 1}
    torch.save(whole | {"generator": [1]}, tmp_path / "list.pt")
    torch.save(whole | {"config": 5}, tmp_path / "config.pt")
    (tmp_path / "stub.pt").write_bytes(data[:5000])
    expected = {
        "missing.pt": "no such file",
        "cut.pt": "damaged, or cut short",
        "text.pt": "not a checkpoint",
        "empty.pt": "not a checkpoint",
        "foreign.pt": "hqvox import sf2f-checkpoint",
        "newer.pt": "checkpoint format 99 .* pip install --upgrade hqvox",
        "hollow.pt": "do not fit",
        "later.pt": "kind 'hqvox.later', which this hqvox does not know",
        "list.pt": r"damaged \(generator: ",
        "config.pt": r"damaged \(config: ",
        "stub.pt": "damaged, or cut short",
        ".": "cannot be read: .*; name a checkpoint",
    }
    for name, message in expected.items():
        with pytest.raises(HqvoxError, match=message) as error:
            checkpoint.load_generator(tmp_path / name)
        one_line(error)
