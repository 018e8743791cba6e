"""Log-mel filterbank energies: the front end of voice2face as its authors released it.

25 ms frames every 10 ms, pre-emphasis 0.97, Hamming window, 1,024-point FFT, power, 64 triangular
filters between 20 and 7,200 Hz, natural logarithm, clipped below at 1e-5. The released SF2F code's
front end is in :mod:`hqvox.speech.log_mel`; they differ in window, transform, filters and clipping.

Three things that the description above leaves open are as in the released code, ``mfcc.py`` of
github.com/cmu-mlsp/reconstructing_faces_from_voices:

* There are samples / 160 + 1 frames, rounded down. The last ones run over the end: what is left is
  repeated to 400 samples. Where nothing is left, the frame is silent.
* Pre-emphasis works on each frame by itself. Its first sample is taken against the last sample of
  the frame before, 240 samples later in the signal, as frames overlap. The first frame has 0 there;
  the released code takes the last sample of the file that it read before.
* A triangle has height 2 / width in Hz, so that each has about the same area; its corners are
  rounded to bins of 15.625 Hz.

The released code then normalises each filter over the utterance. Here that is done when a model
reads the utterance (``data.normalise=utterance``), on all of it as there.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hqvox.speech.log_mel import FRAME_SAMPLES, HOP_SAMPLES, PRE_EMPHASIS, SAMPLE_RATE_HZ

N_FILTERS = 64
FFT_POINTS = 1024
LOWEST_HZ, HIGHEST_HZ = 20.0, 7200.0
LEAST_ENERGY = 1e-5
"""Energies below count as this; its logarithm is -11.5."""

_CHUNK = 256
"""Frames transformed at once; bounds memory to some MB for any length of utterance."""


def n_frames(samples: int) -> int:
    """Number of frames of an utterance of that many samples."""
    return samples // HOP_SAMPLES + 1 if samples else 0


def log_mel(samples: NDArray[np.int16]) -> NDArray[np.float32]:
    """Log-mel energies (frames, 64), natural logarithm, -11.5 to 20, of 16 kHz mono int16.

    No samples give no frames.
    """
    count = n_frames(len(samples))
    energies = np.empty((count, N_FILTERS), np.float32)
    before = 0
    for start in range(0, count, _CHUNK):
        frames = _frames(samples, start, min(start + _CHUNK, count))
        earlier = np.empty_like(frames)
        earlier[:, 1:] = frames[:, :-1]
        earlier[1:, 0] = frames[:-1, -1]
        earlier[0, 0], before = before, frames[-1, -1]
        spectrum = np.fft.rfft((frames - PRE_EMPHASIS * earlier) * _WINDOW, FFT_POINTS)
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        energies[start : start + len(frames)] = np.log(np.maximum(power @ filters(), LEAST_ENERGY))
    return energies


_WINDOW = np.hamming(FRAME_SAMPLES)


def _frames(samples: NDArray[np.int16], first: int, last: int) -> NDArray[np.float64]:
    """Frames ``first`` to ``last``, (last - first, 400); those over the end repeat what is left."""
    frames = np.empty((last - first, FRAME_SAMPLES))
    for number, frame in enumerate(frames, first):
        piece = samples[number * HOP_SAMPLES :][:FRAME_SAMPLES]
        frame[:] = np.resize(piece, FRAME_SAMPLES) if len(piece) else 0
    return frames


@lru_cache(maxsize=1)
def filters() -> NDArray[np.float64]:
    """Weights (513, 64) of the triangles on the bins of the FFT; read-only."""
    hz_per_bin = SAMPLE_RATE_HZ / FFT_POINTS
    lowest, highest = (2595.0 * np.log10(1.0 + hz / 700.0) for hz in (LOWEST_HZ, HIGHEST_HZ))
    corners_hz = 700.0 * (10.0 ** (np.linspace(lowest, highest, N_FILTERS + 2) / 2595.0) - 1.0)
    corners = np.rint(corners_hz / hz_per_bin)
    left, middle, right = corners[:-2], corners[1:-1], corners[2:]
    bins = np.arange(FFT_POINTS // 2 + 1)[:, None]
    rising, falling = (bins - left) / (middle - left), (right - bins) / (right - middle)
    height = 2.0 / ((right - left) * hz_per_bin)
    weights = np.maximum(np.minimum(rising, falling), 0.0) * height
    weights.setflags(write=False)
    return weights
