"""Speed of indexing, decoding, voice activity detection, log-mels and packing, on one core.

    python benchmarks/speech.py [--voices DIR] [--files 100000]

``--voices`` is a folder of wav files. Without it, phantom voices are synthesised with the durations
of VoxCeleb's utterances (at least 4 s, 8 s on average). The log-mel is compared with
``python_speech_features`` in the same run: both alternate, and the best of several rounds counts.
CPU time is that of the process, which other work on the machine disturbs less than wall-clock time.
The reference's large arrays make it slower per second for longer utterances and in a process with
less memory allocated, so figures are also given by duration.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import soundfile
from numpy.typing import NDArray
from python_speech_features import logfbank

from hqvox.config.build import SpeechConfig
from hqvox.phantom.identity import VoiceIdentity
from hqvox.phantom.voices import Recording, speak
from hqvox.speech.build import plan_speech, run_speech
from hqvox.speech.decode import decode
from hqvox.speech.listing import SETTLED_SECONDS, Listing
from hqvox.speech.log_mel import SAMPLE_RATE_HZ, log_mel
from hqvox.speech.vad import speech
from hqvox.workspace import identities
from hqvox.workspace.layout import Workspace

ROUNDS = 12
PEOPLE = 1000


def timed(work: Callable[[], object]) -> NDArray[np.float64]:
    """CPU and wall seconds of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return np.array([time.process_time() - cpu, time.perf_counter() - wall])


def phantom_voices(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    for number in range(count):
        seconds = min(4 + rng.gamma(1.2, 3.5), 30)
        voice, place = VoiceIdentity.sample(rng), Recording.sample(rng)
        samples = speak(voice, seconds, rng, place).samples
        target = folder / f"p{number % 8}" / "video" / f"{number:05d}.wav"
        target.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(target, samples, SAMPLE_RATE_HZ)


def measure_log_mel(utterances: list[NDArray[np.int16]]) -> None:
    """In turns, the best round of every utterance counts."""
    fast = np.full((len(utterances), 2), np.inf)
    slow = np.full((len(utterances), 2), np.inf)
    worst = 0.0
    for _ in range(ROUNDS):
        for number, samples in enumerate(utterances):
            slow[number] = np.minimum(slow[number], timed(lambda s=samples: logfbank(s, nfilt=40)))
        for number, samples in enumerate(utterances):
            fast[number] = np.minimum(fast[number], timed(lambda s=samples: log_mel(s)))
    for samples in utterances:
        worst = max(worst, float(np.abs(log_mel(samples) - logfbank(samples, nfilt=40)).max()))
    seconds = np.array([len(samples) for samples in utterances]) / SAMPLE_RATE_HZ
    print("log-mel, 40 filters, seconds of audio per second (CPU / wall)")
    print(f"{'utterances':>24} {'python_speech_features':>24} {'hqvox':>20} {'times':>14}")
    bounds = [(0.0, 6.0), (6.0, 10.0), (10.0, np.inf), (0.0, np.inf)]
    for low, high in bounds:
        chosen = (seconds >= low) & (seconds < high)
        if not chosen.any():
            continue
        before = seconds[chosen].sum() / slow[chosen].sum(axis=0)
        now = seconds[chosen].sum() / fast[chosen].sum(axis=0)
        label = f"{chosen.sum()} of {low:g} to {high:g} s" if high < np.inf or low else "all"
        print(
            f"{label:>24} {before[0]:12.0f} /{before[1]:10.0f} {now[0]:9.0f} /{now[1]:9.0f} "
            f"{now[0] / before[0]:6.1f} /{now[1] / before[1]:6.1f}"
        )
    print(f"  largest difference {worst:.1e}; mean duration {seconds.mean():.1f} s")


def measure_path(folder: Path, work: Path) -> None:
    """Everything from files to a committed pack, in one process; and its parts."""
    files = sorted(folder.rglob("*.wav"))
    rows = identities.read_folders(folder)
    config = SpeechConfig()
    best = np.full(2, np.inf)
    for number in range(5):
        workspace = Workspace.create(work / str(number), "format: 1\n", identities.to_table(rows))
        places = {"audio": [str(folder)], "csv": []}
        plan = plan_speech(workspace, config, places)
        results = []

        def run(workspace=workspace, plan=plan, places=places, results=results) -> None:
            results.append(run_speech(workspace, workspace.config(), plan, places, workers=0))

        best = np.minimum(best, timed(run))
        seconds = results[0].source_seconds
    print(
        f"whole path (read, decode, VAD, log-mel, pack), {len(files)} wav files, {seconds:.0f} s: "
        f"{seconds / best[0]:.0f} times real time by CPU, {seconds / best[1]:.0f} by wall"
    )
    data = [file.read_bytes() for file in files]
    decoded = [decode(item).samples for item in data]
    spoken = [speech(samples) for samples in decoded]
    parts: dict[str, Callable[[], object]] = {
        "decode": lambda: [decode(item) for item in data],
        "VAD": lambda: [speech(samples) for samples in decoded],
        "log-mel": lambda: [log_mel(samples) for samples in spoken],
    }
    for name, part in parts.items():
        quickest = np.min([timed(part) for _ in range(5)], axis=0)
        print(f"  {name:8} {1e3 * quickest[0] / seconds:.3f} ms CPU per second of audio")


def measure_index(work: Path, count: int) -> None:
    """A tree of empty files as VoxCeleb lays it out: indexed, and indexed again unchanged."""
    audio = work / "tree"
    each = max(1, round(count / PEOPLE / 10))
    then = time.time() - 2 * SETTLED_SECONDS
    made = 0
    for person in range(PEOPLE):
        for video in range(10):
            folder = audio / "wav" / f"id{10001 + person:05d}" / f"video{video:02d}"
            folder.mkdir(parents=True)
            for number in range(each):
                path = folder / f"{number:05d}.wav"
                path.touch()
                os.utime(path, (then, then))
                made += 1
            os.utime(folder, (then, then))
        os.utime(folder.parent, (then, then))
    os.utime(folder.parent.parent, (then, then))
    os.utime(audio, (then, then))
    lines = "".join(f"id{10001 + n:05d},Name_{n}\n" for n in range(PEOPLE))
    (work / "people.csv").write_text("id,name\n" + lines)
    rows = identities.read_csv(work / "people.csv")
    workspace = Workspace.create(work / "indexed", "format: 1\n", identities.to_table(rows))
    places = {"audio": [str(audio)], "csv": []}
    for what in ("first", "again, unchanged"):
        listings: list[Listing] = []

        def index(listings=listings) -> None:
            plan = plan_speech(workspace, SpeechConfig(), places)
            plan.listing.save(workspace.storage, "speech/index/folders.parquet")
            assert plan.index.count() == made
            listings.append(plan.listing)

        cpu, wall = timed(index)
        print(
            f"index and plan of {made} files, {what}: {cpu:.1f} s CPU, {wall:.1f} s wall "
            f"({listings[0].listed} folders listed)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--voices", type=Path, help="folder with a folder of wav files per person")
    parser.add_argument("--files", type=int, default=100_000, help="files of the index's tree")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        voices = args.voices
        if voices is None:
            voices = work / "voices"
            phantom_voices(voices, 48)
        wavs = sorted(voices.rglob("*.wav"))
        measure_log_mel([decode(file.read_bytes()).samples for file in wavs])
        measure_path(voices, work)
        measure_index(work, args.files)


if __name__ == "__main__":
    main()
