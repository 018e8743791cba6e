"""The plan of a build: which stages of which shards are missing or stale, and why.

Every committed table carries a fingerprint record: the parts that decided its content (stage
configuration, code version, weights, input) and the hash over them and the hash of the stage
before. A stage of a shard is up to date where its hash equals that of the current configuration.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hqvox.errors import HqvoxError
from hqvox.workspace.layout import Workspace
from hqvox.workspace.tables import Row
from pipelines.chain import STAGE_NAMES, Stages
from pipelines.download import DownloadStage
from pipelines.stage import Stage

LEFT_OUT = "left_out"
"""Key of discover's record: how many photographs ``discover.limit`` left out."""
NOT_BUILT = "not built yet"

CHAIN_VERSION = 2
"""Raised by hand when decoding, batching or storing changes what stages read or write."""


@dataclass(frozen=True)
class ShardJob:
    """Consecutive stages to run on one shard, from number ``first`` to ``last``."""

    shard: str
    first: int
    last: int
    why: str
    """Why the first stage has to run; the others follow from it."""

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages to run."""
        return STAGE_NAMES[self.first : self.last + 1]


def stage_index(name: str) -> int:
    """Position of a stage. Raises HqvoxError naming the stages there are."""
    if name not in STAGE_NAMES:
        raise HqvoxError(f"unknown stage {name!r}; the stages are: {', '.join(STAGE_NAMES)}")
    return STAGE_NAMES.index(name)


class Fingerprints:
    """The fingerprint records of the current configuration."""

    def __init__(self, stages: Stages) -> None:
        self._stages = stages
        self._common = [self._stage_parts(stage) for stage in stages]

    def of(
        self, identities: Sequence[Row], built: Mapping[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Records of all stages, in order, for a shard's identity rows.

        ``built``: the record of the shard's committed discover. Where an earlier version wrote it,
        its input holds the times of files; while they are unchanged, it is kept.
        """
        records = []
        upstream = ""
        discover = self._stages.discover
        for stage, parts in zip(self._stages, self._common, strict=True):
            shard_parts = dict(parts)
            if stage is discover:
                shard_parts["input"] = self._input(identities)
                before = built["parts"].get("input") if built else None
                if before not in (None, shard_parts["input"]) and before == self._input(
                    identities, by_time=True
                ):
                    shard_parts["input"] = before
            upstream = digest([upstream, shard_parts])
            records.append({"hash": upstream, "parts": shard_parts})
        return records

    def _input(self, identities: Sequence[Row], by_time: bool = False) -> str:
        listings = self._stages.discover.listings(identities, by_time)
        return digest(
            [
                [row["identity_id"], row["folder"], listing]
                for row, listing in zip(identities, listings, strict=True)
            ]
        )

    def _stage_parts(self, stage: Stage) -> dict[str, Any]:
        config, store = self._stages.config, self._stages.store
        section = stage.settings()
        if stage.reads_photos:
            section["decode"] = config.decode.model_dump(mode="json")
        return {
            "config": section,
            "version": [stage.version, CHAIN_VERSION],
            "weights": {name: store.sha256(name) for name in stage.networks},
        }


def make_plan(
    workspace: Workspace,
    fingerprints: Fingerprints,
    *,
    target: str | None = None,
    start: str | None = None,
    only: str | None = None,
    retry_failed: bool = False,
) -> list[ShardJob]:
    """Jobs that bring ``target`` (default: the last stage) up to date, in shard order.

    ``start``: run this stage and what follows even where it is up to date. ``only``: run this one
    stage; raises HqvoxError where what is before it is missing or stale. ``retry_failed``: run
    download again where a photo failed for a transient reason.
    """
    last = stage_index(only or target or STAGE_NAMES[-1])
    forced = stage_index(start) if start else None
    if forced is not None and forced > last:
        raise HqvoxError(f"--from {start} comes after --to {target}; swap them")
    jobs = []
    for shard, identities in workspace.shards().items():
        built = workspace.committed(STAGE_NAMES[0], shard)
        if built is None:  # files need not be hashed yet
            first, why = 0, NOT_BUILT
        else:
            first, why = first_stale(workspace, shard, fingerprints.of(identities, built), last)
        if retry_failed and first > DOWNLOAD and _has_transient(workspace, shard):
            first, why = DOWNLOAD, "photos failed for a transient reason"
        if forced is not None and forced < first:
            first, why = forced, "--from"
        if only and first < last:
            raise HqvoxError(
                f"--only {only}: stage {STAGE_NAMES[first]} before it must run first "
                f"(shard {shard}: {why}); leave out --only to have it done"
            )
        if first <= last:
            jobs.append(ShardJob(shard, first, last, why))
    return jobs


DOWNLOAD = STAGE_NAMES.index(DownloadStage.name)


def _has_transient(workspace: Workspace, shard: str) -> bool:
    table = workspace.read_stage(DownloadStage.name, shard, ["reason"])
    reasons = set() if table is None else set(table["reason"].to_pylist())
    return bool(reasons & set(DownloadStage.transient))


def first_stale(
    workspace: Workspace,
    shard: str,
    expected: Sequence[Mapping[str, Any]],
    last: int,
    begin: int = 0,
) -> tuple[int, str]:
    """Position of the first stage from ``begin`` to ``last`` that is missing or stale, and why.

    ``last + 1`` and "" where all are up to date.
    """
    for index in range(begin, last + 1):
        committed = workspace.committed(STAGE_NAMES[index], shard)
        if committed is None:
            return index, NOT_BUILT
        if committed["hash"] != expected[index]["hash"]:
            return index, difference(committed["parts"], expected[index]["parts"])
    return last + 1, ""


def difference(
    before: Mapping[str, Any], now: Mapping[str, Any], input_changed: str = "photos changed"
) -> str:
    """What changed between the parts of two fingerprint records, in words."""
    changes = []
    old, new = before.get("config", {}), now["config"]
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            changes.append(f"{key} {_short(old.get(key))} → {_short(new.get(key))}")
    words = {"version": "newer code", "weights": "other weights", "input": input_changed}
    changes += [text for part, text in words.items() if before.get(part) != now.get(part)]
    return ", ".join(changes) or "what it is built from changed"


def _short(value: Any) -> str:
    return json.dumps(value) if not isinstance(value, str) else value


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
