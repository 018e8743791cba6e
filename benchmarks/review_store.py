"""Latency of writing decisions to the disk, with one process per annotator.

    python benchmarks/review_store.py [--annotators 20] [--decisions 500] [--think-seconds 0]
        [--identities 7363] [--candidates 41] [--url postgresql://…] [--folder DISK]

Each annotator takes an identity (and the next one), decides, and repeats. Without time to think
this measures the limit of the store, far beyond what people do. The log is counted at the end.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
import uuid
from collections.abc import Sequence
from multiprocessing.synchronize import Barrier

import numpy as np
from rich.console import Console
from rich.table import Table

from annotator.log.access import Actor
from annotator.log.store import Decision, FaceRef, Store
from annotator.work.queue import Queue, QueueItem
from hqvox.config.review import ReviewConfig

CHOSEN = 5
Times = list[tuple[float, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--annotators", type=int, default=20)
    parser.add_argument("--decisions", type=int, default=500, help="of each annotator")
    parser.add_argument("--think-seconds", type=float, default=0.0, help="mean, per identity")
    parser.add_argument("--identities", type=int, default=7363)
    parser.add_argument("--candidates", type=int, default=41, help="of each identity")
    parser.add_argument("--url", help="of a store; default: SQLite in a temporary folder")
    parser.add_argument("--folder", help="where the temporary folder is made, to choose the disk")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        url = asked.url or f"{folder}/reviews.sqlite"
        started = time.perf_counter()
        measured = run(url, asked)
        seconds = time.perf_counter() - started
        report(url, measured, seconds, asked)


def run(url: str, asked: argparse.Namespace) -> list[Times]:
    """Seconds of each taking and each deciding, of each annotator."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(asked.annotators)
    with context.Pool(asked.annotators, _initialise, (barrier,)) as pool:
        tasks = [(url, number, vars(asked)) for number in range(asked.annotators)]
        return pool.starmap(annotate, tasks, chunksize=1)


def annotate(url: str, number: int, asked: dict) -> Times:
    """One annotator at work."""
    store = Store.open(url)
    names = [f"id{place:05d}" for place in range(asked["identities"])]
    items = [QueueItem(name, place % 41, place % 97 / 97) for place, name in enumerate(names)]
    queue = Queue(store, items, ReviewConfig())
    actor = Actor(f"annotator {number}")
    rng = np.random.default_rng(number)
    faces = tuple(
        FaceRef(f"{int(photo):064x}", 0, (10.5, 20.25, 210.5, 220.25))
        for photo in rng.integers(2**62, size=asked["candidates"])
    )
    times: Times = []
    _barrier.wait()
    for _ in range(asked["decisions"]):
        start = time.perf_counter()
        lease = queue.next(actor, reserve=True)
        taken = time.perf_counter()
        if lease is None:
            break
        if asked["think_seconds"]:
            time.sleep(rng.uniform(0, 2 * asked["think_seconds"]))
        decision = Decision(lease.identity_id, "chosen", faces[:CHOSEN], faces, seconds=9.5)
        deciding = time.perf_counter()
        store.append(decision, key=uuid.uuid4().hex, actor=actor)
        times.append((taken - start, time.perf_counter() - deciding))
    store.close()
    return times


def report(url: str, measured: Sequence[Times], seconds: float, asked: argparse.Namespace) -> None:
    """Percentiles as a table; raises AssertionError where a decision is lost or doubled."""
    store = Store.open(url)
    start = time.perf_counter()
    outcomes = store.state()
    folded = time.perf_counter() - start
    entries = store.entries(shown=False)
    store.close()
    count = sum(map(len, measured))
    assert len(entries) == count == len({e.key for e in entries}), (len(entries), count)
    values = np.array([pair for times in measured for pair in times]) * 1000
    kind = "SQLite" if "://" not in url else url.split(":")[0]
    table = Table(
        title=f"{kind}, {asked.annotators} processes, {asked.think_seconds:g} s to think, "
        f"{os.cpu_count()} cores, ms",
        title_justify="left",
    )
    table.add_column("")
    for percent in (50, 95, 99, 100):
        table.add_column(f"{percent} %", justify="right")
    for name, column in (("next identity held", 0), ("decision on the disk", 1)):
        percentiles = np.percentile(values[:, column], (50, 95, 99, 100))
        table.add_row(name, *(f"{value:.1f}" for value in percentiles))
    console = Console()
    console.print(table)
    console.print(
        f"{count:,} decisions on {len(outcomes):,} identities in {seconds:.1f} s, none lost; "
        f"opened and folded in {folded:.2f} s"
    )


_barrier: Barrier


def _initialise(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


if __name__ == "__main__":
    main()
