"""robots.txt (RFC 9309): the rules of an origin, fetched once and kept."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from protego import Protego

KEPT_SECONDS = 24 * 3600.0
"""RFC 9309, 2.4: no longer than a day."""
MAX_BYTES = 512 * 1024
"""RFC 9309, 2.5: at least 500 KiB; what comes after is not read."""
REDIRECTS = 5
"""RFC 9309, 2.3.1.2: at least five are followed."""


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
class RobotsCache:
    """Rules by origin (``https://host:port``)."""

    agent: str
    _kept: dict[str, tuple[float, Rules]] = field(default_factory=dict)

    def known(self, origin: str) -> Rules | None:
        """The origin's rules, or None where they must be fetched."""
        kept = self._kept.get(origin)
        return kept[1] if kept is not None and kept[0] > time.monotonic() else None

    def keep(self, origin: str, status: int, body: bytes) -> None:
        """Take in an answer: of 2xx the body counts; anything else that got here asks nothing.

        Server errors must not get here: RFC 9309 has them mean that nothing may be asked for.
        """
        rules = parse(body, self.agent) if 200 <= status < 300 else Rules(self.agent)
        self._kept[origin] = (time.monotonic() + KEPT_SECONDS, rules)


def parse(body: bytes, agent: str) -> Rules:
    """Rules of a robots.txt for our user agent."""
    text = body[:MAX_BYTES].decode("utf-8", "replace").removeprefix("\ufeff")
    parsed = Protego.parse(text)
    delay = parsed.crawl_delay(agent) or 0.0
    rate = parsed.request_rate(agent)
    if rate is not None and rate.requests > 0:
        delay = max(delay, rate.seconds / rate.requests)
    return Rules(agent, parsed, float(delay))
