"""Pictures on their way to the browser: a header (JSON) that says what follows, and the files.

An identity's pictures travel in pieces: the first fills a screen, the others follow while it is
looked at, and what comes next is made in the background and sent as it is ready.

``length of the header, 4 bytes big-endian | header | file | file …``
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from annotator.candidates.candidates import Candidates
from annotator.candidates.tiles import Prepared
from annotator.work.desk import CloseUp, Screen
from hqvox.errors import HqvoxError

GRID_PX = 384
"""Side of a face in the grid: enough for the large tiles of a large screen."""
ZOOM_PX = 1024
FIRST_FACES, MORE_FACES = 32, 48
"""Of a piece: as many as fill a screen at first, then as many as are soon made."""
KEPT_BYTES = 64 << 20
"""Of pieces in memory, most: those of 20 annotators, and what comes next for each."""


def pack_name(candidates: Candidates, identity_id: str) -> str:
    """Tells an identity's pictures from any other's, and from those of another build."""
    return f"{identity_id}/{candidates.fingerprint(identity_id)}"


@dataclass(frozen=True)
class Piece:
    """Some of an identity's faces, on their way together."""

    pack: str
    """Which identity, of which build; see :func:`pack_name`."""
    identity_id: str
    first: int
    last: int
    """Positions among the candidates: the first, and the one after the last."""

    @property
    def name(self) -> str:
        """Tells it from any other piece, of any pack."""
        return f"{self.pack}#{self.first}"

    @property
    def key(self) -> str:
        """The same as hexadecimal digits.

        For keys of components: Streamlit gives ``__`` in a key a meaning, and an identity's id may
        have any letters.
        """
        return hashlib.sha256(self.name.encode()).hexdigest()


def pieces(candidates: Candidates, identity_id: str) -> list[Piece]:
    """An identity's faces, best first: a screenful, then the rest."""
    pack, count = pack_name(candidates, identity_id), candidates.summary(identity_id).candidates
    starts = [0, *range(FIRST_FACES, count, MORE_FACES)]
    ends = [*starts[1:], count]
    return [Piece(pack, identity_id, *span) for span in zip(starts, ends, strict=True)]


@lru_cache(maxsize=1)
def _made() -> Prepared:
    return Prepared(KEPT_BYTES)


def piece_now(candidates: Candidates, piece: Piece) -> bytes:
    """A piece's pictures, waited for."""
    return _made().get(piece, partial(_make_piece, candidates, piece))


def piece_soon(candidates: Candidates, piece: Piece) -> bytes | None:
    """A piece's pictures, or None while they are being made in the background."""
    return _made().soon(piece, partial(_make_piece, candidates, piece))


def _make_piece(candidates: Candidates, piece: Piece) -> bytes:
    """A picture that cannot be read is empty: the others can still be judged.

    The first piece brings the reference photograph, if there is one.
    """
    identity_id = piece.identity_id
    if piece.first == 0:
        candidates.prepare(identity_id, GRID_PX, piece.last)  # by all threads, taken one by one
    files = []
    for number in range(piece.first, piece.last):
        try:
            files.append(candidates.tile(identity_id, number, GRID_PX))
        except HqvoxError:
            files.append(b"")
    reference = candidates.reference(identity_id) if piece.first == 0 else None
    if reference is not None:
        files.append(reference)
    header = {
        "pack": piece.pack,
        "piece": piece.name,
        "first": piece.first,
        "reference": reference is not None,
    }
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
