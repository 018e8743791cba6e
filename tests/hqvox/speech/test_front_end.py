"""Voice activity and log-mel agree with their references."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from python_speech_features import get_filterbanks, logfbank

from hqvox.speech import voice2face
from hqvox.speech.log_mel import filters, log_mel, n_frames
from hqvox.speech.vad import VOICE2FACE, Ring, speech, speech_frames, voiced_frames
from tests.helpers.speech_references import (
    ring_reference,
    speech_reference,
    voice2face_log_mel,
)

RATE = 16000
VOICES = (
    "Alan_Tudyk",
    "Alicja_Bachleda",
    "Bingbing_Li",
    "Damian_Lewis",
    "Eoin_Macken",
)


def signals() -> dict[str, NDArray[np.int16]]:
    """Loud, faint, flat, tonal and broken signals."""
    rng = np.random.default_rng(5)
    t = np.arange(3 * RATE) / RATE
    made = {
        "noise": rng.normal(0, 1000, t.size),
        "clipped": np.clip(rng.normal(0, 60000, t.size), -32768, 32767),
        "faint": rng.integers(-1, 2, t.size),
        "low tone": 30000 * np.sin(2 * np.pi * 30 * t),
        "tone": 20000 * np.sin(2 * np.pi * 200 * t),
        "high tone": 20000 * np.sin(2 * np.pi * 7900 * t),
        "one click": np.eye(1, t.size, 500)[0] * 30000,
        "digital silence": np.zeros(t.size),
        "offset": np.full(t.size, 1234.0),
        "noise in pauses": np.where(t % 0.5 < 0.2, rng.normal(0, 3000, t.size), 0),
        "rumble": np.convolve(rng.normal(0, 9000, t.size), np.hanning(200) / 100, "same"),
    }
    return {name: np.asarray(signal, np.int16) for name, signal in made.items()}


@pytest.mark.parametrize("n_filters", [40, 64])
@pytest.mark.parametrize("name", signals())
def test_log_mel_equals_the_reference(name: str, n_filters: int) -> None:
    samples = signals()[name]
    expected = logfbank(samples, nfilt=n_filters)
    found = log_mel(samples, n_filters)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-4


@pytest.mark.parametrize("count", [1, 2, 159, 399, 400, 401, 560, 561, 719, 16000, 175_003])
def test_log_mel_of_any_length(count: int) -> None:
    samples = np.random.default_rng(count).normal(0, 900, count).astype(np.int16)
    expected = logfbank(samples, nfilt=40)
    found = log_mel(samples)
    assert found.shape == expected.shape == (n_frames(count), 40)
    assert np.abs(found - expected).max() < 1e-4


def test_no_samples_give_no_frames() -> None:
    assert log_mel(np.zeros(0, np.int16)).shape == (0, 40)


@pytest.mark.parametrize("n_filters", [40, 64])
def test_filters_are_the_reference_filters(n_filters: int) -> None:
    assert np.abs(filters(n_filters) - get_filterbanks(n_filters, 512, RATE)).max() < 1e-12


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 25)), max_size=30))
def test_ring_equals_the_reference(runs: list[tuple[bool, int]]) -> None:
    decisions = [voiced for voiced, length in runs for _ in range(length)]
    for size in (10, 2):
        kept = speech_frames(np.array(decisions, np.bool_), Ring(480, size))
        assert np.flatnonzero(kept).tolist() == ring_reference(decisions, size)


def test_vad_drops_a_last_frame_that_nothing_follows() -> None:
    samples = np.zeros(480 * 4, np.int16)
    assert len(voiced_frames(samples)) == 3
    assert len(voiced_frames(np.append(samples, samples[:1]))) == 4
    assert len(voiced_frames(samples[:0])) == 0


@pytest.mark.parametrize("name", signals())
def test_voice2face_log_mel_equals_the_restatement(name: str) -> None:
    samples = signals()[name]
    expected = voice2face_log_mel(samples)
    computed = voice2face.log_mel(samples)
    assert computed.shape == expected.shape == (301, 64)
    assert np.abs(computed - expected).max() < 1e-5
    assert computed.min() >= np.float32(np.log(1e-5))


@pytest.mark.parametrize("count", [1, 100, 159, 160, 161, 399, 400, 16000, 45_003])
def test_voice2face_log_mel_of_any_length(count: int) -> None:
    samples = np.random.default_rng(count).normal(0, 900, count).astype(np.int16)
    expected = voice2face_log_mel(samples)
    computed = voice2face.log_mel(samples)
    assert computed.shape == expected.shape == (voice2face.n_frames(count), 64)
    assert np.abs(computed - expected).max() < 1e-5


def test_voice2face_triangles_have_their_bins_and_heights() -> None:
    weights = voice2face.filters()
    assert weights.shape == (513, 64)
    used = np.flatnonzero(weights.any(axis=1)) * 15.625
    assert used[0] > 20 - 8
    assert used[-1] < 7200 + 8
    assert (weights.max(axis=0) > 0).all()
    width_hz = 2 / weights.max(axis=0)
    # Narrow at the bottom, as broad as the scale's slope at the top.
    assert width_hz[0] < 63 < 500 < width_hz[-1] < 700


def test_voice2face_of_no_samples_has_no_frames() -> None:
    assert voice2face.log_mel(np.zeros(0, np.int16)).shape == (0, 64)


@pytest.mark.real_data
@pytest.mark.parametrize("voice", VOICES)
def test_real_voices_equal_the_voice2face_references(voice: str, real_data_dir: Path) -> None:
    samples, _ = soundfile.read(real_data_dir / "voices" / f"{voice}.wav", dtype="int16")
    spoken = speech(samples, 2, VOICE2FACE)
    assert np.array_equal(spoken, speech_reference(samples, 2, 320, 2))
    assert 0.3 * len(samples) < len(spoken) <= len(samples)
    assert np.abs(voice2face.log_mel(spoken) - voice2face_log_mel(spoken)).max() < 1e-5


@pytest.mark.real_data
@pytest.mark.parametrize("voice", VOICES)
def test_real_voices_equal_the_references(voice: str, real_data_dir: Path) -> None:
    samples, rate = soundfile.read(real_data_dir / "voices" / f"{voice}.wav", dtype="int16")
    assert rate == RATE
    for aggressiveness in range(4):
        expected = speech_reference(samples, aggressiveness)
        spoken = speech(samples, aggressiveness)
        assert np.array_equal(spoken, expected)
    spoken = speech(samples, 1)
    assert 0.3 * len(samples) < len(spoken) <= len(samples)
    for n_filters in (40, 64):
        for signal in (samples, spoken):
            expected = logfbank(signal, nfilt=n_filters)
            found = log_mel(signal, n_filters)
            assert found.shape == expected.shape
            assert np.abs(found - expected).max() < 1e-4
