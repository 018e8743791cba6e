"""How well an embedding separates people, and how well ``identity_core`` refuses strangers.

    python benchmarks/identity.py --data DIR

``--data`` is a folder with ``labels.csv`` (columns image, identity) and ``images/``. People with at
least two photographs are split into a tuning and a held-out half by a hash of their name. The
tuning half gives ``same_person_cosine``: the highest cosine, in steps of 0.005, at which
``identity_core`` still refuses at most 2 % of right faces. The held-out half gives the figures.
In the test of ``identity_core`` every identity with at least four photographs gets one photograph
of a stranger of the same half, in five repetitions with different strangers.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models import embedding, landmarks
from models.embedding.core import identity_core
from models.protocols import FaceEmbedder
from models.store import ModelStore

MIN_PHOTOS = 4
STRANGERS = 5
RIGHT_REFUSED_AT_MOST = 0.02


@dataclass(frozen=True)
class Half:
    """Embeddings (n, d) of one half, and whose they are, n names."""

    rows: NDArray[np.float32]
    names: NDArray[np.str_]


def is_held_out(name: str) -> bool:
    return bool(hashlib.sha256(name.encode()).digest()[0] & 1)


def embed(data: Path, embedder: FaceEmbedder, store: ModelStore) -> Half:
    """Embed the surest face of every photograph of people who have at least two."""
    with (data / "labels.csv").open(newline="", encoding="utf-8") as file:
        photos = {row["image"]: row["identity"] for row in csv.DictReader(file)}
    count: dict[str, int] = defaultdict(int)
    for name in photos.values():
        count[name] += 1
    wanted = [(image, name) for image, name in sorted(photos.items()) if count[name] >= 2]

    landmarker = landmarks.load("dlib68", store)
    crops, names = [], []
    started = time.monotonic()
    for i, (image, name) in enumerate(wanted):
        photo = np.asarray(Image.open(data / "images" / image).convert("RGB"))
        faces = landmarker([photo])[0]
        if len(faces):
            crops.append(embedder.crop(photo, faces.landmarks_xy[0]))
            names.append(name)
        if i % 500 == 499:
            print(f"  {i + 1} of {len(wanted)} photographs", flush=True)
    detected = time.monotonic()
    rows = np.concatenate([embedder(crops[i : i + 32]) for i in range(0, len(crops), 32)])
    print(
        f"{len(wanted)} photographs of {len({n for _, n in wanted})} people, a face found in "
        f"{len(crops)}; finding {(detected - started) / len(wanted) * 1e3:.0f} ms a photograph, "
        f"embedding {(time.monotonic() - detected) / len(crops) * 1e3:.0f} ms a face"
    )
    return Half(rows, np.array(names))


def pairs(half: Half) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Sorted cosines of all pairs of the same person, and of all pairs of two people."""
    i, j = np.triu_indices(len(half.rows), 1)
    cosine = (half.rows @ half.rows.T)[i, j]
    same = half.names[i] == half.names[j]
    return np.sort(cosine[same]), np.sort(cosine[~same])


def accepted(cosines: NDArray[np.float32], threshold: float) -> float:
    """Fraction of sorted cosines that reach the threshold."""
    return 1.0 - float(np.searchsorted(cosines, threshold)) / len(cosines)


def accepted_per_person(half: Half, threshold: float) -> float:
    """Fraction of pairs of one person accepted, every person counting alike."""
    fractions = []
    for name in np.unique(half.names):
        rows = half.rows[half.names == name]
        if len(rows) > 1:
            cosine = (rows @ rows.T)[np.triu_indices(len(rows), 1)]
            fractions.append(float((cosine >= threshold).mean()))
    return float(np.mean(fractions))


def core_figures(half: Half, threshold: float) -> tuple[int, float, float, float]:
    """Trials, and fractions: planted refused, right ones refused, trials without majority."""
    trials = planted_refused = right = right_refused = undecided = 0
    for name in np.unique(half.names):
        members = np.flatnonzero(half.names == name)
        if len(members) < MIN_PHOTOS:
            continue
        strangers = np.flatnonzero(half.names != name)
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
        for planted in np.random.default_rng(seed).choice(strangers, STRANGERS, replace=False):
            decision = identity_core(half.rows[np.append(members, planted)], threshold)
            trials += 1
            planted_refused += not decision.core[-1]
            right += len(members)
            right_refused += int((~decision.core[:-1]).sum())
            undecided += not decision.has_majority
    return trials, planted_refused / trials, right_refused / right, undecided / trials


def tune(half: Half) -> float:
    """Print the figures of the tuning half, and return the cosine that the rule chooses."""
    same, other = pairs(half)
    grid = np.unique(np.concatenate([same, other]))[:: max(1, len(same) // 1000)]
    eer = min(grid, key=lambda t: abs(1 - accepted(same, t) - accepted(other, t)))
    print(
        f"tuning half: {len(np.unique(half.names))} people, {len(half.rows)} faces; "
        f"equal error {accepted(other, eer):.2%} at cosine {eer:.3f}"
    )
    for rate in (1e-2, 1e-3, 1e-4):
        at = float(other[int(len(other) * (1 - rate))])
        print(f"  false accept {rate:.2%} at cosine {at:.3f}: true accept {accepted(same, at):.2%}")
    low, high = np.round(np.quantile(other, [0.98, 0.9999]) / 0.005).astype(int)
    chosen = float(low * 0.005)
    for step in range(low, high + 1):
        threshold = step * 0.005
        _, planted, right, undecided = core_figures(half, threshold)
        if right <= RIGHT_REFUSED_AT_MOST:
            chosen = threshold
        print(
            f"  core at {threshold:.3f}: planted refused {planted:.2%}, right ones refused "
            f"{right:.2%}, no majority {undecided:.2%}"
        )
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder with labels.csv, images/")
    parser.add_argument("--network", default="dlib_resnet", help="an embedding network")
    parser.add_argument("--device", default="cpu", help="torch device of the embedding network")
    args = parser.parse_args()

    store = ModelStore()
    embedder = embedding.load(args.network, store, args.device)
    everyone = embed(args.data, embedder, store)
    held_out = np.array([is_held_out(name) for name in everyone.names])
    chosen = tune(Half(everyone.rows[~held_out], everyone.names[~held_out]))
    shipped = embedder.same_person_cosine
    print(f"the rule chooses {chosen:.3f}; {args.network} has {shipped:.3f}")

    half = Half(everyone.rows[held_out], everyone.names[held_out])
    same, other = pairs(half)
    trials, planted, right, undecided = core_figures(half, shipped)
    print(f"held-out half: {len(np.unique(half.names))} people, {len(half.rows)} faces")
    print(f"  pairs of one person accepted      {accepted(same, shipped):8.2%} of {len(same)}")
    print(f"    every person counting alike     {accepted_per_person(half, shipped):8.2%}")
    print(f"  pairs of two people accepted      {accepted(other, shipped):8.2%} of {len(other)}")
    print(f"  planted strangers refused         {planted:8.2%} of {trials}")
    print(f"  right faces refused               {right:8.2%}")
    print(f"  identities without majority       {undecided:8.2%}")


if __name__ == "__main__":
    main()
