"""`hqvox init`: make a workspace."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from hqvox.cli.common import RecipeOption, SetOption, console, say
from hqvox.config.file import load_config, merge, parse_settings
from hqvox.errors import HqvoxError
from hqvox.workspace import identities as source
from hqvox.workspace.layout import Workspace
from hqvox.workspace.measures import counted
from hqvox.workspace.tables import Row
from pipelines.discover.folder import count_photos
from pipelines.discover.urls_read import read_identities

FEW_PHOTOS = 50
"""Mean photographs a person below which the paper's limits, meant for 300, leave next to nobody."""


class SourceName(Enum):
    """The search APIs."""

    WIKIMEDIA = "wikimedia"
    OPENVERSE = "openverse"
    GOOGLE = "google"
    BRAVE = "brave"


HEADER = """\
# A build of hqvox. `hqvox config show` prints every setting with its unit, default and source;
# write here what should differ, for example:
#   pose: {max_yaw_deg: 8}
"""


def init(
    workspace: Annotated[str, typer.Argument(metavar="WORKSPACE", help="Folder to make.")],
    photos: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="Photographs: one folder per identity, by its name."
        ),
    ] = None,
    voxceleb: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            metavar="VOX1.csv [VOX2.csv]",
            help="Identities from VoxCeleb's metadata; a second file may follow, or be given by "
            "a second --voxceleb.",
        ),
    ] = None,
    more: Annotated[list[Path] | None, typer.Argument(hidden=True)] = None,
    identities: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Identities from a CSV: id,name and, if known, subset,gender,nationality,"
            "folder,minor.",
        ),
    ] = None,
    urls: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Photographs' addresses: CSV, TSV, JSONL or Parquet with the columns identity_id "
            "and url and, if known, page_url,title,licence,author.",
        ),
    ] = None,
    sources: Annotated[
        list[SourceName] | None,
        typer.Option(
            "--source",
            help="Where to look for photographs: a search API. May be given several times.",
        ),
    ] = None,
    recipe: RecipeOption = None,
    settings: SetOption = None,
) -> None:
    """Make a workspace from folders of photographs, addresses, VoxCeleb's metadata, or a CSV.

    Example: hqvox init work --photos photographs/
    """
    if not workspace.strip():
        raise HqvoxError("the workspace's name is empty; name a folder to make")
    if voxceleb and identities is not None:
        raise HqvoxError("give --voxceleb or --identities, not both")
    if more and not voxceleb:
        raise HqvoxError(f"unexpected argument {more[0]}; see hqvox init --help")
    if voxceleb:
        rows = source.read_voxceleb([*voxceleb, *(more or [])])
    elif identities is not None:
        rows = source.read_csv(identities)
    elif photos is not None:
        rows = source.read_folders(photos)
    elif urls is not None:
        rows = [_identity(name, number) for number, name in enumerate(read_identities(urls))]
    else:
        raise HqvoxError(
            "nothing to start from: give --photos FOLDER (one folder per identity), "
            "--urls FILE.csv, --voxceleb VOX1.csv VOX2.csv, or --identities FILE.csv"
        )
    minors = sum(bool(row.get("minor")) for row in rows)
    rows = [row for row in rows if not row.get("minor")]
    with_folder = source.match_folders(rows, photos) if photos is not None else 0
    chosen, note = recipe or "bundled", ""
    remote = urls is not None or bool(sources)
    if recipe is None and photos is not None and with_folder and not remote:
        folders = [row["folder"] for row in rows if row["folder"] is not None]
        mean = sum(count_photos(str(photos), folder) for folder in folders) / len(folders)
        if mean < FEW_PHOTOS:
            chosen = "small"
            note = (
                f"{counted(round(mean), 'photograph')} a person: using the recipe small, with "
                "wider limits for pose and smiles; the paper's own: --recipe bundled"
            )
    values: dict[str, Any] = {"format": 1, "recipe": chosen}
    discover: dict[str, Any] = {}
    if remote:
        first = [n for n, given in (("folder", photos), ("urls", urls)) if given is not None]
        discover["sources"] = [*first, *dict.fromkeys(s.value for s in sources or [])]
    if photos is not None:
        discover["photos"] = str(photos.resolve())
    if urls is not None:
        discover["urls"] = {"file": str(urls.resolve())}
    if discover:
        values["discover"] = discover
    values = merge(values, parse_settings(settings or []))
    config = load_config(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), "--set")
    text = HEADER + yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    Workspace.create(workspace, text, source.to_table(rows))
    if note:
        console.print(note, highlight=False, soft_wrap=True)
    left_out = f"; left out: {minors} marked as minors" if minors else ""
    say(f"{workspace}: {counted(len(rows), 'identity')}{left_out}")
    if photos is not None and with_folder < len(rows):
        say(f"{len(rows) - with_folder} of them have no folder in {photos}")
    if photos is None and config.discover.sources == ["folder"]:
        console.print(
            "no photographs are named yet: make it again with --photos, --urls or --source, or set "
            "discover.sources in hqvox.yaml"
        )
    if remote and not config.download.contact:
        console.print(
            "before you crawl, set download.contact in hqvox.yaml: every server is told "
            "how to contact you",
            soft_wrap=True,
        )
    say(f"next: hqvox build {workspace}")


def _identity(name: str, number: int) -> Row:
    """An identity of which only the name is known."""
    return {
        "identity_id": name,
        "name": name,
        "subset": source.USER_SUBSET,
        "gender": None,
        "nationality": None,
        "row": number,
        "folder": None,
    }
