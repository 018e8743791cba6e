"""A candidate's photograph with box and landmarks, and reference photographs."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, unquote

import numpy as np
import pyarrow.compute as pc

from annotator.candidates.tiles import stored
from hqvox.errors import HqvoxError
from hqvox.imaging.codec import UndecodableError, decode
from hqvox.imaging.pictures import encode_jpeg
from hqvox.workspace.covered import Covered, Owner
from hqvox.workspace.layout import Workspace
from hqvox.workspace.tables import Row

ORIGINAL_PX = 1600
"""Longer side that a photograph is reduced to, px."""
REFERENCES = "references"
"""Folder of the workspace: ``<identity id>.jpg`` (or .png, .webp), percent-encoded."""
REFERENCE_PX = 512
_ENDINGS = (".jpg", ".jpeg", ".png", ".webp")
_QUALITY = 85


@dataclass(frozen=True)
class Original:
    """An upright photograph, and where in it the face is; coordinates in pixels of ``jpeg``."""

    jpeg: bytes
    width_px: int
    height_px: int
    box_xyxy: tuple[float, float, float, float]
    landmarks_xy: tuple[tuple[float, float], ...]
    """68 iBUG points."""


def original(workspace: Workspace, row: Row) -> Original:
    """The photograph of a row of the index. Raises HqvoxError where it cannot be read."""
    try:
        photo = decode(stored(workspace, "photo", row), ORIGINAL_PX)
    except UndecodableError as error:
        raise HqvoxError(f"photo {row['photo_id']}: cannot be decoded ({error})") from None
    height, width = photo.shape[:2]
    scale = np.array([width / row["width_px"], height / row["height_px"]])

    def scaled(xy: np.ndarray) -> list[tuple[float, float]]:
        # Integer coordinates are pixel centres.
        return [(float(x), float(y)) for x, y in (xy.reshape(-1, 2) + 0.5) * scale - 0.5]

    low, high = scaled(np.array(row["box_xyxy"]))
    points = tuple(scaled(_landmarks(workspace, row)))
    return Original(encode_jpeg(photo, _QUALITY), width, height, (*low, *high), points)


def _landmarks(workspace: Workspace, row: Row) -> np.ndarray:
    """The face's landmarks, px of the upright photo, from the stage's own table."""
    table = workspace.read_stage("landmarks", row["shard"], ["landmarks_xy"])
    if table is not None:
        same = [pc.equal(table[name], row[name]) for name in ("identity_id", "candidate", "face")]
        points = table.filter(pc.and_(pc.and_(same[0], same[1]), same[2]))["landmarks_xy"]
        if len(points) == 1 and points[0].is_valid:
            return np.array(points[0].as_py())
    raise HqvoxError(
        f"{workspace.url}: {row['identity_id']}, photo {row['candidate']}: the build changed "
        "since; reload the page"
    )


def reference(workspace: Workspace, identity_id: str) -> bytes | None:
    """A reference photograph of the identity, as JPEG; None where there is none.

    It is in the workspace's folder ``references``, named by the identity's id. Files that are no
    pictures are ignored.
    """
    for ending in _ENDINGS:
        name = f"{REFERENCES}/{quote(identity_id, safe='')}{ending}"
        try:
            return encode_jpeg(decode(workspace.storage.read(name), REFERENCE_PX), _QUALITY)
        except (OSError, UndecodableError):
            continue
    return None


def erase_references(covered: Covered) -> None:
    """Remove the reference photographs of covered identities."""
    storage = covered.workspace.storage
    for name in storage.names(REFERENCES):
        if covered.takedowns.covers_identity(unquote(name.rsplit(".", 1)[0])):
            storage.remove(f"{REFERENCES}/{name}")


REFERENCE_PHOTOGRAPHS = Owner("reference photographs", (f"{REFERENCES}/*",), erase_references)
