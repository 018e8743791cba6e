"""`hqvox import hq-voxceleb`: list, link, measure, pack the voices, write the release."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hqvox.errors import HqvoxError
from hqvox.exchange.pickles import from_elsewhere, pack_pickles
from hqvox.exchange.release import Imported, check_new, write_import
from hqvox.exchange.split import check_choice
from hqvox.exchange.tree import Tree
from hqvox.exchange.workspace import placed, prepare
from hqvox.release.names import check_name
from hqvox.release.pool import cores
from hqvox.runner.build import plan_build, run_build
from hqvox.runner.local import Event
from hqvox.runner.worker import Progress
from hqvox.workspace.layout import Workspace
from models.store import ModelStore

OnProgress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and of how much."""


@dataclass(frozen=True)
class Order:
    """What is asked of an import."""

    name: str
    """Of the release."""
    metadata: Sequence[Path] = ()
    """VoxCeleb's files: ids, gender, nationality, and the official split."""
    split: str | None = None
    """As of `hqvox release`; None: the tree's own."""
    speech: bool = True
    workers: int | None = None
    """Processes; None: one per core; 0: in this one."""


def import_tree(
    tree: Tree,
    root: str,
    order: Order,
    on_progress: OnProgress = lambda what, done, total: None,
) -> Imported:
    """Import a tree into the workspace ``root``, made where it is not there yet.

    Stopped at any time, the same command goes on. Raises HqvoxError where the workspace is of
    something else, the release exists, or shards failed.
    """
    check_name(order.name)
    check_choice(order.split, tree.split)
    workspace = prepare(root, tree, order.metadata)
    with workspace.lock():
        check_new(workspace, order.name)
        people = placed(workspace, tree)
        _measure(workspace, order.workers, on_progress)
        refused: list[str] = []
        if order.speech and any(f.mels for _, f in people) and not from_elsewhere(workspace):
            refused = pack_pickles(
                workspace, people, lambda done, total: on_progress("pickles", done, total)
            ).refused
        done = write_import(
            workspace,
            tree,
            people,
            order.name,
            split=order.split,
            official=bool(order.metadata),
            speech=order.speech,
            workers=None if order.workers is None else max(1, order.workers),
            on_progress=on_progress,
        )
    done.problems += refused
    return done


def _measure(workspace: Workspace, workers: int | None, on_progress: OnProgress) -> None:
    config, store = workspace.config(), ModelStore()
    tasks = plan_build(workspace, config, store)
    if not tasks:
        return
    shards = workspace.shards()
    total, done = sum(len(shards[task.shard]) for task in tasks), 0

    def take(event: Event) -> None:
        nonlocal done
        if isinstance(event, Progress):
            done += 1
            on_progress("people measured", done, total)

    on_progress("people measured", done, total)
    count = cores() if workers is None else workers
    result = run_build(workspace, config, tasks, workers=count, on_event=take)
    if result.failed:
        first = result.failed[0]
        raise HqvoxError(
            f"{len(result.failed)} of {len(tasks)} shards failed, first {first.task.shard}: "
            f"{first.error}; traces are in {workspace.storage.path('failed')}; run the same "
            "command again to retry them"
        )
