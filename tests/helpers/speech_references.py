"""Frame-by-frame references that the fast paths are compared with."""

from __future__ import annotations

from collections import deque

import numpy as np
import webrtcvad
from numpy.typing import NDArray


def ring_reference(decisions: list[bool]) -> list[int]:
    """Indices of the frames kept, by walking through the decisions with a ring of 10."""
    ring: deque[tuple[int, bool]] = deque(maxlen=10)
    kept: list[int] = []
    speaking = False
    for number, voiced in enumerate(decisions):
        ring.append((number, voiced))
        if speaking:
            kept.append(number)
            if sum(not v for _, v in ring) > 0.9 * 10:
                speaking = False
                ring.clear()
        elif sum(v for _, v in ring) > 0.9 * 10:
            speaking = True
            kept += [n for n, _ in ring]
            ring.clear()
    return kept


def speech_reference(samples: NDArray[np.int16], aggressiveness: int) -> NDArray[np.int16]:
    """Speech of 16 kHz samples, frame by frame; a frame needs a sample after it."""
    detector = webrtcvad.Vad(aggressiveness)
    data, size = samples.tobytes(), 960
    frames = []
    at = 0
    while at + size < len(data):
        frames.append(data[at : at + size])
        at += size
    kept = ring_reference([detector.is_speech(frame, 16000) for frame in frames])
    return np.frombuffer(b"".join(frames[n] for n in kept), np.int16)
