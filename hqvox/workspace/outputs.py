"""The register of what commands wrote of a workspace where the user wanted it.

``<workspace>/outputs.jsonl``, one line for each place; only added to:

    {"date": "2026-01-31", "kind": "export", "path": "/data/sf2f", "release": "v1"}

A purge cannot erase from such places, so it names them.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from hqvox.errors import HqvoxError
from hqvox.workspace.covered import Covered, Owner
from hqvox.workspace.layout import CONFIG, Workspace
from hqvox.workspace.storage import Storage

FILE = "outputs.jsonl"
OutputKind = Literal["export", "report", "training run"]


@dataclass(frozen=True)
class Output:
    """Something that was written outside a workspace, or at a place in it that the user chose."""

    kind: OutputKind
    path: str
    """Absolute."""
    release: str = ""
    """Name of the release that it was made from; empty for a report on a build alone."""
    date: str = ""
    """UTC day, ISO 8601."""

    @property
    def exists(self) -> bool:
        """Whether anything is at its path now, on this machine."""
        return os.path.lexists(self.path)


def workspace_of(release: Storage) -> Workspace | None:
    """The workspace that a release's folder is in; None where it is in none."""
    folder, _, _ = release.url.rstrip("/").rpartition("/")
    if release.local:
        folder = str(Path(release.path("")).absolute().parent)
    root = folder.removesuffix("/releases")
    if root == folder or not Storage(root).exists(CONFIG):
        return None
    return Workspace.open(root)


def register_output(
    workspace: Workspace | None, kind: OutputKind, path: Path, release: str = ""
) -> str | None:
    """Add a place to the register, once; return a line for the user where that is not possible.

    A workspace that cannot be written to is no reason for a command to fail. ``workspace``: None
    where the release is in none.
    """
    if workspace is None:
        return None
    today = datetime.now(UTC).date().isoformat()
    output = Output(kind, str(path.absolute()), release, today)
    try:
        known = read_outputs(workspace)
        if any((o.kind, o.path, o.release) == (kind, output.path, release) for o in known):
            return None
        lines = [json.dumps(asdict(o), sort_keys=True) for o in (*known, output)]
        workspace.storage.write(FILE, ("\n".join(lines) + "\n").encode())
    except HqvoxError as error:
        return f"not in the register of {workspace.url}, so a purge will not name it: {error}"
    return None


def read_outputs(workspace: Workspace) -> list[Output]:
    """The register, oldest first. Raises HqvoxError where it is damaged."""
    try:
        lines = workspace.storage.read(FILE).decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return []
    outputs = []
    for number, line in enumerate(lines, 1):
        try:
            record: dict[str, Any] = json.loads(line)
            output = Output(**record)
        except (ValueError, TypeError):
            output = None
        if output is None or output.kind not in get_args(OutputKind):
            raise HqvoxError(
                f"{workspace.storage.shown(FILE)}:{number}: not a line of the register; delete it"
            )
        outputs.append(output)
    return outputs


def erase_reports(covered: Covered) -> None:
    """Remove reports that were written into the workspace: they hold pictures."""
    storage = covered.workspace.storage
    for name in storage.names("") if covered.shards else ():
        if name.endswith(".html"):
            storage.remove(name)


REPORTS = Owner("reports", ("*.html",), erase_reports)
OUTPUTS = Owner("register of outputs", (FILE,), None)
