"""What is shared out: memory for bodies in flight, and each host's patience."""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any

LAG_SECONDS = 0.05
"""How late a request may come and still be on time: timers are no finer than a millisecond."""


class ByteBudget:
    """Bytes that bodies in flight may take up together.

    One download at a time may go beyond it, so that full memory never stops all of them: the most
    ever taken is the limit and one body.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._beyond: object | None = None
        self._freed = asyncio.Event()

    async def take(self, holder: object, size: int) -> None:
        """Take ``size`` bytes for ``holder``, once they are there."""
        while self.used + size > self.limit and self._beyond not in (None, holder):
            self._freed.clear()
            await self._freed.wait()
        if self.used + size > self.limit:
            self._beyond = holder
        self.used += size

    def give_back(self, holder: object, size: int) -> None:
        """Give back all that ``holder`` took."""
        self.used -= size
        if self._beyond is holder:
            self._beyond = None
        self._freed.set()


@dataclass
class Host:
    """One host's queue, pace and state of health. Times are of the event loop's clock."""

    name: str
    interval_seconds: float
    ready: deque[Any] = field(default_factory=deque)
    delayed: list[tuple[float, int, Any]] = field(default_factory=list)
    active: int = 0
    next_at: float = 0.0
    queued_at: float | None = None
    """Where it stands in the engine's queue of hosts."""
    failures: int = 0
    """In a row."""
    failing_since: float | None = None
    answered_at: float = float("-inf")
    closed_until: float = float("-inf")
    closed_reason: str = ""
    _numbers: int = 0

    def later(self, item: Any, at: float) -> None:
        """Queue an item that may not be tried before ``at``."""
        self._numbers += 1
        heapq.heappush(self.delayed, (at, self._numbers, item))

    def due(self) -> float | None:
        """When the next item may be asked for; None where there is none."""
        if self.ready:
            return self.next_at
        return max(self.next_at, self.delayed[0][0]) if self.delayed else None

    def take(self, now: float) -> Any:
        """The next item; ``due()`` has passed."""
        if self.delayed and self.delayed[0][0] <= now:
            item = heapq.heappop(self.delayed)[2]
        else:
            item = self.ready.popleft()
        self.active += 1
        self.next_at = max(self.next_at, now - LAG_SECONDS) + self.interval_seconds
        return item

    def not_asked(self) -> None:
        """The item that was taken last needed no request: the next one need not wait for it."""
        self.next_at -= self.interval_seconds

    def take_all(self) -> list[Any]:
        """All items, in order."""
        items = [*(entry[2] for entry in sorted(self.delayed)), *self.ready]
        self.ready.clear()
        self.delayed.clear()
        return items

    def answered(self, now: float) -> None:
        """It gave an answer that shows it well."""
        self.answered_at = now
        self.failures = 0
        self.failing_since = None

    def failed(self, now: float) -> None:
        """It gave none, or one that shows it ill."""
        self.failures += 1
        if self.failing_since is None:
            self.failing_since = now

    def pause(self, until: float) -> None:
        """Ask nothing before ``until``."""
        self.next_at = max(self.next_at, until)

    def close(self, until: float, reason: str) -> None:
        """Give it up until then: what is asked of it meanwhile fails at once."""
        self.closed_until, self.closed_reason = until, reason


def backoff_seconds(first: float, longest: float, failures: int) -> float:
    """Pause before another try: doubles with each failure, with jitter of half its length."""
    whole = min(longest, first * 2.0 ** min(failures - 1, 30))
    return whole * random.uniform(0.5, 1.0)
