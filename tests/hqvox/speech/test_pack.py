"""Packing: every file a row, only what changed redone, the same bytes however it is run."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from hqvox.cli.app import app
from hqvox.config.build import SpeechConfig
from hqvox.errors import HqvoxError
from hqvox.runner.jobs import Failed
from hqvox.speech import voice2face, worker
from hqvox.speech.build import plan_speech, run_speech, sources, summarise
from hqvox.speech.decode import AudioError
from hqvox.speech.log_mel import log_mel
from hqvox.speech.pack import SpeechPack
from hqvox.speech.statistics import MeanVariance
from hqvox.speech.utterance import REASONS, process, read_file
from hqvox.speech.vad import VOICE2FACE, speech
from hqvox.speech.worker import SpeechProgress
from hqvox.workspace import identities
from hqvox.workspace.layout import Workspace
from hqvox.workspace.takedowns import Takedown, Takedowns
from tests.helpers.sounds import RATE, av_file, babble, put, sine, sound_file, video_without_sound

CONFIG = SpeechConfig()


def make_workspace(folder: Path, people: int = 3) -> Workspace:
    csv = "id,name\n" + "".join(f"p{n},Person_{n}\n" for n in range(people))
    rows = identities.read_csv(put(folder, "people.csv", csv.encode()))
    return Workspace.create(folder / "work", "format: 1\n", identities.to_table(rows))


def pack(workspace: Workspace, *audio: Path, workers: int = 0, **options) -> list[str]:
    """Pack; return the shards that were packed anew."""
    config = workspace.config(options.pop("settings", ()))
    places = sources(workspace, audio, (), options.pop("drop", False))
    plan = plan_speech(workspace, config.speech, places, **options)
    result = run_speech(workspace, config, plan, places, workers=workers)
    assert not result.failed
    return [job.shard for job in plan.jobs]


def voice(seed: int, seconds: float = 2.5) -> bytes:
    return sound_file(babble(seconds, seed))


def files_of(workspace: Workspace) -> dict[str, bytes]:
    folder = Path(workspace.storage.path("speech"))
    return {f.name: f.read_bytes() for f in sorted(folder.iterdir()) if f.is_file()}


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    root = tmp_path / "audio"
    for person in range(3):
        for clip in range(2):
            put(root, f"p{person}/video/{clip}.wav", voice(10 * person + clip))
    return root


def test_packed_log_mels_are_those_of_the_speech(tmp_path: Path, audio: Path) -> None:
    workspace = make_workspace(tmp_path)
    assert pack(workspace, audio) == ["00000", "00001", "00002"]
    opened = SpeechPack(str(tmp_path / "work"))
    rows = opened.index().to_pylist()
    assert [(r["identity_id"], r["video"], r["utterance"]) for r in rows] == [
        (f"p{person}", "video", str(clip)) for person in range(3) for clip in range(2)
    ]
    every = []
    for row in rows:
        data = (audio / row["path"]).read_bytes()
        samples = np.frombuffer(data[44:], np.int16)
        spoken = speech(samples)
        expected = log_mel(spoken)
        found = opened.read(row)
        assert found.dtype == np.float16
        assert np.array_equal(found, expected.astype(np.float16))
        assert row["frames"] == len(found)
        assert row["seconds"] == pytest.approx(len(spoken) / RATE)
        assert row["source_seconds"] == pytest.approx(2.5)
        every.append(found.astype(np.float64))
    whole = np.concatenate(every)
    statistics = opened.mean_variance()
    assert statistics.frames == len(whole)
    assert np.allclose(statistics.mean, whole.mean(axis=0), rtol=1e-12)
    assert np.allclose(statistics.variance, whole.var(axis=0), rtol=1e-10)
    assert statistics.overall_mean == pytest.approx(whole.mean(), rel=1e-12)
    assert statistics.overall_std == pytest.approx(whole.std(), rel=1e-10)
    one = opened.mean_variance(["00001"])
    assert one.frames == len(every[2]) + len(every[3])
    assert opened.n_filters() == 40


def test_statistics_do_not_cancel() -> None:
    values = np.random.default_rng(0).normal(1e8, 1e-2, (1000, 3))
    merged = MeanVariance.empty(3)
    for part in np.array_split(values, 7):
        merged = merged.merged(MeanVariance.of(part))
    assert np.allclose(merged.variance, values.var(axis=0), rtol=1e-3)
    assert MeanVariance.from_record(merged.record()).frames == 1000


def test_only_what_changed_is_packed_again(tmp_path: Path, audio: Path) -> None:
    workspace = make_workspace(tmp_path)
    pack(workspace, audio)
    before = files_of(workspace)
    assert pack(workspace) == []
    assert files_of(workspace) == before

    put(audio, "p1/video/9.wav", voice(99))
    assert pack(workspace) == ["00001"]
    after = files_of(workspace)
    assert {name for name in before if before[name] != after[name]} == {
        "00001.f16",
        "00001.parquet",
    }
    (audio / "p1/video/9.wav").unlink()
    pack(workspace)
    assert files_of(workspace) == before

    assert pack(workspace, settings=["speech.n_filters=64"]) == ["00000", "00001", "00002"]
    assert SpeechPack(workspace).n_filters() == 64
    for clip in range(2):
        (audio / f"p2/video/{clip}.wav").unlink()
    pack(workspace)
    assert SpeechPack(workspace).shards() == ["00000", "00001"]


def test_the_voice2face_front_end_is_packed_and_recorded(tmp_path: Path, audio: Path) -> None:
    workspace = make_workspace(tmp_path)
    pack(workspace, audio)
    opened = SpeechPack(workspace)
    assert (opened.front_end(), opened.n_filters()) == ("sf2f", 40)
    fingerprint = opened.fingerprint("00000")
    assert fingerprint is not None
    assert "front_end" not in fingerprint["parts"]["config"], "as packed before there were two"

    packed = pack(workspace, settings=["speech.front_end=voice2face"])
    assert packed == ["00000", "00001", "00002"]
    opened = SpeechPack(workspace)
    assert (opened.front_end(), opened.n_filters()) == ("voice2face", 64)
    row = opened.index().to_pylist()[0]
    samples = np.frombuffer((audio / row["path"]).read_bytes()[44:], np.int16)
    expected = voice2face.log_mel(speech(samples, 2, VOICE2FACE)).astype(np.float16)
    assert np.array_equal(opened.read(row), expected)
    assert pack(workspace, settings=["speech.front_end=voice2face"]) == []

    settings = ["speech.front_end=voice2face", "speech.n_filters=40"]
    with pytest.raises(HqvoxError, match=r"n_filters.*64 filters"):
        pack(workspace, settings=settings)


def test_whoever_was_taken_down_is_not_packed(tmp_path: Path, audio: Path) -> None:
    workspace = make_workspace(tmp_path)
    pack(workspace, audio)
    Takedowns.read(workspace).add(workspace, [Takedown("identity", "p1")])
    assert pack(workspace) == []
    assert SpeechPack(workspace).shards() == ["00000", "00002"]


def test_an_array_or_table_that_is_gone_is_made_again(tmp_path: Path, audio: Path) -> None:
    workspace = make_workspace(tmp_path)
    pack(workspace, audio)
    before = files_of(workspace)
    Path(workspace.storage.path("speech/00000.f16")).unlink()
    Path(workspace.storage.path("speech/00001.parquet")).unlink()
    assert pack(workspace) == ["00000", "00001"]
    assert files_of(workspace) == before


def test_moving_the_audio_packs_nothing_again(tmp_path: Path, audio: Path) -> None:
    workspace = make_workspace(tmp_path)
    pack(workspace, audio)
    audio.rename(tmp_path / "elsewhere")
    with pytest.raises(HqvoxError, match="not there, or empty"):
        pack(workspace)
    with pytest.raises(HqvoxError, match="name it too"):
        pack(workspace, tmp_path / "elsewhere")
    assert pack(workspace, tmp_path / "elsewhere", drop=True) == []


@pytest.mark.slow
def test_workers_and_this_process_give_the_same_bytes(tmp_path: Path, audio: Path) -> None:
    here, pool = make_workspace(tmp_path / "a"), make_workspace(tmp_path / "b")
    pack(here, audio, workers=0)
    pack(pool, audio, workers=2)
    assert files_of(here) == files_of(pool)


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_stopped_run_goes_on_to_the_same_bytes(
    tmp_path: Path, audio: Path, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped = make_workspace(tmp_path / "a"), make_workspace(tmp_path / "b")
    pack(whole, audio)
    real, calls = os.replace, []

    def replace(source: Path, target: Path) -> None:
        if str(target).endswith((".f16", ".parquet")) and "index" not in str(target):
            calls.append(target)
            if len(calls) > after:
                raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        pack(stopped, audio)
    monkeypatch.undo()
    committed = SpeechPack(stopped).shards()
    assert len(committed) == after // 2
    assert len(pack(stopped)) == 3 - len(committed)
    assert files_of(stopped) == files_of(whole)


def test_a_defect_fails_its_shard_only(
    tmp_path: Path, audio: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = make_workspace(tmp_path)
    real = worker.pack_shard

    def pack_shard(workspace, config, job, report):
        if job.shard == "00001":
            raise RuntimeError("a defect")
        return real(workspace, config, job, report)

    monkeypatch.setattr(worker, "pack_shard", pack_shard)
    config = workspace.config()
    places = sources(workspace, [audio], (), False)
    events = []
    plan = plan_speech(workspace, config.speech, places)
    result = run_speech(workspace, config, plan, places, workers=0, on_event=events.append)
    assert [f.job.shard for f in result.failed] == ["00001"]
    assert any(isinstance(e, Failed) for e in events)
    assert sum(isinstance(e, SpeechProgress) for e in events) == 2
    assert SpeechPack(workspace).shards() == ["00000", "00002"]


BAD = {
    "empty": b"",
    "not_audio": b"no sound at all " * 100,
    "no_audio": video_without_sound(),
    "truncated": voice(1)[:-5000],
    "too_long": sound_file(np.zeros(RATE * 3, np.int16), rate=RATE // 2),
    "unusual_rate": sound_file(np.ones(3000) / 2, rate=500),
    "too_large": bytes(600_000),
    "silent": sound_file(np.zeros(2 * RATE)),
    "no_voice": sound_file(sine(7900, 2, RATE) / 300),
    "too_short": voice(5, 0.5),
    "duplicate": voice(3),
}


def test_every_reason_is_a_row_and_the_rest_goes_on(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, people=1)
    root = tmp_path / "audio"
    put(root, "p0/a_good/0.wav", voice(3))
    put(root, "p0/a_good/renamed.wav", av_file(babble(3), "mp4", "aac"))
    put(root, "p0/a_good/24bit.wav", sound_file(babble(3, 7), subtype="PCM_24"))
    put(root, "p0/a_good/96k.wav", sound_file(babble(3, 8, 96000), 96000))
    put(root, "p0/a_good/8k.wav", sound_file(babble(3, 9, 8000), 8000))
    put(root, "p0/a_good/stereo.wav", sound_file(np.stack([babble(3, 6)] * 2, axis=1)))
    put(root, "p0/a_good/loud.wav", sound_file(np.clip(babble(3, 5) * 6, -1, 1)))
    for reason, data in BAD.items():
        put(root, f"p0/{reason}/x.wav", data)
    (root / "p0/unreadable").mkdir()
    os.symlink("nowhere", root / "p0/unreadable/x.wav")
    settings = ["speech.max_bytes=599999", "speech.max_seconds=5.5"]
    pack(workspace, root, settings=settings)
    opened = SpeechPack(workspace)
    refused = {row["video"]: row["reason"] for row in opened.refused().to_pylist()}
    assert refused == {reason: reason for reason in REASONS}
    assert all(row["offset"] is None for row in opened.refused().to_pylist())
    kept = {row["utterance"]: row for row in opened.index().to_pylist()}
    assert set(kept) == {"0", "renamed", "24bit", "96k", "8k", "stereo", "loud"}
    assert kept["loud"]["clipped_fraction"] > 0.05 > kept["0"]["clipped_fraction"]
    assert kept["renamed"]["media_type"] == "mov/aac"
    assert (kept["96k"]["rate_hz"], kept["stereo"]["channels"]) == (96000, 2)
    for row in kept.values():
        assert np.isfinite(opened.read(row)).all()
    summary = summarise(workspace)
    assert (summary.utterances, summary.clipped) == (7, 1)
    assert summary.refused.total() == len(REASONS)
    assert summary.with_faces is None


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    for name in ("pipe.wav", "zero\0byte.wav", "."):
        with pytest.raises(AudioError, match="unreadable"):
            read_file(tmp_path / name, CONFIG)


def test_vad_can_be_off() -> None:
    row, spoken = process(voice(1), CONFIG.model_copy(update={"vad": False}))
    assert row["seconds"] == row["source_seconds"] == pytest.approx(2.5)
    assert spoken is not None
    assert len(spoken) == 249
    pause = sound_file(np.concatenate([babble(2), np.zeros(3 * RATE), babble(2)]))
    row, spoken = process(pause, CONFIG)
    assert row["source_seconds"] == pytest.approx(7)
    assert 3 < row["seconds"] < 5.5


def test_damaged_packs_are_one_line(tmp_path: Path, audio: Path) -> None:
    workspace = make_workspace(tmp_path)
    with pytest.raises(HqvoxError, match="no speech here"):
        SpeechPack(workspace).mean_variance()
    pack(workspace, audio)
    array = Path(workspace.storage.path("speech/00000.f16"))
    array.write_bytes(array.read_bytes()[:1000])
    row = SpeechPack(workspace).index().to_pylist()[0]
    with pytest.raises(HqvoxError, match=r"00000\.f16: does not hold"):
        SpeechPack(workspace).read(row)
    with pytest.raises(HqvoxError, match=r"frames, .* are needed"):
        SpeechPack(workspace).read({"shard": "00001", "offset": 0, "frames": 10**6})
    Path(workspace.storage.path("speech/00001.parquet")).write_bytes(b"broken")
    with pytest.raises(HqvoxError, match=r"00001\.parquet: cannot be read"):
        SpeechPack(workspace).index()
    assert "00001" in pack(workspace)  # made again


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["speech", *words])
    message = f"{type(result.exception).__name__}: {result.exception}" if result.exception else ""
    return result.exit_code, " ".join((result.output + message).split())


def test_command(tmp_path: Path, audio: Path) -> None:
    workspace = make_workspace(tmp_path).url
    put(audio, "id19999/v/1.wav", b"")
    put(audio, "p0/video/broken.wav", b"broken")
    code, text = run(workspace)
    assert code == 1
    assert "HqvoxError" in text
    assert "no audio named yet" in text
    code, text = run(workspace, "--audio", str(audio), "--dry-run")
    assert (code, "not packed yet" in text) == (0, True)
    assert not SpeechPack(workspace).shards()
    code, text = run(workspace, "--audio", str(audio))
    assert code == 0
    assert "7 audio files of 3 identities" in text
    assert "belongs to no identity of this workspace: 1: id19999" in text
    assert "6 utterances packed, 1 refused" in text
    assert "refused: not_audio" in text
    assert "faces are not built yet" in text
    code, text = run(workspace)
    assert (code, "up to date" in text) == (0, True)
    code, text = run(workspace, "--set", "speech.vad=false", "--dry-run")
    assert "vad true → false" in text
    file = put(tmp_path, "list.csv", f"identity,path\np0,{audio}/p0/video/0.wav\n".encode())
    code, text = run(workspace, "--csv", str(file))
    assert (code, "name it too" in text) == (1, True)
    code, text = run(workspace, "--csv", str(file), "--drop")
    assert "1 audio files of 1 identities" in text
    assert SpeechPack(workspace).shards() == ["00000"]
