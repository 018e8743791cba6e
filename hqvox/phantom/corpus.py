"""A training corpus of phantoms: aligned faces, and voices that share known traits with them.

    python -m hqvox.phantom.corpus /data/phantoms --train 300 --test 100

<folder>/corpus.json      the plan, which determines all else
  identities.csv          id, name, subset, gender, nationality
  split.json              {"vox1": {"train": [names], "val": …, "test": …}, "vox2": …}
  traits.csv              per identity: split (column part), traits, the voice's parameters
  vox1/{masked_faces,origin_faces}/<Name>/<n>.jpg      the released dataset's tree
  wav/<id>/<video>/<n>.wav                             VoxCeleb1's
  done/<id>.json          the identity's traits, written last: marks it as complete

Identities are independent of each other and of the order in which they are made. A stopped run
resumes. The same arguments write the same bytes. ``person.py`` defines how face and voice depend on
each other.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from hqvox.phantom.person import TRAITS, Person
from hqvox.phantom.portraits import portrait
from hqvox.phantom.recordings import video_name, wav_bytes
from hqvox.phantom.voices import RATE_HZ, Recording, speak
from hqvox.phantom.world import world_names

FORMAT = 1


@dataclass(frozen=True)
class CorpusPlan:
    """Size and composition of a corpus.

    ``train``, ``val``, ``test``: number of identities; ``shared``, ``private``: dependence of face
    and voice, 0 to 1 (``person.py``); ``faces``, ``videos``: per identity; ``utterances``: per
    video; ``seconds``: shortest and longest utterance; ``side_px``: side of the faces in pixels.
    """

    seed: int = 0
    train: int = 300
    val: int = 40
    test: int = 100
    shared: float = 1.0
    private: float = 0.3
    faces: int = 5
    videos: int = 2
    utterances: int = 4
    seconds: tuple[float, float] = (5.0, 8.0)
    side_px: int = 128

    def __post_init__(self) -> None:
        least = {"train": 0, "val": 0, "test": 0, "faces": 1, "videos": 1, "utterances": 1,
                 "side_px": 32, "identities": 1}  # fmt: skip
        for name, limit in least.items():
            if getattr(self, name) < limit:
                raise ValueError(f"{name} must be at least {limit}, not {getattr(self, name)}")
        for name in ("shared", "private"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, not {getattr(self, name)}")
        shortest, longest = self.seconds
        if not 0.5 <= shortest <= longest:
            raise ValueError(f"seconds must rise from at least 0.5, not {shortest} to {longest}")

    @property
    def identities(self) -> int:
        """Number of identities."""
        return self.train + self.val + self.test

    def part(self, number: int) -> str:
        """Return the split of identity ``number``: train, val or test."""
        if number < self.train:
            return "train"
        return "val" if number < self.train + self.val else "test"


def make_corpus(
    out_dir: Path,
    plan: CorpusPlan,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Make or resume the corpus of ``plan`` in ``out_dir``; return the path of ``split.json``.

    ``workers``: processes, by default one per core; 0 runs in this process. ``on_progress`` is
    called with identities made and to make. Raises ValueError if ``out_dir`` holds a corpus of
    another plan.
    """
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    asked = json.loads(json.dumps({"format": FORMAT} | asdict(plan)))
    marker = out / "corpus.json"
    if marker.exists():
        stored = json.loads(marker.read_text("utf-8"))
        keys = sorted(key for key in asked | stored if asked.get(key) != stored.get(key))
        if keys:
            changes = ", ".join(f"{key} {stored.get(key)} not {asked.get(key)}" for key in keys)
            raise ValueError(f"{out} holds another corpus: {changes}; name another folder")
    else:
        _write(marker, asked)
    (out / "done").mkdir(exist_ok=True)
    missing = [i for i in range(plan.identities) if not _done(out, i).exists()]
    made = plan.identities - len(missing)
    for _ in _mapped(partial(_make_one, out, plan), missing, workers):
        made += 1
        if on_progress is not None:
            on_progress(made, plan.identities)
    return _write_lists(out, plan)


def _mapped(work: Callable[[int], None], numbers: list[int], workers: int | None) -> Iterable[None]:
    count = workers if workers is not None else len(os.sched_getaffinity(0))
    if count <= 0:
        yield from map(work, numbers)
        return
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(count, context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        yield from pool.map(work, numbers)


def _make_one(out: Path, plan: CorpusPlan, number: int) -> None:
    """Render and synthesise one identity; its traits are written last."""
    identity_id, name = _identity_id(number), world_names(number + 1)[number]
    person = Person.sample(
        np.random.default_rng([plan.seed, 70_000, number]), plan.shared, plan.private
    )
    for kind in ("masked_faces", "origin_faces"):
        (out / "vox1" / kind / name).mkdir(parents=True, exist_ok=True)
    for shot in range(plan.faces):
        rng = np.random.default_rng([plan.seed, 71_000, number, shot])
        pictures = portrait(person.face, plan.side_px, rng)
        for kind, rgb in zip(("masked_faces", "origin_faces"), pictures, strict=True):
            options = [cv2.IMWRITE_JPEG_QUALITY, 95]
            _, data = cv2.imencode(".jpg", np.ascontiguousarray(rgb[..., ::-1]), options)
            (out / "vox1" / kind / name / f"{shot}.jpg").write_bytes(data.tobytes())
    for video in range(plan.videos):
        rng = np.random.default_rng([plan.seed, 72_000, number, video])
        folder = out / "wav" / identity_id / video_name(rng)
        folder.mkdir(parents=True, exist_ok=True)
        place = Recording.sample(rng)
        for take in range(plan.utterances):
            utterance = speak(person.voice, float(rng.uniform(*plan.seconds)), rng, place)
            (folder / f"{take + 1:05d}.wav").write_bytes(wav_bytes(utterance.samples, RATE_HZ))
    traits = {"identity_id": identity_id, "name": name, "part": plan.part(number)}
    traits["gender"] = "m" if person.face.masculinity > 0.5 else "f"
    for side, values in (("voice", person.voice_traits), ("face", person.face_traits)):
        traits |= {f"{side}_{t.name}": f"{v:.9g}" for t, v in zip(TRAITS, values, strict=True)}
    traits |= {name: f"{value:.9g}" for name, value in person.voice.traits().items()}
    _write(_done(out, number), traits)


def _write_lists(out: Path, plan: CorpusPlan) -> Path:
    rows = [json.loads(_done(out, i).read_text("utf-8")) for i in range(plan.identities)]
    identities = [
        {"id": r["identity_id"], "name": r["name"], "subset": "vox1", "gender": r["gender"],
         "nationality": ""} for r in rows
    ]  # fmt: skip
    for file, table in (("traits.csv", rows), ("identities.csv", identities)):
        with (out / file).open("w", encoding="utf-8", newline="") as lines:
            writer = csv.DictWriter(lines, tuple(table[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(table)
    parts = {p: [r["name"] for r in rows if r["part"] == p] for p in ("train", "val", "test")}
    _write(out / "split.json", {"vox1": parts, "vox2": {p: [] for p in parts}})
    return out / "split.json"


def _identity_id(number: int) -> str:
    return f"id{number + 10001:05d}"


def _done(out: Path, number: int) -> Path:
    return out / "done" / f"{_identity_id(number)}.json"


def _write(file: Path, values: dict[str, Any]) -> None:
    """Write a JSON file atomically."""
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    beside.write_text(json.dumps(values, indent=1, ensure_ascii=False), "utf-8")
    beside.replace(file)


def main() -> None:
    """Make a corpus from the command line."""
    usual = CorpusPlan()
    parser = argparse.ArgumentParser(description="Make a corpus of phantoms to train on.")
    parser.add_argument("out", type=Path, help="folder, new or of an unfinished corpus")
    for name in ("seed", "train", "val", "test", "faces", "videos", "utterances", "side_px"):
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(
            flag, type=int, default=getattr(usual, name), help="default %(default)s"
        )
    for name in ("shared", "private"):
        parser.add_argument(f"--{name}", type=float, default=getattr(usual, name),
                            help="0 to 1, default %(default)s")  # fmt: skip
    parser.add_argument("--seconds", type=float, nargs=2, default=usual.seconds,
                        metavar=("SHORTEST", "LONGEST"), help="of an utterance")  # fmt: skip
    parser.add_argument("--workers", type=int, help="processes, by default one per core")
    arguments = vars(parser.parse_args())
    out, workers = arguments.pop("out"), arguments.pop("workers")
    arguments["seconds"] = tuple(arguments["seconds"])

    def show(made: int, total: int) -> None:
        print(f"\r{made} of {total} identities", end="" if made < total else "\n", flush=True)

    try:
        print(make_corpus(out, CorpusPlan(**arguments), workers, show))
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
