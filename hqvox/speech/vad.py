"""Voice activity: WebRTC's detector on 30 ms frames, smoothed over 300 ms, as in the SF2F code.

A ring of the last 10 decisions (300 ms) starts speech once more than 90 % of it, hence all 10, are
voiced, from the first of these 10 frames on; it ends speech once all 10 are unvoiced, these 10
still kept. The ring starts empty after each change. Two runs of 10, one voiced and one unvoiced,
cannot overlap, so emptying the ring changes nothing, and runs of 10 can be found all at once.
"""

from __future__ import annotations

from itertools import repeat

import numpy as np
import webrtcvad
from numpy.typing import NDArray

from hqvox.speech.log_mel import SAMPLE_RATE_HZ

FRAME_SAMPLES = SAMPLE_RATE_HZ * 30 // 1000
RING_FRAMES = 10


def voiced_frames(samples: NDArray[np.int16], aggressiveness: int = 1) -> NDArray[np.bool_]:
    """The detector's decision on every 30 ms frame of 16 kHz mono samples.

    As in the released code, a frame counts only if a sample follows it, so up to 30 ms at the end
    are dropped. ``aggressiveness``: 0 to 3; 3 finds the fewest voiced frames.
    """
    count = max(0, (len(samples) - 1) // FRAME_SAMPLES)
    # The detector adapts to the signal, so every utterance needs a new one.
    detector = webrtcvad.Vad(aggressiveness)
    data = samples[: count * FRAME_SAMPLES].astype("<i2").tobytes()
    size = 2 * FRAME_SAMPLES
    pieces = (data[start : start + size] for start in range(0, count * size, size))
    decisions = map(detector.is_speech, pieces, repeat(SAMPLE_RATE_HZ), repeat(FRAME_SAMPLES))
    return np.fromiter(decisions, np.bool_, count)


def speech_frames(voiced: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which frames the ring keeps, from the detector's decision on each."""
    count = len(voiced)
    if count < RING_FRAMES:
        return np.zeros(count, np.bool_)
    total = np.concatenate([[0], np.cumsum(voiced)])
    in_ring = total[RING_FRAMES:] - total[:-RING_FRAMES]
    # Frames at which the ring is all voiced or all unvoiced; the last of these holds.
    decided = np.flatnonzero((in_ring == RING_FRAMES) | (in_ring == 0)) + RING_FRAMES - 1
    starts = in_ring[decided - RING_FRAMES + 1] == RING_FRAMES
    latest = np.searchsorted(decided, np.arange(count), side="right") - 1
    speaking = (latest >= 0) & np.append(starts, False)[latest]
    # Speech includes the ring that began it and the frame that ended it.
    began = np.flatnonzero(speaking & ~np.concatenate([[False], speaking[:-1]]))
    ended = np.flatnonzero(~speaking & np.concatenate([[False], speaking[:-1]]))
    kept = speaking.copy()
    kept[ended] = True
    kept[(began[:, None] - np.arange(RING_FRAMES)).ravel()] = True
    return kept


def speech(samples: NDArray[np.int16], aggressiveness: int = 1) -> NDArray[np.int16]:
    """The samples with speech of 16 kHz mono audio, joined; empty if there is none."""
    kept = speech_frames(voiced_frames(samples, aggressiveness))
    return samples[: len(kept) * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)[kept].reshape(-1)
