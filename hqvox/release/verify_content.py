"""What is in the files of a release: bytes, pictures, eyes, voices."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from hqvox.errors import HqvoxError
from hqvox.release.pool import cores
from hqvox.release.read import Release
from hqvox.release.speech import figures
from hqvox.release.verify_files import AGAIN, safe
from hqvox.speech.statistics import MeanVariance
from hqvox.workspace.tables import Row
from models.geometry import ALIGNED_LEFT_EYE, ALIGNED_RIGHT_EYE, eye_centres

EYE_TOLERANCE = 0.01
"""Of the crop's side; crops are cut to whole pixels."""
_CHUNK = 1 << 22
_LONGEST_SIDE_PX = 20_000


@dataclass
class Inspected:
    """A file that was read."""

    name: str
    wrong: list[str] = field(default_factory=list)
    """What is wrong with its bytes."""
    picture: list[str] = field(default_factory=list)
    """What is wrong with it as a picture."""


def inspect_files(
    release: Release,
    sums: Mapping[str, str],
    sides: Mapping[str, int],
    on_progress: Callable[[int, int], None],
) -> list[Inspected]:
    """Read every listed file once: its checksum, and of pictures (``sides``) shape and size."""

    def inspect(name: str) -> Inspected:
        return _inspect(release, name, sums[name], sides.get(name))

    found = []
    with ThreadPoolExecutor(cores()) as pool:
        for done, file in enumerate(pool.map(inspect, sums), start=1):
            found.append(file)
            if done % 64 == 0 or done == len(sums):
                on_progress(done, len(sums))
    return found


def _inspect(release: Release, name: str, expected: str, side_px: int | None) -> Inspected:
    found = Inspected(name)
    digest = hashlib.sha256()
    data = bytearray()
    try:
        with release.storage.open(name) as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                if side_px is not None:
                    data += chunk
    except (OSError, HqvoxError):
        found.wrong.append(f"{name}: missing, or cannot be read; {AGAIN}")
        return found
    if digest.hexdigest() != expected:
        found.wrong.append(f"{name}: changed since it was released (SHA-256 differs); {AGAIN}")
    if side_px is not None:
        problem = picture_problem(bytes(data), side_px)
        if problem:
            found.picture.append(f"{name}: {problem}; {AGAIN}")
    return found


def picture_problem(data: bytes, side_px: int) -> str:
    """What keeps the bytes from being a colour JPEG of that side; empty where nothing does."""
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as picture:
            if picture.size != (side_px, side_px) or side_px > _LONGEST_SIDE_PX:
                return f"{picture.size[0]} × {picture.size[1]} px where the manifest says {side_px}"
            if picture.mode != "RGB":
                return f"mode {picture.mode}, not RGB"
            picture.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return f"cannot be decoded ({error})"
    return ""


def check_eyes(faces: list[Row], failures: list[str]) -> int:
    """Check that eyes lie where the crop has them; return how many faces have landmarks."""
    expected = np.array([ALIGNED_LEFT_EYE, ALIGNED_RIGHT_EYE])
    measured = 0
    for row in faces:
        points, transform, side = row["landmarks_xy"], row["transform"], row["crop_side_px"]
        if points is None or transform is None or not side:
            continue
        measured += 1
        matrix = np.array(transform, dtype=np.float64).reshape(2, 3)
        eyes = eye_centres(np.array(points, dtype=np.float64).reshape(68, 2))
        fractions = (eyes @ matrix[:, :2].T + matrix[:, 2] + 0.5) / side
        if not np.abs(fractions - expected).max() <= EYE_TOLERANCE:
            said = ", ".join(f"({x:.3f}, {y:.3f})" for x, y in fractions)
            failures.append(f"{row['masked_file']}: eyes at {said} of the crop; release anew")
    return measured


def check_speech(release: Release, utterances: pa.Table, failures: list[str]) -> MeanVariance:
    """Check every file of voices against the index; return the moments over train."""
    try:
        filters = int(release.speech_stats()["filters"])
    except (HqvoxError, KeyError, TypeError, ValueError) as error:
        failures.append(f"speech/stats.json: cannot be read ({error}); {AGAIN}")
        return MeanVariance.empty(1)
    total = MeanVariance.empty(filters)
    for name in pc.unique(utterances["file"]).to_pylist():
        if name is None or not safe(name):
            failures.append(f"speech/index.parquet: {name!r} is no file of a release; {AGAIN}")
            continue
        try:
            frames = release.log_mels(name, filters)
        except HqvoxError as error:
            failures.append(str(error))
            continue
        own = MeanVariance.empty(filters)
        end = 0
        for row in utterances.filter(pc.equal(utterances["file"], name)).to_pylist():
            start, end_before = row["offset"], end
            end = start + row["frames"]
            who = f"{row['identity_id']} {row['video']}/{row['utterance']}"
            if start != end_before or row["frames"] < 1 or end > len(frames):
                failures.append(
                    f"{name}: {who} is said to be at frames {start} to {end}, where "
                    f"{end_before} to at most {len(frames)} is left; {AGAIN}"
                )
                break
            values = frames[start:end]
            if not np.isfinite(values).all():
                failures.append(f"{name}: {who} holds values that are not finite; {AGAIN}")
                break
            if row["split"] == "train":
                own = own.merged(MeanVariance.of(values))
        else:
            if end != len(frames):
                failures.append(f"{name}: {len(frames) - end} frames belong to nobody; {AGAIN}")
        total = total.merged(own)
    return total


def check_statistics(release: Release, moments: MeanVariance, failures: list[str]) -> None:
    """Check ``speech/stats.json`` against mean and variance counted anew."""
    told, counted = release.speech_stats(), figures(moments)
    for key, value in counted.items():
        said = told.get(key)
        same = said == value
        if not same and said is not None and value is not None:
            try:
                same = bool(np.allclose(np.asarray(said, float), value, rtol=1e-6, atol=1e-9))
            except (TypeError, ValueError):
                same = False
        if not same:
            failures.append(f"speech/stats.json: {key} is not what the arrays give; {AGAIN}")
