"""What commands wrote of a workspace where the user wanted it."""

from __future__ import annotations

from hqvox.workspace.covered import Covered, Owner


def erase_reports(covered: Covered) -> None:
    """Remove reports that were written into the workspace: they hold pictures."""
    storage = covered.workspace.storage
    for name in storage.names("") if covered.shards else ():
        if name.endswith(".html"):
            storage.remove(name)


REPORTS = Owner("reports", ("*.html",), erase_reports)
