"""What a crawl keeps of hosts: their robots.txt, for a day."""

from __future__ import annotations

import shutil
from pathlib import Path

from hqvox.runner.crawl.spool import crawl_folder
from hqvox.workspace.covered import Covered, Owner
from hqvox.workspace.layout import Workspace
from hqvox.workspace.storage import disk_error

FOLDER = "hosts"


def host_files(workspace: Workspace) -> Path:
    """The file for :class:`pipelines.fetch.files.HostFiles`."""
    return crawl_folder(workspace, FOLDER) / "files.jsonl"


def erase_host_files(covered: Covered) -> None:
    """Delete all of them: rules can name anybody's page, and the next crawl asks for them again.

    Raises HqvoxError where the disk refuses.
    """
    folder = crawl_folder(covered.workspace, FOLDER)
    try:
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        raise disk_error(error, str(folder)) from error


HOST_FILES = Owner("rules of hosts", (f"{FOLDER}/files.*",), erase_host_files)
