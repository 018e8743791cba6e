"""Faces of audio files: any length, no speech, folders, and what is said of the fusing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from hqvox.cli.app import app
from hqvox.errors import HqvoxError
from hqvox.phantom.identity import VoiceIdentity
from hqvox.phantom.voices import RATE_HZ, speak
from hqvox.speech.log_mel import log_mel
from hqvox.speech.vad import speech
from hqvox.trainer.checkpoint import load_generator, save
from hqvox.trainer.generate import generate_face, normaliser_of, save_picture, speech_of, to_photo
from hqvox.trainer.speech_input import Normaliser
from models.enhancement.gfpgan import load_enhancer
from models.sf2f.colour import from_unit
from models.sf2f.generator import build_generator
from models.sf2f.spec import GeneratorSpec
from tests.helpers.tiny_gfpgan import save_tiny_gfpgan


@pytest.fixture(scope="module")
def voice() -> np.ndarray:
    """4 s of a phantom's speech, int16 at 16 kHz."""
    rng = np.random.default_rng(4)
    return speak(VoiceIdentity.sample(rng), 4.0, rng).samples


@pytest.fixture(scope="module")
def folder(tmp_path_factory, voice) -> Path:
    """Two checkpoints, with and without a fuser; a voice, a short one, and files without any."""
    root = tmp_path_factory.mktemp("generate")
    torch.manual_seed(2)
    for name, fuser in (("fused", "attention"), ("plain", None)):
        spec = GeneratorSpec(width=0.0625, embedding_dim=16, fuser=fuser)
        state = {"kind": "hqvox.generator", "spec": spec.as_dict()}
        save(root / f"{name}.pt", state | {"generator": build_generator(spec).state_dict()})
    soundfile.write(root / "voice.wav", voice, RATE_HZ)
    soundfile.write(root / "short.flac", voice[8000 : 8000 + 9600], RATE_HZ)
    soundfile.write(root / "silence.wav", np.zeros(32000, np.int16), RATE_HZ)
    soundfile.write(root / "blip.wav", voice[8000:9600], RATE_HZ)
    (root / "words.wav").write_text("no audio at all")
    return root


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_speech_is_made_a_log_mel_as_in_a_data_set(folder, voice):
    found, seconds = speech_of(folder / "voice.wav", 40)
    spoken = speech(voice)
    np.testing.assert_array_equal(found, log_mel(spoken))
    assert seconds == pytest.approx(len(spoken) / 16000)


def test_the_face_is_the_decoded_fusion_of_all_windows(folder):
    for name in ("fused", "plain"):
        loaded = load_generator(folder / f"{name}.pt")
        heard: list[tuple[int, ...]] = []
        listen = loaded.generator.encoder.register_forward_pre_hook(
            lambda _, inputs, heard=heard: heard.append(tuple(inputs[0].shape))
        )
        made = generate_face(loaded, folder / "voice.wav", windows=True)
        listen.remove()
        windows = Normaliser().windows(speech_of(folder / "voice.wav", 40)[0])
        generator = loaded.generator
        with torch.inference_mode():
            each = generator.embed(windows)
            if generator.fuser is not None:
                fused = generator.fuse(each[None], torch.ones(1, len(each), dtype=torch.bool))
            else:
                fused = torch.nn.functional.normalize(each.mean(dim=0, keepdim=True), dim=1)
            face = to_photo(generator.decode(fused)[-1][0])
        assert np.abs(made.face.astype(int) - face.astype(int)).max() <= 1
        assert made.face.shape == (64, 64, 3)
        assert made.n_windows == len(windows) == len(made.windows) > 2
        # Figure 4's I_d: the encoder hears everything at once.
        speech = speech_of(folder / "voice.wav", 40)[0]
        assert heard[-1] == (1, 40, len(speech))
        with torch.inference_mode():
            once = Normaliser().scaled(torch.from_numpy(speech.T.astype(np.float32)))[None]
            whole = to_photo(generator(once)[-1][0])
        assert np.abs(made.whole.astype(int) - whole.astype(int)).max() <= 1
    assert made.fused_by == "the mean of their embeddings"


def test_a_file_shorter_than_a_window_is_padded(folder):
    made = generate_face(load_generator(folder / "fused.pt"), folder / "short.flac")
    assert 0 < made.seconds < 1.25
    assert made.n_windows == 1
    assert made.windows == []
    assert made.whole is None


@pytest.mark.parametrize(
    ("file", "why"),
    [
        ("silence.wav", "it is silent"),
        ("blip.wav", "nobody speaks in it"),
        ("words.wav", "no audio format that is known"),
        ("missing.wav", "cannot be read"),
    ],
)
def test_a_file_without_speech_gives_one_line(folder, file, why):
    with pytest.raises(HqvoxError, match=why) as raised:
        generate_face(load_generator(folder / "fused.pt"), folder / file)
    assert str(raised.value).startswith(str(folder / file))
    assert "\n" not in str(raised.value)


def test_pictures_are_rgb_and_clamped(tmp_path):
    colour = torch.tensor([1.0, 0.5, 0.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    photo = to_photo(from_unit(colour)[0] * 1.5)
    assert photo[0, 0].tolist()[0] == 255
    assert to_photo(from_unit(colour)[0])[0, 0].tolist() == [255, 128, 0]
    save_picture(to_photo(from_unit(colour)[0]), tmp_path / "a" / "x.png")
    assert Image.open(tmp_path / "a" / "x.png").getpixel((1, 1)) == (255, 128, 0)


def test_a_checkpoint_says_how_it_normalises(folder):
    loaded = load_generator(folder / "fused.pt")
    assert normaliser_of(loaded) == Normaliser()
    loaded.meta["normalise"] = Normaliser("release", 9.0, 2.0).as_dict()
    assert normaliser_of(loaded) == Normaliser("release", 9.0, 2.0)
    for newer in ({"kind": "later"}, {"kind": "sf2f", "scale": 2.0}):
        loaded.meta["normalise"] = newer
        with pytest.raises(HqvoxError, match=r"unknown normalisation.*upgrade"):
            normaliser_of(loaded)


def test_the_command_says_what_fused_the_windows(folder, tmp_path):
    for name, word in (("fused", "by the fuser"), ("plain", "by the mean of their embeddings")):
        out = tmp_path / name / "face.png"
        done = run("generate", folder / f"{name}.pt", folder / "voice.wav", "-o", out)
        assert done.exit_code == 0, done.output
        assert word in done.output
        assert Image.open(out).size == (64, 64)
        assert len(list(out.parent.iterdir())) == 1


def test_windows_give_a_picture_each(folder, tmp_path):
    done = run("generate", folder / "fused.pt", folder / "voice.wav", "-o", tmp_path / "f.jpg",
               "--windows")  # fmt: skip
    assert done.exit_code == 0, done.output
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names[:3] == ["f.jpg", "f.whole.jpg", "f.window-001.jpg"]


def test_a_folder_gives_a_folder_and_names_what_has_no_speech(folder, tmp_path):
    audio = tmp_path / "audio"
    (audio / "deep").mkdir(parents=True)
    for source, place in (("voice.wav", "a.wav"), ("short.flac", "deep/a.flac"),
                          ("silence.wav", "b.wav")):  # fmt: skip
        (audio / place).write_bytes((folder / source).read_bytes())
    done = run("generate", folder / "fused.pt", audio, "-o", tmp_path / "faces")
    assert done.exit_code == 0, done.output
    made = sorted(str(p.relative_to(tmp_path / "faces")) for p in tmp_path.glob("faces/**/*.png"))
    assert made == ["a.wav.png", "deep/a.flac.png"]
    assert "b.wav: it is silent" in done.output
    assert "2 of 3 files" in done.output


def test_bad_names_are_refused_before_anything_is_made(folder, tmp_path):
    for out, why in ((tmp_path / "face.gif", "end it in"), (tmp_path, "is a folder")):
        done = run("generate", folder / "fused.pt", folder / "voice.wav", "-o", out)
        assert isinstance(done.exception, HqvoxError)
        assert why in str(done.exception)
    done = run("generate", folder / "fused.pt", folder / "voice.wav", "-o", tmp_path / "f.png",
               "--device", "cuda:99")  # fmt: skip
    assert "cannot be used" in str(done.exception)


def test_faces_are_enhanced_by_a_file_of_ones_own(folder, tmp_path):
    enhancer = save_tiny_gfpgan(tmp_path / "fine.pt", side_px=128)
    done = run(
        "generate", folder / "fused.pt", folder / "voice.wav", "-o", tmp_path / "face.png",
        "--windows", "--enhancer", enhancer,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    plain = generate_face(load_generator(folder / "fused.pt"), folder / "voice.wav").face
    face = np.array(Image.open(tmp_path / "face.png"))
    assert face.shape == (128, 128, 3)
    unit = torch.from_numpy(plain).permute(2, 0, 1)[None] / 255
    expected = load_enhancer(enhancer)(unit)[0].permute(1, 2, 0).numpy() * 255
    np.testing.assert_allclose(face, expected, atol=4)
    assert Image.open(tmp_path / "face.window-001.png").size == (128, 128)


def test_enhancing_without_the_weights_names_the_command(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HQVOX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HQVOX_MIRROR", raising=False)
    done = run("generate", folder / "fused.pt", folder / "voice.wav", "-o", tmp_path / "f.png",
               "--enhance")  # fmt: skip
    assert done.exit_code == 1
    assert "hqvox models pull gfpgan_v1_4" in str(done.exception)
    assert "\n" not in str(done.exception)
