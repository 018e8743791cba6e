"""A simple model of the review, to hold store and queue against: plain lists, no cleverness."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from annotator.log.access import Actor


@dataclass
class Said:
    """A decision of the model's log."""

    seq: int
    identity_id: str
    annotator: str
    faces: frozenset[int] | None
    """None: dropped."""
    settles: bool
    key: str
    undone: bool = False


@dataclass
class Model:
    """What should be, after every step."""

    names: list[str]
    twice: set[str]
    lease_seconds: float
    now: float = 0.0
    log: list[Said] = field(default_factory=list)
    undos: dict[int, int] = field(default_factory=dict)
    """seq of an undoing: seq of what it took back."""
    held: dict[str, tuple[str, float, bool]] = field(default_factory=dict)
    """Identity: annotator, end, whether to settle a dispute."""

    @property
    def seq(self) -> int:
        """Entries so far."""
        return len(self.log) + len(self.undos)

    def opinions(self, name: str) -> dict[str, frozenset[int] | None]:
        """Of each annotator the last that stands."""
        return {
            said.annotator: said.faces
            for said in self.log
            if said.identity_id == name and not said.undone and not said.settles
        }

    def settlement(self, name: str) -> Said | None:
        """The last that stands."""
        found = [s for s in self.log if s.identity_id == name and s.settles and not s.undone]
        return found[-1] if found else None

    def status(self, name: str) -> str | None:
        """As ``Outcome.status``; None: nobody decided."""
        settlement = self.settlement(name)
        if settlement is not None:
            return "dropped" if settlement.faces is None else "chosen"
        opinions = list(self.opinions(name).values())
        if not opinions:
            return None
        if not all(_agree(a, b) for a, b in itertools.combinations(opinions, 2)):
            return "disputed"
        return "dropped" if opinions[0] is None else "chosen"

    def need(self, name: str) -> str | None:
        """As ``Queue.need``."""
        status = self.status(name)
        if status in (None, "disputed"):
            return "first" if status is None else "dispute"
        single = self.settlement(name) is None and len(self.opinions(name)) == 1
        return "second" if single and name in self.twice else None

    def live(self, name: str, actor: Actor) -> bool:
        """Whether somebody else holds it."""
        who, end, _ = self.held.get(name, ("", 0.0, False))
        return who not in ("", actor.name) and end > self.now

    def mine(self, name: str, actor: Actor) -> bool:
        """Whether the actor holds it, or did and nobody took it since."""
        return self.held.get(name, ("",))[0] == actor.name

    def free(self, actor: Actor) -> dict[str, bool]:
        """What the actor may be given that they do not hold: name to whether to settle it."""
        found = {}
        for name in self.names:
            need = self.need(name)
            if self.live(name, actor) or self.mine(name, actor):
                continue
            if need == "first" or (need == "second" and actor.name not in self.opinions(name)):
                found[name] = False
            elif need == "dispute" and actor.is_lead:
                found[name] = True
        return found

    def accepts(self, name: str, actor: Actor) -> bool:
        """Whether a decision is taken."""
        if self.live(name, actor):
            return False
        if self.mine(name, actor) or self.status(name) is None:
            return True
        unsettled = self.status(name) == "disputed" or self.settlement(name) is not None
        return actor.name in self.opinions(name) or (actor.is_lead and unsettled)

    def decide(self, name: str, actor: Actor, faces: frozenset[int] | None, key: str) -> None:
        """Take a decision."""
        if self.mine(name, actor):
            settles = self.held[name][2] and actor.is_lead
        else:
            unsettled = self.status(name) == "disputed" or self.settlement(name) is not None
            settles = actor.is_lead and unsettled
        self.log.append(Said(self.seq + 1, name, actor.name, faces, settles, key))
        self.held.pop(name, None)


def _agree(one: frozenset[int] | None, two: frozenset[int] | None) -> bool:
    if one is None or two is None:
        return one is two
    return len(one & two) >= 0.5 * len(one | two)
