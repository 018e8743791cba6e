"""Hosts: each one's queue, pace and health, and which host is asked next.

A slow or dead host delays its own urls only.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from yarl import URL

from hqvox.config.build import DownloadConfig

KEPT_HOSTS = 50_000
"""With more hosts than this, idle ones are dropped."""
LAG_SECONDS = 0.05
"""Tolerance of the pace: a request this late does not delay the next one."""


@dataclass
class Host:
    """One host's queue, pace and health. Times are of the event loop's clock."""

    name: str
    interval_seconds: float
    ready: deque[Any] = field(default_factory=deque)
    delayed: list[tuple[float, int, Any]] = field(default_factory=list)
    active: int = 0
    next_at: float = 0.0
    queued_at: float | None = None
    """Its time in :class:`HostQueues`, or None if it is not queued there."""
    failures: int = 0
    """Outages counted in a row; requests that failed in one outage count once."""
    failing_since: float | None = None
    counted_at: float = float("-inf")
    """When the last failure was counted."""
    answered_at: float = float("-inf")
    closed_until: float = float("-inf")
    closed_reason: str = ""
    _numbers: int = 0

    def later(self, item: Any, at: float) -> None:
        """Queue an item, not to be tried before ``at``."""
        self._numbers += 1
        heapq.heappush(self.delayed, (at, self._numbers, item))

    def due(self) -> float | None:
        """When the next item may be requested; None: no items."""
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
        """The item taken last needed no request: do not make the next one wait."""
        self.next_at -= self.interval_seconds

    def take_all(self) -> list[Any]:
        """All items, in order."""
        items = [*(entry[2] for entry in sorted(self.delayed)), *self.ready]
        self.ready.clear()
        self.delayed.clear()
        return items

    def answered(self, now: float) -> None:
        """It gave a response that shows that it works."""
        self.answered_at = now
        self.failures = 0
        self.failing_since = None

    def failed(self, now: float, asked_at: float) -> None:
        """It did not respond, or said that it is overloaded.

        Requests that were already under way (``asked_at``) when a failure was counted belong to
        the same outage: they do not make the backoff longer.
        """
        if self.failing_since is None:
            self.failing_since = now
        if asked_at >= self.counted_at:
            self.failures += 1
            self.counted_at = now

    def pause(self, until: float) -> None:
        """Make no request before ``until``."""
        self.next_at = max(self.next_at, until)

    def close(self, until: float, reason: str) -> None:
        """Give it up until then: its urls fail at once."""
        self.closed_until, self.closed_reason = until, reason


class HostQueues:
    """Hosts by name, and a heap of those with urls, by due time."""

    def __init__(self, config: DownloadConfig) -> None:
        self._config = config
        self._hosts: dict[str, Host] = {}
        self._due: list[tuple[float, int, Host]] = []
        self._number = 0
        self._wake = asyncio.Event()

    def waiting(self) -> int:
        """Hosts with urls that wait for the host's pace, its connections or its recovery."""
        now = _now()
        waiting = 0
        for host in self._hosts.values():
            due = host.due()
            waiting += due is not None and (due > now or host.active > 0)
        return waiting

    def of(self, url: URL) -> Host:
        """The host of a url. Ports 80 and 443 are one host, and so are ``name`` and ``name.``."""
        name = (url.raw_host or "").rstrip(".")
        if url.port not in (80, 443):
            name = f"{name}:{url.port}"
        host = self._hosts.get(name)
        if host is None:
            if len(self._hosts) > KEPT_HOSTS:
                self._forget()
            host = Host(name, 1.0 / self._config.host_requests_per_second)
            self._hosts[name] = host
        return host

    def _forget(self) -> None:
        now = _now()
        self._hosts = {
            name: host
            for name, host in self._hosts.items()
            if host.active or host.due() is not None or max(host.next_at, host.closed_until) > now
        }

    def put(self, host: Host) -> None:
        """Queue a host for the time when its next item is due."""
        due = host.due()
        if due is None or host.active >= self._config.host_connections:
            return
        if host.queued_at is not None and host.queued_at <= due:
            return  # it comes up early enough, and is queued again then
        host.queued_at = due
        self._number += 1
        heapq.heappush(self._due, (due, self._number, host))
        self._wake.set()

    async def next(self) -> Host:
        """Wait for the next host that may be asked now."""
        while True:
            self._wake.clear()
            now = _now()
            while self._due and self._due[0][0] <= now:
                at, _, host = heapq.heappop(self._due)
                if at != host.queued_at:
                    continue  # an outdated entry: the host was queued for an earlier time
                host.queued_at = None
                due = host.due()
                if due is not None and due <= now and host.active < self._config.host_connections:
                    return host
                self.put(host)  # its pace has changed
            timer = None
            if self._due:
                timer = asyncio.get_running_loop().call_at(self._due[0][0], self._wake.set)
            await self._wake.wait()
            if timer is not None:
                timer.cancel()


def _now() -> float:
    return asyncio.get_running_loop().time()


def backoff_seconds(first: float, longest: float, failures: int) -> float:
    """Seconds to wait before another try: doubled with each failure, times 0.5 to 1 at random."""
    whole = min(longest, first * 2.0 ** min(failures - 1, 30))
    return whole * random.uniform(0.5, 1.0)
