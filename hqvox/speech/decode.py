"""Decode audio of any common format to 16 kHz mono int16. Content decides the format, not the name.

libsndfile reads wav, flac, aiff and similar formats; FFmpeg (PyAV) reads m4a, mp3, ogg, and the
sound tracks of videos. Channels are averaged. Other rates are resampled with a windowed-sinc
polyphase filter, which keeps 90 % of the band and attenuates by 90 dB from 8 kHz on.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from functools import lru_cache
from math import gcd

import av
import av.container
import av.error
import numpy as np
import soundfile
from numpy.typing import NDArray

from hqvox.speech.log_mel import SAMPLE_RATE_HZ

MIN_RATE_HZ = 4_000
MAX_RATE_HZ = 384_000

_STOP_DB = 90.0
_PASS_SHARE = 0.9
"""Share of the narrower band that resampling keeps unchanged."""
_FULL_SCALE = 32768.0
_FORMATS = "mov,mp3,ogg,aac,matroska,flac,wav,w64,aiff,au,caf,asf,avi,mpeg,mpegts,flv,ac3,amr"
"""Formats that FFmpeg may try: no playlists, whose entries it would open, and no pictures."""
_UNKNOWN_LENGTH = (0, 0x7FFFFFFF, 0xFFFFFFFF)
"""Sizes that programs write into the header of a wav that they stream."""


class AudioError(Exception):
    """A file without usable audio: ``reason`` is one of :data:`REASONS`, ``detail`` adds to it."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


REASONS = ("empty", "not_audio", "no_audio", "truncated", "too_long", "unusual_rate")
"""Why a file cannot be decoded.

empty: no bytes or no samples; not_audio: no known format; no_audio: a video without sound;
truncated: shorter than its header states; too_long; unusual_rate: outside 4 to 384 kHz.
"""


@dataclass(frozen=True)
class Audio:
    """Decoded audio, and properties of its file."""

    samples: NDArray[np.int16]
    """16 kHz mono."""
    seconds: float
    media_type: str
    """Container and codec, for example ``wav/pcm_16`` or ``mov/aac``."""
    rate_hz: int
    channels: int
    clipped_fraction: float
    """Share of the file's samples at full scale."""


def decode(data: bytes, max_seconds: float = 600.0) -> Audio:
    """Decode a whole file's bytes. Raises AudioError, also for anything malformed."""
    if not data:
        raise AudioError("empty", "0 bytes")
    if not data.strip(b"\0"):
        # An unfinished download that reserved its space first.
        raise AudioError("truncated", f"{len(data)} bytes, all of them zero")
    _check_whole(data)
    # libsndfile also reads mp3 and ogg, but then writes warnings to the terminal.
    if data[:4] in (b"RIFF", b"RF64", b"fLaC", b"FORM", b".snd", b"caff"):
        try:
            return _with_soundfile(data, max_seconds)
        except soundfile.LibsndfileError:
            pass  # a codec or container that only FFmpeg knows, such as avi
    return _with_av(data, max_seconds)


def to_mono_16k(channels: NDArray[np.float32] | NDArray[np.int16], rate_hz: int) -> NDArray:
    """Samples (n, channels), float of full scale 1 or int16, to 16 kHz mono int16."""
    integer = channels.dtype == np.int16
    if channels.shape[1] == 1 and integer and rate_hz == SAMPLE_RATE_HZ:
        return channels[:, 0]
    mono = channels.mean(axis=1, dtype=np.float32)
    if not integer:
        mono *= _FULL_SCALE
    if rate_hz != SAMPLE_RATE_HZ:
        common = gcd(rate_hz, SAMPLE_RATE_HZ)
        up, down = SAMPLE_RATE_HZ // common, rate_hz // common
        # Imported here, so that commands that decode nothing do not wait for it.
        from scipy.signal import resample_poly

        mono = resample_poly(mono, up, down, window=_low_pass(up, down))
    return np.clip(np.rint(mono), -_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)


@lru_cache
def _low_pass(up: int, down: int) -> NDArray[np.float32]:
    from scipy.signal import firwin, kaiserord

    # The stop band begins at the lower of the two Nyquist frequencies, so nothing aliases.
    edge = 1 / max(up, down)
    taps, beta = kaiserord(_STOP_DB, edge * (1 - _PASS_SHARE))
    middle = edge * (1 + _PASS_SHARE) / 2
    return firwin(taps | 1, middle, window=("kaiser", beta)).astype(np.float32)


def _check_whole(data: bytes) -> None:
    """Raise AudioError where a file is shorter than its headers state: decoders would not."""
    end = 0
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        end = _wav_end(data)
    elif data[:4] == b"FORM":
        end = 8 + int.from_bytes(data[4:8], "big")
    elif data[:4] == b"OggS":
        page = data.rfind(b"OggS")
        segments = data[page + 27 : page + 27 + data[page + 26]] if page + 26 < len(data) else b""
        end = page + 27 + len(segments) + sum(segments)
    elif data[4:8] == b"ftyp":
        end = _mp4_end(data)
    if end > len(data):
        raise AudioError("truncated", f"{len(data)} bytes of {end} are there")


def _wav_end(data: bytes) -> int:
    at = 12
    while at + 8 <= len(data):
        kind, size = struct.unpack_from("<4sI", data, at)
        at += 8
        if kind == b"data":
            return 0 if size in _UNKNOWN_LENGTH else at + size
        at += size + (size & 1)
    return at + 8


def _mp4_end(data: bytes) -> int:
    at = 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if size == 1 and at + 16 <= len(data):
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        if size < 8:
            return 0  # 0: up to the end; else not a box
        at += size
    return at


def _with_soundfile(data: bytes, max_seconds: float) -> Audio:
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        rate, count = file.samplerate, file.channels
        _check_size(rate, file.frames / rate if rate else 0.0, max_seconds)
        # int16 as it is; 24 bit and float as float32, which holds both.
        dtype = "int16" if file.subtype == "PCM_16" else "float32"
        try:
            samples = file.read(dtype=dtype, always_2d=True)
        except soundfile.LibsndfileError as error:
            raise AudioError("truncated", str(error)) from None
        media_type = f"{file.format}/{file.subtype}".lower()
    return _audio(samples, rate, count, media_type)


def _with_av(data: bytes, max_seconds: float) -> Audio:
    pieces: list[NDArray[np.float32]] = []
    rate = 0
    try:
        with av.open(
            io.BytesIO(data),
            mode="r",
            options={"format_whitelist": _FORMATS},
            metadata_errors="replace",
        ) as container:
            if not container.streams.audio:
                if container.streams.video:
                    raise AudioError("no_audio", "no sound in it")
                raise AudioError("not_audio", f"{container.format.name}, without a sound track")
            stream = container.streams.audio[0]
            if stream.codec_context is None:
                raise AudioError("not_audio", "a codec that is not known")
            media_type = f"{container.format.name.split(',')[0]}/{stream.codec_context.name}"
            announced = _announced(container, data)
            read = 0
            for frame in container.decode(stream):
                rate = rate or frame.sample_rate
                _check_size(rate, (read + frame.samples) / (rate or 1), max_seconds)
                piece = _frame_samples(frame)
                if frame.sample_rate != rate or (pieces and piece.shape[1] != pieces[0].shape[1]):
                    raise AudioError("not_audio", "rate or channels change on the way")
                pieces.append(piece)
                read += len(piece)
    except (av.error.FFmpegError, ValueError, NotImplementedError) as error:
        line = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise AudioError("truncated" if pieces else "not_audio", line) from None
    if not pieces:
        raise AudioError("empty", "no samples in it")
    samples = np.concatenate(pieces)
    if len(samples) / rate < 0.98 * announced - 0.2:
        raise AudioError("truncated", f"{len(samples) / rate:.1f} s of {announced:.1f} s are there")
    return _audio(samples, rate, samples.shape[1], media_type)


def _frame_samples(frame: av.AudioFrame) -> NDArray[np.float32]:
    """Samples (n, channels) of full scale 1."""
    values: NDArray = frame.to_ndarray()
    if not frame.format.is_planar:
        values = values.reshape(-1, frame.layout.nb_channels).T
    scaled: NDArray[np.float32] = values.T.astype(np.float32)
    if values.dtype == np.uint8:
        return (scaled - np.float32(128)) / np.float32(128)
    if values.dtype.kind == "i":
        return scaled / np.float32(2 ** (8 * values.dtype.itemsize - 1))
    return scaled


def _announced(container: av.container.InputContainer, data: bytes) -> float:
    """Duration from the file's header, s; 0 where FFmpeg only estimates it from the bit rate."""
    name = container.format.name
    known = name.startswith(("mov", "matroska")) or (
        name == "mp3" and any(tag in data[:65536] for tag in (b"Xing", b"Info", b"VBRI"))
    )
    duration = container.duration if known else None
    return duration / av.time_base if duration else 0.0


def _check_size(rate_hz: int, seconds: float, max_seconds: float) -> None:
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise AudioError("unusual_rate", f"{rate_hz} Hz")
    if seconds > max_seconds:
        raise AudioError("too_long", f"longer than {max_seconds:g} s")


def _audio(samples: NDArray, rate_hz: int, channels: int, media_type: str) -> Audio:
    if not samples.size:
        raise AudioError("empty", "no samples in it")
    if samples.dtype == np.int16:
        clipped = np.count_nonzero((samples == 32767) | (samples == -32768))
    else:
        if not np.isfinite(samples).all():
            raise AudioError("not_audio", "samples that are not numbers")
        clipped = np.count_nonzero(np.abs(samples) >= 32767 / _FULL_SCALE)
    return Audio(
        to_mono_16k(samples, rate_hz),
        len(samples) / rate_hz,
        media_type,
        rate_hz,
        channels,
        clipped / samples.size,
    )
