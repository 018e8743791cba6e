"""Phantom voices: deterministic, true to their traits, and speech to those who listen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import webrtcvad

from hqvox.phantom.hearing import (
    formants_by_lpc,
    log_mel,
    pitch_by_autocorrelation,
    verification,
    voice_embedding,
)
from hqvox.phantom.identity import VOICE_SPREADS, VoiceIdentity
from hqvox.phantom.prosody import PAUSE, PHONEMES
from hqvox.phantom.voices import (
    FRAME_S,
    RATE_HZ,
    RD_RANGE,
    Recording,
    Utterance,
    lf_cycle,
    lf_times,
    speak,
)

FRAME_MS = 30


def voice(seed: int, masculinity: float | None = None) -> VoiceIdentity:
    return VoiceIdentity.sample(np.random.default_rng(seed), masculinity)


@pytest.fixture(scope="module")
def spoken() -> list[tuple[VoiceIdentity, Utterance]]:
    out = []
    for i in range(6):
        rng = np.random.default_rng([2, i])
        speaker = VoiceIdentity.sample(rng, masculinity=(0.1, 0.9)[i % 2])
        out.append((speaker, speak(speaker, 4.0, rng, Recording.sample(rng))))
    return out


def vowels(utterance: Utterance) -> tuple[np.ndarray, np.ndarray]:
    """Middles of long plain vowels, seconds, and their frames."""
    times = [
        (s.start_s + s.end_s) / 2
        for s in utterance.sounds
        if s.symbol != PAUSE
        and PHONEMES[s.symbol].kind == "vowel"
        and PHONEMES[s.symbol].glide_hz is None
        and s.end_s - s.start_s > 0.07
    ]
    return np.array(times), (np.array(times) / FRAME_S).astype(int)


def test_the_same_draw_gives_the_same_samples() -> None:
    a, b, c = (speak(voice(1), 2.0, np.random.default_rng(k)) for k in (5, 5, 6))
    assert a.samples.dtype == np.int16
    assert len(a.samples) == 2 * RATE_HZ
    assert a.samples.tobytes() == b.samples.tobytes()
    assert a.samples.tobytes() != c.samples.tobytes()


@pytest.mark.parametrize("seconds", [0.5, 0.7, 1.333, 3.0])
def test_sounds_cover_the_utterance(seconds: float) -> None:
    for seed in range(5):
        made = speak(voice(seed), seconds, np.random.default_rng(seed))
        assert made.sounds[0].start_s == 0
        assert made.sounds[-1].end_s == pytest.approx(len(made.samples) / RATE_HZ)
        assert all(a.end_s == b.start_s for a, b in zip(made.sounds, made.sounds[1:], strict=False))
        assert {made.sounds[0].symbol, made.sounds[-1].symbol} == {PAUSE}
        assert len(made.pitch_hz) == len(made.formants_hz) == round(seconds / FRAME_S)


def test_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at least 0\.5 s"):
        speak(voice(0), 0.2, np.random.default_rng(0))


@pytest.mark.parametrize("rd", [RD_RANGE[0], 1.0, 1.8, RD_RANGE[1]])
def test_a_glottal_cycle_closes(rd: float) -> None:
    cycle = lf_cycle(rd)
    flow = np.cumsum(cycle)
    assert abs(flow[-1]) < 1e-9
    assert flow.min() > -0.03 * flow.max()
    assert cycle.min() == pytest.approx(-1, abs=0.02)
    _, excited, returned = lf_times(rd)
    assert 0.3 < excited + returned < 1


def test_lax_voices_have_fewer_overtones() -> None:
    spectra = [np.abs(np.fft.rfft(lf_cycle(rd))) for rd in (0.6, 1.2, 2.2)]
    overtones = [s[10] / s[1] for s in spectra]
    assert overtones[0] > 1.5 * overtones[1] > 2 * overtones[2]


def test_pitch_is_what_the_truth_says(spoken: list[tuple[VoiceIdentity, Utterance]]) -> None:
    errors = []
    for speaker, utterance in spoken:
        times, frames = vowels(utterance)
        truth = utterance.pitch_hz[frames]
        errors.append(np.abs(pitch_by_autocorrelation(utterance.samples, times) / truth - 1))
        voiced = utterance.pitch_hz[utterance.pitch_hz > 0]
        assert np.exp(np.log(voiced).mean()) == pytest.approx(speaker.pitch_hz, rel=0.04)
    assert np.median(np.concatenate(errors)) < 0.01
    assert np.mean(np.concatenate(errors) > 0.05) < 0.05


def test_formants_are_where_the_truth_says(spoken: list[tuple[VoiceIdentity, Utterance]]) -> None:
    errors = []
    for _, utterance in spoken:
        times, frames = vowels(utterance)
        found = formants_by_lpc(utterance.samples, times)
        errors.append(np.abs(found / utterance.formants_hz[frames] - 1))
    f1, f2, f3 = np.nanmedian(np.concatenate(errors), axis=0)
    assert f1 < 0.1
    assert f2 < 0.05
    assert f3 < 0.05


def test_a_longer_tract_lowers_the_formants() -> None:
    short = replace(voice(3), tract_cm=14.0)
    a, b = (speak(v, 2.0, np.random.default_rng(0)) for v in (short, replace(short, tract_cm=17.5)))
    np.testing.assert_allclose(a.formants_hz / b.formants_hz, 17.5 / 14.0)
    mel = [log_mel(u.samples).mean(axis=0) for u in (a, b)]
    assert np.abs(mel[0] - mel[1]).max() > 1


def test_voice_activity_is_found(spoken: list[tuple[VoiceIdentity, Utterance]]) -> None:
    vad = webrtcvad.Vad(1)
    heard = []
    for _, utterance in spoken:
        for sound in utterance.sounds:
            if sound.symbol == PAUSE:
                continue
            a = round(sound.start_s * RATE_HZ)
            frame = utterance.samples[a : a + RATE_HZ * FRAME_MS // 1000]
            if len(frame) == RATE_HZ * FRAME_MS // 1000:
                heard.append(vad.is_speech(frame.tobytes(), RATE_HZ))
    assert len(heard) > 100
    assert np.mean(heard) > 0.9


def test_hiss_is_in_fricatives_and_silence_in_pauses() -> None:
    rng = np.random.default_rng(4)
    made = speak(replace(voice(4, 0.9), breath=0.02), 12.0, rng)
    high = {}
    for sound in made.sounds:
        part = made.samples[round(sound.start_s * RATE_HZ) : round(sound.end_s * RATE_HZ)]
        spectrum = np.abs(np.fft.rfft(part.astype(float))) ** 2
        split = len(spectrum) * 3 // 8  # 3 kHz
        share = spectrum[split:].sum() / spectrum.sum()
        kind = PAUSE if sound.symbol == PAUSE else PHONEMES[sound.symbol].kind
        high.setdefault(kind, []).append((share, np.sqrt(np.mean(part.astype(float) ** 2))))
    shares = {kind: np.mean(values, axis=0) for kind, values in high.items()}
    assert shares["fricative"][0] > 0.3 > 0.05 > shares["vowel"][0]
    assert shares[PAUSE][1] < 0.15 * shares["vowel"][1]
    assert shares["nasal"][1] < 0.9 * shares["vowel"][1]


def test_louder_noise_and_levels_are_as_asked() -> None:
    quiet, loud = (
        speak(voice(5), 3.0, np.random.default_rng(1), Recording(level_dbfs=level, snr_db=snr))
        for level, snr in ((-30.0, 50.0), (-18.0, 15.0))
    )
    ratio = np.std(loud.samples.astype(float)) / np.std(quiet.samples.astype(float))
    assert 20 * np.log10(ratio) == pytest.approx(12, abs=1)
    floors = [np.quantile(log_mel(u.samples).mean(axis=1), 0.02) for u in (quiet, loud)]
    assert floors[1] - floors[0] > np.log(10 ** (1.2 + 2.5))


def test_two_utterances_of_one_voice_are_nearer() -> None:
    embeddings, people = [], []
    for i in range(12):
        rng = np.random.default_rng([9, i])
        speaker = VoiceIdentity.sample(rng)
        for _ in range(3):
            made = speak(speaker, 4.0, rng, Recording.sample(rng))
            embeddings.append(voice_embedding(made.samples))
            people.append(i)
    auc, equal = verification(np.array(embeddings), np.array(people))
    assert auc > 0.75
    assert equal < 0.33


def test_verification_against_brute_force() -> None:
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(4), 3)
    embeddings = rng.normal(size=(12, 5)) + rng.normal(size=(4, 5))[people]
    scaled = (embeddings - embeddings.mean(axis=0)) / embeddings.std(axis=0)
    same, other = [], []
    for i in range(12):
        for j in range(i):
            pair = same if people[i] == people[j] else other
            pair.append(np.linalg.norm(scaled[i] - scaled[j]))
    wins = [a < b for a in same for b in other]
    assert verification(embeddings, people)[0] == pytest.approx(np.mean(wins))


def test_traits_follow_masculinity_and_given_deviates() -> None:
    low, high = voice(7, 0.9), voice(7, 0.1)
    assert low.pitch_hz < 0.7 * high.pitch_hz
    assert low.tract_cm > high.tract_cm + 1.5
    given = VoiceIdentity.sample(np.random.default_rng(7), 0.9, {"breath": 2.0})
    assert given.breath > low.breath
    assert replace(given, breath=low.breath) == low
    with pytest.raises(ValueError, match="no trait huskiness"):
        VoiceIdentity.sample(np.random.default_rng(7), None, {"huskiness": 1.0})


def test_every_trait_moves_and_stays_in_its_limits() -> None:
    people = [voice(seed).traits() for seed in range(60)]
    for name, spread in VOICE_SPREADS.items():
        values = np.array([p[name] for p in people])
        assert spread.low <= values.min() < values.max() <= spread.high
        assert len(np.unique(values)) > 30


@pytest.mark.parametrize(
    ("trait", "low", "high"),
    [("breath", 0.01, 0.2), ("tilt_db", 0.0, 10.0), ("rd", 0.6, 2.0), ("nasality", 0.0, 0.6),
     ("sibilance", 0.75, 1.25), ("vowel_space", 0.7, 1.3), ("jitter", 0.002, 0.02)],
)  # fmt: skip
def test_every_trait_is_heard(trait: str, low: float, high: float) -> None:
    speaker = voice(8, 0.9)
    mels = [
        log_mel(speak(replace(speaker, **{trait: value}), 2.0, np.random.default_rng(3)).samples)
        for value in (low, high)
    ]
    assert np.abs(mels[0] - mels[1]).mean() > 0.05
