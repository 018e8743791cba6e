"""Running one task: a shard through consecutive stages, committed stage by stage.

The same code runs in this process, in a pool on one machine, or in a cluster's actors.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hqvox.config.build import BuildConfig
from hqvox.runner.plan import Fingerprints, ShardTask
from hqvox.workspace.layout import TAR_OF, Workspace
from hqvox.workspace.shards import ShardReader, ShardWriter
from hqvox.workspace.storage import disk_error
from hqvox.workspace.tables import Row
from hqvox.workspace.takedowns import Takedowns
from models.store import ModelStore
from pipelines.chain import COLUMNS_OF, STAGE_NAMES, Chain, Tallies, make_stages
from pipelines.download import DownloadStage
from pipelines.pixels import ChainPixels
from pipelines.stage import Stage


@dataclass(frozen=True)
class Progress:
    """An identity of a shard is through."""

    shard: str
    identity_id: str
    tallies: Tallies


class ShardWorker:
    """Runs tasks of one build; networks are loaded once, at the first task that needs them."""

    def __init__(self, root: str, config: BuildConfig) -> None:
        import torch  # Here, so that commands that only plan do not wait for it.

        # Sums over several threads are not always taken in the same order: with one thread per
        # worker, a build gives the same bytes on any number of workers.
        torch.set_num_threads(1)
        self.workspace = Workspace(root)
        self.config = config
        store = ModelStore()
        self.stages = make_stages(config, store, self.workspace.storage)
        download_stage(self.stages).takedowns = Takedowns.read(self.workspace)
        self.fingerprints = Fingerprints(self.stages, config, store)
        self.chains: dict[tuple[int, int], Chain] = {}
        self.identities = self.workspace.shards()

    def run(self, task: ShardTask, report: Callable[[Progress], None]) -> float:
        """Run a task and commit it; return the seconds it took, once networks were loaded.

        Raises HqvoxError where the disk refuses.
        """
        chain = self.chains.setdefault(
            (task.first, task.last), Chain(self.stages[task.first : task.last + 1])
        )
        chain.load()
        started = time.perf_counter()
        identities = self.identities[task.shard]
        # Taken before the photos are read: what changes meanwhile makes the next plan stale.
        records = self.fingerprints.of(identities)
        writers = self._writers(task)
        pixels = ChainPixels(
            lambda kind: ShardReader(
                self.workspace.storage, self.workspace.tar_name(TAR_OF[kind], task.shard)
            ),
            writers,
            self.config.decode.working_side_px,
            self.config.runner.cache_mb,
        )
        try:
            tables = chain.run(
                [
                    (i["identity_id"], rows)
                    for i, rows in task_input(self.workspace, task, identities)
                ],
                pixels,
                lambda identity_id, tallies: report(Progress(task.shard, identity_id, tallies)),
            )
            withdraw(self.workspace, task, records)
            for index in range(task.first, task.last + 1):
                stage = STAGE_NAMES[index]
                for kind, writer in writers.items():
                    if TAR_OF[kind] == stage:
                        writer.commit()
                self.workspace.write_stage(stage, task.shard, tables[stage], records[index])
        except OSError as error:
            raise disk_error(error, str(error.filename or self.workspace.url)) from error
        finally:
            pixels.close()
            for writer in writers.values():
                writer.discard()
        return time.perf_counter() - started

    def _writers(self, task: ShardTask) -> Mapping[str, ShardWriter]:
        return {
            kind: ShardWriter(self.workspace.storage, self.workspace.tar_name(stage, task.shard))
            for kind, stage in TAR_OF.items()
            if stage in task.stages
        }


def withdraw(workspace: Workspace, task: ShardTask, records: Sequence[Mapping[str, Any]]) -> None:
    """Remove tables that a commit cut short would leave looking current, last one first.

    A table must not stand beside a newer tar than its own; and where a stage runs again with the
    same fingerprint (``--from``, ``--retry-failed``), what follows it is stale although its
    fingerprint matches.
    """
    for index in reversed(range(task.first, len(STAGE_NAMES))):
        stage = STAGE_NAMES[index]
        committed = workspace.committed(stage, task.shard)
        current = committed is not None and committed["hash"] == records[index]["hash"]
        if current or (index <= task.last and stage in TAR_OF.values()):
            workspace.storage.remove(workspace.table_name(stage, task.shard))


def task_input(
    workspace: Workspace, task: ShardTask, identities: Sequence[Row]
) -> list[tuple[Row, list[Row]]]:
    """Each identity with the rows its first stage starts from."""
    if task.first == 0:
        return [(row, [dict(row)]) for row in identities]
    columns = {name: COLUMNS_OF[name] for name in STAGE_NAMES}
    rows = workspace.kept_rows(task.shard, STAGE_NAMES[: task.first], columns)
    found: dict[str, list[Row]] = {row["identity_id"]: [] for row in identities}
    for row in rows:
        found[row["identity_id"]].append(row)
    return [(row, found[row["identity_id"]]) for row in identities]


def download_stage(stages: Sequence[Stage]) -> DownloadStage:
    """The download stage among a build's stages."""
    return next(stage for stage in stages if isinstance(stage, DownloadStage))
