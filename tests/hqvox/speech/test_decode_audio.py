"""Decoding: containers by content, proper resampling, one reason for what is broken."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from hqvox.speech.decode import AudioError, decode, to_mono_16k
from tests.helpers.sounds import RATE, av_file, babble, sine, sound_file, video_without_sound


def reason_of(data: bytes, max_seconds: float = 600.0) -> str:
    with pytest.raises(AudioError) as caught:
        decode(data, max_seconds)
    return caught.value.reason


def test_wav_of_16_bit_is_taken_as_it_is() -> None:
    samples = np.random.default_rng(0).integers(-32768, 32767, 5000).astype(np.int16)
    audio = decode(sound_file(samples))
    assert np.array_equal(audio.samples, samples)
    assert (audio.media_type, audio.rate_hz, audio.channels) == ("wav/pcm_16", RATE, 1)
    assert audio.seconds == pytest.approx(5000 / RATE)


@pytest.mark.parametrize(
    ("form", "subtype", "rate"),
    [
        ("WAV", "PCM_24", 16000),
        ("WAV", "FLOAT", 96000),
        ("WAV", "DOUBLE", 48000),
        ("WAV", "PCM_16", 8000),
        ("WAV", "PCM_U8", 16000),
        ("WAV", "ULAW", 8000),
        ("FLAC", "PCM_16", 16000),
        ("FLAC", "PCM_24", 44100),
        ("AIFF", "PCM_16", 22050),
        ("OGG", "VORBIS", 16000),
    ],
)
def test_forms_rates_and_depths(form: str, subtype: str, rate: int) -> None:
    tone = sine(1000, 2, rate)
    stereo = np.stack([tone, tone], axis=1)
    audio = decode(sound_file(stereo, rate, form, subtype))
    assert (audio.rate_hz, audio.channels) == (rate, 2)
    check_tone(audio.samples, 2.0)


@pytest.mark.parametrize(
    ("form", "codec", "rate"),
    [
        ("mp4", "aac", 16000),
        ("ipod", "aac", 44100),
        ("adts", "aac", 16000),
        ("mp3", "libmp3lame", 16000),
        ("ogg", "libopus", 48000),
        ("matroska", "libopus", 48000),
    ],
)
def test_compressed_forms(form: str, codec: str, rate: int) -> None:
    data = av_file(sine(1000, 2, rate), form, codec, rate)
    check_tone(decode(data).samples, 2.0)
    assert reason_of(data[: len(data) // 2]) == "truncated"


def check_tone(samples: np.ndarray, seconds: float) -> None:
    assert samples.dtype == np.int16
    assert abs(len(samples) / RATE - seconds) < 0.15  # encoders pad
    middle = samples[RATE // 4 : RATE // 4 + RATE].astype(float)
    spectrum = np.abs(np.fft.rfft(middle))
    assert spectrum.argmax() == 1000
    assert 2 * spectrum[1000] / RATE == pytest.approx(16384, rel=0.06)
    assert np.sort(spectrum)[-20:-1].sum() < 0.2 * spectrum[1000]


def test_stereo_is_averaged() -> None:
    left, right = sine(500, 1, RATE), np.zeros(RATE)
    samples = decode(sound_file(np.stack([left, right], axis=1))).samples
    assert np.abs(samples - 16384 * left).max() <= 1.5


@pytest.mark.parametrize(
    ("rate", "hz", "level_db"),
    [
        (96000, 7000, 0),
        (44100, 7100, 0),
        (8000, 3500, 0),
        (22050, 7100, 0),
        (96000, 8100, -80),
        (48000, 15900, -80),
        (44100, 9000, -80),
    ],
)
def test_resampling_keeps_the_band_and_lets_nothing_fold_into_it(
    rate: int, hz: float, level_db: float
) -> None:
    tone = sine(hz, 1, rate)[:, None].astype(np.float32)
    middle = to_mono_16k(tone, rate)[2000:-2000].astype(float)
    found_db = 20 * np.log10((middle.std() + 1e-3) / (16384 / np.sqrt(2)))
    if level_db == 0:
        assert abs(found_db) < 0.1
    else:
        assert found_db < level_db


def test_clipped_share_is_measured() -> None:
    samples = np.zeros(1000, np.int16)
    samples[:100], samples[100:150] = 32767, -32768
    assert decode(sound_file(samples)).clipped_fraction == pytest.approx(0.15)
    loud = np.clip(sine(100, 1, RATE) * 4, -1, 1)
    share = decode(sound_file(loud, subtype="FLOAT")).clipped_fraction
    assert share == pytest.approx(2 / 3, abs=0.01)
    assert decode(sound_file(sine(100, 1, RATE))).clipped_fraction == 0


@pytest.mark.parametrize("form", ["WAV", "FLAC", "AIFF", "OGG"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_what_is_cut_short_is_refused(form: str, share: float) -> None:
    subtype = "VORBIS" if form == "OGG" else "PCM_16"
    data = sound_file(babble(1.0), form=form, subtype=subtype)
    assert reason_of(data[: int(len(data) * share)]) in ("truncated", "not_audio")


def test_reserved_but_unwritten_space_is_truncated() -> None:
    assert reason_of(bytes(5000)) == "truncated"


def test_wav_of_unknown_length_is_read() -> None:
    data = bytearray(sound_file(babble(1.0)))
    data[40:44] = b"\xff\xff\xff\xff"
    assert len(decode(bytes(data)).samples) == RATE


def test_reasons_of_other_files() -> None:
    assert reason_of(b"") == "empty"
    assert reason_of(sound_file(np.zeros(0))) == "empty"
    assert reason_of(b"hello " * 500) == "not_audio"
    assert reason_of(np.random.default_rng(0).bytes(5000)) == "not_audio"
    assert reason_of(video_without_sound()) == "no_audio"
    assert reason_of(sound_file(babble(2.0)), max_seconds=1.5) == "too_long"
    assert reason_of(av_file(babble(2.0), "mp4", "aac"), max_seconds=1.5) == "too_long"
    assert reason_of(sound_file(np.zeros(100), rate=1000)) == "unusual_rate"
    assert reason_of(sound_file(np.full(100, np.nan), subtype="FLOAT")) == "not_audio"


def test_a_playlist_is_not_followed(tmp_path) -> None:
    (tmp_path / "real.ts").write_bytes(av_file(babble(1.0), "mpegts", "aac"))
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\n{tmp_path}/real.ts\n#EXT-X-ENDLIST\n"
    assert reason_of(playlist.encode()) == "not_audio"


def test_damaged_bytes_never_raise_anything_else() -> None:
    rng = np.random.default_rng(3)
    whole = [
        sound_file(babble(0.5)),
        sound_file(babble(0.5), form="FLAC"),
        av_file(babble(0.5), "mp4", "aac"),
        av_file(babble(0.5), "mp3", "libmp3lame"),
        av_file(babble(0.5), "ogg", "libopus", 48000),
    ]
    reasons = set()
    for number in range(200):
        data = bytearray(whole[number % len(whole)])
        for at in rng.integers(0, [200, len(data)][number % 2], 8):
            data[at] = rng.integers(256)
        try:
            decode(bytes(data))
        except AudioError as error:
            reasons.add(error.reason)
    assert {"truncated", "not_audio"} <= reasons


def test_libsndfile_agrees() -> None:
    data = sound_file(babble(1.0), form="FLAC")
    expected, _ = soundfile.read(io.BytesIO(data), dtype="int16")
    assert np.array_equal(decode(data).samples, expected)
