"""One audio file to its log-mel, or to the reason why there is none."""

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
"""Raised by hand when decoding, voice activity or log-mel changes what it gives."""

REASONS = (
    *decoding.REASONS,
    "unreadable",
    "too_large",
    "silent",
    "no_voice",
    "too_short",
    "duplicate",
)
"""Every reason that a file can be refused for; a clipped file is kept, and the share recorded.

unreadable: the system refuses it; silent: never louder than ``min_peak_dbfs``; no_voice: the VAD
keeps nothing; too_short: less than ``min_seconds`` left; duplicate: the bytes of another file of
the same identity.
"""


def read_file(path: Path, config: SpeechConfig) -> bytes:
    """A file's bytes. Raises AudioError."""
    try:
        status = path.stat()
        # Opening a pipe would wait for a writer that never comes.
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
    """What the columns say of a file's bytes, and its log-mel (frames, filters) if it is kept.

    The row holds every column that follows from the bytes alone; ``reason`` is null where the
    file is kept, and its measurements are there as far as it got.
    """
    row: Row = {"sha256": hashlib.sha256(data).hexdigest(), "seconds": 0.0, "reason": None}
    try:
        return row, _log_mel(data, config, row)
    except AudioError as error:
        row |= {"reason": error.reason, "detail": error.detail or None}
        return row, None


def _log_mel(data: bytes, config: SpeechConfig, row: Row) -> NDArray[np.float32]:
    """The log-mel; fills the row as it goes. Raises AudioError."""
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
