"""The outcome of the log of decisions: per identity, the decision that holds. Pure functions.

- The latest entry of one annotator on one identity that was not undone is their **opinion**. If it
  is undone, the entry before it is their opinion again.
- An opinion that was asked for again because the candidates changed (``Entry.anew``) replaces all
  opinions before it, whoever gave them.
- A lead's decision on a disagreement (``Entry.settles``) is a **settlement**, not an opinion.
- An identity's **outcome** is the latest settlement that was not undone; without one, the opinion
  that all annotators share (the first of them); else it is **disputed**.
- Two opinions agree if both drop the identity, for whatever reason, or if both choose and the faces
  that both chose are at least ``min_overlap`` of those that either chose (Jaccard). Every opinion
  must agree with the first.
- An undo cannot be undone: to restore a decision, decide again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from annotator.log.decisions import Entry

MIN_OVERLAP = 0.5
"""Default of ``review.min_overlap``."""


@dataclass(frozen=True)
class Outcome:
    """What the decisions on an identity come to."""

    identity_id: str
    status: Literal["chosen", "dropped", "disputed"]
    holds: Entry | None
    """The entry that holds; None while it is disputed."""
    opinions: tuple[Entry, ...]
    """The opinions that count, one per annotator, oldest first."""
    settlement: Entry | None = None

    @property
    def disputed(self) -> bool:
        """Whether annotators disagree and a lead must settle it."""
        return self.holds is None

    @property
    def latest(self) -> int:
        """Number of the latest entry that counts."""
        return max(entry.seq for entry in (*self.opinions, self.settlement) if entry is not None)

    @property
    def annotators(self) -> frozenset[str]:
        """Names of the annotators whose opinions count."""
        return frozenset(entry.decision.annotator for entry in self.opinions)


class Fold:
    """The outcomes of the entries added so far; more can be added."""

    def __init__(self, min_overlap: float = MIN_OVERLAP) -> None:
        self.min_overlap = min_overlap
        self.seq = 0
        """``seq`` of the last entry that was added."""
        self.outcomes: dict[str, Outcome] = {}
        """By identity id; identities without a decision, or with undone ones only, are left out."""
        self.touched: list[str] = []
        """Identities whose outcome may have changed, in order; it only grows."""
        self._entries: dict[int, Entry] = {}
        self._opinions: dict[str, dict[str, list[Entry]]] = {}
        self._settlements: dict[str, list[Entry]] = {}

    def add(self, entries: Iterable[Entry]) -> None:
        """Add entries, in the order of their numbers."""
        touched = set()
        for entry in entries:
            decision = entry.decision
            touched.add(decision.identity_id)
            self.seq = max(self.seq, entry.seq)
            if decision.undoes is not None:
                undone = self._entries.pop(decision.undoes, None)
                if undone is not None:
                    self._stack(undone).remove(undone)
            else:
                self._entries[entry.seq] = entry
                self._stack(entry).append(entry)
        self.touched += touched
        for identity_id in touched:
            outcome = self._outcome(identity_id)
            if outcome is None:
                self.outcomes.pop(identity_id, None)
            else:
                self.outcomes[identity_id] = outcome

    def standing(self, seq: int) -> Entry | None:
        """The decision with that ``seq``, or None where it was undone or does not exist."""
        return self._entries.get(seq)

    def _stack(self, entry: Entry) -> list[Entry]:
        identity_id = entry.decision.identity_id
        if entry.settles:
            return self._settlements.setdefault(identity_id, [])
        stacks = self._opinions.setdefault(identity_id, {})
        return stacks.setdefault(entry.decision.annotator, [])

    def _outcome(self, identity_id: str) -> Outcome | None:
        stacks = self._opinions.get(identity_id, {})
        opinions = sorted((s[-1] for s in stacks.values() if s), key=lambda entry: entry.seq)
        anew = max((e.seq for stack in stacks.values() for e in stack if e.anew), default=0)
        opinions = [entry for entry in opinions if entry.seq >= anew]
        settlements = self._settlements.get(identity_id)
        settlement = settlements[-1] if settlements else None
        holds = settlement
        if holds is None:
            if not opinions:
                return None
            first = opinions[0]
            if all(agree(first, other, self.min_overlap) for other in opinions[1:]):
                holds = first
        status = "disputed" if holds is None else holds.decision.kind
        assert status != "undone"
        return Outcome(identity_id, status, holds, tuple(opinions), settlement)


def fold(entries: Iterable[Entry], min_overlap: float = MIN_OVERLAP) -> dict[str, Outcome]:
    """The outcome of every identity by its id, after these entries in the order of ``seq``."""
    folded = Fold(min_overlap)
    folded.add(sorted(entries, key=lambda entry: entry.seq))
    return folded.outcomes


def agree(one: Entry, other: Entry, min_overlap: float = MIN_OVERLAP) -> bool:
    """Whether two opinions agree, by the rule in the module's docstring."""
    if one.decision.kind != other.decision.kind:
        return False
    return one.decision.kind == "dropped" or overlap(one, other) >= min_overlap


def overlap(one: Entry, other: Entry) -> float:
    """Faces that both chose over faces that either chose, 0 to 1 (Jaccard); 1 if none did."""
    first, second = ({face.key for face in entry.decision.faces} for entry in (one, other))
    either = first | second
    return len(first & second) / len(either) if either else 1.0
