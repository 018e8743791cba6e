"""Made sounds, and files of them in many forms."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

RATE = 16000


def babble(seconds: float = 3.0, seed: int = 0, rate: int = RATE) -> NDArray[np.float64]:
    """A buzzing vowel of changing pitch, full scale 1, that the detector takes for speech."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    pitch_hz = 120 + 20 * rng.random() + 15 * np.sin(2 * np.pi * 1.7 * t + rng.random())
    phase = 2 * np.pi * np.cumsum(pitch_hz) / rate
    wave = np.zeros(t.size)
    for harmonic in range(1, 25):
        hz = harmonic * 130
        gain = sum(
            np.exp(-(((hz - f) / w) ** 2)) for f, w in ((600, 150), (1200, 200), (2500, 300))
        )
        wave += (gain + 0.02) * np.sin(harmonic * phase)
    wave *= 0.75 + 0.25 * np.sin(2 * np.pi * 4 * t)
    return 0.5 * wave / np.abs(wave).max()


def sine(hz: float, seconds: float, rate: int) -> NDArray[np.float64]:
    """A tone of half of full scale."""
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)


def sound_file(
    wave: NDArray, rate: int = RATE, form: str = "WAV", subtype: str = "PCM_16"
) -> bytes:
    """A file's bytes as libsndfile writes it; ``wave``: (n,) or (n, channels)."""
    sink = io.BytesIO()
    soundfile.write(sink, wave, rate, subtype, format=form)
    return sink.getvalue()


def av_file(wave: NDArray, form: str, codec: str, rate: int = RATE) -> bytes:
    """A mono file's bytes as FFmpeg writes it."""
    sink = io.BytesIO()
    with av.open(sink, "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(wave.astype(np.float32)[None], "fltp", "mono")
        frame.sample_rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return sink.getvalue()


def video_without_sound() -> bytes:
    """An MP4 with a few grey frames."""
    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        for _ in range(5):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 90, np.uint8), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return sink.getvalue()


def put(folder: Path, path: str, data: bytes) -> Path:
    """Write a file below a folder."""
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    return target
