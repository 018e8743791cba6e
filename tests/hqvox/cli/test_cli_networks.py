"""`hqvox models describe` and `hqvox import sf2f-checkpoint` as a user types them."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from hqvox.cli.app import main
from hqvox.cli.common import console
from hqvox.phantom.identity import VoiceIdentity
from hqvox.phantom.voices import RATE_HZ, speak
from hqvox.trainer.checkpoint import load_generator
from hqvox.trainer.recipes import recipe_names
from tests.helpers import sf2f_published as published
from tests.helpers import voice2face_published


@pytest.fixture
def hq(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run a command line; return exit code, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["hqvox", *map(str, arguments)])
        monkeypatch.setattr(console, "_width", 200)
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run


def one_line(result: tuple[int, str, str]) -> str:
    code, _, err = result
    assert code == 1, result
    assert err.count("\n") == 1, err
    return err


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """A checkpoint of the released code's fuser recipe."""
    make = published.Maker(0)
    published.inception_encoder(make)
    published.fuser(make)
    published.gated_decoder(make, 64)
    torch.save(published.checkpoint(make.state, **published.FUSED), tmp_path / "best_L1.pt")
    return tmp_path / "best_L1.pt"


@pytest.mark.parametrize("recipe", recipe_names(tiny=True))
def test_every_recipe_is_described(hq, recipe: str) -> None:
    code, out, err = hq("models", "describe", recipe)
    assert (code, err) == (0, "")
    totals = [int(n.replace(",", "")) for n in re.findall(r"^total +([\d,]+)", out, re.MULTILINE)]
    assert len(totals) == len(re.findall(r"^part ", out, re.MULTILINE)) >= 1
    assert min(totals) > 10_000


def test_the_paper_is_described_with_its_numbers(hq) -> None:
    _, out, _ = hq("models", "describe", "sf2f-64", "--identities", "100")
    assert "1 × 125 frames (1.25 s)" in out
    assert re.search(r"encoder.layers.3 +864 × 8 +2,116,800 +34.34\n", out)
    assert re.search(r"total +17,198,659 +907.43\n", out)
    assert "classifier, 64 × 64 px; 100 identities" in out
    assert re.search(r"^out +100 +102,500", out, re.MULTILINE)


def test_options_of_describe(hq) -> None:
    _, out, _ = hq("models", "describe", "sf2f-64", "--frames", "300", "--windows", "4")
    assert "4 × 300 frames (3 s)" in out
    assert "256 × 150" in out
    _, out, _ = hq("models", "describe", "sf2f-64", "--set", "model.width=0.5")
    assert "128 × 63" in out
    assert "only with a fuser" in one_line(
        hq("models", "describe", "voice2face-64", "--windows", "2")
    )
    assert "no recipe 'sf2f'" in one_line(hq("models", "describe", "sf2f"))


def test_a_released_checkpoint_becomes_one_of_ours(hq, released: Path, tmp_path: Path) -> None:
    code, out, err = hq("import", "sf2f-checkpoint", released)
    assert (code, err) == (0, "")
    assert "120,000 iterations" in out
    assert "encoder: inception_released, 4,848,192 parameters" in out
    assert "fuser: attention_released, 786,432 parameters" in out
    assert "decoder: upsampling_released, 11,566,083 parameters" in out
    assert "pictures: 64 × 64" in out
    assert "nothing written" in out

    code, out, _ = hq("import", "sf2f-checkpoint", released, "--out", tmp_path / "sf2f.pt")
    assert code == 0
    loaded = load_generator(tmp_path / "sf2f.pt")
    assert loaded.spec.fuser == "attention_released"
    assert loaded.meta["step"] == 120_000
    state = torch.load(released, weights_only=True)["model_state"]
    log_mels = torch.randn(2, 40, 125)
    exact = {name: tensor.double() for name, tensor in state.items()}
    expected = published.decode(exact, published.embed(exact, log_mels.double()))[0]
    with torch.inference_mode():
        found = loaded.generator(log_mels)[0].double()
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-4)


def test_voice2face_as_released_becomes_one_of_ours(hq, tmp_path: Path) -> None:
    """From audio to face through our commands, against the restated one."""
    face, voice = voice2face_published.generator(), voice2face_published.voice_embedding()
    torch.save(face, tmp_path / "generator.pth")
    torch.save(voice, tmp_path / "voice_embedding.pth")
    given = (tmp_path / "generator.pth", "--voice", tmp_path / "voice_embedding.pth")
    out = tmp_path / "voice2face.pt"
    code, said, err = hq("import", "voice2face-checkpoint", *given, "--out", out)
    assert (code, err) == (0, "")
    assert "decoder: cmu, 12,191,875 parameters" in said
    assert "encoder: cmu, 2,670,720 parameters" in said
    taken = hq("import", "voice2face-checkpoint", *given, "--out", out)
    assert "is there already" in one_line(taken)
    mixed = hq("import", "voice2face-checkpoint", given[2], "--voice", given[0])
    assert "is not voice2face's generator.pth" in one_line(mixed)

    rng = np.random.default_rng(4)
    samples = speak(VoiceIdentity.sample(rng), 4.0, rng).samples
    soundfile.write(tmp_path / "voice.wav", samples, RATE_HZ)
    code, said, _ = hq("generate", out, tmp_path / "voice.wav", "-o", tmp_path / "face.png")
    assert code == 0
    assert "hearing the recording whole" in said
    embedding = voice2face_published.embed(voice, voice2face_published.hear(samples))
    wanted = (voice2face_published.decode(face, embedding).clamp(-1, 1)[0] + 1) * 127.5
    picture = np.asarray(Image.open(tmp_path / "face.png"), np.float64)
    assert np.abs(picture - wanted.permute(1, 2, 0).numpy()).max() < 1.0


def test_mistakes_of_an_import_are_one_line(hq, released: Path, tmp_path: Path) -> None:
    assert "No such file" in one_line(hq("import", "sf2f-checkpoint", tmp_path / "none.pt"))
    again = hq("import", "sf2f-checkpoint", released, "--out", released)
    assert "is there already" in one_line(again)
    assert torch.load(released, weights_only=True)["counters"]["t"] == 120_000
    torch.save([1, 2], tmp_path / "list.pt")
    assert "holds something else" in one_line(hq("import", "sf2f-checkpoint", tmp_path / "list.pt"))
