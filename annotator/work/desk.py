"""One annotator's session: the screen, and the effect of each action.

Independent of Streamlit. Everything from the browser is untrusted and checked here.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from annotator.candidates.candidates import Candidates, FaceCandidate, IdentitySummary
from annotator.log.access import Actor
from annotator.log.decisions import LONGEST_SECONDS, StoreAwayError
from annotator.log.messages import without_paths
from annotator.log.store import DROP_REASONS, Decision, Entry, FaceRef, LeaseLostError, Store
from annotator.work.changes import changes_since
from annotator.work.queue import Lease, Queue
from hqvox.errors import HqvoxError

_LOG = logging.getLogger(__name__)
ANSWERED_KEPT = 50
"""How many keys of handled actions are remembered, so that an action sent twice counts once."""
LOOKED_BACK = 50
"""In how many of the annotator's latest entries the key of a repeated action is searched."""


@dataclass(frozen=True)
class Pick:
    """The decision of one of the annotators who disagree, without their name."""

    label: str
    faces: tuple[int, ...]
    """Positions among the candidates, in order; faces that no longer exist are left out."""
    reason: str | None
    comment: str


@dataclass(frozen=True)
class Screen:
    """An identity on the screen."""

    lease: Lease
    person: IdentitySummary
    faces: tuple[FaceCandidate, ...]
    taken: tuple[int, ...]
    """Positions of the faces that are chosen when the screen opens, in order."""
    comment: str = ""
    picks: tuple[Pick, ...] = ()
    """The decisions to choose between, where a lead settles a disagreement."""
    changed: str = ""
    """What has changed since the decision before, if there was one."""
    seen: int = 0
    """Number of the log's last entry when the screen was made."""

    @property
    def name(self) -> str:
        """Unique name; the same after a reload, another where other faces are shown.

        An answer names the screen that it is about: its faces are given by their positions.
        """
        shown = ":".join(f"{photo_id}/{face}" for photo_id, face in (f.ref.key for f in self.faces))
        return f"{self.lease.token}-{hashlib.sha256(shown.encode()).hexdigest()[:16]}"


@dataclass(frozen=True)
class CloseUp:
    """One face shown large."""

    face: int
    kind: str
    """``zoom`` or ``original``."""


class Desk:
    """The state of one session of an annotator."""

    def __init__(self, store: Store, queue: Queue, candidates: Candidates, actor: Actor) -> None:
        self.store, self.queue, self.candidates, self.actor = store, queue, candidates, actor
        self.screen: Screen | None = None
        self.close_up: CloseUp | None = None
        self.message = ""
        """Message to the annotator about the last action."""
        self.refused = False
        """Whether the message reports a refused action."""
        self.said = 0
        """Number of the message; each new message has another."""
        self.decided = 0
        """Decisions since this desk was opened, less those that were undone."""
        self.answered = ""
        """Key of the last action that was handled."""
        self.away = 0
        """How many actions in a row could not be handled because the store could not be asked."""
        self._upcoming: str | None = None  # not asked for yet; "" is none
        self._answers: OrderedDict[str, None] = OrderedDict()
        try:
            self.go_on()
        except StoreAwayError as error:
            self._is_away(error)

    def go_on(self) -> None:
        """Show the identity that the annotator holds, else the next one, else none."""
        lease = self.queue.next(self.actor)
        while lease is not None:
            screen = self._screen(lease)
            if screen is not None:
                break
            self.queue.skip(lease)  # rebuilt since the queue was made: no candidates
            lease = self.queue.next(self.actor)
        self._show(None if lease is None else screen)

    def _show(self, screen: Screen | None) -> None:
        self.screen, self.close_up, self._upcoming = screen, None, None

    def upcoming(self) -> str | None:
        """The identity after the present one, held for this annotator, to be loaded ahead."""
        if self._upcoming is None and self.screen is not None:
            lease = self.queue.reserve_next(self.actor)
            self._upcoming = "" if lease is None else lease.identity_id
        return self._upcoming or None

    @property
    def looked_ahead(self) -> bool:
        """Whether :meth:`upcoming` answers at once."""
        return self._upcoming is not None

    def handle(self, act: Mapping[str, Any]) -> None:
        """Handle an action: ``do``, ``key`` and the values of that action.

        A key that was handled is ignored. Never raises HqvoxError: the error becomes the message.
        Where the store cannot be asked, the action is not answered: the browser sends it again
        under the same key, and what was done of it already is not done twice.
        """
        key, do = act.get("key"), act.get("do")
        if not isinstance(key, str) or not 0 < len(key) <= 100 or not isinstance(do, str):
            return
        if key in self._answers:
            self.answered = key
            return
        before = self.message, self.refused, self.said
        if do not in ("alive", "look", "more"):
            self._tell("", refused=False)
        try:
            self.actor.check()
            self._do(do, act, key)
        except StoreAwayError as error:
            self.message, self.refused, self.said = before
            self._is_away(error)
            return
        except HqvoxError as error:
            shown = without_paths(str(error))
            if shown != str(error):
                _LOG.warning("%s", error)  # with the paths, for whoever runs the server
            self._tell(shown)
        self.answered, self.away = key, 0
        self._answers[key] = None
        while len(self._answers) > ANSWERED_KEPT:
            self._answers.popitem(last=False)

    def _do(self, do: str, act: Mapping[str, Any], key: str) -> None:
        if do == "undo":
            self._undo(act, key)
            return
        if self.screen is None and do in ("alive", "accept", "drop", "skip"):
            # Something may have come free; and a desk that was opened while the store was away has
            # not found yet what its annotator holds.
            self.go_on()
            if do == "alive":
                return
        screen = self.screen
        if screen is None or act.get("screen") != screen.name:
            if do in ("accept", "drop") and self._stored(key) is None:
                self._tell("That person was no longer yours to decide on; nothing was saved.")
            return
        if do == "alive":
            self._renew(screen)
        elif do == "look":
            self._look(screen, act)
        elif do == "skip":
            self.queue.skip(screen.lease)
            self._tell(
                f"Skipped {screen.person.shown_name}: comes again at the end.", refused=False
            )
            self.go_on()
        elif do in ("accept", "drop"):
            self._decide(screen, act, key, do)

    def _decide(self, screen: Screen, act: Mapping[str, Any], key: str, do: str) -> None:
        reason = act.get("reason")
        decision = Decision(
            identity_id=screen.person.identity_id,
            kind="chosen" if do == "accept" else "dropped",
            faces=self._faces(screen, act.get("faces")) if do == "accept" else (),
            shown=tuple(face.ref for face in screen.faces),
            reason=str(reason) if do == "drop" else None,
            comment=str(act.get("comment") or ""),
            annotator=self.actor.name,
            seconds=_seconds(act.get("seconds")),
            fingerprint=self.candidates.fingerprint(screen.person.identity_id),
        )
        try:
            self.store.append(decision, key=key, actor=self.actor, lease=screen.lease.token)
        except LeaseLostError:
            self._lost(screen, answered=True)
        else:
            self.go_on()
            self.decided += 1

    def _undo(self, act: Mapping[str, Any], key: str) -> None:
        entry = self._undone(act, key)
        identity_id = entry.decision.identity_id
        name = self.candidates.summary(identity_id).shown_name
        lease = self.queue.lease(self.actor, identity_id)
        screen = None if lease is None else self._screen(lease, entry)
        if screen is None:
            if lease is not None:
                self.queue.skip(lease)
            self._tell(
                f"Took back {name}; somebody else decides on that person now.", refused=False
            )
            self.go_on()
        else:
            self._show(screen)
            self._tell(f"Took back your decision on {name}: decide again.", refused=False)

        self.decided = max(0, self.decided - 1)

    def _undone(self, act: Mapping[str, Any], key: str) -> Entry:
        """The entry that the action undoes, or has undone before. Raises HqvoxError."""
        stored = self._stored(key)
        if stored is not None and stored.decision.undoes is not None:
            return self.store.entries(after=stored.decision.undoes - 1, limit=1)[0]
        entry = self.store.last(self.actor.name)
        if entry is None:
            raise HqvoxError("There is nothing of yours to take back.")
        if act.get("entry") != entry.seq:
            raise HqvoxError("Nothing was taken back: this page did not show your last decision.")
        self.store.undo(entry.seq, key=key, actor=self.actor)
        return entry

    def _renew(self, screen: Screen) -> None:
        if self.queue.renew(screen.lease) is None:
            self._lost(screen)

    def _lost(self, screen: Screen, answered: bool = False) -> None:
        name, identity_id = screen.person.shown_name, screen.person.identity_id
        elsewhere = self.store.entries(
            screen.seen, identity_ids=[identity_id], annotator=self.actor.name, limit=1, shown=False
        )
        if not elsewhere:
            self._tell(f"{name} was open too long and went to somebody else; here is the next.")
        elif answered:
            self._tell(
                f"You decided on {name} in another tab or window; this answer was not saved. "
                "Here is the next."
            )
        else:
            self._tell(f"You decided on {name} in another tab or window; here is the next.")
        self.go_on()

    def _look(self, screen: Screen, act: Mapping[str, Any]) -> None:
        face, kind = act.get("face"), act.get("kind")
        if type(face) is int and 0 <= face < len(screen.faces) and kind in ("zoom", "original"):
            self.close_up = CloseUp(face, kind)

    def _tell(self, message: str, refused: bool = True) -> None:
        self.message, self.refused, self.said = message, refused, self.said + 1

    def _is_away(self, error: StoreAwayError) -> None:
        if not self.away:
            _LOG.warning("the review store cannot be asked: %s", error)
        self.away += 1

    def _stored(self, key: str) -> Entry | None:
        """The entry of that action, where it was stored already and only the answer was lost."""
        latest = self.store.entries(
            annotator=self.actor.name, newest_first=True, limit=LOOKED_BACK, shown=False
        )
        return next((entry for entry in latest if entry.key == key), None)

    @staticmethod
    def _faces(screen: Screen, chosen: object) -> tuple[FaceRef, ...]:
        numbers = chosen if isinstance(chosen, list) else []
        if not all(type(n) is int and 0 <= n < len(screen.faces) for n in numbers):
            raise HqvoxError("Not saved: faces were chosen that are not on the screen.")
        refs = (screen.faces[n].ref for n in numbers)
        return tuple({ref.key: ref for ref in refs}.values())  # one photograph may be there twice

    def _screen(self, lease: Lease, before: Entry | None = None) -> Screen | None:
        """The screen of an identity; None where it no longer has candidates.

        ``before``: a decision that was just undone, to start from.
        """
        identity_id = lease.identity_id
        person = self.candidates.summary(identity_id)
        faces = tuple(self.candidates.faces(identity_id))
        if not faces:
            return None
        taken = tuple(n for n, face in enumerate(faces) if face.picked)
        comment = ""
        changed = ""
        if lease.purpose == "again":
            changes = changes_since(self.store, self.candidates, [identity_id])
            changed = "; ".join(change.words for change in changes)
            outcome = self.store.state().get(identity_id)
            before = before or (None if outcome is None else outcome.holds)
        if before is not None:
            taken = places(before.decision.faces, faces) or taken
            if before.decision.annotator == self.actor.name:  # a comment stays with its author
                comment = before.decision.comment
        picks = self._picks(identity_id, faces) if lease.dispute else ()
        if picks and before is None:
            taken = ()  # a lead starts with neither choice
        seen = self.store.last_seq()
        return Screen(lease, person, faces, taken, comment, picks, changed, seen)

    def _picks(self, identity_id: str, faces: Sequence[FaceCandidate]) -> tuple[Pick, ...]:
        outcome = self.store.state().get(identity_id)
        if outcome is None:
            return ()

        def blind(entry: Entry) -> bytes:
            # A fixed order that shows neither names nor who was first.
            return hashlib.sha256(f"{identity_id}:{entry.key}".encode()).digest()

        decisions = [entry.decision for entry in sorted(outcome.opinions, key=blind)]
        return tuple(
            Pick(
                chr(ord("A") + n),
                places(one.faces, faces),
                None if one.reason is None else DROP_REASONS[one.reason],
                one.comment,
            )
            for n, one in enumerate(decisions)
        )


def places(chosen: Sequence[FaceRef], faces: Sequence[FaceCandidate]) -> tuple[int, ...]:
    """Positions of chosen faces among the candidates, in their order; those gone are left out."""
    where = {face.ref.key: n for n, face in enumerate(faces)}
    return tuple(where[ref.key] for ref in chosen if ref.key in where)


def _seconds(value: object) -> float:
    """Time spent as the browser reports it, s, clipped to what a decision can hold."""
    number = float(value) if isinstance(value, int | float) else 0.0
    return min(max(number, 0.0), LONGEST_SECONDS) if math.isfinite(number) else 0.0
