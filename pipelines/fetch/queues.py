"""The queues of all hosts, and which is next to be asked."""

from __future__ import annotations

import asyncio
import heapq

from yarl import URL

from hqvox.config.build import DownloadConfig
from pipelines.fetch.limits import Host

KEPT_HOSTS = 50_000
"""Beyond that many, hosts at rest are forgotten."""


class HostQueues:
    """Hosts by name, and those with something to ask for by the time when it is due."""

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
        """The host of a url; the usual ports of http and https count as one host."""
        name = url.raw_host or ""
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
        """Put a host where the dispatcher finds it when its next item is due."""
        due = host.due()
        if due is None or host.active >= self._config.host_connections:
            return
        if host.queued_at is not None and host.queued_at <= due:
            return  # it is looked at in time, and then put where it belongs
        host.queued_at = due
        self._number += 1
        heapq.heappush(self._due, (due, self._number, host))
        self._wake.set()

    async def next(self) -> Host:
        """The next host that may be asked now, once there is one."""
        while True:
            self._wake.clear()
            now = _now()
            while self._due and self._due[0][0] <= now:
                at, _, host = heapq.heappop(self._due)
                if at != host.queued_at:
                    continue  # it was put further to the front meanwhile
                host.queued_at = None
                due = host.due()
                if due is not None and due <= now and host.active < self._config.host_connections:
                    return host
                self.put(host)  # its pace changed meanwhile
            timer = None
            if self._due:
                timer = asyncio.get_running_loop().call_at(self._due[0][0], self._wake.set)
            await self._wake.wait()
            if timer is not None:
                timer.cancel()


def _now() -> float:
    return asyncio.get_running_loop().time()
