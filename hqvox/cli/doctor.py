"""`hqvox doctor`: what this machine has, and what to type where something is missing."""

from __future__ import annotations

import os
import platform
import shutil
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

import hqvox
from hqvox.cli.common import console, text_table
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

    rows: list[tuple[str, str]] = []
    rows.append(("hqvox", hqvox.__version__))
    rows.append(("python", platform.python_version()))
    for package in VERSIONS_OF:
        rows.append((package, _version(package)))
    rows.append(("cores", str(len(os.sched_getaffinity(0)))))
    rows.append(("GPU", torch.cuda.get_device_name() if torch.cuda.is_available() else "none"))
    rows.append(("free disk", f"{shutil.disk_usage(Path.cwd()).free / 1e9:.1f} GB here"))
    store = ModelStore()
    rows.append(("weights cache", str(store.cache_dir)))
    rows.append(("HQVOX_MIRROR", store.mirror or "not set"))
    for recipe in recipe_names():
        names = Stages(load_config("", recipe=recipe), store).networks()
        missing = [name for name in names if not store.present(name)]
        if missing:
            line = f"missing: {', '.join(missing)}; type: hqvox models pull {' '.join(missing)}"
        else:
            line = f"ready ({', '.join(names)})"
        rows.append((f"recipe {recipe}", line))
    if workspace is not None:
        opened = Workspace.open(workspace)
        opened.config()
        with opened.lock():
            opened.storage.write(".doctor", b"")
            opened.storage.remove(".doctor")
        rows.append(("workspace", f"{workspace}: readable, writable, no build running"))
    console.print(text_table(("", ""), rows, frame=False))


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return f"not installed; type: pip install {package}"
