"""What the log of decisions amounts to: per identity, the decision that holds. Pure.

- Of one annotator on one identity the latest entry that was not undone is their **opinion**. If it
  is undone, the one before it is theirs again.
- An opinion that was asked for anew (``Entry.anew``), because there is something else to see than
  there was, has all opinions before it count no more.
- A lead's word on a disagreement (``Entry.settles``) is a **settlement**, and no opinion.
- An identity's **verdict** is the latest settlement that was not undone; else the opinion that all
  share, the first of them; else it is **disputed**.
- Two opinions agree if both drop the identity, for whatever reason, or if both choose and the faces
  that both chose are at least ``min_overlap`` of those that either chose (Jaccard). Every opinion
  must agree with the first.
- An undoing can not be undone: who wants the decision back decides again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from annotator.log.decisions import Entry

MIN_OVERLAP = 0.5
"""Default of ``review.min_overlap``."""


@dataclass(frozen=True)
class Verdict:
    """What holds for an identity."""

    identity_id: str
    status: Literal["chosen", "dropped", "disputed"]
    holds: Entry | None
    """The entry that holds; None while it is disputed."""
    opinions: tuple[Entry, ...]
    """Those that count, one of each annotator who has one, oldest first."""
    settlement: Entry | None = None

    @property
    def disputed(self) -> bool:
        """Whether it waits for a lead."""
        return self.holds is None

    @property
    def latest(self) -> int:
        """Number of the latest entry that counts."""
        return max(entry.seq for entry in (*self.opinions, self.settlement) if entry is not None)

    @property
    def annotators(self) -> frozenset[str]:
        """Whose opinions count."""
        return frozenset(entry.decision.annotator for entry in self.opinions)


class Fold:
    """The verdicts after some entries; entries can be added."""

    def __init__(self, min_overlap: float = MIN_OVERLAP) -> None:
        self.min_overlap = min_overlap
        self.seq = 0
        """Number of the last entry that was added."""
        self.verdicts: dict[str, Verdict] = {}
        """Of every identity that somebody decided on and that was not undone."""
        self.touched: list[str] = []
        """Identities whose verdict may have changed, one after the other; it only grows."""
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
            verdict = self._verdict(identity_id)
            if verdict is None:
                self.verdicts.pop(identity_id, None)
            else:
                self.verdicts[identity_id] = verdict

    def standing(self, seq: int) -> Entry | None:
        """The decision with that number, unless it was undone."""
        return self._entries.get(seq)

    def _stack(self, entry: Entry) -> list[Entry]:
        identity_id = entry.decision.identity_id
        if entry.settles:
            return self._settlements.setdefault(identity_id, [])
        stacks = self._opinions.setdefault(identity_id, {})
        return stacks.setdefault(entry.decision.annotator, [])

    def _verdict(self, identity_id: str) -> Verdict | None:
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
        return Verdict(identity_id, status, holds, tuple(opinions), settlement)


def fold(entries: Iterable[Entry], min_overlap: float = MIN_OVERLAP) -> dict[str, Verdict]:
    """Identity to its verdict, after these entries in the order of their numbers."""
    folded = Fold(min_overlap)
    folded.add(sorted(entries, key=lambda entry: entry.seq))
    return folded.verdicts


def agree(one: Entry, other: Entry, min_overlap: float = MIN_OVERLAP) -> bool:
    """Whether two opinions agree; the rule stands above."""
    if one.decision.kind != other.decision.kind:
        return False
    return one.decision.kind == "dropped" or overlap(one, other) >= min_overlap


def overlap(one: Entry, other: Entry) -> float:
    """Faces that both chose over faces that either chose, 0 to 1 (Jaccard); 1 if none did."""
    first, second = ({face.key for face in entry.decision.faces} for entry in (one, other))
    either = first | second
    return len(first & second) / len(either) if either else 1.0
