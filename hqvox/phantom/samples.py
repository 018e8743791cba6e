"""Rendered training samples with known answers, as a folder that the trainings read.

    python -m hqvox.phantom.samples masks --out DIR          for models.training.segmentation.train
    python -m hqvox.phantom.samples landmarks --out DIR      for pipelines.face_model.fit_face_shape

<folder>/00000.png        picture, RGB
  00000.mask.png          person mask, 0 and 255; only of ``masks``
  truth.json              kind, seed, count and the truth of every sample, written last

A sample depends on the seed and its number alone: a longer run begins with the samples of a shorter
one. The same arguments write the same bytes.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from hqvox.phantom.faces import Light, PhantomPhoto, Pose, Scene, render_face
from hqvox.phantom.identity import FaceIdentity
from hqvox.phantom.scenery import BACKDROPS
from models.geometry import IPD_PER_SIDE

FORMAT = 1
TRUTH = "truth.json"
CROP_PX = 288
"""Side of the crops that the mask network is trained on, in pixels."""
CROP_MARGIN = 1.25
"""How many times as wide as the aligned crop those crops are."""
LANDMARK_RANGE_DEG = 30.0
"""``landmarks``: yaw and pitch are uniform between minus and plus this."""


def render_for_masks(seed: int, number: int) -> PhantomPhoto:
    """Render one near-frontal head, about as large as in a training crop of ``CROP_PX``."""
    rng = np.random.default_rng([seed, number])
    size = int(CROP_PX * rng.uniform(0.95, 1.4))
    pose = Pose(
        yaw_deg=float(rng.normal(0, 8)),
        pitch_deg=float(rng.normal(0, 5)),
        roll_deg=float(rng.normal(0, 6)),
        eyes_xy=(float(rng.uniform(0.44, 0.56)), float(rng.uniform(0.44, 0.52))),
        ipd_px=IPD_PER_SIDE * CROP_PX / CROP_MARGIN,
    )
    light = Light(azimuth_deg=float(rng.uniform(-70, 70)), warmth=float(rng.normal(0, 0.3)))
    backdrop = str(rng.choice(BACKDROPS))
    scene = Scene(pose=pose, width=size, height=size, light=light, backdrop=backdrop)
    return render_face(FaceIdentity.sample(rng), scene, rng)


def render_for_landmarks(seed: int, number: int) -> PhantomPhoto:
    """Render one head turned and tilted by up to ``LANDMARK_RANGE_DEG``, as a 400 px JPEG."""
    rng = np.random.default_rng([seed, number])
    pose = Pose(
        yaw_deg=float(rng.uniform(-LANDMARK_RANGE_DEG, LANDMARK_RANGE_DEG)),
        pitch_deg=float(rng.uniform(-LANDMARK_RANGE_DEG, LANDMARK_RANGE_DEG)),
        roll_deg=float(rng.uniform(-10, 10)),
        ipd_px=float(rng.uniform(55, 80)),
    )
    scene = Scene(pose=pose, backdrop=str(rng.choice(BACKDROPS)), jpeg_quality=90)
    return render_face(FaceIdentity.sample(rng), scene, rng)


RENDERERS: dict[str, Callable[[int, int], PhantomPhoto]] = {
    "masks": render_for_masks,
    "landmarks": render_for_landmarks,
}
DEFAULTS = {"masks": (300, 0), "landmarks": (400, 7001)}
"""Count and seed of each kind of sample: those of the bundled weights and the face model. No
benchmark renders from these seeds."""


def write_samples(
    kind: str,
    out: Path,
    count: int,
    seed: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Render ``count`` samples of ``kind`` (a key of ``RENDERERS``) into ``out``; return the truth.

    Samples of an earlier run are replaced. ``on_progress`` is called with samples written and to
    write. Raises OSError where the folder cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    truth = out / TRUTH
    truth.unlink(missing_ok=True)
    digits = max(5, math.ceil(math.log10(max(count, 1))))
    samples = []
    for number in range(count):
        photo = RENDERERS[kind](seed, number)
        stem = f"{number:0{digits}d}"
        files = {"picture": f"{stem}.png"}
        _write_png(out / files["picture"], photo.image[..., ::-1])
        if kind == "masks":
            files["mask"] = f"{stem}.mask.png"
            _write_png(out / files["mask"], np.where(photo.mask, 255, 0).astype(np.uint8))
        face = photo.truth
        samples.append(
            files
            | {
                "pupils_xy": face.pupils_xy.tolist(),
                "landmarks_xy": face.landmarks_xy.tolist(),
                "yaw_deg": face.yaw_deg,
                "pitch_deg": face.pitch_deg,
                "roll_deg": face.roll_deg,
            }
        )
        if on_progress is not None:
            on_progress(number + 1, count)
    header = {"format": FORMAT, "kind": kind, "seed": seed, "count": count}
    truth.write_text(json.dumps(header | {"samples": samples}), "utf-8")
    return truth


def _write_png(file: Path, pixels: NDArray[np.uint8]) -> None:
    """Write pixels, grey or BGR, without loss."""
    _, data = cv2.imencode(".png", np.ascontiguousarray(pixels))
    file.write_bytes(data.tobytes())


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m hqvox.phantom.samples", description="Render samples to train on."
    )
    parser.add_argument("kind", choices=tuple(RENDERERS), help="what they are to teach")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--count", type=int, help="samples; default: 300 masks, 400 landmarks")
    parser.add_argument("--seed", type=int, help="default: 0 of masks, 7001 of landmarks")
    args = parser.parse_args(arguments)
    count, seed = DEFAULTS[args.kind]
    count = count if args.count is None else args.count
    seed = seed if args.seed is None else args.seed
    if count < 1 or seed < 0:
        parser.error("--count starts at 1, --seed at 0")

    def show(done: int, total: int) -> None:
        print(f"\r{done} of {total} samples", end="" if done < total else "\n", flush=True)

    try:
        print(write_samples(args.kind, args.out, count, seed, show))
    except OSError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
