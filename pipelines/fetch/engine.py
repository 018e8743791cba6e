"""The download engine: many urls, each host at its own pace, transient failures retried.

A url waits in the queue of its host (after a redirect: of the host it leads to). A host's queue
moves when its pace, its connections and its health allow. Waiting takes no connection.

The retry rule is :meth:`Engine._retry_or_give_up`; its numbers are ``download.retries``,
``backoff_seconds``, ``longest_backoff_seconds``, ``longest_retry_after_seconds`` and
``host_patience_seconds``.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from yarl import URL

from hqvox.config.build import DownloadConfig
from hqvox.config.hosts import HostsConfig
from pipelines.fetch import reservations, robots
from pipelines.fetch.client import AGENT, Client, Response
from pipelines.fetch.files import HostFiles
from pipelines.fetch.guard import Lookup, RefusedUrlError, system_lookup
from pipelines.fetch.headers import opted_out
from pipelines.fetch.hosts import Host, HostQueues, backoff_seconds

TRANSIENT = frozenset(
    {
        "dns_failed",
        "connection_failed",
        "timed_out",
        "too_slow",
        "truncated",
        "malformed_response",
        "rate_limited",
        "http_server_error",
    }
)
"""Reasons of failures that a later try may not meet: they are retried within the crawl."""
STATE_HOSTS = 50
"""Most hosts in the crawl's status."""
_HOST_FAILURES = (None, 429, 503)
"""Statuses of failures of the whole host, not of one url; None: no response at all."""

Attempt = dict[str, Any]
"""One request, or one refusal to make it: a row of the attempts table."""


@dataclass(slots=True)
class FetchResult:
    """The result for one url."""

    url: str
    reason: str | None
    answer: Response | None
    """The last one; None if no request was made. Its body is valid until the callback returns."""
    attempts: list[Attempt]
    final_url: str
    host: str | None


@dataclass(slots=True)
class _Item:
    asked: str
    done: Callable[[FetchResult], None]
    headers: dict[str, str]
    attempts: list[Attempt] = field(default_factory=list)
    url: URL = field(default_factory=URL)
    redirects: int = 0
    tries: int = 0
    failed_at: float | None = None
    matched: tuple[robots.Rules, str, bool] | None = None
    """The rules and url that were matched last, and whether they allow it."""


@dataclass
class FetchCounts:
    """Totals so far."""

    fetched: int = 0
    unchanged: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    bytes: int = 0


class Engine:
    """Fetches urls; use as an asynchronous context manager.

    ``refuse``: called with the url before each request; returns a reason to refuse it, or None.
    ``kept``: file that keeps robots.txt of hosts for a day, also for later crawls; None: no file.
    ``respect``: reservations of ``policy.respect``; those in headers and files are kept to here.
    """

    def __init__(
        self,
        config: DownloadConfig,
        lookup: Lookup = system_lookup,
        refuse: Callable[[str], str | None] = lambda url: None,
        kept: Path | None = None,
        respect: Collection[str] = (),
    ) -> None:
        self.config = config
        self.client = Client(config, lookup)
        self.refuse = refuse
        self.counts = FetchCounts()
        self.waiting = 0
        """Urls that were added and are not finished."""
        self.halted = False
        self._files = HostFiles(kept)
        self._respects_files = "tdm_file" in respect
        self._respects_headers = "tdm_header" in respect
        self._robots = robots.Robots(
            AGENT, self.client, self._files, config.robots, self._respects_files
        )
        self._queues = HostQueues(config)
        self._running: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None

    async def __aenter__(self) -> Engine:
        self._loop = asyncio.get_running_loop()
        self._slots = asyncio.Semaphore(self.config.connections)
        self._files.__enter__()
        await self.client.__aenter__()
        self._dispatcher = asyncio.create_task(self._dispatch())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        tasks = [self._dispatcher, *self._running]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self._robots.cancel(), return_exceptions=True)
        await self.client.__aexit__(kind, error, trace)
        self._files.__exit__(kind, error, trace)

    def add(
        self,
        url: str,
        done: Callable[[FetchResult], None],
        etag: str | None = None,
        last_modified: str | None = None,
    ) -> None:
        """Queue a url. ``done`` is called once, in the event loop, with the result.

        ``etag``, ``last_modified``: of a copy that the caller has; status 304 then means that the
        copy is still valid.
        """
        headers = {}
        if etag:
            headers["If-None-Match"] = etag
        if last_modified:
            headers["If-Modified-Since"] = last_modified
        self.waiting += 1
        self._aim(_Item(url, done, headers), url)

    def hosts_waiting(self) -> int:
        """Number of hosts whose urls wait for pace, connections or recovery."""
        return self._queues.waiting()

    def hosts_state(self) -> list[dict[str, Any]]:
        """State of the hosts with the most urls waiting, as JSON values."""
        return self._queues.state(STATE_HOSTS)

    def limit_hosts(self, operators: HostsConfig) -> None:
        """Let what the operator says of hosts hold from now on."""
        self._queues.limit(operators)

    async def halt(self) -> None:
        """Make no further request; those in flight are given up. Urls stay unfinished."""
        self.halted = True
        tasks = [self._dispatcher, *self._running]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # Queues --------------------------------------------------------------------------------------

    def _aim(self, item: _Item, text: str, first: bool = False) -> None:
        """Check a url and put the item into its host's queue."""
        try:
            item.url = self.client.guard.url(text)
        except RefusedUrlError as error:
            self._finish(item, error.reason, detail=str(error), final_url=text)
            return
        host = self._queues.of(item.url)
        if host.closed_until > self._loop.time():
            self._finish(item, host.closed_reason, detail="the host was given up before")
            return
        if first:
            host.ready.appendleft(item)
        else:
            host.ready.append(item)
        self._queues.put(host)

    async def _dispatch(self) -> None:
        while True:
            await self._slots.acquire()
            host = await self._queues.next()
            if self._failure is not None:
                return  # a callback failed (a full disk, say): do not fetch what cannot be stored
            item = host.take(self._loop.time())
            self._queues.put(host)
            task = asyncio.create_task(self._run(item, host))
            self._running.add(task)
            task.add_done_callback(self._ran)

    async def _run(self, item: _Item, host: Host) -> None:
        try:
            await self._step(item, host)
        except Exception as error:
            self._failure = self._failure or error
        finally:
            self._queues.ended(host)

    def _ran(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._slots.release()
        if not task.cancelled() and task.exception() is not None:  # no Exception: see _run
            self._failure = self._failure or task.exception()

    def check(self) -> None:
        """Raise the error that a callback raised, if any."""
        if self._failure is not None:
            raise self._failure
        if self._dispatcher.done() and not self.halted:
            self._dispatcher.result()

    # One request ---------------------------------------------------------------------------------

    async def _step(self, item: _Item, host: Host) -> None:
        url = str(item.url)
        refused = "host_blocked" if host.blocked else self.refuse(url)
        if refused is not None:
            host.not_asked()
            self._finish(item, refused)
            return
        if self.config.share_pace and host.address is None:
            host.not_asked()
            self._queues.share(host, await self.client.address_of(item.url))
            host.ready.appendleft(item)
            return
        if self.config.robots or self._respects_files:
            rules = self._robots.known(_origin(item.url))
            if rules is None:
                await self._learn_rules(item, host)
                return
            disallowed = await self._disallowed(rules, url, item)
            if disallowed is not None:
                host.not_asked()
                self._finish(item, "robots_disallowed", detail=f"robots.txt{disallowed}")
                return
            if reservations.reserved_by(rules.reservations, item.url.raw_path_qs):
                host.not_asked()
                self._finish(item, "rights_reserved", detail=reservations.FILE)
                return
            host.delay_seconds = rules.delay_seconds
        answer = await self.client.ask(item.url, self.config.max_bytes, item.headers or None)
        try:
            self._handle(item, host, answer)
        finally:
            self.client.budget.give_back(answer, answer.taken_bytes)

    def _handle(self, item: _Item, host: Host, answer: Response) -> None:
        """Decide what a response means for its url and its host."""
        if answer.reason is None:
            out = opted_out(answer.robots_tags, AGENT, self.config.opt_out)
            if out is not None:
                answer.reason, answer.detail = "opted_out", f"X-Robots-Tag: {out}"
                answer.body = b""
            elif answer.tdm_reserved and self._respects_headers:
                answer.reason, answer.detail = "rights_reserved", f"{reservations.HEADER}: 1"
                answer.body = b""
            elif answer.status == 304 and not item.headers:
                answer.reason, answer.detail = "malformed_response", "304, but we have no copy"
        if answer.reason in TRANSIENT:
            self._retry_or_give_up(item, host, answer)
            return
        if answer.status is not None:
            host.answered(self._loop.time())
        if answer.reason is None and answer.location is not None:
            self._redirect(item, answer)
            return
        item.attempts.append(_attempt(answer))
        self._end(item, answer.reason, answer)

    def _redirect(self, item: _Item, answer: Response) -> None:
        item.attempts.append(_attempt(answer))
        item.redirects += 1
        if item.redirects > self.config.redirects:
            detail = f"more than {self.config.redirects}"
            self._finish(item, "too_many_redirects", detail=detail)
            return
        assert answer.location is not None
        try:
            target = str(item.url.join(URL(answer.location)))
        except (ValueError, TypeError, UnicodeError) as error:
            self._finish(item, "bad_url", detail=f"redirect: {error}")
            return
        self._aim(item, target, first=True)

    def _retry_or_give_up(self, item: _Item, host: Host, answer: Response) -> None:
        """Retry later, or give up: the url if its host works, else the host.

        Only no response, 429 and 503 count against the host: it pauses, for as long as its
        Retry-After asks or with a growing backoff. A url is tried ``retries`` + 1 times. If the
        host answered nothing else meanwhile, the url waits until the host has failed for
        ``host_patience_seconds``; then the host is given up with all its urls.
        """
        config, now = self.config, self._loop.time()
        item.attempts.append(_attempt(answer))
        item.tries += 1
        if item.failed_at is None:
            item.failed_at = now
        wait = backoff_seconds(config.backoff_seconds, config.longest_backoff_seconds, item.tries)
        asked = answer.retry_after_seconds
        speaks_for_host = answer.status in _HOST_FAILURES
        if speaks_for_host:
            host.failed(now, asked_at=now - answer.seconds)
            if asked is not None:
                host.pause(now + min(asked, config.longest_retry_after_seconds))
            elif host.failures > 1 or answer.reason == "rate_limited":
                first, longest = config.backoff_seconds, config.longest_backoff_seconds
                host.pause(now + backoff_seconds(first, longest, host.failures))
        else:
            host.answered(now)
        if answer.hopeless:
            self._give_up_host(item, host, answer, now + config.longest_backoff_seconds)
            return
        if asked is not None and asked > config.longest_retry_after_seconds:
            if speaks_for_host:
                self._give_up_host(item, host, answer, now + asked)
            else:
                self._end(item, answer.reason, answer)
            return
        if asked is not None:
            wait = max(wait, asked)
        if item.tries > config.retries:
            answered_since = host.answered_at >= item.failed_at
            failing_since = host.failing_since
            if answered_since or failing_since is None:
                self._end(item, answer.reason, answer)
                return
            if now - failing_since >= config.host_patience_seconds:
                self._give_up_host(item, host, answer, now + config.longest_backoff_seconds)
                return
        host.later(item, now + wait)
        self._queues.put(host)

    def _give_up_host(self, item: _Item, host: Host, answer: Response, until: float) -> None:
        assert answer.reason is not None
        host.close(until, answer.reason)
        self._end(item, answer.reason, answer)
        for other in host.take_all():
            self._finish(other, answer.reason, detail="the host was given up")

    def _finish(
        self, item: _Item, reason: str, *, detail: str = "", final_url: str | None = None
    ) -> None:
        """End an item for which no request was made."""
        url = final_url if final_url is not None else str(item.url)
        answer = Response(url, _host_name(url), reason=reason, detail=detail or None)
        item.attempts.append(_attempt(answer))
        self._end(item, reason, None)

    def _end(self, item: _Item, reason: str | None, answer: Response | None) -> None:
        last = item.attempts[-1]
        for attempt in item.attempts:
            attempt["url"] = item.asked
        self.waiting -= 1
        outcome = FetchResult(
            item.asked, reason, answer, item.attempts, last["final_url"], last["host"]
        )
        item.done(outcome)
        if outcome.reason is not None:
            self.counts.failed[outcome.reason] += 1
        elif answer is not None and answer.status == 304:
            self.counts.unchanged += 1
        else:
            self.counts.fetched += 1
            self.counts.bytes += len(answer.body) if answer is not None else 0

    # robots.txt ----------------------------------------------------------------------------------

    async def _learn_rules(self, item: _Item, host: Host) -> None:
        """Fetch the origin's rules and put the item back in front; end it if there are none."""
        origin = _origin(item.url)
        answers = await self._robots.ask(origin, TRANSIENT)
        host.next_at += host.interval_seconds * (len(answers) - 1)
        rules = self._robots.known(origin)
        if rules is None and answers[-1].reason in TRANSIENT:
            self._retry_or_give_up(item, host, answers[-1])
            return
        item.attempts += map(_attempt, answers)
        if rules is None:
            self._end(item, answers[-1].reason, answers[-1])
            return
        if await self._disallowed(rules, str(item.url), item) is None:
            host.delay_seconds = rules.delay_seconds  # for the first photograph too
        host.ready.appendleft(item)

    async def _disallowed(self, rules: robots.Rules, url: str, item: _Item) -> str | None:
        """None: allowed. Else why not: disallowed, or a Crawl-delay longer than we wait."""
        if item.matched is None or item.matched[:2] != (rules, url):
            match = asyncio.to_thread(rules.allow, url) if rules.long else None
            item.matched = (rules, url, rules.allow(url) if match is None else await match)
        if not item.matched[2]:
            return ""
        if rules.delay_seconds > self.config.longest_retry_after_seconds:
            return f": one request in {rules.delay_seconds:.0f} s, longer than we wait"
        return None


def _origin(url: URL) -> str:
    return f"{url.scheme}://{url.raw_authority}"


def _attempt(answer: Response) -> Attempt:
    return {
        "url": "",
        "final_url": answer.url,
        "status": answer.status,
        "reason": answer.reason,
        "detail": answer.detail and answer.detail.encode("utf-8", "backslashreplace").decode(),
        "bytes": answer.wire_bytes,
        "seconds": answer.seconds,
        "time": answer.time.replace(microsecond=answer.time.microsecond // 1000 * 1000),
        "host": answer.host,
    }


def _host_name(url: str) -> str | None:
    try:
        return URL(url).raw_host
    except ValueError:
        return None
