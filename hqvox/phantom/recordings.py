"""Voices of a phantom world in VoxCeleb's layout, with their ground truth.

<folder>/identities.csv   id, name, subset, gender, nationality, as `hqvox init --identities` reads
  voices.csv              every voice's traits
  truth.csv               every file: its speaker, its fault, its sounds; written last
  wav/<id>/<video>/<n>.wav    as VoxCeleb1
  aac/<id>/<video>/<n>.m4a    as VoxCeleb2, every third identity

The people are those of ``world.make_world`` with the same seed. The same seed writes the same
bytes.
"""

from __future__ import annotations

import csv
import io
import wave
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

from hqvox.phantom.identity import FaceIdentity, VoiceIdentity
from hqvox.phantom.person import voice_for
from hqvox.phantom.prosody import PAUSE
from hqvox.phantom.voices import RATE_HZ, Recording, Utterance, speak
from hqvox.phantom.world import Run, cast, world_names

FAULTS = ("stereo", "low_rate", "silent", "truncated", "high_rate", "empty", "not_audio")
"""Faults and unusual forms of files, in the order in which worlds get them.

stereo: two channels; low_rate: 8 kHz; high_rate: 48 kHz and 24 bits; these three are readable.
silent: digital silence; truncated: the last three fifths missing; empty: no bytes; not_audio:
text."""
_REASONS = {"silent": "silent", "truncated": "truncated", "empty": "empty",
            "not_audio": "not_audio"}  # fmt: skip
COLUMNS = ("file", "identity_id", "name", "video", "utterance", "kind", "reason", "seconds",
           "speech_seconds", "pitch_hz", "sounds")  # fmt: skip
"""Columns of ``truth.csv``: ``kind``: "plain" or one of ``FAULTS``; ``reason``: why the file
cannot be used, else empty; ``speech_seconds``: without pauses; ``pitch_hz``: mean over voiced
frames; ``sounds``: IPA, a pause is a space. ``name`` is empty for the one speaker who is not in the
list of identities."""
_COUNTRIES = ("Atlantis", "Lilliput", "Laputa", "Brobdingnag")
_UNKNOWN = "id99999"


@dataclass(frozen=True)
class _Speaker:
    key: int
    """Part of the seed of everything random about this speaker."""
    identity_id: str
    name: str
    subset: str
    gender: str
    voice: VoiceIdentity


@dataclass(frozen=True)
class _Task:
    """The recordings of one speaker; ``takes`` of them, over all videos."""

    out: Path
    seed: int
    speaker: _Speaker
    takes: int
    takes_per_video: int
    seconds: tuple[float, float]
    faults: dict[int, str]
    """Kind of the takes that are unusual or unusable."""


def make_voices(
    out_dir: Path,
    seed: int,
    identities: int = 12,
    videos: int = 2,
    utterances_per_video: int = 3,
    seconds: tuple[float, float] = (4.0, 8.0),
    shared: float = 0.9,
    faults: bool = True,
    by_name: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
    run: Run = map,
) -> Path:
    """Write the voices of the world of ``seed`` and ``identities``; return ``truth.csv``.

    ``seconds``: shortest and longest utterance; ``shared``: correlation of the traits of face and
    voice, 0 to 1 (``person.py``). With ``faults``, some files are unusual or unusable (``FAULTS``),
    every sixth identity has no voice, and one voice has an id that is in no list. With ``by_name``,
    the ids of identities are their names, as in a build from folders of photographs.
    ``on_progress`` is called with utterances made and to make; ``run`` is as in
    :func:`hqvox.phantom.world.make_world`, with a task for each speaker. Files of the same names
    are replaced.
    """
    out = Path(out_dir)
    speakers = _speakers(seed, identities, shared, by_name)
    speaking = [s for i, s in enumerate(speakers) if not (faults and i % 6 == 5)]
    if faults:
        stranger = np.random.default_rng([seed, 20_000])
        speaking.append(_Speaker(99_999, _UNKNOWN, "", "vox1", "", VoiceIdentity.sample(stranger)))
    per_speaker = videos * utterances_per_video
    planned = _planned_faults(speaking, per_speaker) if faults else {}
    tasks = [
        _Task(
            out,
            seed,
            speaker,
            per_speaker,
            utterances_per_video,
            seconds,
            {take: kind for (who, take), kind in planned.items() if who == number},
        )
        for number, speaker in enumerate(speaking)
    ]
    rows: list[dict[str, str]] = []
    for spoken in run(_record_speaker, tasks):
        rows += spoken
        if on_progress is not None:
            on_progress(len(rows), len(speaking) * per_speaker)
    _write_csv(
        out / "identities.csv",
        ("id", "name", "subset", "gender", "nationality"),
        ({"id": s.identity_id, "name": s.name, "subset": s.subset, "gender": s.gender,
          "nationality": _COUNTRIES[i % len(_COUNTRIES)]} for i, s in enumerate(speakers)),
    )  # fmt: skip
    traits = [{"identity_id": s.identity_id} | _shown(s.voice.traits()) for s in speaking]
    _write_csv(out / "voices.csv", tuple(traits[0]), traits)
    _write_csv(out / "truth.csv", COLUMNS, rows)
    return out / "truth.csv"


def _record_speaker(task: _Task) -> list[dict[str, str]]:
    """Write the recordings of one speaker; return their rows of the truth table."""
    rows = []
    for take in range(task.takes):
        rng = np.random.default_rng([task.seed, 30_000, task.speaker.key, take])
        video, n = divmod(take, task.takes_per_video)
        place = _place(task.seed, task.speaker, video)
        utterance = speak(task.speaker.voice, float(rng.uniform(*task.seconds)), rng, place)
        kind = task.faults.get(take, "plain")
        file = _path(task.seed, task.speaker, video, n)
        (task.out / file).parent.mkdir(parents=True, exist_ok=True)
        (task.out / file).write_bytes(_stored(utterance.samples, kind, file.suffix))
        rows.append(_row(file, task.speaker, kind, utterance))
    return rows


def world_voices(faces: list[FaceIdentity], seed: int, shared: float) -> list[VoiceIdentity]:
    """Return the voices of a world's people, in their order."""
    return [
        voice_for(face, np.random.default_rng([seed, 40_000, i]), shared)
        for i, face in enumerate(faces)
    ]


def _speakers(seed: int, identities: int, shared: float, by_name: bool) -> list[_Speaker]:
    faces = cast(seed, identities)
    voices = world_voices(faces, seed, shared)
    out = []
    for i, (name, face, voice) in enumerate(
        zip(world_names(identities), faces, voices, strict=True)
    ):
        second = i % 3 == 2
        key = i + 1 if second else i + 10001
        identity_id = name if by_name else f"id{key:05d}"
        gender = "m" if face.masculinity > 0.5 else "f"
        subset = "vox2" if second else "vox1"
        out.append(_Speaker(key, identity_id, name, subset, gender, voice))
    return out


def _planned_faults(speaking: list[_Speaker], takes: int) -> dict[tuple[int, int], str]:
    """Give each fault to the second utterance of another speaker, then to their third, and so on.

    Faults are put into wav files; the truncated file is an m4a if there is one.
    """
    known = [i for i, s in enumerate(speaking) if s.name]
    wav = [i for i in known if speaking[i].subset == "vox1"] or known
    aac = [i for i in known if speaking[i].subset == "vox2"] or wav
    planned: dict[tuple[int, int], str] = {}
    for fault in FAULTS:
        who = aac if fault == "truncated" else wav
        free = [(i, take) for take in range(1, takes) for i in who if (i, take) not in planned]
        if free:
            planned[free[0]] = fault
    return planned


def _place(seed: int, speaker: _Speaker, video: int) -> Recording:
    """Return the recording conditions of a video, the same for all its utterances."""
    return Recording.sample(np.random.default_rng([seed, 50_000, speaker.key, video]))


def _path(seed: int, speaker: _Speaker, video: int, utterance: int) -> Path:
    name = video_name(np.random.default_rng([seed, 60_000, speaker.key, video]))
    kind, suffix = ("aac", ".m4a") if speaker.subset == "vox2" else ("wav", ".wav")
    return Path(kind) / speaker.identity_id / name / f"{utterance + 1:05d}{suffix}"


def video_name(rng: np.random.Generator) -> str:
    """Return a random name of 11 characters like those of online videos."""
    letters = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"))
    # on the command line a folder that begins with a hyphen would look like an option
    return str(rng.choice(letters[:52])) + "".join(rng.choice(letters, 10))


def _stored(samples: NDArray[np.int16], kind: str, suffix: str) -> bytes:
    """Return the file's bytes with its fault."""
    if kind == "empty":
        return b""
    if kind == "not_audio":
        return b"<!DOCTYPE html>\n<html><body><h1>404 Not Found</h1></body></html>\n"
    if kind == "silent":
        samples = np.zeros_like(samples)
    if kind == "stereo":
        quieter = np.rint(samples * 0.6).astype(np.int16)
        return wav_bytes(np.stack([samples, quieter], axis=1), RATE_HZ)
    if kind == "low_rate":
        return wav_bytes(_rounded(resample_poly(samples.astype(float), 1, 2)), RATE_HZ // 2)
    if kind == "high_rate":
        return wav_bytes(resample_poly(samples.astype(float), 3, 1), 3 * RATE_HZ, width=3)
    data = m4a_bytes(samples) if suffix == ".m4a" else wav_bytes(samples, RATE_HZ)
    return data[: len(data) * 2 // 5] if kind == "truncated" else data


def wav_bytes(samples: NDArray[np.generic], rate_hz: int, width: int = 2) -> bytes:
    """Return a PCM wav file of (n,) or (n, channels) samples of full scale 32768.

    ``width``: bytes a sample, 2 or 3; with 3, fractions of the 16-bit steps are kept.
    """
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(width)
        file.setframerate(rate_hz)
        if width == 2:
            file.writeframes(samples.astype("<i2").tobytes())
        else:
            fine = np.clip(np.rint(samples.astype(float) * 256), -(2**23), 2**23 - 1)
            whole = fine.astype("<i4").ravel().view(np.uint8).reshape(-1, 4)
            file.writeframes(whole[:, :3].tobytes())
    return out.getvalue()


def m4a_bytes(samples: NDArray[np.int16], bit_rate: int = 64_000) -> bytes:
    """Return 16 kHz mono samples as AAC in an MPEG-4 container, the same bytes each time."""
    out = io.BytesIO()
    with av.open(out, "w", format="ipod", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("aac", rate=RATE_HZ, options={"flags": "+bitexact"})
        stream.bit_rate = bit_rate
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = RATE_HZ
        frame.pts = 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return out.getvalue()


def _rounded(samples: NDArray[np.float64]) -> NDArray[np.int16]:
    return np.clip(np.rint(samples), -32768, 32767).astype(np.int16)


def _row(file: Path, speaker: _Speaker, kind: str, utterance: Utterance) -> dict[str, str]:
    voiced = utterance.pitch_hz[utterance.pitch_hz > 0]
    spoken = [s for s in utterance.sounds if s.symbol != PAUSE]
    truth = {"speech_seconds": sum(s.end_s - s.start_s for s in spoken),
             "pitch_hz": float(voiced.mean()) if len(voiced) else 0.0}  # fmt: skip
    sounds = "".join(" " if s.symbol == PAUSE else s.symbol for s in utterance.sounds).strip()
    nothing = kind in ("silent", "empty", "not_audio")
    return {
        "file": file.as_posix(),
        "identity_id": speaker.identity_id,
        "name": speaker.name,
        "video": file.parent.name,
        "utterance": file.stem,
        "kind": kind,
        "reason": _REASONS.get(kind, ""),
        "seconds": f"{len(utterance.samples) / RATE_HZ:.6g}",
        "sounds": "" if nothing else sounds,
    } | ({"speech_seconds": "0", "pitch_hz": ""} if nothing else _shown(truth))


def _shown(values: dict[str, float]) -> dict[str, str]:
    return {name: f"{value:.6g}" for name, value in values.items()}


def _write_csv(file: Path, columns: tuple[str, ...], rows: Iterable[dict[str, str]]) -> None:
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
