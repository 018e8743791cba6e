"""`hqvox doctor`: what this machine has, and what to type where something is missing."""

from __future__ import annotations

import os
import platform
import shutil
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

import hqvox
from hqvox.cli.common import console
from hqvox.config.file import load_config, recipe_names
from hqvox.runner.build import VERSIONS_OF
from hqvox.workspace.layout import Workspace
from models.store import ModelStore
from pipelines.chain import Stages


def doctor(
    workspace: Annotated[
        str | None, typer.Argument(metavar="WORKSPACE", help="Also check this build.")
    ] = None,
) -> None:
    """Versions, devices, free space, and for each recipe whether its weights are here.

    Example: hqvox doctor
    """
    import torch  # Here, so that the other commands do not wait for it.

    table = Table(show_header=False, box=None)
    table.add_row("hqvox", hqvox.__version__)
    table.add_row("python", platform.python_version())
    for package in VERSIONS_OF:
        table.add_row(package, _version(package))
    table.add_row("cores", str(len(os.sched_getaffinity(0))))
    table.add_row("GPU", torch.cuda.get_device_name() if torch.cuda.is_available() else "none")
    table.add_row("free disk", f"{shutil.disk_usage(Path.cwd()).free / 1e9:.1f} GB here")
    store = ModelStore()
    table.add_row("weights cache", escape(str(store.cache_dir)))
    table.add_row("HQVOX_MIRROR", escape(store.mirror or "not set"))
    for recipe in recipe_names():
        names = Stages(load_config("", recipe=recipe), store).networks()
        missing = [name for name in names if not store.present(name)]
        if missing:
            line = f"missing: {', '.join(missing)}; type: hqvox models pull {' '.join(missing)}"
        else:
            line = f"ready ({', '.join(names)})"
        table.add_row(f"recipe {recipe}", escape(line))
    if workspace is not None:
        opened = Workspace.open(workspace)
        opened.config()
        with opened.lock():
            opened.storage.write(".doctor", b"")
            opened.storage.remove(".doctor")
        table.add_row("workspace", escape(f"{workspace}: readable, writable, no build running"))
    console.print(table)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return f"not installed; type: pip install {package}"
