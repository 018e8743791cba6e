"""One request and its response: limits on the body while it streams in, failures by name."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ipaddress
import socket
import ssl
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType

import aiohttp
from aiohttp import http_exceptions
from yarl import URL

import hqvox
from hqvox.config.build import DownloadConfig
from hqvox.errors import HqvoxError
from pipelines.fetch import reservations
from pipelines.fetch.guard import Guard, GuardedResolver, Lookup, RefusedUrlError, system_lookup
from pipelines.fetch.headers import retry_after_seconds
from pipelines.fetch.reservations import is_reserved

AGENT = "hqvox"
"""Our name in robots.txt and X-Robots-Tag."""
ACCEPT = "image/jpeg,image/png,image/webp,image/avif,image/*;q=0.8"
_DECODED = ("gzip", "x-gzip", "deflate")
_REDIRECTS = (301, 302, 303, 307, 308)
_HEADER_BYTES = 32_768
_ERROR_PAGE_BYTES = 16_384
_NO_SUCH_NAME = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))


def user_agent(contact: str) -> str:
    """The User-Agent header: our name and the contact. Raises HqvoxError without a contact."""
    if not contact.strip():
        raise HqvoxError(
            "a crawl says to every server who it is: set download.contact in hqvox.yaml to an "
            "e-mail address or a page about you, or give --set download.contact=you@example.org"
        )
    if not contact.isprintable() or not contact.isascii():
        raise HqvoxError(f"download.contact {contact!r}: must be one line of plain ASCII")
    return f"{AGENT}/{hqvox.__version__} (+{contact.strip()})"


@dataclass(slots=True)
class Response:
    """The result of one request."""

    url: str
    host: str | None
    status: int | None = None
    reason: str | None = None
    """None: there is a body, a redirect, or status 304 to a conditional request."""
    detail: str | None = None
    location: str | None = None
    retry_after_seconds: float | None = None
    robots_tags: tuple[str, ...] = ()
    tdm_reserved: bool = False
    """The header says that rights are reserved."""
    etag: str | None = None
    last_modified: str | None = None
    body: bytes = b""
    sha256: str = ""
    wire_bytes: int = 0
    hopeless: bool = False
    """The host name does not exist: retrying soon is no use."""
    taken_bytes: int = 0
    """Bytes taken from the budget; the caller returns them."""
    seconds: float = 0.0
    time: datetime = field(default_factory=lambda: datetime.now(UTC))


class _BodyError(Exception):
    """``reason``, and why."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class ByteBudget:
    """Limit on the bytes of all bodies in memory.

    One download at a time may exceed it, so that a full budget never stops all of them. The
    maximum is the limit plus one body.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._beyond: object | None = None
        self._freed = asyncio.Event()

    async def take(self, holder: object, size: int) -> None:
        """Take ``size`` bytes for ``holder``; wait until they are free."""
        while self.used + size > self.limit and self._beyond not in (None, holder):
            self._freed.clear()
            await self._freed.wait()
        if self.used + size > self.limit:
            self._beyond = holder
        self.used += size

    def give_back(self, holder: object, size: int) -> None:
        """Return the bytes that ``holder`` took."""
        self.used -= size
        if self._beyond is holder:
            self._beyond = None
        self._freed.set()


class Client:
    """A session: shared connections, no cookies, no proxies; redirects are not followed."""

    def __init__(self, config: DownloadConfig, lookup: Lookup = system_lookup) -> None:
        """``lookup``: resolves host names. Raises HqvoxError without ``download.contact``."""
        self.config = config
        self.guard = Guard(config.allow_hosts)
        self.budget = ByteBudget(config.memory_mb * 1_000_000)
        self.requests = 0
        """Requests sent so far, including those for robots.txt."""
        self._agent = user_agent(config.contact)
        self._lookup = lookup

    async def __aenter__(self) -> Client:
        config = self.config
        self._resolver = GuardedResolver(self.guard, self._lookup)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,  # the engine counts connections, over all hosts and to each
                resolver=self._resolver,
                use_dns_cache=False,  # the resolver keeps checked answers itself
                enable_cleanup_closed=False,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={
                "User-Agent": self._agent,
                "Accept": ACCEPT,
                "Accept-Encoding": "identity",
            },
            timeout=aiohttp.ClientTimeout(
                total=config.total_seconds,
                sock_connect=config.connect_seconds,
                sock_read=config.read_seconds,
            ),
            auto_decompress=False,
            trust_env=False,
            max_line_size=_HEADER_BYTES,
            max_field_size=_HEADER_BYTES,
            read_bufsize=1 << 18,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def address_of(self, url: URL) -> str:
        """The lowest of a host's addresses; empty where it has none that may be requested."""
        host, port = url.raw_host or "", url.port or 0
        try:
            return str(ipaddress.ip_address(host))
        except ValueError:
            pass
        try:
            return min(result["host"] for result in await self._resolver.resolve(host, port))
        except (OSError, ValueError, RefusedUrlError):
            return ""

    async def ask(
        self,
        url: URL,
        max_bytes: int,
        headers: Mapping[str, str] | None = None,
        cut: bool = False,
    ) -> Response:
        """Request a url that the guard allowed, once. Network errors become reasons.

        ``max_bytes``: limit of the body, both as sent and decompressed. ``cut``: a longer body is
        cut there instead of refused. The body's bytes are taken from ``budget``; the caller
        returns ``taken_bytes`` with the answer as holder.
        """
        answer = Response(str(url), url.raw_host)
        started = time.monotonic()
        self.requests += 1
        try:
            async with self._session.get(url, headers=headers, allow_redirects=False) as response:
                answer.status = response.status
                self._read_headers(answer, response)
                if answer.reason is None and response.status in (200, 203):
                    await self._read_body(answer, response, max_bytes, cut)
                else:
                    await _drop_body(response)
        except _BodyError as error:
            answer.reason, answer.detail = error.reason, str(error)
        except RefusedUrlError as error:
            answer.reason, answer.detail = error.reason, str(error)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            answer.reason, answer.detail = reason_of(error), _short(error)
            cause = getattr(error, "os_error", None)
            answer.hopeless = isinstance(cause, socket.gaierror) and cause.errno in _NO_SUCH_NAME
        if answer.reason is not None:
            answer.body = b""
        answer.seconds = time.monotonic() - started
        return answer

    def _read_headers(self, answer: Response, response: aiohttp.ClientResponse) -> None:
        headers, status = response.headers, response.status
        answer.robots_tags = tuple(headers.getall("X-Robots-Tag", ()))
        answer.tdm_reserved = is_reserved(headers.get(reservations.HEADER))
        answer.etag = _bounded(headers.get("ETag"))
        answer.last_modified = _bounded(headers.get("Last-Modified"))
        asked, now = headers.get("Retry-After"), headers.get("Date")
        answer.retry_after_seconds = retry_after_seconds(asked, now)
        if status in _REDIRECTS:
            answer.location = headers.get("Location")
            if answer.location is None:
                answer.reason, answer.detail = "malformed_response", "a redirect without Location"
        elif status == 429:
            answer.reason = "rate_limited"
        elif status == 408:
            answer.reason = "timed_out"
        elif 400 <= status < 500:
            answer.reason = "http_client_error"
        elif status >= 500:
            answer.reason = "http_server_error"
        elif status not in (200, 203, 304):
            answer.reason = "malformed_response"
            answer.detail = f"status {status} does not bring a photo"

    async def _read_body(
        self, answer: Response, response: aiohttp.ClientResponse, max_bytes: int, cut: bool
    ) -> None:
        announced = response.content_length
        if announced is not None and announced > max_bytes and not cut:
            raise _BodyError("too_large", f"{announced} bytes announced, at most {max_bytes}")
        coding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if coding not in ("identity", "", *_DECODED):
            raise _BodyError("unsupported_encoding", f"Content-Encoding {coding[:40]}, not asked")
        inflate = _Inflater() if coding in _DECODED else None
        window_at, window_bytes = time.monotonic(), 0
        digest, chunks, size, over = hashlib.sha256(), [], 0, False
        async for chunk in response.content.iter_any():
            answer.wire_bytes += len(chunk)
            window_bytes += len(chunk)
            data = chunk if inflate is None else inflate(chunk, max_bytes - size)
            size += len(data)
            over = size > max_bytes or answer.wire_bytes > max_bytes
            if over and not cut:
                raise _BodyError("too_large", f"more than {max_bytes} bytes")
            await self.budget.take(answer, len(data))
            answer.taken_bytes += len(data)
            digest.update(data)
            chunks.append(data)
            elapsed = time.monotonic() - window_at
            if elapsed > self.config.slow_seconds:
                rate = window_bytes / elapsed
                if rate < self.config.slowest_bytes_per_second:
                    raise _BodyError("too_slow", f"{rate:.0f} bytes a second")
                window_at, window_bytes = time.monotonic(), 0
            if over or (inflate is not None and inflate.complete and inflate.excess):
                response.close()  # too long, or bytes after the end of the compressed data
                break
        if inflate is not None and not inflate.complete and not over:
            raise _BodyError("truncated", f"{coding} data ends early")
        answer.body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        answer.sha256 = digest.hexdigest()


class _Inflater:
    """Decompresses gzip or deflate; returns at most one byte more than allowed."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(zlib.MAX_WBITS | 32)

    @property
    def complete(self) -> bool:
        return self._stream.eof

    @property
    def excess(self) -> bool:
        """Whether there were bytes after the end of the compressed data."""
        return bool(self._stream.unused_data)

    def __call__(self, chunk: bytes, room: int) -> bytes:
        try:
            return self._stream.decompress(chunk, room + 1)
        except zlib.error as error:
            raise _BodyError("malformed_response", str(error)) from None


async def _drop_body(response: aiohttp.ClientResponse) -> None:
    """Read and drop a short body, so that the connection can be reused; else close it."""
    length = response.content_length
    if length is not None and length <= _ERROR_PAGE_BYTES:
        with contextlib.suppress(aiohttp.ClientError, OSError):
            await response.read()  # if this fails, the connection is closed too
            return
    response.close()


def reason_of(error: BaseException) -> str:
    """The reason for an exception of a request."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, http_exceptions.TransferEncodingError):
            return "malformed_response"
        seen = seen.__cause__ or seen.__context__
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return "tls_error"
    if isinstance(error, TimeoutError):
        return "timed_out"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "dns_failed"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "truncated"
    if isinstance(error, aiohttp.InvalidURL):
        return "bad_url"
    if isinstance(error, aiohttp.ClientConnectionError | OSError):
        return "connection_failed"
    return "malformed_response"


def _bounded(value: str | None) -> str | None:
    """The header's value if it is short enough to be stored and sent back."""
    return value if value is not None and len(value) <= 256 and value.isprintable() else None


def _short(error: BaseException) -> str:
    name = "time-out" if isinstance(error, asyncio.TimeoutError) else type(error).__name__
    text = " ".join(str(error).split())[:200]
    return f"{name}: {text}" if text else name
