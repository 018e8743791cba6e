"""Throughput of every network: batches of 1, 8 and 32 against one item at a time.

    python benchmarks/throughput.py
    python benchmarks/throughput.py --device cuda --dtype bfloat16

On the CPU, items per CPU second on one thread. A build runs one such worker per core, so two cores
give twice that, and other load on the machine does not disturb the figure. On CUDA, items per
second of wall-clock time. "one at a time" is the package's own call if there is one, in float32,
else the network called for each item. "of matrix rate" is the network's multiplications and
additions per second at batch 32, divided by those of a large matrix product measured in the same
run. Algorithms that need fewer multiplications than are counted (Winograd's) can exceed 100 %.

Networks whose weights are not on this machine run with seeded random ones of the right names and
shapes; the table says so.
"""

from __future__ import annotations

import argparse
import pickle
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import dlib
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from hqvox.phantom.faces import FaceIdentity, FaceTruth, Pose, Scene, render_face
from models import embedding, emotion, landmarks, segmentation
from models.errors import ModelError
from models.geometry import aligned_transform, eye_centres
from models.protocols import Photo
from models.store import ModelStore

BATCHES = (1, 8, 32)
PHOTOS = 8
DETECTOR_PX = 320
"""Side of the photos for the detectors: S3FD takes 60 GFLOP for one already."""


@dataclass(frozen=True)
class Case:
    """One network: how it takes a batch, how one would call it for a single item, the items."""

    name: str
    unit: str
    weights: tuple[str, ...]
    batched: Callable[[list[Any]], Any]
    single: Callable[[Any], Any]
    items: Sequence[Any]


def random_network_file(name: str, path: Path) -> None:
    """Write a file of the published names and shapes with seeded random numbers."""
    from face_alignment.detection.sfd.net_s3fd import s3fd
    from face_alignment.models.fan import FAN

    from models.embedding.arcface import IResNet50
    from models.embedding.facenet import InceptionResnetV1
    from models.embedding.vggface2_resnet50 import CaffeResNet50
    from models.segmentation.pspnet_voc import PSPNetVOC

    makers: dict[str, Callable[[], torch.nn.Module]] = {
        "fan_2d_4": partial(FAN, 4),
        "s3fd": s3fd,
        "facenet_vggface2": InceptionResnetV1,
        "arcface_r50": IResNet50,
        "vggface2_resnet50": CaffeResNet50,
        "pspnet_voc": PSPNetVOC,
    }
    if name not in makers:
        raise ModelError(f"weights '{name}' are not here")
    torch.manual_seed(0)
    tensors = makers[name]().state_dict()
    if name == "pspnet_voc":
        torch.save({"state_dict": tensors}, path)
    elif name == "vggface2_resnet50":
        path.write_bytes(pickle.dumps({key: value.numpy() for key, value in tensors.items()}))
    else:
        torch.save(tensors, path)


class StandInStore(ModelStore):
    """The store of this machine, with random weights for what it has not."""

    def __init__(self, folder: Path) -> None:
        super().__init__(offline=True, progress=False)
        self._folder = folder
        self.random: set[str] = set()

    def path(self, name: str) -> Path:
        """Return the real file, or a random one."""
        if self.present(name):
            return super().path(name)
        path = self._folder / self.entry(name).file
        if not path.exists():
            random_network_file(name, path)
        self.random.add(name)
        return path


def phantoms() -> list[tuple[Photo, FaceTruth]]:
    rng = np.random.default_rng(0)
    photos = []
    for _ in range(PHOTOS):
        scene = Scene(Pose(ipd_px=110.0), width=800, height=800, jpeg_quality=90)
        photo = render_face(FaceIdentity.sample(rng), scene, rng)
        photos.append((photo.image, photo.truth))
    return photos


def dlib_case(photos: list[tuple[Photo, FaceTruth]], store: ModelStore) -> Case:
    network = landmarks.load("dlib68", store)
    detector = dlib.get_frontal_face_detector()
    predictor = dlib.shape_predictor(str(store.path("dlib_68")))

    def single(photo: Photo) -> list[Any]:
        return [predictor(photo, face) for face in detector(photo, 1)]

    return Case("dlib68", "photos", ("dlib_68",), network, single, [p for p, _ in photos])


def fan_case(
    photos: list[tuple[Photo, FaceTruth]], store: ModelStore, device: str, dtype: str
) -> Case:
    import face_alignment

    from models.landmarks.detectors import PackageDetector
    from models.landmarks.fan import Fan

    class Known:
        """A detector that is not asked: the boxes are known."""

        reference_scale = 195.0

    weights = store.path("fan_2d_4")
    fan = Fan("fan", weights, PackageDetector(Known()), device, dtype)  # type: ignore[arg-type]
    package = face_alignment.FaceAlignment.__new__(face_alignment.FaceAlignment)
    package.device, package.dtype, package.flip_input = device, torch.float32, True
    package.landmarks_type = face_alignment.LandmarksType.TWO_D
    package.max_batch_size, package.face_detector = 1, Known()
    package.face_alignment_net = face_alignment.api.FAN(4)
    package.face_alignment_net.load_state_dict(torch.load(weights, weights_only=True))
    package.face_alignment_net.to(device).eval()

    def batched(items: list[tuple[Photo, NDArray[np.float64]]]) -> NDArray[np.float32]:
        return fan.landmarks([photo for photo, _ in items], np.stack([box for _, box in items]))

    def single(item: tuple[Photo, NDArray[np.float64]]) -> Any:
        return package.get_landmarks_from_image(item[0], detected_faces=[item[1]])

    items = [(photo, truth.box_xyxy) for photo, truth in photos]
    return Case("fan (2DFAN-4, boxes given)", "faces", ("fan_2d_4",), batched, single, items)


def detector_case(
    name: str, photos: list[tuple[Photo, FaceTruth]], store: ModelStore, device: str
) -> Case:
    from face_alignment.detection.blazeface.blazeface_detector import BlazeFaceDetector

    from models.landmarks.detectors import load_detector

    detector = load_detector(name, store, device)
    side = (DETECTOR_PX, DETECTOR_PX)
    pictures = [np.asarray(cv2.resize(photo, side), np.uint8) for photo, _ in photos]
    if name != "blazeface":
        return Case(name, "photos", (name,), detector, lambda photo: detector([photo]), pictures)
    package = BlazeFaceDetector(
        device,
        path_to_detector=str(store.path(name)),
        path_to_anchor=str(store.path("blazeface_anchors")),
    )
    return Case(name, "photos", (name,), detector, package.detect_from_image, pictures)


def emotion_case(
    name: str, photos: list[tuple[Photo, FaceTruth]], store: ModelStore, device: str
) -> Case:
    network = emotion.load(name, store, device)
    crops = [
        network.crop(
            photo, truth.box_xyxy.astype(np.float32), truth.landmarks_xy.astype(np.float32)
        )
        for photo, truth in photos
    ]
    return Case(name, "faces", (name,), network, lambda crop: network([crop]), crops)


def mask_case(
    name: str, photos: list[tuple[Photo, FaceTruth]], store: ModelStore, device: str, dtype: str
) -> Case:
    network = segmentation.load(name, store, device, fast=dtype == "bfloat16")
    plain = segmentation.load(name, store, device)
    crops = []
    for photo, truth in photos:
        matrix, _ = aligned_transform(eye_centres(truth.landmarks_xy), network.input_px)
        side = (network.input_px, network.input_px)
        crops.append(np.asarray(cv2.warpAffine(photo, matrix, side), np.uint8))
    return Case(name, "faces", (name,), network, lambda crop: plain([crop]), crops)


def embedding_case(
    name: str, photos: list[tuple[Photo, FaceTruth]], store: ModelStore, device: str, dtype: str
) -> Case:
    precision: Any = "float32" if name == "dlib_resnet" else dtype
    network = embedding.load(name, store, device, precision)
    crops = [network.crop(photo, truth.landmarks_xy.astype(np.float32)) for photo, truth in photos]
    if name == "dlib_resnet":
        package = dlib.face_recognition_model_v1(str(store.path(name)))
        single: Callable[[Any], Any] = package.compute_face_descriptor
    else:
        # The embedder fills small batches up; who has one face just calls the network.
        plain: Any = embedding.load(name, store, device)

        @torch.inference_mode()
        def single(crop: Any) -> Any:
            picture = torch.from_numpy(crop).to(device).permute(2, 0, 1)[None].float()
            return plain._network((picture - 127.5) / 128.0).cpu()

    return Case(name, "faces", (name,), network, single, crops)


def classifier_case(photos: list[tuple[Photo, FaceTruth]], store: ModelStore, device: str) -> Case:
    classifier = embedding.load_classifier(store, device)
    pictures = [
        torch.from_numpy(cv2.resize(photo, (224, 224))).permute(2, 0, 1).float() / 255
        for photo, _ in photos
    ]
    return Case(
        "vggface2_resnet50",
        "faces",
        ("vggface2_resnet50",),
        lambda batch: classifier(torch.stack(batch)),
        lambda picture: classifier(picture[None]),
        pictures,
    )


class Clock:
    """CPU seconds on the CPU, seconds with all work finished on CUDA."""

    def __init__(self, device: str) -> None:
        self.cuda = torch.device(device).type == "cuda"

    def now(self) -> float:
        """Seconds."""
        if not self.cuda:
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def rate(
        self, run: Callable[[], Any], items: int, seconds: float, warm: Callable[[], Any]
    ) -> float:
        """Items per second over at least ``seconds``, after ``warm`` has run."""
        warm()
        start, runs = self.now(), 0
        while True:
            run()
            runs += 1
            elapsed = self.now() - start
            if elapsed >= seconds:
                return runs * items / elapsed


def measured(case: Case, batch: int | None, clock: Clock, seconds: float) -> float:
    """Items per second in batches, or, without one, item by item as one would without hqvox."""
    items = [case.items[i % len(case.items)] for i in range(batch or 4)]
    if batch is None:
        return clock.rate(
            lambda: [case.single(item) for item in items],
            len(items),
            seconds,
            warm=lambda: case.single(items[0]),
        )
    # A GPU chooses its kernels by shape, so it has to see the whole batch first.
    first = items if clock.cuda else items[:1]
    return clock.rate(lambda: case.batched(items), batch, seconds, warm=lambda: case.batched(first))


def matrix_rate(clock: Clock, device: str, dtype: torch.dtype) -> float:
    """Multiplications and additions a second of a large matrix product."""
    side = 8192 if torch.device(device).type == "cuda" else 1024
    a = torch.randn(side, side, device=device, dtype=dtype)
    return clock.rate(lambda: a @ a, 2 * side**3, 1.0, warm=lambda: a @ a)


def flops(case: Case) -> int:
    """Multiplications and additions per item, as torch counts them; 0 outside torch."""
    # Some networks fill small batches up, so one item alone would count as several.
    items = [case.items[i % len(case.items)] for i in range(8)]
    counter = FlopCounterMode(display=False)
    with counter:
        case.batched(items)
    return int(counter.get_total_flops()) // len(items)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure every network's throughput.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--only", nargs="*", help="names of networks; all by default")
    parser.add_argument("--seconds", type=float, default=1.0, help="per measurement, at least")
    options = parser.parse_args()
    torch.set_num_threads(1)
    clock, device, dtype = Clock(options.device), options.device, options.dtype
    peak = matrix_rate(clock, device, getattr(torch, dtype))
    photos = phantoms()
    table = Table("network", "items", *(f"batch {n}" for n in BATCHES), "one at a time", "gain")
    for column in ("GFLOP", "of matrix rate", "weights"):
        table.add_column(column)
    with tempfile.TemporaryDirectory() as folder:
        store = StandInStore(Path(folder))
        cases: dict[str, Callable[[], Case]] = {
            "dlib68": lambda: dlib_case(photos, store),
            "fan": lambda: fan_case(photos, store, device, dtype),
            "blazeface": lambda: detector_case("blazeface", photos, store, device),
            "s3fd": lambda: detector_case("s3fd", photos[:1], store, device),
            **{
                name: partial(emotion_case, name, photos, store, device) for name in emotion.WEIGHTS
            },
            **{
                name: partial(mask_case, name, photos, store, device, dtype)
                for name in segmentation.WEIGHTS
            },
            **{
                name: partial(embedding_case, name, photos, store, device, dtype)
                for name in ("dlib_resnet", "facenet_vggface2", "arcface_r50")
            },
            "vggface2_resnet50": lambda: classifier_case(photos, store, device),
        }
        for name, make in cases.items():
            if options.only and name not in options.only:
                continue
            try:
                case = make()
            except ModelError as error:
                table.add_row(name, "", "", "", "", "", "", "", "", str(error))
                continue
            rates = [measured(case, n, clock, options.seconds) for n in BATCHES]
            alone = measured(case, None, clock, options.seconds)
            work = flops(case)
            table.add_row(
                case.name,
                case.unit,
                *(f"{rate:.1f}" for rate in rates),
                f"{alone:.1f}",
                f"{rates[-1] / alone:.1f}",
                f"{work / 1e9:.1f}" if work else "",
                f"{work * rates[-1] / peak:.0%}" if work else "",
                "random" if store.random & set(case.weights) else "published or own",
            )
    where = torch.cuda.get_device_name() if device.startswith("cuda") else "one CPU thread"
    table.title = f"items per second, {where}, {dtype}; matrix rate {peak / 1e12:.3g} TFLOP/s"
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
