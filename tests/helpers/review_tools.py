"""Faces, decisions and a clock for tests of the review store and its queue."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from annotator.log.access import Actor
from annotator.log.store import Decision, Entry, FaceRef, Store
from annotator.work.queue import QueueItem

ANNA, BERT, CARL = Actor("Anna"), Actor("Bert"), Actor("Carl")
LEAD = Actor("Lena", "lead")
FACES = tuple(FaceRef(f"{n:064x}", n % 2, (1.5, 2.0, 101.5, 102.0)) for n in range(10))

_keys = count()


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 31, 9, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time

    def forward(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


def new_key() -> str:
    """A key that no other test uses."""
    return f"key {next(_keys)}"


def chosen(identity_id: str, first: int = 0, number: int = 3) -> Decision:
    """A choice of ``number`` faces from the ``first`` on."""
    return Decision(identity_id, "chosen", FACES[first : first + number], FACES, seconds=4.5)


def dropped(identity_id: str) -> Decision:
    return Decision(identity_id, "dropped", shown=FACES, reason="wrong_person")


def decide(store: Store, actor: Actor, decision: Decision, key: str | None = None) -> Entry:
    return store.append(decision, key=key or new_key(), actor=actor)


def undo(store: Store, actor: Actor, seq: int) -> Entry:
    return store.undo(seq, key=new_key(), actor=actor)


def light(entry: Entry) -> Entry:
    """The entry without the faces that were shown, as the fold holds it."""
    return replace(entry, decision=replace(entry.decision, shown=()))


def logged(seq: int, actor: Actor, decision: Decision, **more: Any) -> Entry:
    """An entry as the log has it."""
    said = replace(decision, annotator=actor.name)
    return Entry(seq, Clock()(), said, f"logged {seq}", actor.role, **more)


def people(number: int) -> list[QueueItem]:
    """Identities, the one with most candidates, and about which the machine is surest, first."""
    return [QueueItem(f"id{n:03d}", number - n + 3, 1 - n / number) for n in range(number)]
