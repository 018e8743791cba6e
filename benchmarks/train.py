"""Steps per second of a whole training iteration, against a plain one and a lower bound.

    python benchmarks/train.py                    sf2f-64: batch 16 on the CPU, or 256 on a GPU
    python benchmarks/train.py --batch 64 --steps 30 --recipe sf2f-128

Three figures: hqvox's step with its fast paths, the same mathematics in plain code
(`train_reference.py`), and a lower bound of the time: one iteration's arithmetic at the machine's
rate for large matrix products, or its memory traffic at the machine's copy rate, whichever takes
longer. Steps of both alternate, so that other load affects both alike; medians are printed. The
face network has the structure of FaceNet with random weights, which cost the same. The data are a
release of noise and synthetic faces: JPEGs of 400 px, utterances of 3 to 8 s.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode
from train_reference import FaceNetAsItIs, Item, ReferenceStep

from build import processor
from hqvox.release.read import Release
from hqvox.trainer.batches import BatchSource
from hqvox.trainer.data import Split, TrainingData
from hqvox.trainer.distributed import ProcessGroup
from hqvox.trainer.features import FaceNetFeatures, RealFeatures
from hqvox.trainer.recipes import load_train_config
from hqvox.trainer.speed import Speed, resolve, set_up
from hqvox.trainer.state import build_state
from hqvox.trainer.step import TrainStep
from models.embedding.facenet import InceptionResnetV1
from models.inference import pick_device

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests are not installed
from tests.helpers.tiny_release import make_tiny_release

PAPERS_ITERATIONS = 120_000
WARM_UP = 3
CPU_BATCH, GPU_BATCH = 16, 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="sf2f-64")
    parser.add_argument("--device")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--people", type=int, default=32)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    given = parser.parse_args()
    device = pick_device(given.device)
    batch = given.batch or (GPU_BATCH if device.type == "cuda" else CPU_BATCH)
    config = load_train_config(given.recipe, [f"stage1.batch_size={batch}", *given.settings])
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        release = make_tiny_release(
            Path(folder) / "release", given.people, faces=4, side_px=400, frames=(300, 800)
        )
        os.environ["HQVOX_CACHE"] = str(Path(folder) / "cache")
        data = TrainingData.open(release, config.model.resolutions, resize=config.data.resize)
        split, group, speed = (
            data.split("train"),
            ProcessGroup(device),
            resolve(config.speed, device),
        )
        set_up(speed, device, config.speed.threads)
        torch.manual_seed(0)
        facenet = InceptionResnetV1().eval()
        plain = make_reference(config, split, facenet, device, items(split, Path(folder)), batch)
        fast, waiting, work = make_fast(config, split, facenet, group, speed)
        ours, theirs = take_turns(fast, plain, given.steps, device)
    computing, moving = work.flops / peak_flops(device, speed), work.bytes / copy_rate(device)
    table = Table(title=f"{given.recipe}, batch {batch}, {device}", title_justify="left")
    for title in ("", "s a step", "steps/s", "120,000 iterations"):
        table.add_column(title, justify="left" if not title else "right")
    for name, seconds in (
        (f"hqvox ({speed.describe()})", ours),
        ("the obvious way", theirs),
        (f"floor: {work.flops / 1e9:.0f} GFLOP at the rate of large products", computing),
        (f"floor: {work.bytes / 1e9:.2f} GB moved at the rate of copies", moving),
    ):
        hours = PAPERS_ITERATIONS * seconds / 3600
        table.add_row(name, f"{seconds:.4f}", f"{1 / seconds:.2f}", f"{hours:.1f} h")
    console.print(table)
    console.print(
        f"{theirs / ours:.2f} times the obvious way (aim: 2 on a CPU); waiting for data "
        f"{100 * waiting(ours):.2f} % (aim: under 2 %); {processor()}, {torch.get_num_threads()} "
        f"threads, torch {torch.__version__}",
        highlight=False,
        soft_wrap=True,
    )
    if device.type == "cuda":
        minutes = PAPERS_ITERATIONS * ours / 60
        console.print(f"120,000 iterations: {minutes:.0f} minutes (aim on one H200: 30)")


@dataclass(frozen=True)
class Work:
    """What an iteration has to do at least: operations, and bytes to and from memory."""

    flops: int
    bytes: float


class KeptBytes(torch.autograd.graph.saved_tensors_hooks):
    """Counts the bytes that forward passes keep for backward ones, each tensor once."""

    def __init__(self) -> None:
        self.total = 0
        # Held, so that no address is given to another tensor while this counts.
        self._seen: dict[int, torch.UntypedStorage] = {}
        super().__init__(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen and not isinstance(tensor, torch.nn.Parameter):
            self._seen[storage.data_ptr()] = storage
            self.total += tensor.numel() * tensor.element_size()
        return tensor


def make_fast(
    config, split: Split, facenet: InceptionResnetV1, group: ProcessGroup, speed: Speed
) -> tuple[Callable[[], None], Callable[[float], float], Work]:
    """A function that does a step, one that gives the share of waiting, the work of a step."""
    state = build_state(config, len(split), speed, group)
    copy = InceptionResnetV1()
    copy.load_state_dict(facenet.state_dict())
    network = FaceNetFeatures(copy.eval(), group.device)
    features = [
        RealFeatures(network, split, px, device=group.device) for px in config.model.resolutions
    ]
    for cache in features:
        cache.fill()
    source = BatchSource(split, config, device=group.device)
    number, waits = 0, []
    step = TrainStep(state, network, features, config, speed, group)

    def do() -> None:
        nonlocal number
        began = time.perf_counter()
        batch = source.stage1(number)
        waits.append(time.perf_counter() - began)
        number += 1
        step(batch)

    eager = TrainStep(state, network, features, config, Speed(), group)
    kept = KeptBytes()
    with FlopCounterMode(display=False) as counter, kept:
        eager(source.stage1(0))
    trained = [state.generator, *state.critics.values()]
    parameters = 4 * sum(p.numel() for module in trained for p in module.parameters())
    # What a backward pass needs is written once and read once, at half the size in bfloat16. A
    # parameter is read forward and backward, its gradient written and read, and Adam reads and
    # writes it and its two moments.
    moved = kept.total * 2 * (0.5 if speed.bfloat16 else 1) + parameters * (2 + 2 + 6)
    return (
        do,
        lambda seconds: statistics.median(waits[WARM_UP:]) / seconds,
        Work(counter.get_total_flops(), moved),
    )


def make_reference(
    config,
    split: Split,
    facenet: InceptionResnetV1,
    device: torch.device,
    files: list[Item],
    batch: int,
) -> Callable[[], None]:
    """A function that does a plain step on a batch drawn from files."""
    state = build_state(config, len(split), Speed(), ProcessGroup(device))
    step = ReferenceStep(
        config,
        state.generator,
        state.critics["discriminator_64"],
        state.critics["classifier_64"],
        FaceNetAsItIs(facenet).to(device),
        device,
    )
    rng = np.random.default_rng(0)

    def do() -> None:
        step([files[i] for i in rng.integers(0, len(files), batch)], rng)

    return do


def items(split: Split, folder: Path) -> list[Item]:
    """Every face of a split with an utterance of its person, as files of their own."""
    release: Release = split.data.release
    pictures = release.manifest(["masked_file"])["masked_file"].to_pylist()
    found = []
    for person, (faces, said) in enumerate(zip(split.faces_of, split.utterances_of, strict=True)):
        for i, face in enumerate(faces):
            utterance = int(said[i % len(said)])
            file = folder / f"{utterance}.npy"
            if not file.exists():
                np.save(file, split.data.log_mel(utterance))
            found.append(Item(Path(release.storage.path(pictures[face])), file, person))
    return found


def take_turns(
    one: Callable[[], None], other: Callable[[], None], steps: int, device: torch.device
) -> tuple[float, float]:
    """Median seconds of both, done in turns."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(WARM_UP + steps):
        for do, taken in zip((one, other), seconds, strict=True):
            began = time.perf_counter()
            for _ in range(20 if device.type == "cuda" else 1):
                do()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number >= WARM_UP:
                taken.append((time.perf_counter() - began) / (20 if device.type == "cuda" else 1))
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def peak_flops(device: torch.device, speed: Speed, side: int = 4096) -> float:
    """FLOP a second of a large product, in the precision that the step has."""
    dtype = torch.bfloat16 if speed.bfloat16 else torch.float32
    side = side if device.type == "cuda" else side // 4
    a = torch.randn(side, side, device=device).to(dtype)
    best = float("inf")
    for _ in range(50):  # the best of many: another load on the machine must not raise the floor
        began = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def copy_rate(device: torch.device, size: int = 1 << 28) -> float:
    """Bytes a second to and from memory while a large array is copied."""
    source = torch.zeros(size if device.type == "cuda" else size // 2, dtype=torch.uint8).to(device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(8):
        began = time.perf_counter()
        target.copy_(source)
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2 * source.numel() / best


if __name__ == "__main__":
    main()
