"""Time to open a workspace's candidates for review, and the cost of their pictures.

    python benchmarks/review_workspace.py big && python benchmarks/review_candidates.py big/work

Run it twice: the first run makes the index, later runs load it. It imports only what the review UI
imports, so that the memory measured is that of the candidates.
"""

from __future__ import annotations

import os
import resource
import sys
import time

import numpy as np

from annotator.candidates.candidates import Candidates
from hqvox.workspace.layout import Workspace

TILE_PX = 192


def main() -> None:
    before = memory_mb()
    wall, cpu = time.perf_counter(), time.process_time()
    found = Candidates(Workspace.open(sys.argv[1]))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    total = sum(person.candidates for person in found.everyone)
    print(
        f"{total:,} candidates of {len(found.everyone):,} identities open in {wall:.2f} s "
        f"({cpu:.2f} s of processor time), with {memory_mb() - before:.0f} MB"
    )
    wall, cpu = time.perf_counter(), time.process_time()
    found.changed()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"asking whether the build changed: {wall * 1000:.0f} ms ({cpu * 1000:.0f} ms)")
    rows, walls, cpus, count = [], [], [], 0
    for person in found.identities[:20]:
        wall = time.perf_counter()
        faces = found.faces(person.identity_id)
        rows.append(time.perf_counter() - wall)
        wall, cpu = time.perf_counter(), time.process_time()
        found.prepare(person.identity_id, TILE_PX)
        for face in faces:
            found.tile(person.identity_id, face.number, TILE_PX)
        walls.append((time.perf_counter() - wall) / len(faces))
        cpus.append((time.process_time() - cpu) / len(faces))
        count += len(faces)
    print(
        f"an identity's rows: {np.median(rows) * 1000:.1f} ms; a tile of {TILE_PX} px out of "
        f"{count / len(rows):.0f}: {np.median(walls) * 1000:.1f} ms "
        f"({np.median(cpus) * 1000:.1f} ms of processor time, {os.cpu_count()} cores)"
    )
    print(f"memory: {memory_mb():.0f} MB at most, {before:.0f} MB of it before anything was opened")


def memory_mb() -> float:
    """The most memory that the process had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
