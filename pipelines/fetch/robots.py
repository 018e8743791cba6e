"""robots.txt (RFC 9309): the rules of an origin, fetched and parsed once, and kept for a day."""

from __future__ import annotations

import asyncio
import codecs
import re
import time
from dataclasses import dataclass, field, replace

from protego import Protego
from yarl import URL

from pipelines.fetch.client import Client, Response
from pipelines.fetch.files import KEPT_SECONDS, HostFiles
from pipelines.fetch.guard import RefusedUrlError
from pipelines.fetch.reservations import FILE, FileRules, file_rules

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
    reservations: FileRules = ()
    """Rules of the origin's tdmrep.json."""
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
    robots: bool = True
    """Whether robots.txt counts."""
    reservations: bool = False
    """Whether tdmrep.json counts."""
    _kept: dict[str, tuple[float, Rules]] = field(default_factory=dict)
    _asking: dict[str, asyncio.Task[list[Response]]] = field(default_factory=dict)

    def known(self, origin: str) -> Rules | None:
        """The origin's rules, or None where they must be fetched."""
        kept = self._kept.get(origin)
        return kept[1] if kept is not None and kept[0] > time.monotonic() else None

    async def ask(self, origin: str, retried: frozenset[str]) -> list[Response]:
        """Fetch an origin's rules, once for all who wait for them; return the responses.

        Empty where kept files had them. Then the rules are known, unless the last response's
        reason is in ``retried`` or :data:`UNREADABLE`.
        """
        task = self._asking.get(origin)
        if task is None:
            task = asyncio.create_task(self._fetch(origin, retried))
            self._asking[origin] = task
            task.add_done_callback(lambda _: self._asking.pop(origin, None))
        return await asyncio.shield(task)

    def cancel(self) -> list[asyncio.Task[list[Response]]]:
        """Cancel running requests; return their tasks, to be awaited."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        return tasks

    async def _fetch(self, origin: str, retried: frozenset[str]) -> list[Response]:
        responses: list[Response] = []
        rules, age = Rules(self.agent), 0.0
        if self.robots:
            body, age, response = await self._file(f"{origin}/robots.txt", retried)
            responses += [response] if response is not None else []
            if body is None:
                return responses
            if body:  # half a megabyte takes a second to parse: not in the event loop
                rules = await asyncio.to_thread(parse, body, self.agent)
        if self.reservations:
            body, since, response = await self._file(f"{origin}{FILE}", retried)
            # A host that gives photographs, but not this file, states no reservation by it.
            rules = replace(rules, reservations=file_rules(body or b""))
            responses[:0] = [response] if response is not None else []
            age = max(age, since)
        self._kept[origin] = (time.monotonic() + KEPT_SECONDS - age, rules)
        return responses

    async def _file(
        self, address: str, retried: frozenset[str]
    ) -> tuple[bytes | None, float, Response | None]:
        """A file of an origin, its age (s), and the response if it was requested.

        Empty: there is none. None: nobody knows, for a transient reason or as it is unreadable.
        """
        kept = self.files.get(address)
        if kept is not None:
            return *kept, None
        url = URL(address)
        for _ in range(REDIRECTS + 1):
            answer = await self.client.ask(url, MAX_BYTES, cut=True)
            self.client.budget.give_back(answer, answer.taken_bytes)
            answer.detail = f"{URL(address).path[1:]}: {answer.detail or answer.status}"
            if answer.reason in retried or answer.reason in UNREADABLE:
                return None, 0.0, answer
            if answer.location is None:
                break
            try:
                url = self.client.guard.url(str(url.join(URL(answer.location))))
            except (RefusedUrlError, ValueError):
                break
        # Here a body belongs to a 2xx; 4xx and bad redirects mean that there is no file.
        body = answer.body if answer.reason is None else b""
        self.files.put(address, body)
        return body, 0.0, answer


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
