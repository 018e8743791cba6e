"""Cost of a build: photos per second, share of each stage, overhead, peak memory.

    python benchmarks/build.py                     240 phantoms, two workers
    python benchmarks/build.py --photos 1000 20000 --side 240   memory at two sizes

Phantom photographs are rendered once. Larger sizes repeat identities by links, and every photo is
processed in full. The runner's overhead is the workers' time outside stages, reading, decoding and
encoding.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import cv2
import yaml
from rich.console import Console
from rich.table import Table

from hqvox.imaging.codec import UndecodableError, decode, reduce_to
from hqvox.phantom.world import make_world
from hqvox.runner.build import plan_build, run_build
from hqvox.workspace import identities
from hqvox.workspace.layout import Workspace
from models.store import ModelStore
from pipelines.chain import STAGE_NAMES

PHOTOS_PER_IDENTITY = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, nargs="+", default=[240])
    parser.add_argument("--side", type=int, default=0, help="reduce photographs to this side, px")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        measure(arguments.one, arguments.workers)
        return
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "world"
        make_world(base, seed=0, identities=12, photos_per_identity=PHOTOS_PER_IDENTITY)
        source = base / "photos"
        if arguments.side:
            shrink(source, arguments.side)
        for count in arguments.photos:
            photos = repeat(source, Path(folder) / f"photos-{count}", count)
            # A process of its own for each size: peak memory is counted per process.
            command = [sys.executable, __file__, "--one", str(photos)]
            subprocess.run([*command, "--workers", str(arguments.workers)], check=True)


def shrink(photos: Path, side_px: int) -> None:
    """Reduce every decodable photograph in place."""
    for file in photos.glob("*/*"):
        try:
            pixels = reduce_to(decode(file.read_bytes()), side_px)
        except UndecodableError as error:
            Console().print(f"{file.name} stays as it is: {error}")
            continue
        done, data = cv2.imencode(".jpg", pixels[:, :, ::-1])
        assert done
        file.write_bytes(data.tobytes())


def repeat(source: Path, target: Path, count: int) -> Path:
    """``count`` photographs: the identities of ``source`` again and again, as links."""
    folders = sorted(p for p in source.iterdir() if p.is_dir())
    made = number = 0
    while made < count:
        folder = folders[number % len(folders)]
        new = target / f"{number:05d}"
        new.mkdir(parents=True)
        for file in sorted(folder.iterdir())[: count - made]:
            (new / file.name).symlink_to(file)
            made += 1
        number += 1
    return target


def measure(photos: Path, workers: int) -> None:
    """Build one folder of photographs and print what it cost."""
    root = photos.parent / f"{photos.name}-build"
    settings = {"format": 1, "recipe": "bundled", "discover": {"photos": str(photos)}}
    rows = identities.read_folders(photos)
    workspace = Workspace.create(str(root), yaml.safe_dump(settings), identities.to_table(rows))
    config, store = workspace.config(), ModelStore()
    started = time.perf_counter()
    with workspace.lock():
        jobs = plan_build(workspace, config, store)
        with WorkersMemory() as memory:
            result = run_build(workspace, config, jobs, workers=workers)
    seconds = time.perf_counter() - started
    assert not result.failed, result.failed
    console = Console()
    title = f"{result.photos} photos, {workers} workers, {os.cpu_count()} cores ({processor()})"
    table = Table(title=title, title_justify="left")
    for name in ("part", "s", "share %", "ms a photo"):
        table.add_column(name, justify="left" if name == "part" else "right")
    parts = [(f"stage {name}", result.stage_seconds[name]) for name in STAGE_NAMES]
    parts += [(f"pixels: {name}", value) for name, value in result.pixel_seconds.items()]
    overhead = result.job_seconds - sum(value for _, value in parts)
    for name, value in [*parts, ("runner's own overhead", overhead)]:
        share = 100 * value / result.job_seconds
        each = 1000 * value / result.photos
        table.add_row(name, f"{value:.2f}", f"{share:.1f}", f"{each:.2f}")
    console.print(table)
    parent_mib = peak_mib(os.getpid())
    console.print(
        f"{seconds:.1f} s with start-up: {result.photos / seconds:.1f} photos/s; peak memory "
        f"{memory.peak_mib:.0f} MiB in the largest worker, {parent_mib:.0f} MiB in the parent"
    )


class WorkersMemory:
    """Watches this process's descendants while it is open: the most that any one of them held.

    The kernel's own high-water mark of each is read, so that a peak between two looks is seen.
    """

    def __init__(self) -> None:
        self.peak_mib = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> WorkersMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.2):
            for pid in descendants(os.getpid()):
                self.peak_mib = max(self.peak_mib, peak_mib(pid))


def descendants(pid: int) -> list[int]:
    """Processes started by this one, by those, and so on."""
    pids: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the process has ended meanwhile
            for child in map(int, task.read_text().split()):
                pids += [child, *descendants(child)]
    return pids


def peak_mib(pid: int) -> float:
    """The most memory that a process held at a time; 0 where it has ended."""
    with contextlib.suppress(OSError):
        match = re.search(r"VmHWM:\s*(\d+)", Path(f"/proc/{pid}/status").read_text())
        return int(match[1]) / 1024 if match else 0.0
    return 0.0


def processor() -> str:
    """Name of the processor."""
    match = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return match[1] if match else "unknown processor"


if __name__ == "__main__":
    main()
