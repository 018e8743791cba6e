"""What a build costs: photos per second, how it splits over stages, overhead, peak memory.

    python benchmarks/build.py                     240 phantoms, two workers
    python benchmarks/build.py --photos 1000 20000 --side 240   memory at two sizes

Phantom photographs are made once; larger sizes repeat identities by links, every photo processed
in full. Runner overhead is the workers' time outside stages, reading, decoding and encoding.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import yaml
from rich.console import Console
from rich.table import Table

from hqvox import identities
from hqvox.codec import UndecodableError, decode, reduce_to
from hqvox.phantom.world import make_world
from hqvox.runner.build import plan_build, run_build
from hqvox.workspace import Workspace
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
        tasks = plan_build(workspace, config, store)
        result = run_build(workspace, config, tasks, workers=workers)
    seconds = time.perf_counter() - started
    assert not result.failed, result.failed
    console = Console()
    title = f"{result.photos} photos, {workers} workers, {os.cpu_count()} cores ({processor()})"
    table = Table(title=title, title_justify="left")
    for name in ("part", "s", "share %", "ms a photo"):
        table.add_column(name, justify="left" if name == "part" else "right")
    parts = [(f"stage {name}", result.stage_seconds[name]) for name in STAGE_NAMES]
    parts += [(f"pixels: {name}", value) for name, value in result.pixel_seconds.items()]
    overhead = result.task_seconds - sum(value for _, value in parts)
    for name, value in [*parts, ("runner's own overhead", overhead)]:
        share = 100 * value / result.task_seconds
        each = 1000 * value / result.photos
        table.add_row(name, f"{value:.2f}", f"{share:.1f}", f"{each:.2f}")
    console.print(table)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    # Not ru_maxrss: a process started by another begins with the other's peak.
    own = int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1]) / 1024
    console.print(
        f"{seconds:.1f} s with start-up: {result.photos / seconds:.1f} photos/s; peak memory "
        f"{peak:.0f} MiB in the largest worker, {own:.0f} MiB in the parent"
    )


def processor() -> str:
    """Name of the processor."""
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else "unknown processor"


if __name__ == "__main__":
    main()
