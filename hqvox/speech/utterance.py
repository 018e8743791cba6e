"""One audio file to its log-mel, or to the reason why it is refused."""

from __future__ import annotations

import hashlib
import math
import stat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hqvox.config.build import SpeechConfig
from hqvox.speech import decode as decoding
from hqvox.speech.decode import AudioError
from hqvox.speech.log_mel import SAMPLE_RATE_HZ, log_mel
from hqvox.speech.vad import speech
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
    spoken = speech(audio.samples, config.vad_aggressiveness) if config.vad else audio.samples
    seconds = len(spoken) / SAMPLE_RATE_HZ
    row["seconds"] = seconds
    if not len(spoken):
        raise AudioError("no_voice")
    if seconds < config.min_seconds:
        raise AudioError("too_short", f"{seconds:.2f} s of speech, {config.min_seconds:g} needed")
    return log_mel(spoken, config.n_filters)
