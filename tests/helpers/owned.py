"""Whether every file of a workspace has an owner that erases takedowns from it."""

from __future__ import annotations

from pathlib import Path

from hqvox.takedown.owners import OWNERS
from hqvox.workspace.layout import Workspace


def owners_of(workspace: Workspace) -> dict[str, list[str]]:
    """By the name of every file of the workspace, the names of the owners that claim it."""
    root = Path(workspace.storage.path(""))
    files = (file for file in root.rglob("*") if file.is_file() or file.is_symlink())
    names = sorted(file.relative_to(root).as_posix() for file in files)
    return {name: [owner.name for owner in OWNERS if owner.claims(name)] for name in names}


def assert_owned(workspace: Workspace) -> set[str]:
    """Fail unless each file has exactly one owner; return the owners' names."""
    owners = owners_of(workspace)
    wrong = {name: claims for name, claims in owners.items() if len(claims) != 1}
    assert not wrong, f"files without exactly one owner: {wrong}"
    return {claims[0] for claims in owners.values()}
