"""docs/python.md: its examples run, one after the other, on a small release."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from hqvox.phantom.identity import VoiceIdentity
from hqvox.phantom.voices import RATE_HZ, speak
from hqvox.release.write import write_release
from hqvox.trainer.checkpoint import save
from models.sf2f.generator import build_generator
from models.sf2f.spec import GeneratorSpec
from tests.helpers.synthetic_build import make_build, pack_voices

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
PEOPLE = ("Ada Lovelace", "Bedřich Ω", "Emmy Noether", "Zoë O'Neil")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``work`` with a release ``v1``, a run and a recording, under the names that the page uses."""
    monkeypatch.setenv("HQVOX_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    build = make_build(tmp_path / "work", tmp_path / "photos", PEOPLE)
    pack_voices(build, {"id0": 3, "id1": 2})
    (tmp_path / "split.csv").write_text("identity,part\nid0,train\nid1,train\n")
    split = str(tmp_path / "split.csv")
    write_release(build, "v1", build.config(), auto=True, split=split, workers=1)
    torch.manual_seed(2)
    spec = GeneratorSpec(width=0.0625, embedding_dim=16)
    state = {"kind": "hqvox.generator", "spec": spec.as_dict()}
    (tmp_path / "runs/sf2f/checkpoints").mkdir(parents=True)
    state |= {"generator": build_generator(spec).state_dict()}
    save(tmp_path / "runs/sf2f/checkpoints/last.pt", state)
    rng = np.random.default_rng(4)
    voice = speak(VoiceIdentity.sample(rng), 3.0, rng).samples
    soundfile.write(tmp_path / "speech.wav", voice, RATE_HZ)
    return tmp_path


def test_the_examples_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 7
    names: dict = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{PAGE.name}, example {number + 1}", "exec"), names)
    assert (folder / "why.jpg").stat().st_size > 1000
    assert names["on_white"].shape == names["with_background"].shape
    assert names["face"].shape[1:] == (3, 64, 64)
    assert names["made"].face.shape == (64, 64, 3)
    assert names["log_mel"].shape[1] == 40
    assert "turned_away" in capsys.readouterr().out
