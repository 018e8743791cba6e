"""The workspace of an import: its people, and its photographs, which are the tree's pictures.

``import/`` holds a link for every face, to the picture that is measured. The stages then run as on
any photographs, with every filter off: they measure and refuse nobody.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote, unquote

import yaml

from hqvox.errors import HqvoxError
from hqvox.exchange.tree import PersonFolder, Picture, Tree, nfc
from hqvox.release.plan import with_folders
from hqvox.workspace import identities as source
from hqvox.workspace.covered import Covered, Owner
from hqvox.workspace.identities import safe_name
from hqvox.workspace.layout import CONFIG, Workspace
from hqvox.workspace.storage import disk_error
from hqvox.workspace.tables import Row
from pipelines.chain import STAGES

LINKS = "import"
FILTERS = tuple(stage.name for stage in STAGES if stage.reasons)
"""Stages that measure without refusing."""
_MOST_PICTURES = 100_000
_HEADER = """\
# A published dataset that was imported: its filters are off, so that its faces are measured and
# none is refused.
"""


def identity_rows(tree: Tree, metadata: Sequence[Path]) -> list[Row]:
    """Identities of the tree's people, those that ``metadata`` (VoxCeleb's files) knows first.

    Where it does not, or there is none, id and name are the folder's. Raises HqvoxError where a
    metadata file is not one.
    """
    known: dict[tuple[str, str], Row] = {}
    rows = source.read_voxceleb(metadata) if metadata else []
    for row in rows:
        known.setdefault((row["subset"], nfc(safe_name(row["name"]))), row)
    matched: list[tuple[Row, PersonFolder]] = []
    others: list[PersonFolder] = []
    for folder in tree.folders:
        known_row = known.get((folder.subset, nfc(safe_name(folder.name))))
        if known_row is None:
            others.append(folder)
        else:
            matched.append((known_row, folder))
    order = {row["identity_id"]: number for number, row in enumerate(rows)}
    matched.sort(key=lambda pair: order[pair[0]["identity_id"]])
    taken = {row["identity_id"] for row, _ in matched}
    result = [row | {"folder": link_folder(folder)} for row, folder in matched]
    positions = {s: sum(r["subset"] == s for r in rows) for s in {f.subset for f in others}}
    for folder in others:
        identity_id = folder.name
        if identity_id in taken:
            identity_id = f"{folder.subset}-{folder.name}"
        taken.add(identity_id)
        result.append(
            {
                "identity_id": identity_id,
                "name": folder.name,
                "subset": folder.subset,
                "gender": None,
                "nationality": None,
                "row": positions[folder.subset],
                "folder": link_folder(folder),
            }
        )
        positions[folder.subset] += 1
    return result


def link_folder(folder: PersonFolder) -> str:
    """Percent-encoded path of a person's links below ``import/``."""
    return quote(f"{folder.subset}/{folder.name}")


def link_url(folder: PersonFolder, picture: Picture) -> str:
    """Percent-encoded path of a face's link below ``import/``."""
    return f"{link_folder(folder)}/{quote(picture.stem + picture.measured.suffix)}"


def prepare(root: str, tree: Tree, metadata: Sequence[Path]) -> Workspace:
    """Make the workspace, or open the one of an earlier run; and link the tree's pictures.

    Raises HqvoxError where another dataset is there, or on object storage, which has no links.
    """
    rows = identity_rows(tree, metadata)
    workspace = Workspace(root)
    if not workspace.storage.local:
        raise HqvoxError(f"{root}: an import needs a local folder; copy its release from there")
    links = Path(workspace.storage.path(LINKS)).absolute()
    table = source.to_table(rows)
    if workspace.storage.exists(CONFIG):
        workspace = Workspace.open(root)
        if workspace.config().discover.photos != str(links):
            raise HqvoxError(f"{root}: a workspace of another kind is here; choose another folder")
        if not workspace.identities().equals(table):
            raise HqvoxError(
                f"{root}: other people than the tree's are in this workspace (or other metadata); "
                "choose another folder"
            )
    else:
        values = {
            "format": 1,
            "recipe": "bundled",
            "discover": {"photos": str(links), "limit": _MOST_PICTURES},
            "release": {"min_faces": 1},
            **{stage: {"enabled": False} for stage in FILTERS},
        }
        text = _HEADER + yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        workspace = Workspace.create(root, text, table)
    try:
        _link(links, tree)
    except OSError as error:
        raise disk_error(error, str(error.filename or links)) from None
    return workspace


def _link(links: Path, tree: Tree) -> None:
    """Make the links for the tree as it is now; remove those of files that are gone."""
    wanted = {
        links / folder.subset / folder.name / f"{p.stem}{p.measured.suffix}": p.measured.absolute()
        for folder in tree.folders
        for p in folder.pictures.values()
    }
    for parent, _, files in os.walk(links):
        for name in files:
            path = Path(parent) / name
            if path not in wanted and path.is_symlink():
                path.unlink()
    for path, picture in wanted.items():
        if path.is_symlink() and os.readlink(path) == str(picture):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(picture)


def placed(workspace: Workspace, tree: Tree) -> list[tuple[Row, PersonFolder]]:
    """The workspace's identities, with their folders' names in a release, and their folders."""
    of_link = {link_folder(folder): folder for folder in tree.folders}
    identities = workspace.identities().to_pylist()
    return [
        (placed_row, of_link[row["folder"]])
        for row, placed_row in zip(identities, with_folders(identities), strict=True)
    ]


def erase_links(covered: Covered) -> None:
    """Remove the links of covered identities, whose folders bear their names."""
    workspace = covered.workspace
    links = Path(workspace.storage.path(LINKS))
    if not workspace.storage.local or not links.is_dir():
        return
    gone = {identity_id for _, identity_id in covered.identities}
    try:
        for row in workspace.identities().to_pylist():
            folder = links / unquote(row["folder"] or "")
            if row["identity_id"] in gone and row["folder"] and folder.is_dir():
                shutil.rmtree(folder)
    except OSError as error:
        raise disk_error(error, str(error.filename or links)) from None


IMPORT_LINKS = Owner("links of an import", (f"{LINKS}/**",), erase_links)
