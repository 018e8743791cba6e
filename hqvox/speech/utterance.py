"""One audio file to its log-mel, or to the reason why it is refused."""

from __future__ import annotations

import hashlib
import math
import stat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from hqvox.config.build import SpeechConfig
from hqvox.errors import HqvoxError
from hqvox.speech import decode as decoding
from hqvox.speech import vad, voice2face
from hqvox.speech.decode import AudioError
from hqvox.speech.log_mel import SAMPLE_RATE_HZ, log_mel
from hqvox.workspace.tables import Row

VERSION = 2
"""Raised by hand when the results of decoding, voice activity or log-mel change."""

REASONS = (
    *decoding.REASONS,
    "unreadable",
    "too_large",
    "silent",
    "no_voice",
    "too_short",
    "duplicate",
)
"""Why a file can be refused. A clipped file is kept, and its clipped share is recorded.

unreadable: it cannot be read; silent: its peak is below ``min_peak_dbfs``; no_voice: the VAD keeps
nothing; too_short: less than ``min_seconds`` of speech; duplicate: another file of the same
identity has the same bytes.
"""

LEAST_SECONDS = 0.025
"""Shortest speech of a file by itself: one frame. A data set has ``min_seconds``."""
_OTHER = "give a recording of somebody speaking"
_WHY = {
    "silent": "it is silent",
    "no_voice": "nobody speaks in it",
    "too_short": "it holds hardly any speech",
    "empty": "it is empty",
    "not_audio": "it is no audio format that is known",
    "no_audio": "it has no sound",
    "truncated": "it is cut short",
    "unreadable": "it cannot be read",
}


def read_file(path: Path, config: SpeechConfig) -> bytes:
    """A file's bytes. Raises AudioError."""
    try:
        status = path.stat()
        # Opening a named pipe would wait for a writer.
        if not stat.S_ISREG(status.st_mode):
            raise AudioError("unreadable", "not a file")
        if status.st_size > config.max_bytes:
            raise AudioError("too_large", f"{status.st_size} bytes")
        return path.read_bytes()
    except OSError as error:
        raise AudioError("unreadable", error.strerror or str(error)) from None
    except ValueError as error:  # a zero byte in the name
        raise AudioError("unreadable", str(error)) from None


def process(data: bytes, config: SpeechConfig) -> tuple[Row, NDArray[np.float32] | None]:
    """Columns of a file's bytes, and its log-mel (frames, filters) if it is kept.

    The row has every column that depends on the bytes alone. ``reason`` is null if the file is
    kept; a refused file has the columns measured before it was refused.
    """
    row: Row = {"sha256": hashlib.sha256(data).hexdigest(), "seconds": 0.0, "reason": None}
    try:
        return row, _log_mel(data, config, row)
    except AudioError as error:
        row |= {"reason": error.reason, "detail": error.detail or None}
        return row, None


def _log_mel(data: bytes, config: SpeechConfig, row: Row) -> NDArray[np.float32]:
    """The log-mel; adds columns to the row on the way. Raises AudioError."""
    ring = vad.VOICE2FACE if config.front_end == "voice2face" else vad.SF2F
    audio = decoding.decode(data, config.max_seconds)
    loudest = int(np.abs(audio.samples.astype(np.int32)).max(initial=0))
    peak_dbfs = 20 * math.log10(loudest / 32768) if loudest else None
    row |= {
        "source_seconds": audio.seconds,
        "media_type": audio.media_type,
        "rate_hz": audio.rate_hz,
        "channels": audio.channels,
        "peak_dbfs": peak_dbfs,
        "clipped_fraction": audio.clipped_fraction,
    }
    if peak_dbfs is None or peak_dbfs < config.min_peak_dbfs:
        raise AudioError("silent", "digital silence" if peak_dbfs is None else "")
    spoken = audio.samples
    if config.vad:
        spoken = vad.speech(audio.samples, config.vad_aggressiveness, ring)
    seconds = len(spoken) / SAMPLE_RATE_HZ
    row["seconds"] = seconds
    if not len(spoken):
        raise AudioError("no_voice")
    if seconds < config.min_seconds:
        raise AudioError("too_short", f"{seconds:.2f} s of speech, {config.min_seconds:g} needed")
    if config.front_end == "voice2face":
        return voice2face.log_mel(spoken)
    return log_mel(spoken, config.n_filters)


def speech_of(
    audio: Path, n_filters: int | None = None, *, vad: bool = True, front_end: str = "sf2f"
) -> tuple[NDArray[np.float32], float]:
    """The log-mel (frames, n_filters) of a file's speech, and its length, s.

    Made as `hqvox speech` does, however short. ``vad=False``: of all that the file holds, pauses
    included. ``front_end``: as ``speech.front_end``. ``n_filters``: 40 or 64, by default the front
    end's. Raises HqvoxError where there is no speech, or no such front end.
    """
    values = {"front_end": front_end, "min_seconds": LEAST_SECONDS, "vad": vad}
    values |= {} if n_filters is None else {"n_filters": n_filters}
    try:
        config = SpeechConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise HqvoxError(f"{where}={first['input']!r}: {first['msg']}") from None
    try:
        row, frames = process(read_file(audio, config), config)
    except AudioError as error:
        raise HqvoxError(f"{audio}: {_WHY.get(error.reason, error.reason)}; {_OTHER}") from None
    if frames is None:
        why = _WHY.get(row["reason"], row["reason"].replace("_", " "))
        detail = f" ({row['detail']})" if row.get("detail") else ""
        raise HqvoxError(f"{audio}: {why}{detail}; {_OTHER}")
    return frames, float(row["seconds"])
