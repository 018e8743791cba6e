"""Voice activity: WebRTC's detector, smoothed by a ring of its last decisions.

The SF2F code has frames of 30 ms and a ring of 300 ms (10 decisions), voice2face's code frames of
20 ms and a ring of 50 ms (2 decisions, rounded down). The ring starts speech once more than 90 %
of it, hence all of it, is voiced, from its first frame on; it ends speech once all of it is
unvoiced, these frames still kept. The ring starts empty after each change. Two full rings, one
voiced and one unvoiced, cannot overlap, so emptying the ring changes nothing, and full rings can be
found all at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import repeat

import numpy as np
import webrtcvad
from numpy.typing import NDArray

from hqvox.speech.log_mel import SAMPLE_RATE_HZ


@dataclass(frozen=True)
class Ring:
    """How the detector's decisions are taken and smoothed."""

    frame_samples: int
    """Samples of a frame at 16 kHz."""
    frames: int
    """Decisions in the ring."""


SF2F = Ring(SAMPLE_RATE_HZ * 30 // 1000, 10)
VOICE2FACE = Ring(SAMPLE_RATE_HZ * 20 // 1000, 50 // 20)


def voiced_frames(
    samples: NDArray[np.int16], aggressiveness: int = 1, ring: Ring = SF2F
) -> NDArray[np.bool_]:
    """The detector's decision on every frame of 16 kHz mono samples.

    As in the released codes, a frame counts only if a sample follows it, so up to one frame at the
    end is dropped. ``aggressiveness``: 0 to 3; 3 finds the fewest voiced frames.
    """
    size = ring.frame_samples
    count = max(0, (len(samples) - 1) // size)
    # The detector adapts to the signal, so every utterance needs a new one.
    detector = webrtcvad.Vad(aggressiveness)
    data = samples[: count * size].astype("<i2").tobytes()
    pieces = (data[start : start + 2 * size] for start in range(0, len(data), 2 * size))
    decisions = map(detector.is_speech, pieces, repeat(SAMPLE_RATE_HZ), repeat(size))
    return np.fromiter(decisions, np.bool_, count)


def speech_frames(voiced: NDArray[np.bool_], ring: Ring = SF2F) -> NDArray[np.bool_]:
    """Which frames the ring keeps, from the detector's decision on each."""
    count, size = len(voiced), ring.frames
    if count < size:
        return np.zeros(count, np.bool_)
    total = np.concatenate([[0], np.cumsum(voiced)])
    in_ring = total[size:] - total[:-size]
    # Frames at which the ring is all voiced or all unvoiced; the last of these holds.
    decided = np.flatnonzero((in_ring == size) | (in_ring == 0)) + size - 1
    starts = in_ring[decided - size + 1] == size
    latest = np.searchsorted(decided, np.arange(count), side="right") - 1
    speaking = (latest >= 0) & np.append(starts, False)[latest]
    # Speech includes the ring that began it and the frame that ended it.
    began = np.flatnonzero(speaking & ~np.concatenate([[False], speaking[:-1]]))
    ended = np.flatnonzero(~speaking & np.concatenate([[False], speaking[:-1]]))
    kept = speaking.copy()
    kept[ended] = True
    kept[(began[:, None] - np.arange(size)).ravel()] = True
    return kept


def speech(
    samples: NDArray[np.int16], aggressiveness: int = 1, ring: Ring = SF2F
) -> NDArray[np.int16]:
    """The samples with speech of 16 kHz mono audio, joined; empty if there is none."""
    kept = speech_frames(voiced_frames(samples, aggressiveness, ring), ring)
    size = ring.frame_samples
    return samples[: len(kept) * size].reshape(-1, size)[kept].reshape(-1)
