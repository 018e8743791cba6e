"""Time and memory of planning a crawl of every photograph of VoxCeleb from a file of urls.

    python benchmarks/crawl_plan.py --identities 7363 --photos 300 --format csv

Writes a file of urls of that size (with ``--shuffle`` its rows are in random order), makes a
workspace, and plans `build --stage download` twice, each time in a new process: first without an
index of the file, then with it. Then it lists the candidates of one shard, as a crawl does.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import yaml

WORDS = ("portrait", "face", "interview", "premiere", "close-up", "press", "smiling", "2014")


def main() -> None:
    arguments = parse()
    if arguments.inside:
        print(json.dumps(inside(Path(arguments.inside))))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        folder = Path(temporary)
        file = write_urls(folder, arguments)
        rows = arguments.identities * arguments.photos
        print(f"{file.name}: {rows:,} rows, {file.stat().st_size / 1e6:,.0f} MB")
        make_workspace(folder, file, arguments.identities)
        for what in ("file unread", "index there"):
            command = [sys.executable, __file__, "--inside", str(folder / "work")]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            plan = json.loads(done.stdout)
            print(
                f"{what}: {plan['tasks']} tasks for {plan['identities']:,} identities planned in "
                f"{plan['plan_seconds']:.1f} s ({plan['plan_cpu_seconds']:.1f} s of computing), "
                f"{plan['peak_mb']:,.0f} MB at most, {plan['imported_mb']:,.0f} before; "
                f"{plan['candidates']:,} candidates of one shard in {plan['list_seconds']:.2f} s"
            )
        size = sum(p.stat().st_size for p in (folder / "work/discover/urls").iterdir())
        print(f"index: {size / 1e6:,.0f} MB on disk")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--identities", type=int, default=7363)
    parser.add_argument("--photos", type=int, default=300, help="of each identity")
    parser.add_argument("--format", choices=("csv", "csv.gz", "jsonl", "parquet"), default="csv")
    parser.add_argument("--shuffle", action="store_true", help="strew rows over the file")
    parser.add_argument("--folder", type=Path, help="where to work (default: the temporary folder)")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    return parser.parse_args()


def inside(root: Path) -> dict[str, Any]:
    """Plan in this process; what it took."""
    from hqvox.runner.build import plan_build
    from hqvox.workspace.layout import Workspace
    from models.store import ModelStore
    from pipelines.chain import Stages

    imported_mb = peak_mb()
    started, computing = time.perf_counter(), time.process_time()
    workspace = Workspace.open(root)
    config = workspace.config()
    tasks = plan_build(workspace, config, ModelStore(), target="download")
    planned, computed, planned_mb = time.perf_counter(), time.process_time(), peak_mb()
    discover = Stages(config, ModelStore(), workspace.storage).discover
    shards = workspace.shards()
    identities = shards[tasks[len(tasks) // 2].shard]
    begun = time.perf_counter()
    candidates = discover.process(identities, None)  # type: ignore[arg-type]
    return {
        "tasks": len(tasks),
        "identities": sum(len(rows) for rows in shards.values()),
        "plan_seconds": planned - started,
        "list_seconds": time.perf_counter() - begun,
        "candidates": len(candidates),
        "plan_cpu_seconds": computed - computing,
        "peak_mb": planned_mb,
        "imported_mb": imported_mb,
    }


def peak_mb() -> float:
    """Most memory this process ever had resident; counted since it began, unlike getrusage's."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024


def write_urls(folder: Path, arguments: argparse.Namespace) -> Path:
    """The file of urls, with columns as long as real ones are."""
    file = folder / f"urls.{arguments.format}"
    rng = random.Random(0)
    order = [n for n in range(arguments.identities) for _ in range(arguments.photos)]
    if arguments.shuffle:
        rng.shuffle(order)
    if arguments.format == "parquet":
        writer: Any = None
        for table in tables(order, rng):
            writer = writer or pq.ParquetWriter(file, table.schema)
            writer.write_table(table)
        writer.close()
    elif arguments.format == "jsonl":
        with file.open("w") as lines:
            for table in tables(order, rng):
                lines.writelines(json.dumps(row) + "\n" for row in table.to_pylist())
    else:
        with pa.output_stream(file) as sink:
            for number, table in enumerate(tables(order, rng)):
                pcsv.write_csv(table, sink, pcsv.WriteOptions(include_header=number == 0))
    return file


def tables(order: list[int], rng: random.Random) -> Iterator[pa.Table]:
    """Rows for the identities of these numbers, some at a time."""
    for start in range(0, len(order), 100_000):
        part = order[start : start + 100_000]
        yield pa.table(
            {
                "identity_id": [f"id{n:05d}" for n in part],
                "url": [
                    f"https://cdn{n % 97}.example.org/media/{rng.getrandbits(64):016x}/"
                    f"person_{n}/{rng.choice(WORDS)}_{start + i}.jpg"
                    for i, n in enumerate(part)
                ],
                "page_url": [
                    f"https://www.example.org/articles/{rng.getrandbits(40)}.html" for _ in part
                ],
                "title": [f"Person {n}, {rng.choice(WORDS)}, photographed" for n in part],
                "licence": ["CC BY-SA 4.0"] * len(part),
                "author": [f"Photographer {rng.randrange(5000)}" for _ in part],
                "width": [rng.randrange(300, 4000) for _ in part],
                "height": [rng.randrange(300, 4000) for _ in part],
            }
        )


def make_workspace(folder: Path, file: Path, identities: int) -> None:
    from hqvox.workspace.identities import to_table
    from hqvox.workspace.layout import Workspace

    rows = [
        {
            "identity_id": f"id{number:05d}",
            "name": f"Person_{number}",
            "subset": "vox1",
            "gender": None,
            "nationality": None,
            "row": number,
            "folder": None,
        }
        for number in range(identities)
    ]
    settings = {"format": 1, "discover": {"sources": ["urls"], "urls": {"file": str(file)}}}
    Workspace.create(folder / "work", yaml.safe_dump(settings), to_table(rows))


if __name__ == "__main__":
    main()
