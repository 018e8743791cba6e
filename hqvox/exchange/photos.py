"""WebDataset shards of photographs as they were found: ``<key>.json`` and ``<key>.jpg`` (.png …).

Of a whole workspace, every photograph that is no duplicate; of a release, those of its faces, each
with where in it the faces are.
"""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Iterator, Mapping
from pathlib import Path

from hqvox.errors import HqvoxError
from hqvox.exchange.people import OnProgress, People
from hqvox.exchange.webdataset import INDEX, TarShards, plain
from hqvox.release.speech import to_json
from hqvox.workspace.layout import Workspace
from hqvox.workspace.outputs import workspace_of
from hqvox.workspace.tables import Row

PHOTO_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "discover": (
        "url", "page_url", "source", "query", "title", "licence", "licence_url", "author",
    ),
    "download": (
        "photo_id", "media_type", "width_px", "height_px", "retrieved_at", "photo_offset",
        "photo_bytes",
    ),
    "duplicates": ("phash",),
}  # fmt: skip
_OF_THE_TAR = ("photo_offset", "photo_bytes", "face")
_OF_A_FACE = ("face", "masked_file", "box_xyxy", "landmarks_xy", "transform", "crop_side_px")

Photo = tuple[str, int]
"""Identity and candidate."""


def write_photos(
    workspace: Workspace,
    folder: Path,
    on_progress: OnProgress,
    shard_bytes: int,
    faces_of: Mapping[Photo, list[Row]] | None = None,
) -> int:
    """Write ``photos-<number>.tar`` and ``shards.json``; return how many photographs.

    ``faces_of``: only these, each with its faces. Raises HqvoxError where a stage is not built or a
    table is damaged, OSError from the disk.
    """
    total = len(faces_of) if faces_of is not None else 0
    shards, number = TarShards(folder, "photos", shard_bytes), 0
    for identity, photo in _photos(workspace):
        key = (photo["identity_id"], photo["candidate"])
        if faces_of is not None and key not in faces_of:
            continue
        about = {name: identity[name] for name in ("identity_id", "name", "subset")}
        about |= {name: plain(v) for name, v in photo.items() if name not in _OF_THE_TAR}
        if faces_of is not None:
            about["faces"] = [
                {name: plain(face[name]) for name in _OF_A_FACE} for face in faces_of[key]
            ]
        suffix = (mimetypes.guess_extension(photo["media_type"]) or ".bin").removeprefix(".")
        data = workspace.pixels("photo", photo | {"shard": identity["shard"]})
        members = (("json", json.dumps(about, ensure_ascii=False).encode()), (suffix, data))
        shards.add(f"{number:08d}", iter(members))
        number += 1
        on_progress(number, max(total, number))
    (folder / INDEX).write_bytes(to_json({"photos": shards.finish()}))
    return number


def released_photos(people: People) -> tuple[Workspace, dict[Photo, list[Row]]]:
    """The workspace of a release, and the photographs of its faces.

    Raises HqvoxError for a release that is in no workspace: it holds no photographs.
    """
    workspace = workspace_of(people.release.storage)
    if workspace is None:
        raise HqvoxError(
            f"{people.release.url}: this release is in no workspace, and a release holds faces, "
            "not photographs; name the workspace that it was made in: hqvox export WORKSPACE NAME "
            "--to photos DIR"
        )
    faces_of: dict[Photo, list[Row]] = {}
    for person in people:
        for face in person.faces:
            if face["candidate"] is not None:
                key = (face["identity_id"], face["candidate"])
                faces_of.setdefault(key, []).append(face)
    return workspace, faces_of


def _photos(workspace: Workspace) -> Iterator[tuple[Row, Row]]:
    """Every photograph that is no duplicate, with its identity, in the order of the workspace."""
    stages = tuple(PHOTO_COLUMNS)
    for shard, identities in workspace.shards().items():
        if workspace.committed(stages[-1], shard) is None:
            raise HqvoxError(
                f"{workspace.url}: shard {shard} has no photographs yet; run `hqvox build "
                f"{workspace.url} --stage {stages[-1]}`"
            )
        by_id = {row["identity_id"]: row for row in identities}
        for row in workspace.kept_rows(shard, stages, PHOTO_COLUMNS):
            yield by_id[row["identity_id"]], row
