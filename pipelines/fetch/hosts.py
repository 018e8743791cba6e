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
from weakref import WeakValueDictionary

from yarl import URL

from hqvox.config.build import DownloadConfig
from hqvox.config.hosts import HostsConfig

WOKEN_HOSTS = 16
"""Hosts of one address that are queued again when a connection to it is free."""
KEPT_HOSTS = 50_000
"""With more hosts than this, idle ones are dropped."""
LAG_SECONDS = 0.05
"""Tolerance of the pace: a request this late does not delay the next one."""


@dataclass(eq=False)
class Pace:
    """When the next request may be made, and how many are under way: of a host, or of an address.

    Where ``download.share_pace`` says so, hosts at one address have one.
    """

    next_at: float = 0.0
    active: int = 0
    refused: deque[Host] = field(default_factory=deque)
    """Hosts that were due while others of the address had all connections."""


@dataclass(eq=False)
class Host:
    """One host's queue, pace and health. Times are of the event loop's clock."""

    name: str
    pace_seconds: float
    """Between requests, by the settings and the operator."""
    delay_seconds: float = 0.0
    """Between requests, by robots.txt."""
    connections: int = 1
    paused: bool = False
    blocked: bool = False
    """Whether the operator blocks it."""
    ready: deque[Any] = field(default_factory=deque)
    delayed: list[tuple[float, int, Any]] = field(default_factory=list)
    pace: Pace = field(default_factory=Pace)
    address: str | None = None
    """Whose pace it shares; empty: nobody's; None: not known yet."""
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

    @property
    def next_at(self) -> float:
        """When the next request may be made."""
        return self.pace.next_at

    @next_at.setter
    def next_at(self, at: float) -> None:
        self.pace.next_at = at

    @property
    def active(self) -> int:
        """Requests under way, those of hosts that share its pace too."""
        return self.pace.active

    @property
    def interval_seconds(self) -> float:
        """Between requests."""
        return max(self.pace_seconds, self.delay_seconds)

    @property
    def free(self) -> bool:
        """Whether another request may be made, as far as connections go."""
        return not self.paused and self.active < self.connections

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
        self.pace.active += 1
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

    def __init__(self, config: DownloadConfig, operators: HostsConfig | None = None) -> None:
        """``operators``: what the operator says of single hosts."""
        self._config = config
        self._operators = operators or HostsConfig()
        self._hosts: dict[str, Host] = {}
        self._due: list[tuple[float, int, Host]] = []
        self._number = 0
        self._wake = asyncio.Event()
        self._paces: WeakValueDictionary[str, Pace] = WeakValueDictionary()

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
        name = _name(url)
        host = self._hosts.get(name)
        if host is None:
            if len(self._hosts) > KEPT_HOSTS:
                self._forget()
            host = self._hosts[name] = Host(name, 0.0)
            self._limit(host)
        return host

    def share(self, host: Host, address: str) -> None:
        """Let a host share the pace of the others at its address; empty: there is none."""
        if host.address is not None:
            return
        host.address = address
        if not address:
            return
        pace = self._paces.setdefault(address, host.pace)
        if pace is not host.pace:
            pace.next_at = max(pace.next_at, host.pace.next_at)
            pace.active += host.pace.active
            host.pace = pace

    def ended(self, host: Host) -> None:
        """A request to the host is over."""
        host.pace.active -= 1
        self.put(host)
        for _ in range(min(len(host.pace.refused), WOKEN_HOSTS)):
            self.put(host.pace.refused.popleft())

    def limit(self, operators: HostsConfig) -> None:
        """Let what the operator says hold from now on."""
        self._operators = operators
        for host in self._hosts.values():
            self._limit(host)
            self.put(host)

    def state(self, most: int) -> list[dict[str, Any]]:
        """The hosts with the most urls waiting: their state, as JSON values."""
        now = _now()
        hosts = [host for host in self._hosts.values() if host.active or host.due() is not None]
        hosts = heapq.nlargest(most, hosts, key=lambda host: len(host.ready) + len(host.delayed))
        return [
            {
                "host": host.name,
                "waiting": len(host.ready) + len(host.delayed),
                "active": host.active,
                "requests_per_second": round(1 / max(host.interval_seconds, 1e-9), 3),
                "connections": host.connections,
                "paused": host.paused,
                "failures": host.failures,
                "next_in_seconds": round(max(0.0, host.next_at - now), 1),
            }
            for host in hosts
        ]

    def _limit(self, host: Host) -> None:
        entry, config = self._operators.of(host.name), self._config
        host.pace_seconds = 1.0 / (entry.requests_per_second or config.host_requests_per_second)
        host.connections = entry.connections or config.host_connections
        host.paused, host.blocked = entry.pause, entry.block

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
        if due is None or not host.free:
            shares = due is not None and bool(host.address) and not host.paused
            if shares and host not in host.pace.refused:
                host.pace.refused.append(host)
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
                if due is not None and due <= now and host.free:
                    return host
                self.put(host)  # its pace has changed
            timer = None
            if self._due:
                timer = asyncio.get_running_loop().call_at(self._due[0][0], self._wake.set)
            await self._wake.wait()
            if timer is not None:
                timer.cancel()


def _name(url: URL) -> str:
    name = (url.raw_host or "").rstrip(".")
    return name if url.port in (80, 443) else f"{name}:{url.port}"


def _now() -> float:
    return asyncio.get_running_loop().time()


def backoff_seconds(first: float, longest: float, failures: int) -> float:
    """Seconds to wait before another try: doubled with each failure, times 0.5 to 1 at random."""
    whole = min(longest, first * 2.0 ** min(failures - 1, 30))
    return whole * random.uniform(0.5, 1.0)
