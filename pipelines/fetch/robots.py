"""robots.txt (RFC 9309): the rules of an origin, fetched and parsed once, and kept for a day."""

from __future__ import annotations

import asyncio
import codecs
import re
import time
from dataclasses import dataclass, field

from protego import Protego
from yarl import URL

from pipelines.fetch.client import Client, Response
from pipelines.fetch.files import KEPT_SECONDS, HostFiles
from pipelines.fetch.guard import RefusedUrlError

MAX_BYTES = 512 * 1024
"""RFC 9309, 2.5: at least 500 KiB; the rest is not read."""
LONG_CHARACTERS = 20_000
"""A file longer than this is matched outside the event loop."""
REDIRECTS = 5
"""RFC 9309, 2.3.1.2: follow at least five."""
UNREADABLE = ("tls_error", "refused_address", "bad_url", "unsupported_encoding")
"""Reasons for which there are no rules. Most photographs of such an origin would fail too.

RFC 9309, 2.3.1.4: rules that cannot be read allow nothing.
"""


@dataclass(frozen=True)
class Rules:
    """The rules of an origin. ``parsed`` is None if there are none."""

    agent: str
    parsed: Protego | None = None
    delay_seconds: float = 0.0
    """Crawl-delay, or the interval that Request-rate means."""
    long: bool = False
    """Whether matching a url may take milliseconds: not in the event loop."""

    def allow(self, url: str) -> bool:
        """Whether the url may be requested."""
        return self.parsed is None or bool(self.parsed.can_fetch(url, self.agent))


@dataclass
class Robots:
    """Rules by origin (``https://host:port``); fetches those that are missing."""

    agent: str
    client: Client
    files: HostFiles
    _kept: dict[str, tuple[float, Rules]] = field(default_factory=dict)
    _asking: dict[str, asyncio.Task[Response | None]] = field(default_factory=dict)

    def known(self, origin: str) -> Rules | None:
        """The origin's rules, or None where they must be fetched."""
        kept = self._kept.get(origin)
        return kept[1] if kept is not None and kept[0] > time.monotonic() else None

    async def ask(self, origin: str, retried: frozenset[str]) -> Response | None:
        """Fetch an origin's rules, once for all who wait for them; return the last response.

        None where a kept file had them. Then the rules are known, unless the response's reason is
        in ``retried`` or :data:`UNREADABLE`.
        """
        task = self._asking.get(origin)
        if task is None:
            task = asyncio.create_task(self._fetch(origin, retried))
            self._asking[origin] = task
            task.add_done_callback(lambda _: self._asking.pop(origin, None))
        return await asyncio.shield(task)

    def cancel(self) -> list[asyncio.Task[Response | None]]:
        """Cancel running requests; return their tasks, to be awaited."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        return tasks

    async def _fetch(self, origin: str, retried: frozenset[str]) -> Response | None:
        url = URL(f"{origin}/robots.txt")
        kept = self.files.get(str(url))
        if kept is not None:
            await self._learn(origin, *kept)
            return None
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
        # Here a body belongs to a 2xx; 4xx and bad redirects mean that there are no rules.
        body = answer.body if answer.reason is None else b""
        self.files.put(f"{origin}/robots.txt", body)
        await self._learn(origin, body)
        return answer

    async def _learn(self, origin: str, body: bytes, age_seconds: float = 0.0) -> None:
        # Half a megabyte takes a second to parse: not in the event loop.
        rules = await asyncio.to_thread(parse, body, self.agent) if body else Rules(self.agent)
        self._kept[origin] = (time.monotonic() + KEPT_SECONDS - age_seconds, rules)


def parse(body: bytes, agent: str) -> Rules:
    """Rules of a robots.txt for our user agent. A file that is no text allows nothing."""
    if b"\0" in body or body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return Rules(agent, Protego.parse("User-agent: *\nDisallow: /"))
    text = body[:MAX_BYTES].decode("utf-8", "replace").removeprefix("\ufeff")
    # A group for `hqvox/0.1.0` or `hqvox (+https://…)` is for us: the product's name counts.
    group = rf"(?im)^([ \t]*user-agent[ \t]*:[ \t]*{re.escape(agent)})[/ \t(][^\r\n#]*"
    text = re.sub(group, r"\1", text)
    parsed = Protego.parse(text)
    delay = parsed.crawl_delay(agent) or 0.0
    rate = parsed.request_rate(agent)
    if rate is not None and rate.requests > 0:
        delay = max(delay, rate.seconds / rate.requests)
    return Rules(agent, parsed, float(delay), long=len(text) > LONG_CHARACTERS)
