"""Pictures on their way to the browser: a header (JSON) that says what follows, and the files.

``length of the header, 4 bytes big-endian | header | file | file …``
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from annotator.candidates import Candidates
from annotator.desk import CloseUp, Screen
from hqvox.errors import HqvoxError

GRID_PX = 256
"""Side of a face in the grid: sharp on a screen of twice as many pixels as points."""
ZOOM_PX = 1024


def pack_name(candidates: Candidates, identity_id: str) -> str:
    """Tells an identity's pictures from any other's, and from those of another build."""
    return f"{identity_id}/{candidates.fingerprint(identity_id)}"


def grid_pack(candidates: Candidates, identity_id: str) -> bytes:
    """All candidates' faces, best first, then the reference photograph if there is one.

    A picture that cannot be read is empty: the others can still be judged.
    """
    candidates.prepare(identity_id, GRID_PX)  # by all threads, while we take them one by one
    files = []
    for face in candidates.faces(identity_id):
        try:
            files.append(candidates.tile(identity_id, face.number, GRID_PX))
        except HqvoxError:
            files.append(b"")
    reference = candidates.reference(identity_id)
    if reference is not None:
        files.append(reference)
    header = {"pack": pack_name(candidates, identity_id), "reference": reference is not None}
    return _pack(header, files)


def close_up_pack(candidates: Candidates, screen: Screen, wanted: CloseUp) -> bytes:
    """One face, large, or the photograph that it is from. Raises HqvoxError."""
    identity_id = screen.person.identity_id
    header: dict[str, Any] = {
        "closeUp": True,
        "pack": f"{screen.name}/{wanted.face}/{wanted.kind}",
    }
    if wanted.kind == "zoom":
        return _pack(header, [candidates.tile(identity_id, wanted.face, ZOOM_PX)])
    original = candidates.original(identity_id, wanted.face)
    header |= {
        "width": original.width_px,
        "height": original.height_px,
        "box": original.box_xyxy,
        "landmarks": original.landmarks_xy,
    }
    return _pack(header, [original.jpeg])


def _pack(header: Mapping[str, Any], files: Sequence[bytes]) -> bytes:
    head = json.dumps({**header, "sizes": [len(file) for file in files]}).encode()
    return b"".join([len(head).to_bytes(4), head, *files])
