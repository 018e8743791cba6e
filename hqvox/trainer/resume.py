"""What may be gone on with, and where: checks before a run takes up a folder or a checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hqvox.errors import HqvoxError
from hqvox.release.layout import CHECKSUMS
from hqvox.release.read import Release
from hqvox.trainer import runs
from hqvox.trainer.config import TrainConfig

EXTENDABLE = ("stage1.iterations", "stage2.iterations", "cadence.", "speed.")
"""Settings that a run may go on with changed: none of them says what a step does."""
SHOWN = 4
"""Changed settings that are named before the rest is counted."""


def refuse_taken(out: Path, resume: bool) -> None:
    """Raise HqvoxError where a folder holds a run that is not to be resumed, or anything else."""
    if out.is_file():
        raise HqvoxError(f"{out}: a file stands where the run's folder should; name a new folder")
    there = {entry.name for entry in out.iterdir()} - {runs.LOCK} if out.is_dir() else set()
    ours = bool(there & {runs.INFO, runs.CONFIG})
    if ours and not resume:
        raise HqvoxError(f"{out}: holds a run already; go on with --resume, or name a new folder")
    if there and not ours:
        raise HqvoxError(f"{out}: not empty, and no run of `hqvox train`; name a new folder")


def check_resume(content: Mapping[str, Any], config: TrainConfig, last: Path) -> None:
    """Raise HqvoxError where a run cannot go on after a checkpoint with this configuration.

    It may only be extended: other recipes and settings make another run.
    """
    if content["recipe"] != config.recipe:
        raise HqvoxError(
            f"{last}: a checkpoint of recipe {content['recipe']}, not {config.recipe}; name that "
            "recipe, or another --out"
        )
    before, now = flat(content["config"]), flat(config.model_dump(mode="json"))
    changed = [
        f"{key} {before.get(key)} not {now.get(key)}"
        for key in sorted(before | now)
        if before.get(key) != now.get(key) and not key.startswith(EXTENDABLE)
    ]
    if changed:
        rest = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        raise HqvoxError(
            f"{last}: begun with other settings: {', '.join(changed[:SHOWN])}{rest}; leave them as "
            "they were, or start anew with another --out and --from this checkpoint"
        )
    first, step = before["stage1.iterations"], content["step"]
    if content["stage"] == 2 and now["stage1.iterations"] != first:
        raise HqvoxError(
            f"{last}: stage 2 has begun, so stage1.iterations stays {first}; start anew with "
            "another --out and --from this checkpoint"
        )
    limit = now["stage1.iterations"] + (now["stage2.iterations"] if content["stage"] == 2 else 0)
    if step > limit:
        raise HqvoxError(
            f"{last}: {step} iterations are done, more than the {limit} that are asked for; a run "
            "can only be extended"
        )


def check_people(content: Mapping[str, Any], ids: Sequence[str], release: Release) -> None:
    """Raise HqvoxError where a checkpoint was trained on other data."""
    now, before = describe_release(release), content["release"]
    if before["checksum"] != now["checksum"] or list(content["identities"]) != list(ids):
        raise HqvoxError(
            f"{release.url}: not the release that this run was begun with ({before['url']}); name "
            "that one as --data, or start anew with another --out"
        )


def describe_release(release: Release) -> dict[str, str]:
    """A release as runs and checkpoints note it: ``name``, ``url``, ``checksum`` of its sums."""
    checksum = hashlib.sha256(release.read(CHECKSUMS)).hexdigest()
    return {"name": release.name, "url": release.url, "checksum": checksum}


def flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested settings as ``{"loss.l1.weight": 10, …}``."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{above}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return found
