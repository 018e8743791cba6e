"""An annotator's decision, checked, and its parts as JSON. Independent of any database."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal, get_args

from hqvox.errors import HqvoxError

Kind = Literal["chosen", "dropped", "undone"]
KINDS: tuple[str, ...] = get_args(Kind)
Purpose = Literal["opinion", "dispute", "again"]
"""Why an identity is given to an annotator: for an opinion; to settle a disagreement (leads only);
for an opinion again, because its candidates changed."""


class StoreAwayError(HqvoxError):
    """The store could not be asked: locked, moved or stopped. Nothing is known to be written."""


class LeaseLostError(HqvoxError):
    """Somebody else works on the identity now, or has decided on it in the meantime."""


DROP_REASONS = {
    "too_few_good": "fewer good faces than an identity needs",
    "wrong_person": "not this person, or not surely",
    "poor_quality": "blurred, too small, compressed or retouched",
    "turned_away": "the faces do not look into the camera",
    "uneven_light": "shadows, or light from one side",
    "not_neutral": "laughing, talking or making faces",
    "badly_cut_out": "hair, ears or background are cut wrongly",
    "not_a_photograph": "drawn, sculpted or generated",
    "other": "something else, told in the comment",
}
"""Why an identity is dropped: name to what it means."""
COMMENT_LENGTH = 2000
"""Most characters of a comment."""
MOST_FACES = 1000
"""Most faces of a decision, chosen or shown: a limit against invalid input, not a rule."""
_SHA256 = re.compile("[0-9a-f]{64}")
LONGEST_SECONDS = 7 * 86_400.0
"""Most seconds that a decision can have taken: a screen left open over a week."""


@dataclass(frozen=True, slots=True)
class FaceRef:
    """A face that survives a rebuild: its photo by hash, the face by its place in it."""

    photo_id: str
    """SHA-256 of the photo's bytes, hex."""
    face: int
    """Number within the photo at the time."""
    box_xyxy: tuple[float, float, float, float]
    """Left, top, right, bottom in pixels of the upright photo, to find the face again."""

    def __post_init__(self) -> None:
        # Written to be quick: the log of a whole review holds hundreds of thousands.
        if not isinstance(self.photo_id, str) or _SHA256.fullmatch(self.photo_id) is None:
            raise HqvoxError(f"photo {self.photo_id!r}: should be a SHA-256, 64 hex digits")
        if type(self.face) is not int or not 0 <= self.face < 2**31:
            raise HqvoxError(f"face {self.face!r}: should be a number from 0 on")
        try:
            left, top, right, bottom = self.box_xyxy
            finite = math.isfinite(left + top + right + bottom)
        except (TypeError, ValueError, OverflowError):
            finite = False
        if not finite:
            raise HqvoxError(
                f"box {self.box_xyxy!r}: should be four numbers, left, top, right, bottom"
            )

    @property
    def key(self) -> tuple[str, int]:
        """What makes two the same face: photo and number."""
        return self.photo_id, self.face


@dataclass(frozen=True)
class Decision:
    """An annotator's decision on an identity. Raises HqvoxError for invalid values."""

    identity_id: str
    kind: Kind
    """``undone``: undoes the entry ``undoes``."""
    faces: tuple[FaceRef, ...] = ()
    """Chosen, in order; how many may be is the store's to check (``release`` in hqvox.yaml)."""
    shown: tuple[FaceRef, ...] = ()
    """Every candidate that was on the screen. Empty also where it was not read back."""
    reason: str | None = None
    """Of a dropped identity, one of :data:`DROP_REASONS`."""
    comment: str = ""
    """At most 2,000 characters."""
    annotator: str = ""
    """Name; the store fills in the actor's where it is empty."""
    seconds: float = 0.0
    """Time spent on it, s."""
    fingerprint: str = ""
    """Build fingerprint of what was shown."""
    undoes: int | None = None
    """``seq`` of the entry that is undone."""

    def __post_init__(self) -> None:
        where = f"decision on {self.identity_id!r}"
        if not isinstance(self.identity_id, str) or not 0 < len(self.identity_id) <= 200:
            raise HqvoxError(f"{where}: an identity's id has 1 to 200 characters")
        if self.kind not in KINDS:
            raise HqvoxError(f"{where}: {self.kind!r} is none of {', '.join(KINDS)}")
        if len(self.faces) > MOST_FACES or len(self.shown) > MOST_FACES:
            raise HqvoxError(f"{where}: more than {MOST_FACES} faces")
        chosen = {face.key for face in self.faces}
        if len(chosen) != len(self.faces):
            raise HqvoxError(f"{where}: a face is chosen twice")
        if self.shown and not chosen <= {face.key for face in self.shown}:
            raise HqvoxError(f"{where}: a face is chosen that was not shown")
        if bool(self.faces) != (self.kind == "chosen"):
            raise HqvoxError(f"{where}: {self.kind} with {len(self.faces)} faces")
        if (self.kind == "dropped") != (self.reason is not None):
            raise HqvoxError(f"{where}: a reason belongs to what is dropped, and to nothing else")
        if self.reason is not None and self.reason not in DROP_REASONS:
            known = ", ".join(DROP_REASONS)
            raise HqvoxError(f"{where}: {self.reason!r} is no reason to drop; known are: {known}")
        if self.reason == "other" and not self.comment.strip():
            raise HqvoxError(f"{where}: the reason 'other' needs a comment that says what it is")
        if (self.kind == "undone") != (self.undoes is not None):
            raise HqvoxError(
                f"{where}: an undo names the entry that it undoes, and nothing else does"
            )
        if len(self.comment) > COMMENT_LENGTH:
            length = f"{len(self.comment):,}"
            raise HqvoxError(
                f"{where}: a comment of {length} characters; {COMMENT_LENGTH:,} at most"
            )
        if not (isinstance(self.seconds, int | float) and 0 <= self.seconds <= LONGEST_SECONDS):
            raise HqvoxError(f"{where}: {self.seconds!r} s is no time to decide in")
        for text in (self.identity_id, self.comment, self.annotator, self.fingerprint):
            if not is_text(text):
                raise HqvoxError(f"{where}: text with a NUL or a lone surrogate in it")


@dataclass(frozen=True)
class Entry:
    """A decision in the log."""

    seq: int
    """Number in the log, from 1; later entries have higher numbers, gaps are possible."""
    time: datetime
    """When it was made, UTC."""
    decision: Decision
    key: str
    """Made by the sender, for idempotence: entries with the same key are the same entry."""
    role: Literal["annotator", "lead"] = "annotator"
    """Of the annotator, at the time."""
    settles: bool = False
    """Whether a lead settles a disagreement with it; then it is no opinion."""
    anew: bool = False
    """Asked for again because the candidates had changed: opinions before it no longer count."""


DECISION_COLUMNS = tuple(f.name for f in fields(Decision) if f.name not in ("faces", "shown"))
"""Fields of :class:`Decision` that are stored as they are, in the table and in JSON lines."""
FLAG_COLUMNS = ("role", "settles", "anew")
"""The same of :class:`Entry`, beside ``seq``, ``key`` and the time."""


def faces_to_json(faces: tuple[FaceRef, ...]) -> str:
    """``[[photo id, face, [left, top, right, bottom]], …]``."""
    rows = [[face.photo_id, face.face, list(face.box_xyxy)] for face in faces]
    return json.dumps(rows, separators=(",", ":"))


def faces_from_json(text: str) -> tuple[FaceRef, ...]:
    """Undo :func:`faces_to_json`. Raises HqvoxError where it is something else."""
    try:
        rows: Any = json.loads(text)
        return tuple(
            FaceRef(photo, face, (x0, y0, x1, y1)) for photo, face, (x0, y0, x1, y1) in rows
        )
    except (ValueError, TypeError):
        raise HqvoxError(f"{text[:60]!r} is no list of faces") from None


def is_text(text: str) -> bool:
    """Whether databases can store it: no NUL and no lone surrogate."""
    try:
        return b"\0" not in text.encode("utf-8")
    except UnicodeEncodeError:
        return False
