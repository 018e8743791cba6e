"""Voices of phantoms: source-filter synthesis, and the ground truth of every utterance.

``speak(voice, seconds, rng)`` composes a random sequence of sounds and synthesises it. The source
is a train of glottal pulses with jitter, shimmer and breath noise. It passes through resonators
that follow the formants in frames of 5 ms. The noise of fricatives and bursts has resonators of its
own. Only NumPy and SciPy are needed. The same arguments give the same samples.

One cycle of the glottal flow's derivative follows the Liljencrants-Fant model:
E(t) = e^(αt) sin(ωt) up to the main excitation at ``te``, then an exponential return to zero. One
number, Rd, sets its shape, from pressed (0.4) to lax (2.6), by the regressions of Fant (1995), "The
LF-model revisited".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.fft import irfft, rfft
from scipy.optimize import brentq
from scipy.signal import fftconvolve, lfilter, resample_poly

from hqvox.phantom.identity import VoiceIdentity
from hqvox.phantom.prosody import REFERENCE_CM, Sound, Tracks, compose, tracks

F64 = NDArray[np.float64]
F32 = NDArray[Any]  # float32

RATE_HZ = 16_000
FRAME_S = 0.005
"""Step of the truth's tracks; frame i is centred at the time (i + ½) · ``FRAME_S``."""
_STEP = round(RATE_HZ * FRAME_S)
_SOUND_CM_S = 35_000.0
RD_RANGE = (0.4, 2.6)
"""Values of Rd for which Fant's regressions hold."""
_SHAPES, _PHASES = 45, 2048
_OVERSAMPLING = 2
_BANDWIDTHS = (70.0, 90.0, 130.0, 180.0, 240.0, 320.0, 420.0)
_HIGHEST_HZ = 7600.0
_NASAL_POLE_HZ = 270.0
_RING = 960
"""Length of a frame's impulse response in samples, 60 ms, in which the narrowest formant decays."""
_POWERS = np.exp(
    -2j * np.pi * np.outer(np.arange(2 * len(_BANDWIDTHS) + 3), np.arange(_RING // 2 + 1)) / _RING
)
"""Powers of z⁻¹ on the unit circle, (powers, frequencies)."""


@dataclass(frozen=True)
class Recording:
    """Recording conditions, which change from video to video.

    ``level_dbfs``: RMS level of the voiced speech; ``snr_db``: above background noise;
    ``tilt_db``: gain at 4 kHz against 500 Hz; ``echo``: strength of the room's echo relative to
    the direct sound; ``echo_s``: time in which it falls by 60 dB.
    """

    level_dbfs: float = -23.0
    snr_db: float = 40.0
    tilt_db: float = 0.0
    echo: float = 0.0
    echo_s: float = 0.25

    @staticmethod
    def sample(rng: np.random.Generator) -> Recording:
        """Sample conditions like those of interviews."""
        return Recording(
            level_dbfs=float(rng.uniform(-28, -18)),
            snr_db=float(rng.uniform(28, 45)),
            tilt_db=float(np.clip(rng.normal(0, 1.0), -2, 2)),
            echo=float(rng.uniform(0.0, 0.2)),
            echo_s=float(rng.uniform(0.1, 0.3)),
        )


@dataclass(frozen=True)
class Utterance:
    """An utterance with its ground truth.

    ``samples``: int16 (n,), 16 kHz mono; ``pitch_hz``: (frames,), 0 where unvoiced, without
    jitter; ``formants_hz``: (frames, 3), F1 to F3 of this tract, in every frame; ``sounds``:
    phonemes and pauses without gaps. Frames are ``FRAME_S`` apart.
    """

    samples: NDArray[np.int16]
    pitch_hz: F64
    formants_hz: F64
    sounds: tuple[Sound, ...]


def speak(
    voice: VoiceIdentity,
    seconds: float,
    rng: np.random.Generator,
    recording: Recording | None = None,
) -> Utterance:
    """Synthesise a random utterance of ``seconds``, rounded to whole frames.

    Without a ``recording`` it is that of a close microphone in a silent room. Raises ValueError
    below 0.5 s.
    """
    if not seconds >= 0.5:
        raise ValueError(f"an utterance lasts at least 0.5 s, not {seconds}")
    frames = round(seconds / FRAME_S)
    sounds = compose(voice, frames * FRAME_S, rng)
    plan = tracks(voice, sounds, rng)
    middle = np.minimum((np.arange(frames) * 5) + 2, len(plan.voicing) - 1)
    formants = plan.formants_hz[middle] * REFERENCE_CM / voice.tract_cm
    pitch = voice.pitch_hz * 2 ** (plan.semitones[middle] / 12)
    voiced = plan.voicing[middle] > 0.12
    speech = _voice(voice, plan, middle, pitch, formants, rng)
    loud = plan.voicing[middle] > 0.5
    level = float(np.sqrt(np.mean(speech.reshape(frames, _STEP)[loud] ** 2))) if loud.any() else 1.0
    speech = speech / level + _noise(plan, middle, rng)
    samples = _record(speech, np.repeat(loud, _STEP), recording or Recording(snr_db=60.0), rng)
    return Utterance(samples, np.where(voiced, pitch, 0.0), formants, tuple(sounds))


def _voice(
    voice: VoiceIdentity,
    plan: Tracks,
    middle: NDArray[np.int64],
    pitch: F64,
    formants: F64,
    rng: np.random.Generator,
) -> F64:
    """Return glottal pulses and breath noise, filtered by the vocal tract, (samples,)."""
    frames = len(middle)
    # the glottis is laxer towards the edges of voiced stretches
    rd = np.clip(voice.rd + 0.5 * (1 - np.clip(plan.voicing[middle], 0, 1)), *RD_RANGE)
    pulses, opening = glottal_source(
        pitch, rd, voice.jitter, voice.shimmer, RATE_HZ, _STEP, rng
    )  # fmt: skip
    pulses /= np.sqrt(np.mean(pulses**2))
    voicing, aspiration = (
        np.interp((np.arange(frames * _STEP) + 0.5) / (RATE_HZ / 1000),
                  np.arange(len(track)) + 0.5, track)
        for track in (plan.voicing, plan.aspiration)
    )  # fmt: skip
    breath = rng.standard_normal(len(pulses))
    source = voicing * (pulses + voice.breath * (0.3 + 1.4 * opening) * breath)
    source += 0.3 * aspiration * breath
    source = _tilted(source, -voice.tilt_db)
    return _filtered(source, _tract(voice, formants, plan.nasal_zero_hz[middle]))


def _tract(voice: VoiceIdentity, formants: F64, nasal_zero: F64) -> F64:
    """Second-order sections of the vocal tract at each frame, (frames, sections, 6)."""
    frames = len(formants)
    quarter = _SOUND_CM_S / (4 * voice.tract_cm)
    upper = [(2 * n - 1) * quarter for n in range(4, len(_BANDWIDTHS) + 1)]
    poles = [*formants.T, *(np.full(frames, f) for f in upper if f < _HIGHEST_HZ)]
    sections = [
        _resonators(np.minimum(f, _HIGHEST_HZ), np.full(frames, width))
        for f, width in zip(poles, _BANDWIDTHS, strict=False)
    ]
    wide = 60 + 0.25 * np.abs(nasal_zero - _NASAL_POLE_HZ) ** 0.85
    nose = _resonators(np.full(frames, _NASAL_POLE_HZ), wide)
    zero = _resonators(nasal_zero, wide)
    nose[:, :3] = zero[:, 3:] * (nose[:, :1] / zero[:, :1])
    return np.stack([nose, *sections], axis=1)


def _noise(plan: Tracks, middle: NDArray[np.int64], rng: np.random.Generator) -> F64:
    """Return the noise of fricatives and bursts, (samples,)."""
    frames = len(middle)
    strength = np.interp(
        (np.arange(frames * _STEP) + 0.5) / (RATE_HZ / 1000),
        np.arange(len(plan.frication)) + 0.5,
        plan.frication,
    )
    band = _resonators(
        np.minimum(plan.noise_hz[middle], _HIGHEST_HZ), plan.noise_width_hz[middle]
    )  # fmt: skip
    band[:, :3] = (1.0, -1.9, 0.9025)  # noise of a constriction has no low frequencies
    z = np.exp(-1j * np.linspace(0, np.pi, 65))
    powers = np.stack([np.ones_like(z), z, z**2])
    response = np.abs(band[:, :3] @ powers) ** 2 / np.abs(band[:, 3:] @ powers) ** 2
    band[:, :3] /= np.sqrt(response.mean(axis=1))[:, None]
    return _filtered(strength * rng.standard_normal(len(strength)), band[:, None])


def _resonators(frequency: F64, width: F64) -> F64:
    """Klatt's resonators of unit gain at 0 Hz, (frames, 6): b0 b1 b2 1 a1 a2."""
    radius = np.exp(-np.pi * width / RATE_HZ)
    a1 = -2 * radius * np.cos(2 * np.pi * frequency / RATE_HZ)
    a2 = radius**2
    nothing = np.zeros_like(a1)
    return np.stack([1 + a1 + a2, nothing, nothing, np.ones_like(a1), a1, a2], axis=1)


def _filtered(source: F64, sections: F64) -> F64:
    """Filter ``source`` by second-order sections (frames, k, 6) that change from frame to frame.

    Overlap-add: each frame's stretch of the source, windowed over two frames, is filtered by the
    sections of its frame, and the responses are summed. Filters blend into each other; switching
    them would click.
    """
    frames = len(sections)
    fade = np.hanning(2 * _STEP + 1)[:-1]
    padded = np.concatenate([np.zeros(_STEP // 2), source, np.zeros(3 * _STEP // 2)])
    stretches = sliding_window_view(padded, 2 * _STEP)[::_STEP][:frames]
    sounding = np.flatnonzero(np.abs(stretches).max(axis=1) > 1e-7)
    zeros, poles = _product(sections[sounding, :, :3]), _product(sections[sounding, :, 3:])
    zeros = zeros[:, : _last_used(zeros) + 1]
    spectra = rfft(stretches[sounding] * fade, _RING)
    spectra *= (zeros @ _POWERS[: zeros.shape[1]]) / rfft(poles, _RING)
    rung = irfft(spectra, _RING).reshape(len(sounding), _RING // _STEP, _STEP)
    out = np.zeros((frames + rung.shape[1], _STEP))
    for k in range(rung.shape[1]):
        out[sounding + k] += rung[:, k]
    return out.ravel()[_STEP // 2 :][: len(source)]


def _last_used(polynomials: F64) -> int:
    """Return the highest power that any of the polynomials has."""
    return int(np.flatnonzero(np.abs(polynomials).max(axis=0, initial=0) > 0).max(initial=0))


def _product(factors: F64) -> F64:
    """Multiply the polynomials (n, k, 3) of each row, (n, 2k + 1)."""
    out = factors[:, 0]
    for k in range(1, factors.shape[1]):
        longer = np.zeros((len(out), out.shape[1] + 2))
        for power in range(3):
            longer[:, power : power + out.shape[1]] += factors[:, k, power : power + 1] * out
        out = longer
    return out


def _tilted(signal: F64, tilt_db: float) -> F64:
    """Raise or lower high frequencies by a shelf around 1.4 kHz, ``tilt_db`` at 4 kHz."""
    gain = 10 ** (tilt_db / 20)
    # the bilinear transform of (1 + s·√g/ω) / (1 + s/(√g·ω)), a shelf from 1 to g
    warp = np.tan(np.pi * 1400 / RATE_HZ)
    up, down = np.sqrt(gain) / warp, 1 / (np.sqrt(gain) * warp)
    return np.asarray(lfilter([1 + up, 1 - up], [1 + down, 1 - down], signal))


def _record(
    speech: F64, loud: NDArray[np.bool_], recording: Recording, rng: np.random.Generator
) -> NDArray[np.int16]:
    """Add the room's echo and noise, set the level, and round to int16."""
    heard = _tilted(speech, recording.tilt_db) if recording.tilt_db else speech
    if recording.echo:
        n = round(recording.echo_s * RATE_HZ)
        tail = rng.standard_normal(n) * 10 ** (-3 * np.arange(n) / n)
        tail[: round(0.004 * RATE_HZ)] = 0
        tail *= recording.echo / np.sqrt(np.sum(tail**2))
        heard = heard + fftconvolve(heard, tail)[: len(heard)]
    level = np.sqrt(np.mean(heard[loud] ** 2)) if loud.any() else 1.0
    hum = lfilter([1.0], [1.0, -0.9], rng.standard_normal(len(heard)))
    hum *= level * 10 ** (-recording.snr_db / 20) / np.sqrt(np.mean(hum**2))
    out = (heard + hum) * (10 ** (recording.level_dbfs / 20) / level)
    # soft limiting of the peaks
    out = np.where(
        np.abs(out) > 0.7, np.sign(out) * (0.7 + 0.3 * np.tanh((np.abs(out) - 0.7) / 0.3)), out
    )
    return np.clip(np.rint(out * 32767), -32768, 32767).astype(np.int16)


def lf_cycle(rd: float, phases: int = _PHASES) -> F64:
    """Return one cycle of the flow's derivative, float64 (phases,), −1 at the main excitation.

    ``rd`` within ``RD_RANGE``. The cycle sums to 0, so the flow returns to its start.
    """
    tp, te, ta = lf_times(rd)
    omega = np.pi / tp
    rest = 1.0 - te
    # the return phase meets zero at the cycle's end
    eps = brentq(lambda e: e * ta - 1 + np.exp(-e * rest), 1e-6, 1e5)
    fall = np.exp(-eps * rest)
    returned = -((1 - fall) / eps - rest * fall) / (eps * ta)

    def opened(alpha: float) -> float:
        """Flow at ``te`` for an excitation of −1 there."""
        scale = -1 / np.sin(omega * te)
        whole = alpha * np.sin(omega * te) - omega * np.cos(omega * te)
        return scale * (whole + omega * np.exp(-alpha * te)) / (alpha**2 + omega**2)

    alpha = brentq(lambda a: opened(a) + returned, -60.0, 400.0)
    t = (np.arange(phases) + 0.5) / phases
    growth = -np.exp(alpha * (t - te)) * np.sin(omega * t) / np.sin(omega * te)
    back = -(np.exp(-eps * (t - te)) - fall) / (eps * ta)
    cycle = np.where(t <= te, growth, back)
    return np.asarray(cycle - cycle.mean())


def lf_times(rd: float) -> tuple[float, float, float]:
    """Return (tp, te, ta) as fractions of the cycle: flow's peak, excitation, return time."""
    ra = (-1 + 4.8 * rd) / 100
    rk = (22.4 + 11.8 * rd) / 100
    rg = rk / (4 * (0.11 * rd / (0.5 + 1.2 * rk) - ra))
    tp = 1 / (2 * rg)
    return tp, tp * (1 + rk), max(ra, 0.003)


@cache
def _tables() -> tuple[F32, F32]:
    """Return derivative and flow, float32 (shapes, phases + 1) each; the flow peaks at 1."""
    derivative = np.stack([lf_cycle(rd) for rd in np.linspace(*RD_RANGE, _SHAPES)])
    flow = np.cumsum(derivative, axis=1)
    flow -= flow.min(axis=1, keepdims=True)
    flow /= flow.max(axis=1, keepdims=True)
    wrapped = [np.hstack([table, table[:, :1]]).astype(np.float32) for table in (derivative, flow)]
    return wrapped[0], wrapped[1]


def glottal_source(
    pitch_hz: F64,
    rd: F64,
    jitter: float,
    shimmer: float,
    rate_hz: int,
    step: int,
    rng: np.random.Generator,
) -> tuple[F64, F64]:
    """Return the flow's derivative and the opening, each float64 (frames · step,).

    ``pitch_hz``, ``rd``: (frames,), one value every ``step`` samples, pitch everywhere positive;
    ``jitter``, ``shimmer``: standard deviation of a cycle's length and strength, as a fraction.
    The opening is 0 to 1 and modulates breath.
    """
    fine = _OVERSAMPLING
    n = len(pitch_hz) * step * fine
    at = np.arange(n) / (step * fine)
    frames = np.arange(len(pitch_hz)) + 0.5
    nominal = np.cumsum(np.interp(at, frames, pitch_hz)) / (rate_hz * fine)
    count = int(nominal[-1]) + 3
    lengths = 1 + jitter * np.clip(rng.standard_normal(count), -3, 3)
    strengths = 1 + shimmer * np.clip(rng.standard_normal(count), -3, 3)
    ends = np.concatenate([[0.0], np.cumsum(lengths)])
    ends *= max(1.0, (nominal[-1] + 1) / ends[-1])  # the cycles must reach the end
    cycles = np.interp(nominal, ends, np.arange(count + 1))
    cycle = cycles.astype(np.int64)
    starts = np.interp(ends[:-1], nominal, at)
    share = (np.interp(starts, frames, rd) - RD_RANGE[0]) / (RD_RANGE[1] - RD_RANGE[0])
    shape = np.clip(np.rint(share * (_SHAPES - 1)), 0, _SHAPES - 1).astype(np.int64)
    phase = (cycles - cycle) * _PHASES
    low = phase.astype(np.int64)
    fraction = (phase - low).astype(np.float32)
    index = shape[cycle] * (_PHASES + 1) + low
    derivative, flow = (table.ravel() for table in _tables())
    pulses = derivative[index] * (1 - fraction) + derivative[index + 1] * fraction
    pulses = pulses * strengths[cycle].astype(np.float32)
    opening = flow[index[::fine]]
    return np.asarray(resample_poly(pulses, 1, fine), np.float64), opening.astype(np.float64)
