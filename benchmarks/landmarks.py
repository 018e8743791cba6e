"""Accuracy of landmarks against annotations, their repeatability, and the cost of a photo.

    python benchmarks/landmarks.py --data DIR [--network dlib68]

1. ``landmarks/``: eye centres against the annotated 68 points, as a share of the pupil distance.
   Those annotations are themselves dlib's predictions, in whole pixels. So it also prints the
   share of annotated points that one prediction from the annotated box gives to the pixel, the
   distance of its eye centres from the annotated ones, and how far rounding to whole pixels alone
   moves the eye centres of dlib68.
2. ``celebrities/``: photographs of one person with at least one face. Distance of the eye centres
   detected in the aligned crop from their target, as a share of the crop's side; their movement
   when the photo is mirrored or reduced to 0.6; CPU time per photo.
3. ``celebrities/`` reduced until the pupils are 12 to 40 px apart: eye centres against those
   detected in the full photograph, as a share of the pupil distance.
"""

from __future__ import annotations

import argparse
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import cv2
import dlib
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from models.geometry import aligned_transform, eye_centres
from models.landmarks import WEIGHTS, load
from models.landmarks.dlib68 import Dlib68
from models.protocols import FaceLandmarker, Faces, Photo
from models.store import ModelStore

WORKING_PX = 1300
"""Long side to which photographs are reduced, as the pipeline does."""


def read(path: Path, long_px: int | None = None) -> Photo:
    photo = np.asarray(cv2.imread(str(path)), np.uint8)[..., ::-1]
    scale = 1.0 if long_px is None else min(1.0, long_px / max(photo.shape))
    return resized(photo, scale)


def resized(photo: Photo, scale: float) -> Photo:
    small = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(small, np.uint8)


def best_eyes(faces: Faces) -> NDArray[np.float64] | None:
    return eye_centres(faces.landmarks_xy[0]) if len(faces) else None


def worst_eye(eyes: NDArray[np.float64], target: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(eyes - target, axis=-1).max())


def ipd(eyes: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(eyes[1] - eyes[0]))


@dataclass(frozen=True)
class Annotated:
    """One annotated face: points (68, 2), box, and the photo it is in."""

    photo: Photo
    points: NDArray[np.float64]
    box_xyxy: tuple[int, int, int, int]


def annotated_faces(folder: Path) -> list[Annotated]:
    faces = []
    for image in ET.parse(next(folder.glob("*.xml"))).iter("image"):
        photo = read(folder / image.get("file", ""))
        for box in image.iter("box"):
            points = [(float(p.get("x", 0)), float(p.get("y", 0))) for p in box.iter("part")]
            left, top, width, height = (
                int(box.get(k, 0)) for k in ("left", "top", "width", "height")
            )
            edges = (left, top, left + width, top + height)
            faces.append(Annotated(photo, np.array(points), edges))
    return faces


def by_size(size: NDArray[np.float64]) -> list[tuple[str, NDArray[np.bool_]]]:
    return [
        ("under 20 px", size < 20),
        ("20 px and more", size >= 20),
        ("all", np.ones(len(size), dtype=bool)),
    ]


def annotated(network: FaceLandmarker, faces: list[Annotated]) -> Table:
    truths, errors = [], []
    for face in faces:
        truth = eye_centres(face.points)
        distances = [
            worst_eye(eye_centres(p), truth) / ipd(truth)
            for p in network([face.photo])[0].landmarks_xy
        ]
        truths.append(ipd(truth))
        errors.append(min((e for e in distances if e < 0.5), default=np.nan))
    error = np.array(errors)
    table = Table("pupils apart", "faces", "found", "median", "worst", "within 4 %")
    for name, of in by_size(np.array(truths)):
        seen = error[of & ~np.isnan(error)]
        shares = [
            f"{np.median(seen):.1%}",
            f"{seen.max():.1%}",
            f"{(seen <= 0.04).mean():.0%}",
        ]
        table.add_row(name, str(of.sum()), str(len(seen)), *(shares if len(seen) else ["", "", ""]))
    return table


def how_annotated(faces: list[Annotated], store: ModelStore) -> Table:
    """What the annotations are: one prediction from the annotated box, in whole pixels."""
    predictor = dlib.shape_predictor(str(store.path("dlib_68")))
    landmarker = Dlib68(store)
    same, once, rounding, size = [], [], [], []
    for face in faces:
        grey = np.asarray(cv2.cvtColor(face.photo, cv2.COLOR_RGB2GRAY), np.uint8)
        left, top, right, bottom = face.box_xyxy
        shape = predictor(grey, dlib.rectangle(left, top, right - 1, bottom - 1))
        points = np.array([(point.x, point.y) for point in shape.parts()], np.float64)
        truth = eye_centres(face.points)
        same.append((points == face.points).all(axis=1).mean())
        once.append(worst_eye(eye_centres(points), truth) / ipd(truth))
        fine = landmarker._landmarks(grey, np.array(face.box_xyxy, np.float64))
        whole = eye_centres(np.rint(fine))
        rounding.append(worst_eye(whole, eye_centres(fine)) / ipd(truth))
        size.append(ipd(truth))
    table = Table("pupils apart", "faces", "to the pixel", "once: median", "worst", "rounding")
    for name, of in by_size(np.array(size)):
        table.add_row(
            name,
            str(of.sum()),
            f"{np.array(same)[of].mean():.0%}",
            f"{np.median(np.array(once)[of]):.1%}",
            f"{np.array(once)[of].max():.1%}",
            f"{np.median(np.array(rounding)[of]):.1%}, worst {np.array(rounding)[of].max():.1%}",
        )
    return table


def consistent(network: FaceLandmarker, paths: list[Path]) -> Table:
    again, mirrored, reduced, cost = [], [], [], []
    missed = []
    for path in paths:
        photo = read(path, WORKING_PX)
        start = time.process_time()
        (faces,) = network([photo])
        cost.append(time.process_time() - start)
        eyes = best_eyes(faces)
        if eyes is None:
            missed.append(path.name)
            continue
        side = aligned_transform(eyes)[1]
        whole = round(side)
        matrix, _ = aligned_transform(eyes, whole)
        crop = np.asarray(cv2.warpAffine(photo, matrix, (whole, whole)), np.uint8)
        detected = best_eyes(network([crop])[0])
        target = eyes @ matrix[:, :2].T + matrix[:, 2]
        again.append(np.inf if detected is None else worst_eye(detected, target) / whole)
        flipped = best_eyes(network([np.ascontiguousarray(photo[:, ::-1])])[0])
        if flipped is not None:
            back = (flipped * [-1, 1] + [photo.shape[1] - 1, 0])[::-1]
            mirrored.append(worst_eye(back, eyes) / side)
        small = resized(photo, 0.6)
        shrunk = best_eyes(network([small])[0])
        if shrunk is not None:
            factor = np.array(small.shape[1::-1]) / photo.shape[1::-1]
            reduced.append(worst_eye((shrunk + 0.5) / factor - 0.5, eyes) / side)
    table = Table("eye centres, share of the crop's side", "photos", "median", "95 %", "in 1.5 %")
    for name, values in (
        ("aligned, and found again", again),
        ("mirrored", mirrored),
        ("reduced to 0.6", reduced),
    ):
        table.add_row(
            name,
            str(len(values)),
            f"{np.median(values):.2%}",
            f"{np.percentile(values, 95):.2%}",
            f"{np.mean(np.array(values) <= 0.015):.0%}",
        )
    table.title = f"a face in {len(paths) - len(missed)} of {len(paths)} photographs" + (
        f" (none in {', '.join(missed)})" if missed else ""
    )
    table.caption = (
        f"CPU per photo: mean {1e3 * np.mean(cost):.0f} ms, median {1e3 * np.median(cost):.0f} ms, "
        f"most {1e3 * max(cost):.0f} ms"
    )
    return table


def shrunken(network: FaceLandmarker, paths: list[Path]) -> Table:
    table = Table("pupils apart", "photos", "found", "median", "90 %", "within 4 %")
    full = [(photo, best_eyes(network([photo])[0])) for photo in (read(p, 1300) for p in paths)]
    for target_px in (12, 16, 24, 40):
        errors, tried = [], 0
        for photo, eyes in full:
            if eyes is None or ipd(eyes) <= target_px:
                continue
            tried += 1
            small = resized(photo, target_px / ipd(eyes))
            detected = best_eyes(network([small])[0])
            if detected is not None:
                factor = np.array(small.shape[1::-1]) / photo.shape[1::-1]
                errors.append(worst_eye(detected, (eyes + 0.5) * factor - 0.5) / target_px)
        table.add_row(
            f"{target_px} px",
            str(tried),
            str(len(errors)),
            f"{np.median(errors):.1%}",
            f"{np.percentile(errors, 90):.1%}",
            f"{np.mean(np.array(errors) <= 0.04):.0%}",
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a landmark network.")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--network", default="dlib68", choices=sorted(WEIGHTS))
    options = parser.parse_args()
    network = load(options.network, ModelStore())
    console = Console()
    paths = sorted((options.data / "celebrities").glob("[!_]*/*.jpg"))
    faces = annotated_faces(options.data / "landmarks")
    console.print(f"[bold]{network.name}, annotated faces", annotated(network, faces))
    console.print("[bold]the annotations themselves", how_annotated(faces, ModelStore()))
    console.print(f"[bold]{network.name}, photographs of one person", consistent(network, paths))
    console.print(f"[bold]{network.name}, photographs reduced", shrunken(network, paths))


if __name__ == "__main__":
    main()
