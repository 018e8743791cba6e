"""Voices of a phantom world: VoxCeleb's layout, reproducible, faults where the truth says."""

from __future__ import annotations

import csv
import io
import wave
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from hqvox.phantom.identity import VoiceIdentity
from hqvox.phantom.recordings import (
    COLUMNS,
    FAULTS,
    m4a_bytes,
    make_voices,
    wav_bytes,
    world_voices,
)
from hqvox.phantom.voices import RATE_HZ, speak
from hqvox.phantom.world import NAMES, cast
from hqvox.workspace.identities import match_folders, read_csv

PEOPLE = 6


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("voices")
    make_voices(folder, 11, PEOPLE, videos=2, utterances_per_video=2, seconds=(1.5, 2.5))
    return folder


@pytest.fixture(scope="module")
def truth(voices: Path) -> list[dict[str, str]]:
    with (voices / "truth.csv").open(encoding="utf-8", newline="") as table:
        return list(csv.DictReader(table))


def decoded(file: Path) -> tuple[np.ndarray, int]:
    """Samples (n, channels), full scale 1, and their rate."""
    if file.suffix == ".wav":
        return soundfile.read(file, always_2d=True)
    with av.open(str(file)) as container:
        frames = [f.to_ndarray() for f in container.decode(audio=0)]
        return np.concatenate(frames, axis=1).T, container.streams.audio[0].rate


def of_kind(truth: list[dict[str, str]], kind: str) -> dict[str, str]:
    return next(row for row in truth if row["kind"] == kind)


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    for name in ("a", "b"):
        make_voices(
            tmp_path / name, 5, 3, 1, 2, (0.6, 0.9), on_progress=lambda *done: seen.append(done)
        )
    files = {
        name: {
            p.relative_to(tmp_path / name): p.read_bytes()
            for p in (tmp_path / name).rglob("*")
            if p.is_file()
        }
        for name in ("a", "b")
    }
    assert files["a"] == files["b"]
    assert {p.suffix for p in files["a"]} == {".csv", ".wav", ".m4a"}
    assert seen[-1] == (8, 8)


def test_files_lie_as_voxceleb_s_and_are_all_in_the_table(
    voices: Path, truth: list[dict[str, str]]
) -> None:
    files = {p.relative_to(voices).as_posix() for p in voices.glob("*/*/*/*.*")}
    assert {row["file"] for row in truth} == files
    assert tuple(truth[0]) == COLUMNS
    for row in truth:
        kind, identity, video, name = row["file"].split("/")
        assert kind == ("aac" if int(identity[2:]) < 10000 else "wav")
        assert (identity, video) == (row["identity_id"], row["video"])
        assert len(video) == 11
        assert name == f"{row['utterance']}{'.m4a' if kind == 'aac' else '.wav'}"


def test_the_list_of_identities_names_the_world_s_people(
    voices: Path, truth: list[dict[str, str]], tmp_path: Path
) -> None:
    rows = read_csv(voices / "identities.csv")
    assert [row["name"] for row in rows] == list(NAMES[:PEOPLE])
    assert {row["subset"] for row in rows} == {"vox1", "vox2"}
    for name in NAMES[:PEOPLE]:
        (tmp_path / name).mkdir()
    assert match_folders(rows, tmp_path) == PEOPLE
    faces = cast(11, PEOPLE)
    assert [r["gender"] for r in rows] == ["m" if f.masculinity > 0.5 else "f" for f in faces]
    # one has a face and no voice, one a voice and no face
    spoken = {row["identity_id"] for row in truth}
    known = {row["identity_id"] for row in rows}
    assert len(known - spoken) == 1
    assert spoken - known == {row["identity_id"] for row in truth if not row["name"]}
    assert len(spoken - known) == 1


def test_whole_files_hold_what_was_said(voices: Path, truth: list[dict[str, str]]) -> None:
    plain = [row for row in truth if not row["reason"]]
    assert len(plain) > 12
    for row in plain:
        samples, rate = decoded(voices / row["file"])
        assert len(samples) / rate == pytest.approx(float(row["seconds"]), abs=0.13)
        assert samples.std() > 0.01
        assert 0.5 < float(row["speech_seconds"]) < float(row["seconds"])
        assert row["sounds"]
        assert float(row["pitch_hz"]) > 60


def test_faults_are_what_their_rows_say(voices: Path, truth: list[dict[str, str]]) -> None:
    assert {row["kind"] for row in truth} == {"plain", *FAULTS}
    forms = {}
    for kind in ("stereo", "low_rate", "high_rate", "silent"):
        info = soundfile.info(voices / of_kind(truth, kind)["file"])
        forms[kind] = (info.samplerate, info.channels, info.subtype)
    assert forms == {
        "stereo": (16000, 2, "PCM_16"),
        "low_rate": (8000, 1, "PCM_16"),
        "high_rate": (48000, 1, "PCM_24"),
        "silent": (16000, 1, "PCM_16"),
    }
    silent, _ = decoded(voices / of_kind(truth, "silent")["file"])
    assert not silent.any()
    assert (voices / of_kind(truth, "empty")["file"]).read_bytes() == b""
    for kind in ("truncated", "not_audio"):
        row = of_kind(truth, kind)
        assert row["reason"] == kind
        with pytest.raises((av.FFmpegError, soundfile.LibsndfileError)):
            decoded(voices / row["file"])


def test_each_utterance_is_its_identity_s(voices: Path, truth: list[dict[str, str]]) -> None:
    with (voices / "voices.csv").open(encoding="utf-8", newline="") as table:
        traits = {row["identity_id"]: row for row in csv.DictReader(table)}
    for row in truth:
        if row["pitch_hz"]:
            pitch = float(traits[row["identity_id"]]["pitch_hz"])
            assert float(row["pitch_hz"]) == pytest.approx(pitch, rel=0.06)


def test_without_faults_everybody_speaks_plainly(tmp_path: Path) -> None:
    table = make_voices(tmp_path, 2, 6, 1, 1, (0.6, 0.8), faults=False)
    with table.open(encoding="utf-8", newline="") as rows:
        truth = list(csv.DictReader(rows))
    assert {row["kind"] for row in truth} == {"plain"}
    assert len({row["name"] for row in truth}) == 6


def test_folders_can_have_names(voices: Path, tmp_path: Path) -> None:
    make_voices(tmp_path, 11, PEOPLE, 2, 2, (1.5, 2.5), by_name=True)
    assert [r["identity_id"] for r in read_csv(tmp_path / "identities.csv")] == list(NAMES[:PEOPLE])
    for kind, number, name in (("wav", "id10001", NAMES[0]), ("aac", "id00003", NAMES[2])):
        by_id, named = (
            [f.read_bytes() for f in sorted((folder / kind / who).rglob("*.*"))]
            for folder, who in ((voices, number), (tmp_path, name))
        )
        assert by_id == named


def test_voices_follow_faces_as_far_as_asked() -> None:
    faces = cast(0, 40)
    masculinity = [face.masculinity for face in faces]
    for shared, low, high in ((1.0, -1.0, -0.8), (0.0, -0.35, 0.35)):
        pitch = np.log([v.pitch_hz for v in world_voices(faces, 0, shared)])
        assert low < np.corrcoef(pitch, masculinity)[0, 1] < high


def test_wav_and_m4a_keep_the_samples() -> None:
    rng = np.random.default_rng(0)
    samples = speak(VoiceIdentity.sample(rng), 1.0, rng).samples
    with wave.open(io.BytesIO(wav_bytes(samples, RATE_HZ))) as file:
        assert file.getparams()[:4] == (1, 2, RATE_HZ, len(samples))
        assert file.readframes(len(samples)) == samples.tobytes()
    fine, rate = soundfile.read(io.BytesIO(wav_bytes(samples + 0.5, RATE_HZ, width=3)))
    np.testing.assert_allclose(fine * 32768, samples + 0.5, atol=0.01)
    assert rate == RATE_HZ
    coded = m4a_bytes(samples)
    assert len(coded) < 0.6 * samples.nbytes
    with av.open(io.BytesIO(coded)) as container:
        back = np.concatenate([f.to_ndarray() for f in container.decode(audio=0)], axis=1)[0]
    lags = [np.corrcoef(back[k : k + 12000], samples[:12000])[0, 1] for k in range(0, 2100, 4)]
    assert np.abs(lags).max() > 0.8
