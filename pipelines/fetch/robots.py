"""robots.txt (RFC 9309): the rules of an origin, fetched once and kept."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from protego import Protego
from yarl import URL

from pipelines.fetch.client import Answer, Client
from pipelines.fetch.guard import RefusedUrlError

KEPT_SECONDS = 24 * 3600.0
"""RFC 9309, 2.4: no longer than a day."""
MAX_BYTES = 512 * 1024
"""RFC 9309, 2.5: at least 500 KiB; what comes after is not read."""
REDIRECTS = 5
"""RFC 9309, 2.3.1.2: at least five are followed."""
UNREADABLE = ("tls_error", "refused_address", "bad_url", "unsupported_encoding")
"""Reasons for which rules cannot be had; a picture of that origin would fail of most of them too.

RFC 9309, 2.3.1.4: rules that cannot be read allow nothing.
"""


@dataclass(frozen=True)
class Rules:
    """What an origin asks of us. ``parsed`` is None where it asks nothing."""

    agent: str
    parsed: Protego | None = None
    delay_seconds: float = 0.0
    """Crawl-delay, or what Request-rate comes to."""

    def allow(self, url: str) -> bool:
        """Whether the url may be asked for."""
        return self.parsed is None or bool(self.parsed.can_fetch(url, self.agent))


@dataclass
class Robots:
    """Rules by origin (``https://host:port``); asks for what it has not."""

    agent: str
    client: Client
    _kept: dict[str, tuple[float, Rules]] = field(default_factory=dict)
    _asking: dict[str, asyncio.Task[Answer]] = field(default_factory=dict)

    def known(self, origin: str) -> Rules | None:
        """The origin's rules, or None where they must be fetched."""
        kept = self._kept.get(origin)
        return kept[1] if kept is not None and kept[0] > time.monotonic() else None

    async def ask(self, origin: str, retried: frozenset[str]) -> Answer:
        """Fetch an origin's rules, once for all who wait for them; the last answer.

        The rules are known then, unless its reason is in ``retried`` or :data:`UNREADABLE`.
        """
        task = self._asking.get(origin)
        if task is None:
            task = asyncio.create_task(self._fetch(origin, retried))
            self._asking[origin] = task
            task.add_done_callback(lambda _: self._asking.pop(origin, None))
        return await asyncio.shield(task)

    def cancel(self) -> list[asyncio.Task[Answer]]:
        """Cancel what is under way; the tasks, to be waited for."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        return tasks

    async def _fetch(self, origin: str, retried: frozenset[str]) -> Answer:
        url = URL(f"{origin}/robots.txt")
        for _ in range(REDIRECTS + 1):
            answer = await self.client.ask(url, MAX_BYTES, cut=True)
            self.client.budget.give_back(answer, answer.taken_bytes)
            answer.detail = f"robots.txt: {answer.detail or answer.status}"
            if answer.reason in retried or answer.reason in UNREADABLE:
                return answer
            if answer.location is None:
                break
            try:
                url = self.client.guard.url(str(url.join(URL(answer.location))))
            except (RefusedUrlError, ValueError):
                break
        # A body that got here is that of a 2xx; 4xx and redirects to nowhere ask nothing.
        rules = parse(answer.body, self.agent) if answer.reason is None else Rules(self.agent)
        self._kept[origin] = (time.monotonic() + KEPT_SECONDS, rules)
        return answer


def parse(body: bytes, agent: str) -> Rules:
    """Rules of a robots.txt for our user agent."""
    text = body[:MAX_BYTES].decode("utf-8", "replace").removeprefix("\ufeff")
    parsed = Protego.parse(text)
    delay = parsed.crawl_delay(agent) or 0.0
    rate = parsed.request_rate(agent)
    if rate is not None and rate.requests > 0:
        delay = max(delay, rate.seconds / rate.requests)
    return Rules(agent, parsed, float(delay))
