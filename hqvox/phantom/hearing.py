"""Independent measures of voices, to check phantoms against their ground truth.

Pitch by autocorrelation, formants by linear prediction, and an embedding of log-mel means and
deviations. None of them uses the synthesis.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.fft import irfft, rfft
from scipy.linalg import solve_toeplitz
from scipy.stats import rankdata

F64 = NDArray[np.float64]

RATE_HZ = 16_000


def pitch_by_autocorrelation(
    samples: NDArray[np.int16], times_s: F64, low_hz: float = 60.0, high_hz: float = 400.0
) -> F64:
    """Return the pitch at each time, (n,) Hz; NaN where the signal is not clearly periodic.

    ``samples``: int16, 16 kHz; ``times_s``: (n,). Windows of 50 ms. The autocorrelation is divided
    by that of the window, as in Boersma (1993).
    """
    frames = _frames(samples, times_s, round(0.05 * RATE_HZ))
    window = np.hanning(frames.shape[1])
    correlation = _autocorrelation((frames - frames.mean(axis=1, keepdims=True)) * window)
    correlation = correlation / np.maximum(correlation[:, :1], 1e-9)
    of_window = _autocorrelation(window[None])[0]
    first, last = int(RATE_HZ / high_hz), int(RATE_HZ / low_hz)
    whole = correlation[:, : last + 2] / (of_window / of_window[0])[: last + 2]
    searched = whole[:, first : last + 1]
    # of nearly equal peaks the first: later ones are its multiples
    high = searched > 0.9 * searched.max(axis=1, keepdims=True)
    peaks = (
        high
        & (searched >= whole[:, first - 1 : last])
        & (searched >= whole[:, first + 1 : last + 2])
    )
    lag = np.where(peaks.any(axis=1), peaks.argmax(axis=1), searched.argmax(axis=1)) + first
    rows = np.arange(len(lag))
    before, at, after = (whole[rows, np.minimum(lag + k, last + 1)] for k in (-1, 0, 1))
    bend = before - 2 * at + after
    shift = np.where(bend < 0, 0.5 * (before - after) / np.where(bend < 0, bend, -1), 0)
    return np.where(at > 0.5, RATE_HZ / (lag + np.clip(shift, -0.5, 0.5)), np.nan)


def formants_by_lpc(samples: NDArray[np.int16], times_s: F64, order: int = 18) -> F64:
    """Return F1 to F3 at each time, (n, 3) Hz, by linear prediction; NaN if fewer are found.

    Windows of 30 ms, pre-emphasised; poles of less than 500 Hz bandwidth, from 150 Hz up.
    """
    raised = np.append(samples[:1].astype(float), samples[1:] - 0.97 * samples[:-1].astype(float))
    frames = _frames(raised, times_s, round(0.03 * RATE_HZ))
    correlation = _autocorrelation(frames * np.hamming(frames.shape[1]))[:, : order + 1]
    out = np.full((len(frames), 3), np.nan)
    for row, r in enumerate(correlation):
        if r[0] <= 0:
            continue
        r = np.append(r[0] * (1 + 1e-9), r[1:])
        roots = np.roots(np.append(1.0, -solve_toeplitz(r[:-1], r[1:])))
        roots = roots[roots.imag > 0]
        frequency = np.angle(roots) * RATE_HZ / (2 * np.pi)
        width = -np.log(np.abs(roots)) * RATE_HZ / np.pi
        formants = np.sort(frequency[(width < 500) & (frequency > 150)])[:3]
        out[row, : len(formants)] = formants
    return out


def log_mel(samples: NDArray[np.int16], filters: int = 40) -> F64:
    """Return natural-log mel energies, (frames, filters), 25 ms windows every 10 ms."""
    raised = np.append(samples[:1].astype(float), samples[1:] - 0.97 * samples[:-1].astype(float))
    frames = sliding_window_view(raised, 400)[::160]
    power = np.abs(rfft(frames, 512)) ** 2 / 512
    top = 2595 * np.log10(1 + RATE_HZ / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, filters + 2) / 2595) - 1) / (RATE_HZ / 2) * 256
    bins = np.arange(257)
    rise = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    fall = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    bank = np.clip(np.minimum(rise, fall), 0, None)
    return np.log(np.maximum(power @ bank.T, 1e-9))


def voice_embedding(samples: NDArray[np.int16], filters: int = 40) -> F64:
    """Return mean and standard deviation of each mel filter over loud frames, (2 · filters,).

    The overall level is subtracted. A frame is loud within 20 dB of the loudest tenth.
    """
    mel = log_mel(samples, filters)
    loud = np.log(np.exp(mel).sum(axis=1))
    kept = mel[loud > np.quantile(loud, 0.9) - 2 * np.log(10)]
    return np.concatenate([kept.mean(axis=0) - kept.mean(), kept.std(axis=0)])


def verification(embeddings: F64, people: NDArray[np.int64]) -> tuple[float, float]:
    """Return (AUC, equal error rate) of verification by Euclidean distance.

    ``embeddings``: (n, d), standardised here by column; ``people``: (n,), number of the person.
    """
    scaled = (embeddings - embeddings.mean(axis=0)) / (embeddings.std(axis=0) + 1e-9)
    a, b = np.triu_indices(len(people), 1)
    distance = np.linalg.norm(scaled[a] - scaled[b], axis=1)
    same = people[a] == people[b]
    n_same, n_other = int(same.sum()), int((~same).sum())
    ranks = rankdata(-distance)
    auc = (ranks[same].sum() - n_same * (n_same + 1) / 2) / (n_same * n_other)
    order = np.argsort(distance)
    misses = 1 - np.cumsum(same[order]) / n_same
    alarms = np.cumsum(~same[order]) / n_other
    crossing = int(np.abs(misses - alarms).argmin())
    return float(auc), float((misses[crossing] + alarms[crossing]) / 2)


def _frames(samples: NDArray[np.generic], times_s: F64, length: int) -> F64:
    padded = np.pad(np.asarray(samples, dtype=np.float64), length)
    starts = np.rint(times_s * RATE_HZ).astype(np.int64) - length // 2 + length
    return np.asarray(sliding_window_view(padded, length)[starts])


def _autocorrelation(frames: F64) -> F64:
    n = frames.shape[1]
    return np.asarray(irfft(np.abs(rfft(frames, 2 * n)) ** 2)[:, :n])
