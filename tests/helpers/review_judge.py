"""What the log of decisions must hold after keys were pressed at the review page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

from annotator.log.decisions import DROP_REASONS, Entry

SEEN_SECONDS = 0.3
"""For how long, at least, a person is whole on the screen before anybody decides, s."""
FAULTS = ("lost", "doubled", "unseen", "unauthorised", "wrong")
_REASONS = list(DROP_REASONS)


@dataclass(frozen=True)
class Press:
    """A key that decides or undoes, and what was on the screen when it came."""

    kind: str
    """``chosen``, ``dropped`` or ``undone``."""
    who: str
    """Identity on the screen."""
    looked: float
    """For how long all of its pictures had been there, s; negative where one was missing."""
    faces: tuple[int, ...] = ()
    comment: str = ""
    digit: int | None = None
    """Number of the reason to drop, from 0."""
    taken: bool = False
    """Whether the page took it as a decision, and said nothing to the contrary."""
    certain: bool = True
    """Whether it must be in the log; not where the page was left before the answer."""


@dataclass
class Judge:
    """Compares the log of one annotator with the keys; counts faults by their kind."""

    counts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    _standing: dict[str, int] = field(default_factory=dict)  # identity -> seq

    def check(
        self, presses: Sequence[Press], entries: Sequence[Entry], removed: float | None = None
    ) -> None:
        """Judge the entries that followed the presses, both in order.

        ``removed``: when the annotator's access was gone, s since 1970.
        """
        for press, entry in _aligned(presses, entries):
            if entry is None:
                assert press is not None
                if press.taken and press.certain:
                    self.counts["lost"] += 1
                    self.notes.append(f"lost: {press}")
                continue
            if press is None:
                self._unmatched(entry, presses)
            elif _unseen(press):
                self._fault("unseen", entry, f"looked at for {press.looked:.3f} s")
            if removed is not None and entry.time.timestamp() > removed:
                self._fault("unauthorised", entry, "after the access was removed")
            self._stand(entry)

    def _unmatched(self, entry: Entry, presses: Sequence[Press]) -> None:
        near = next((press for press in presses if _alike(press, entry)), None)
        if entry.decision.kind != "undone" and entry.decision.identity_id in self._standing:
            return  # counted as doubled, below
        if near is not None:
            self._fault("wrong", entry, f"the key was {near}")
        else:
            self._fault("unseen", entry, "no key made it")

    def _stand(self, entry: Entry) -> None:
        decision = entry.decision
        if decision.undoes is not None:
            if self._standing.pop(decision.identity_id, None) != decision.undoes:
                self._fault("wrong", entry, "undoes what did not stand")
        elif decision.identity_id in self._standing:
            self._fault("doubled", entry, "stands twice")
        else:
            self._standing[decision.identity_id] = entry.seq

    def _fault(self, kind: str, entry: Entry, why: str) -> None:
        self.counts[kind] += 1
        decision = entry.decision
        self.notes.append(
            f"{kind}: entry {entry.seq}, {decision.kind} {decision.identity_id}: {why}"
        )


def _alike(press: Press, entry: Entry) -> bool:
    """Whether the key is of the entry's kind, pressed at that person."""
    decision = entry.decision
    return press.kind == decision.kind and (
        press.kind == "undone" or press.who == decision.identity_id
    )


def _made(press: Press, entry: Entry) -> bool:
    """Whether the key made the entry: the same kind, person, faces or reason, and comment."""
    decision = entry.decision
    if not _alike(press, entry):
        return False
    if press.kind == "undone":
        return True
    if press.comment != decision.comment:
        return False
    if press.kind == "dropped":
        return press.digit is not None and _REASONS[press.digit] == decision.reason
    shown = [face.key for face in decision.shown]
    return press.faces == tuple(shown.index(face.key) for face in decision.faces)


def _unseen(press: Press) -> bool:
    return press.kind != "undone" and press.looked < SEEN_SECONDS


def _aligned(
    presses: Sequence[Press], entries: Sequence[Entry]
) -> list[tuple[Press | None, Entry | None]]:
    """Presses and entries in order, paired where one made the other, with the fewest faults."""

    @cache
    def best(p: int, e: int) -> tuple[int, str]:
        """Faults from the p-th press and the e-th entry on, and what to do with these two."""
        if p == len(presses) and e == len(entries):
            return 0, ""
        ways = []
        if p < len(presses) and e < len(entries) and _made(presses[p], entries[e]):
            ways.append((best(p + 1, e + 1)[0] + _unseen(presses[p]), "pair"))
        if p < len(presses):
            lost = presses[p].taken and presses[p].certain
            ways.append((best(p + 1, e)[0] + lost, "press"))
        if e < len(entries):
            ways.append((best(p, e + 1)[0] + 1, "entry"))
        return min(ways, key=lambda way: way[0])

    pairs: list[tuple[Press | None, Entry | None]] = []
    p = e = 0
    while way := best(p, e)[1]:
        pairs.append(
            (presses[p] if way != "entry" else None, entries[e] if way != "press" else None)
        )
        p, e = p + (way != "entry"), e + (way != "press")
    return pairs
