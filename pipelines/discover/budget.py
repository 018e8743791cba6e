"""Requests to a source: how many today (counted on disk), and how fast."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from hqvox.errors import HqvoxError
from hqvox.workspace.covered import Owner
from hqvox.workspace.storage import Storage
from pipelines.discover.source import QuotaSpent, SourceError

QUOTAS = Owner("quotas of sources", ("discover/*/quota.json",), None)
LOOK_SECONDS = 0.5
"""How often a waiting thread checks whether it should stop."""


class Budget:
    """Requests of one source today, in ``discover/<source>/quota.json``; safe between threads.

    A request is written down before it is sent, so that a killed build forgets none.
    """

    def __init__(
        self,
        storage: Storage,
        source: str,
        daily_requests: int | None,
        zone: str = "UTC",
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """``daily_requests``: None counts without a limit. ``zone``: where the day begins."""
        self.storage = storage
        self.source = source
        self.daily_requests = daily_requests
        self.zone = ZoneInfo(zone)
        self.now = now
        self.file = f"discover/{source}/quota.json"
        self._lock = threading.Lock()

    def take(self) -> None:
        """Count a request before it is sent. Raises QuotaSpent if none is left."""
        with self._lock:
            day, requests, spent_until = self._read()
            if spent_until is not None and self.now() < spent_until:
                raise QuotaSpent(self._line(f"{requests} today, as it says", spent_until))
            if self.daily_requests is not None and requests >= self.daily_requests:
                raise QuotaSpent(
                    self._line(f"{requests} of {self.daily_requests} today", self.next_day())
                )
            self._write(day, requests + 1, None)

    def spend(self, until: datetime) -> QuotaSpent:
        """Record that the quota is used up until then; return the exception to raise."""
        with self._lock:
            day, requests, _ = self._read()
            self._write(day, requests, until)
        return QuotaSpent(self._line(f"{requests} today, as it says", until))

    def next_day(self) -> datetime:
        """When the source's next day begins."""
        tomorrow = self.now().astimezone(self.zone).date() + timedelta(days=1)
        return datetime(tomorrow.year, tomorrow.month, tomorrow.day, tzinfo=self.zone)

    def _line(self, how_far: str, until: datetime) -> str:
        # Rounded up to the minute, so that the quota is there again at the time named.
        minute = (until.astimezone(UTC) + timedelta(seconds=59)).strftime("%Y-%m-%d %H:%M UTC")
        return f"quota of {self.source} spent ({how_far}); run again after {minute}"

    def _read(self) -> tuple[str, int, datetime | None]:
        today = self.now().astimezone(self.zone).date().isoformat()
        try:
            record = json.loads(self.storage.read(self.file))
            until = record["spent_until"]
            spent_until = datetime.fromisoformat(until) if until else None
            requests = int(record["requests"]) if record["day"] == today else 0
        except FileNotFoundError:
            return today, 0, None
        except (ValueError, KeyError, TypeError):
            raise HqvoxError(
                f"{self.storage.shown(self.file)}: damaged; delete it, and today's count of "
                f"requests to {self.source} begins at 0"
            ) from None
        return today, requests, spent_until

    def _write(self, day: str, requests: int, spent_until: datetime | None) -> None:
        until = spent_until.isoformat() if spent_until else None
        record = {"day": day, "requests": requests, "spent_until": until}
        self.storage.write(self.file, json.dumps(record).encode())


class RequestPace:
    """Spaces requests. Of the waiting threads, the one with the first shard goes first.

    So a small quota finishes shards one by one, instead of starting all of them.
    """

    def __init__(self, per_second: float, stopping: threading.Event) -> None:
        self.gap = 1.0 / per_second
        self.stopping = stopping
        self._next = 0.0
        self._waiting: list[tuple[str, int]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()

    def wait(self, shard: str) -> None:
        """Return when the next request, for ``shard``, may be sent.

        Raises SourceError within half a second when ``stopping`` is set.
        """
        with self._changed:
            ticket = (shard, next(self._numbers))
            self._waiting.append(ticket)
            try:
                while (first := min(self._waiting)) != ticket or time.monotonic() < self._next:
                    if self.stopping.is_set():
                        break
                    left = (
                        max(self._next - time.monotonic(), 0.0) if first == ticket else LOOK_SECONDS
                    )
                    self._changed.wait(min(left, LOOK_SECONDS))
                if self.stopping.is_set():
                    raise SourceError("stopped")
                self._next = time.monotonic() + self.gap
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()
