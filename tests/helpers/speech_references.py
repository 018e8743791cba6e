"""Frame-by-frame references that the fast paths are compared with."""

from __future__ import annotations

import math
from collections import deque

import numpy as np
import webrtcvad
from numpy.typing import NDArray


def ring_reference(decisions: list[bool], size: int = 10) -> list[int]:
    """Indices of the frames kept, by walking through the decisions with a ring of ``size``."""
    ring: deque[tuple[int, bool]] = deque(maxlen=size)
    kept: list[int] = []
    speaking = False
    for number, voiced in enumerate(decisions):
        ring.append((number, voiced))
        if speaking:
            kept.append(number)
            if sum(not v for _, v in ring) > 0.9 * size:
                speaking = False
                ring.clear()
        elif sum(v for _, v in ring) > 0.9 * size:
            speaking = True
            kept += [n for n, _ in ring]
            ring.clear()
    return kept


def speech_reference(
    samples: NDArray[np.int16], aggressiveness: int, frame_samples: int = 480, ring: int = 10
) -> NDArray[np.int16]:
    """Speech of 16 kHz samples, frame by frame; a frame needs a sample after it."""
    detector = webrtcvad.Vad(aggressiveness)
    data, size = samples.tobytes(), 2 * frame_samples
    frames = []
    at = 0
    while at + size < len(data):
        frames.append(data[at : at + size])
        at += size
    kept = ring_reference([detector.is_speech(frame, 16000) for frame in frames], ring)
    return np.frombuffer(b"".join(frames[n] for n in kept), np.int16)


def voice2face_log_mel(samples: NDArray[np.int16]) -> NDArray[np.float64]:
    """voice2face's log-mel (frames, 64), one frame and one filter after the other, in float64."""
    window = [0.54 - 0.46 * math.cos(2 * math.pi * n / 399) for n in range(400)]
    edges = []
    low, high = (2595 * math.log10(1 + hz / 700) for hz in (20, 7200))
    for number in range(66):
        mel = low + (high - low) * number / 65
        edges.append(round(700 * (10 ** (mel / 2595) - 1) / 15.625))
    triangles = np.zeros((513, 64))
    for number in range(64):
        left, middle, right = edges[number : number + 3]
        height = 2 / (15.625 * (right - left))
        for k in range(left, right + 1):
            up, down = (k - left) / (middle - left), (right - k) / (right - middle)
            triangles[k, number] = height * min(up, down)
    rows = []
    previous = 0.0
    for start in range(0, 160 * int(len(samples) / 160 + 1), 160):
        rest = [float(x) for x in samples[start : start + 400]] or [0.0]
        frame = [rest[n % len(rest)] for n in range(400)]
        sharp = [x - 0.97 * y for x, y in zip(frame, [previous, *frame], strict=False)]
        previous = frame[-1]
        spectrum = np.fft.fft(np.array(sharp) * window, 1024)[:513]
        rows.append(np.log(np.maximum((np.abs(spectrum) ** 2) @ triangles, 1e-5)))
    return np.array(rows)
