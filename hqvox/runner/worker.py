"""The work of a build on one shard: consecutive stages, committed stage by stage.

The same code runs in this process, in child processes and in a cluster's actors.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hqvox.config.build import BuildConfig
from hqvox.runner.jobs import Finished, JobEvent
from hqvox.runner.plan import LEFT_OUT, Fingerprints, ShardJob
from hqvox.workspace.layout import TAR_OF, Workspace
from hqvox.workspace.shards import ShardReader, ShardWriter
from hqvox.workspace.storage import disk_error
from hqvox.workspace.tables import Row
from hqvox.workspace.takedowns import Takedowns
from models.store import ModelStore
from pipelines.chain import COLUMNS_OF, STAGE_NAMES, Chain, Stages, Tallies
from pipelines.pixels import ChainPixels


@dataclass(frozen=True)
class Progress:
    """All stages of a job have seen an identity."""

    shard: str
    identity_id: str
    tallies: Tallies


@dataclass(frozen=True)
class Crawling:
    """State of the crawl, about once a second."""

    urls: int
    """Known so far: done and waiting."""
    waiting: int
    fetched: int
    unchanged: int
    failed: dict[str, int]
    bytes: int
    hosts_waiting: int
    requests: int
    seconds: float
    problem: str = ""
    """What is wrong with the operator's hosts.yaml; its last valid state holds."""


Event = JobEvent | Progress | Crawling
"""What a build reports."""


class ShardWorker:
    """Runs jobs of one build; networks are loaded once, at the first job that needs them."""

    def __init__(self, root: str, config: BuildConfig) -> None:
        # Here, so that commands that only plan do not wait for them.
        import cv2
        import torch

        # Sums over several threads are not always taken in the same order: with one thread per
        # worker, a build gives the same bytes on any number of workers.
        torch.set_num_threads(1)
        cv2.setNumThreads(1)  # the workers together use all cores
        self.workspace = Workspace(root)
        self.config = config
        self.stages = Stages(config, ModelStore(), self.workspace.storage)
        self.stages.download.takedowns = Takedowns.read(self.workspace)
        self.fingerprints = Fingerprints(self.stages)
        self.chains: dict[tuple[int, int], Chain] = {}
        self.identities = self.workspace.shards()

    def __call__(self, jobs: Sequence[ShardJob], report: Callable[[Event], None]) -> None:
        """Run jobs, reporting each as Finished. Raises HqvoxError where the disk refuses."""
        for job in jobs:
            report(Finished(job, self.run(job, report)))

    def run(self, job: ShardJob, report: Callable[[Progress], None]) -> float:
        """Run a job and commit it; return the seconds it took, without loading networks.

        Raises HqvoxError where the disk refuses.
        """
        chain = self.chains.setdefault(
            (job.first, job.last), Chain(self.stages.all[job.first : job.last + 1])
        )
        chain.load()
        started = time.perf_counter()
        identities = self.identities[job.shard]
        # Computed before the photos are read: if a photo changes meanwhile, the next plan sees it.
        built = self.workspace.committed(STAGE_NAMES[0], job.shard) if job.first else None
        records = self.fingerprints.of(identities, built)
        writers = self._writers(job)
        pixels = ChainPixels(
            lambda kind: ShardReader(
                self.workspace.storage, self.workspace.tar_name(TAR_OF[kind], job.shard)
            ),
            writers,
            self.config.decode.working_side_px,
            self.config.runner.cache_mb,
        )
        try:
            tables = chain.run(
                [
                    (row["identity_id"], rows)
                    for row, rows in job_input(self.workspace, job, identities)
                ],
                pixels,
                lambda identity_id, tallies: report(Progress(job.shard, identity_id, tallies)),
            )
            if job.first == 0:
                candidates = tables[STAGE_NAMES[0]].select(["identity_id", "url"]).to_pylist()
                records[0][LEFT_OUT] = self.stages.discover.left_out(identities, candidates)
            withdraw(self.workspace, job, records)
            for index in range(job.first, job.last + 1):
                stage = STAGE_NAMES[index]
                for kind, writer in writers.items():
                    if TAR_OF[kind] == stage:
                        writer.commit()
                self.workspace.write_stage(stage, job.shard, tables[stage], records[index])
        except OSError as error:
            raise disk_error(error, str(error.filename or self.workspace.url)) from error
        finally:
            pixels.close()
            for writer in writers.values():
                writer.discard()
        return time.perf_counter() - started

    def _writers(self, job: ShardJob) -> Mapping[str, ShardWriter]:
        return {
            kind: ShardWriter(self.workspace.storage, self.workspace.tar_name(stage, job.shard))
            for kind, stage in TAR_OF.items()
            if stage in job.stages
        }


def withdraw(workspace: Workspace, job: ShardJob, records: Sequence[Mapping[str, Any]]) -> None:
    """Before a commit, remove the tables that would wrongly look current if it is interrupted.

    These are tables whose tar is about to be replaced. Where a stage runs again with the same
    fingerprint (``--from``, ``--retry-failed``), they are also the tables after it: they are stale
    although their fingerprints match. The last stage's table goes first.
    """
    for index in reversed(range(job.first, len(STAGE_NAMES))):
        stage = STAGE_NAMES[index]
        committed = workspace.committed(stage, job.shard)
        current = committed is not None and committed["hash"] == records[index]["hash"]
        if current or (index <= job.last and stage in TAR_OF.values()):
            workspace.storage.remove(workspace.table_name(stage, job.shard))


def job_input(
    workspace: Workspace, job: ShardJob, identities: Sequence[Row]
) -> list[tuple[Row, list[Row]]]:
    """Each identity with the input rows of the job's first stage."""
    if job.first == 0:
        return [(row, [dict(row)]) for row in identities]
    columns = {name: COLUMNS_OF[name] for name in STAGE_NAMES}
    rows = workspace.kept_rows(job.shard, STAGE_NAMES[: job.first], columns)
    by_identity: dict[str, list[Row]] = {row["identity_id"]: [] for row in identities}
    for row in rows:
        by_identity[row["identity_id"]].append(row)
    return [(row, by_identity[row["identity_id"]]) for row in identities]
