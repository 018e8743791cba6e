"""What a crawl keeps of hosts (rules, status), and what its operator says of them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hqvox.config.hosts import HostsConfig, load_hosts
from hqvox.errors import HqvoxError
from hqvox.runner.crawl.spool import crawl_folder
from hqvox.workspace.covered import Covered, Owner
from hqvox.workspace.layout import Workspace
from hqvox.workspace.storage import disk_error

FOLDER = "hosts"
OPERATORS_FILE = "hosts.yaml"


def host_files(workspace: Workspace) -> Path:
    """The file for :class:`pipelines.fetch.files.HostFiles`."""
    return crawl_folder(workspace, FOLDER) / "files.jsonl"


def write_status(workspace: Workspace, status: Mapping[str, Any]) -> None:
    """Replace ``hosts/status.json``. Raises OSError where the disk refuses."""
    file = crawl_folder(workspace, FOLDER) / "status.json"
    draft = file.with_suffix(".tmp")
    draft.write_text(json.dumps(status, indent=1) + "\n")
    os.replace(draft, file)


class OperatorsFile:
    """``hosts.yaml``, read again where it changed."""

    def __init__(self, workspace: Workspace) -> None:
        self._storage = workspace.storage
        self._text: bytes | None = None
        self.hosts = HostsConfig()
        self.problem = ""
        """What is wrong with the file, in one line; its last valid state holds."""

    def reread(self) -> bool:
        """Read the file; whether :attr:`hosts` changed."""
        try:
            text = self._storage.read(OPERATORS_FILE)
        except FileNotFoundError:
            text = b""
        if text == self._text:
            return False
        self._text = text
        before, self.problem = self.hosts, ""
        try:
            where = self._storage.shown(OPERATORS_FILE)
            self.hosts = load_hosts(text.decode(), where)
        except (HqvoxError, UnicodeDecodeError) as error:
            self.problem = str(error)
        return self.hosts != before


def erase_host_files(covered: Covered) -> None:
    """Delete what is kept: rules can name anybody's page; the next crawl asks for them again.

    Raises HqvoxError where the disk refuses.
    """
    folder = crawl_folder(covered.workspace, FOLDER)
    try:
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        raise disk_error(error, str(folder)) from error


HOST_FILES = Owner(
    "rules and state of hosts", (f"{FOLDER}/files.*", f"{FOLDER}/status.*"), erase_host_files
)
