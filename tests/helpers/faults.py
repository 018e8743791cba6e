"""What goes wrong on the web: faulty servers on the loopback address, and what a crawl makes of it.

Used by the tests of the crawl and by ``benchmarks/faults.py``, which prints :func:`table`.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import socket
import struct
import zlib
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

from PIL import Image

from hqvox.workspace.layout import Workspace
from tests.helpers.crawl_site import (
    Handler,
    Request,
    Site,
    answer,
    build,
    in_turn,
    make,
    picture,
    rows,
)

PHOTO = picture()
SIZE = len(PHOTO)
FETCHED = "fetched"
"""What the table says where there is no reason."""


@dataclass(frozen=True)
class Fault:
    """A faulty answer, what it is in words, and what must come of it."""

    what: str
    route: bytes | Handler
    reasons: str | frozenset[str | None] | None
    """The photo's reason; None: it is fetched. A set where the moment decides."""
    least: int = 1
    most: int = 1
    """Bounds of how often its path is requested."""

    @property
    def expected(self) -> frozenset[str | None]:
        """The reasons that may come of it."""
        return self.reasons if isinstance(self.reasons, frozenset) else frozenset({self.reasons})


async def reset_midway(request: Request, writer: asyncio.StreamWriter) -> None:
    """Half the body, then a reset."""
    writer.write(answer(200, PHOTO[: SIZE // 2], length=SIZE))
    await writer.drain()
    await asyncio.sleep(0.05)
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()


async def reset_once(request: Request, writer: asyncio.StreamWriter) -> None:
    if request.number == 0:
        await reset_midway(request, writer)
    else:
        writer.write(answer(200, PHOTO))


async def drip(request: Request, writer: asyncio.StreamWriter) -> None:
    """A few bytes at a time, never long silent."""
    writer.write(answer(200, b"", length=SIZE))
    for n in range(0, SIZE, 4):
        writer.write(PHOTO[n : n + 4])
        await writer.drain()
        await asyncio.sleep(0.05)


async def drip_headers(request: Request, writer: asyncio.StreamWriter) -> None:
    """A header line now and then, never long silent."""
    writer.write(b"HTTP/1.1 200 OK\r\n")
    for n in range(1000):
        writer.write(b"X-%d: 1\r\n" % n)
        await writer.drain()
        await asyncio.sleep(0.2)


async def fall_silent(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(answer(200, PHOTO[:100], length=SIZE))
    await writer.drain()
    await asyncio.sleep(30)


async def say_nothing(request: Request, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(30)


async def hang_up_early(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(answer(200, PHOTO[:-100], length=SIZE))
    await writer.drain()
    writer.close()


async def stop_within_chunks(request: Request, writer: asyncio.StreamWriter) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    writer.write(head + b"400\r\n" + PHOTO[:1024] + b"\r\n")
    await writer.drain()
    writer.close()


EMPTY_BLOCKS = b"\x00\x00\x00\xff\xff" * 4096
"""Blocks of deflate that decompress to nothing."""
SENT: Counter[str] = Counter()
"""Bytes that the endless routes wrote."""


def endless(start: bytes, more: bytes, limit: int = 60_000_000) -> Handler:
    """A gzip body that goes on until the client hangs up, or after ``limit`` bytes."""
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n"

    async def send(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(head + start)
        while SENT[request.path] < limit:
            writer.write(more)
            await writer.drain()
            SENT[request.path] += len(more)
        writer.close()

    return send


def chunked(body: bytes, sizes: str = "%x") -> bytes:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + (sizes % len(body)).encode() + b"\r\n" + body + b"\r\n0\r\n\r\n"


def one_colour(side: int) -> bytes:
    """A PNG of side × side pixels in a few kilobytes."""
    sink = io.BytesIO()
    Image.new("1", (side, side)).save(sink, "PNG", optimize=True)
    return sink.getvalue()


def announcing(side: int) -> bytes:
    """A PNG whose header announces side × side pixels, without the data."""
    data = bytearray(picture(kind="PNG"))
    data[16:24] = side.to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


def heic() -> bytes:
    return struct.pack(">I", 24) + b"ftypheic" + bytes(4) + b"mif1heic" + bytes(100)


def to(place: str, status: int = 302) -> bytes:
    return answer(status, b"", f"Location: {place}")


def zipped(body: bytes) -> bytes:
    return answer(200, body, "Content-Encoding: gzip")


def either(*reasons: str | None) -> frozenset[str | None]:
    return frozenset(reasons)


HTML = b"<!doctype html><html><body>Please log in</body></html>"
SVG = b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
ODD_CODING = answer(200, PHOTO, "Content-Encoding: ODD").replace(b"ODD", b"\xff\xfe\xe9")
ODD_PLACE = answer(302, b"", "Location: http://ODD/").replace(b"ODD", b"\xff\xfe\xe9")
"""Headers in bytes that are no UTF-8."""
BOMB = gzip.compress(bytes(20_000_000))
SOON = format_datetime(datetime.now(UTC) + timedelta(seconds=1), usegmt=True)
BUSY_FOR = answer(429, b"", "Retry-After: 1")
BUSY_UNTIL = answer(503, b"", f"Retry-After: {SOON}")
XMP = b"<plus:DataMining>http://ns.useplus.org/ldf/vocab/DMI-PROHIBITED</plus:DataMining>"

FAULTS = {
    "/good": Fault("none", answer(200, PHOTO), None),
    "/chunked": Fault("body in chunks", chunked(PHOTO), None),
    "/zipped": Fault("body compressed with gzip", zipped(gzip.compress(PHOTO)), None),
    "/reset-always": Fault(
        "connection reset midway", reset_midway, either("connection_failed", "truncated"), 3, 9
    ),
    "/reset-once": Fault("connection reset midway, once", reset_once, None, 2, 2),
    "/drip": Fault("a few bytes at a time", drip, "too_slow", 3, 3),
    "/slow-headers": Fault("headers line by line, without end", drip_headers, "timed_out", 3, 3),
    "/silent": Fault("silence after the first bytes", fall_silent, "timed_out", 3, 3),
    "/no-answer": Fault("no answer at all", say_nothing, "timed_out", 3, 3),
    "/short": Fault("connection closed early", hang_up_early, "truncated", 3, 3),
    "/short-chunks": Fault(
        "connection closed within chunks",
        stop_within_chunks,
        either("truncated", "malformed_response"),
        3,
        3,
    ),
    "/bad-chunks": Fault(
        "sizes of chunks that are none", chunked(PHOTO, "zz%x"), "malformed_response", 3, 9
    ),
    # What comes too much may arrive apart from the rest, and is then not even seen.
    "/longer": Fault(
        "more bytes than announced",
        answer(200, PHOTO + b"and more" * 50, length=SIZE),
        either(None, "malformed_response"),
        1,
        9,
    ),
    "/wrong-type": Fault(
        "photograph as text/html", answer(200, PHOTO, "Content-Type: text/html"), None
    ),
    "/html": Fault(
        "web page as image/jpeg", answer(200, HTML, "Content-Type: image/jpeg"), "not_an_image"
    ),
    "/empty": Fault("empty body", answer(200, b""), "empty_file"),
    "/huge-header": Fault(
        "header of 1 MB",
        answer(200, PHOTO, "X-Large: " + "x" * 1_000_000),
        "malformed_response",
        3,
        9,
    ),
    "/odd-coding": Fault("Content-Encoding in odd bytes", ODD_CODING, "unsupported_encoding"),
    "/odd-place": Fault("Location in odd bytes", ODD_PLACE, "bad_url"),
    "/loop": Fault("redirects in a circle", to("/loop"), "too_many_redirects", 6, 6),
    "/nowhere": Fault("redirect without Location", answer(302), "malformed_response", 3, 3),
    "/moved": Fault("redirect to the photograph", to("/good?moved"), None),
    "/good?moved": Fault("target of that redirect", answer(200, PHOTO), None, 1, 2),
    "/to-private": Fault("redirect to 10.0.0.1", to("http://10.0.0.1/a.jpg"), "refused_address"),
    "/to-metadata": Fault(
        "redirect to a cloud's metadata", to("http://169.254.169.254/latest/"), "refused_address"
    ),
    "/to-mapped": Fault(
        "redirect to IPv4 within IPv6", to("http://[::ffff:7f00:1]/a.jpg"), "refused_address"
    ),
    "/to-loopback": Fault(
        "redirect to this machine", to("http://127.0.0.1:1/a.jpg"), "refused_address"
    ),
    "/to-short-form": Fault(
        "redirect to 127.1", to("http://127.1:1/a.jpg"), either("bad_url", "refused_address")
    ),
    "/to-file": Fault("redirect to a file", to("file:///etc/passwd"), "bad_url"),
    "/to-credentials": Fault(
        "redirect with a password", to("http://me:secret@127.0.0.1/a.jpg"), "bad_url"
    ),
    "/bomb": Fault("20 MB in 20 kB of gzip, limit 1 MB", zipped(BOMB), "too_large"),
    "/gzip-then-junk": Fault(
        "gzip, then junk without end", endless(gzip.compress(PHOTO), b"junk" * 5000), None
    ),
    "/empty-blocks": Fault(
        "gzip of empty blocks without end",
        endless(gzip.compress(b"")[:10], EMPTY_BLOCKS),
        "too_large",
    ),
    "/bad-gzip": Fault("gzip that is none", zipped(PHOTO), "malformed_response", 3, 3),
    "/half-gzip": Fault("gzip cut off", zipped(gzip.compress(PHOTO)[:-500]), "truncated", 3, 3),
    "/brotli": Fault(
        "Content-Encoding not asked for",
        answer(200, PHOTO, "Content-Encoding: br"),
        "unsupported_encoding",
    ),
    "/announced-large": Fault("1 GB announced", answer(200, b"", length=10**9), "too_large"),
    "/streamed-large": Fault("2 MB unannounced", chunked(bytes(2_000_000)), "too_large"),
    "/busy": Fault("429, once", in_turn(answer(429), answer(200, PHOTO)), None, 2, 2),
    "/busy-for": Fault(
        "429 with Retry-After in seconds", in_turn(BUSY_FOR, answer(200, PHOTO)), None, 2, 2
    ),
    "/busy-until": Fault(
        "503 with Retry-After as a date", in_turn(BUSY_UNTIL, answer(200, PHOTO)), None, 2, 2
    ),
    "/down-once": Fault("500, once", in_turn(answer(500), answer(200, PHOTO)), None, 2, 2),
    "/down": Fault("500, always", answer(500), "http_server_error", 3, 3),
    "/down-for": Fault(
        "500 with Retry-After: 99999", answer(500, b"", "Retry-After: 99999"), "http_server_error"
    ),
    "/gone": Fault("410", answer(410), "http_client_error"),
    "/not-modified": Fault("304 to a first request", answer(304), "malformed_response", 3, 3),
    "/bad-header": Fault(
        "malformed status line", b"HTTP/1.1 2OO OK\r\n\r\n", "malformed_response", 3, 9
    ),
    "/not-http": Fault(
        "another protocol", b"220 mail.example ESMTP\r\n\r\n", "malformed_response", 3, 9
    ),
    "/sets-cookie": Fault("a cookie", answer(200, PHOTO, "Set-Cookie: track=me; Path=/"), None),
    "/noai": Fault("X-Robots-Tag: noai", answer(200, PHOTO, "X-Robots-Tag: noai"), "opted_out"),
    "/noindex-us": Fault(
        "X-Robots-Tag: hqvox: noindex",
        answer(200, PHOTO, "X-Robots-Tag: hqvox: noindex"),
        "opted_out",
    ),
    "/noindex-them": Fault(
        "X-Robots-Tag: otherbot: noindex",
        answer(200, PHOTO, "X-Robots-Tag: otherbot: noindex"),
        None,
    ),
    "/tdm-header": Fault(
        "tdm-reservation: 1", answer(200, PHOTO, "tdm-reservation: 1"), "rights_reserved"
    ),
    "/tdm-picture": Fault(
        "XMP that prohibits mining",
        answer(200, PHOTO[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(XMP)) + XMP + PHOTO[2:]),
        "rights_reserved",
    ),
    "/reserved/1": Fault(
        "tdmrep.json reserves the path", answer(200, PHOTO), "rights_reserved", 0, 0
    ),
    "/forbidden/1": Fault(
        "robots.txt disallows the path", answer(200, PHOTO), "robots_disallowed", 0, 0
    ),
    "/one-colour": Fault("a million pixels in 300 bytes", answer(200, one_colour(1000)), None),
    "/too-many-pixels": Fault(
        "900 million pixels announced", answer(200, announcing(30_000)), "too_large"
    ),
    "/svg": Fault("SVG", answer(200, SVG), "unsupported_type"),
    "/ico": Fault("ICO", answer(200, b"\0\0\1\0\1\0" + bytes(200)), "unsupported_type"),
    "/heic": Fault("HEIC", answer(200, heic()), "unsupported_type"),
    "/avif": Fault("AVIF", answer(200, picture(kind="AVIF")), None),
}
"""By path on one host."""

ADDRESSES = {
    "ftp://a.example/1.jpg": ("ftp:", "bad_url"),
    "http://u:p@a.example/2.jpg": ("credentials in the address", "bad_url"),
    "http:///1.jpg": ("no host", "bad_url"),
    "http://a.example:99999/1.jpg": ("port 99999", "bad_url"),
    "http://192.168.1.1/1.jpg": ("private IPv4 address", "refused_address"),
    "http://[fe80::1]/1.jpg": ("link-local IPv6 address", "refused_address"),
    "http://[64:ff9b::a00:1]/1.jpg": ("private address within NAT64", "refused_address"),
    "http://2130706433/1.jpg": ("this machine as one number", "bad_url"),
    "http://name.invalid/1.jpg": ("name that does not exist", "dns_failed"),
    "http://a.example/" + "x" * 5000: ("address of 5,000 characters", "bad_url"),
}
"""Addresses, what is wrong with each, and its reason."""

NO_RULES = answer(200, b"User-agent: *\nDisallow: /\n", "Content-Encoding: br")
SILENT_RULES = b"User-agent: *\nCrawl-delay: 100000\n"
LONG_RULES = b"User-agent: *\n" + b"".join(b"Disallow: /*/%d/*.gif$\n" % n for n in range(20_000))
ROBOTS = {
    "down": Fault("500", answer(500), "http_server_error", 0, 0),
    "missing": Fault("404", answer(404), None),
    "binary": Fault("binary", answer(200, bytes(range(256))), "robots_disallowed", 0, 0),
    "utf-16": Fault(
        "UTF-16",
        answer(200, "User-agent: *\nAllow: /\n".encode("utf-16")),
        "robots_disallowed",
        0,
        0,
    ),
    "coded": Fault("Content-Encoding not asked for", NO_RULES, "unsupported_encoding", 0, 0),
    "delay": Fault("Crawl-delay: 100000", answer(200, SILENT_RULES), "robots_disallowed", 0, 0),
    "long": Fault("half a megabyte of patterns", answer(200, LONG_RULES), None),
    "loop": Fault("redirects in a circle", to("/robots.txt"), None),
}
"""robots.txt of hosts that have one photograph each."""

OTHERS = {
    "host closed for a while": (FETCHED, "test_a_host_that_dies_for_a_while_is_waited_for"),
    "host closed": ("`connection_failed`", "test_a_host_that_stays_dead_is_given_up"),
    "certificate that does not hold": (
        "`tls_error`",
        "test_a_certificate_that_does_not_hold_is_refused",
    ),
    "429 with Retry-After: 3600": (
        "`rate_limited`, the whole host",
        "test_a_retry_after_that_is_too_long_gives_the_host_up",
    ),
}
"""Faults with tests of their own."""


@dataclass(frozen=True)
class Outcome:
    """What came of a fault."""

    reason: str | None
    requests: int


def crawl(folder: Path) -> tuple[Workspace, Site, dict[str, Outcome]]:
    """Crawl all of it from servers of this machine; outcomes by path, address or ``robots: key``.

    ``folder``: for the workspace.
    """
    SENT.clear()
    routes: dict[str, bytes | Handler] = {path: fault.route for path, fault in FAULTS.items()}
    routes["/robots.txt"] = answer(200, b"User-agent: *\nDisallow: /forbidden/\n")
    routes["/.well-known/tdmrep.json"] = answer(
        200, b'[{"location": "/reserved/*", "tdm-reservation": 1}]'
    )
    with ExitStack() as stack:
        site = stack.enter_context(Site(routes))
        hosts = {
            key: stack.enter_context(
                Site({"/1.jpg": answer(200, PHOTO), "/robots.txt": fault.route})
            )
            for key, fault in ROBOTS.items()
        }
        places = {path: (site.url(path), site, path) for path in FAULTS}
        places |= {f"robots: {key}": (h.url("/1.jpg"), h, "/1.jpg") for key, h in hosts.items()}
        urls = [*(url for url, _, _ in places.values()), *ADDRESSES]
        workspace = make(
            folder / "w",
            [("a", url) for url in urls],
            allow_hosts=[site.host, *(host.host for host in hosts.values())],
            max_bytes=1_000_000,
            slow_seconds=0.4,
            slowest_bytes_per_second=500,
            # Long enough for a busy machine: a host that answers is not to time out.
            connect_seconds=10.0,
            read_seconds=2.5,
            total_seconds=8.0,
            host_patience_seconds=10.0,
        )
        result = build(workspace)
        assert not result.failed, result.failed
    reason_of = {row["url"]: row["reason"] for row in rows(workspace)}
    outcomes = {
        key: Outcome(reason_of[url], asked_site.asked()[path])
        for key, (url, asked_site, path) in places.items()
    }
    outcomes |= {url: Outcome(reason_of[url], 0) for url in ADDRESSES}
    return workspace, site, outcomes


def wrong(outcomes: dict[str, Outcome]) -> list[str]:
    """A line for each outcome that is not as expected."""
    lines = []
    faults = FAULTS | {f"robots: {key}": fault for key, fault in ROBOTS.items()}
    for key, fault in faults.items():
        outcome = outcomes[key]
        if outcome.reason not in fault.expected:
            lines.append(f"{key}: {outcome.reason or FETCHED}, not {_words(fault.expected)}")
        if not fault.least <= outcome.requests <= fault.most:
            lines.append(f"{key}: {outcome.requests} requests, not {_count(fault)}")
    for url, (_, reason) in ADDRESSES.items():
        if outcomes[url].reason != reason:
            lines.append(f"{url}: {outcomes[url].reason or FETCHED}, not {reason}")
    return lines


def table() -> str:
    """Fault, what happens, requests, and the test, as Markdown."""
    lines = ["| fault | what happens | requests | test |", "|---|---|---:|---|"]
    for path, fault in FAULTS.items():
        test = f"test_a_fault_has_its_reason[{path}]"
        lines.append(_line(fault.what, _words(fault.expected), _count(fault), test))
    for key, fault in ROBOTS.items():
        test = f"test_a_faulty_robots_txt_has_its_reason[{key}]"
        lines.append(
            _line(f"robots.txt: {fault.what}", _words(fault.expected), _count(fault), test)
        )
    for number, (what, reason) in enumerate(ADDRESSES.values()):
        lines.append(_line(what, f"`{reason}`", "0", f"test_an_address_is_refused[{number}]"))
    for what, (outcome, test) in OTHERS.items():
        lines.append(_line(what, outcome, "", test))
    return "\n".join(lines) + "\n"


def _line(what: str, outcome: str, requests: str, test: str) -> str:
    return f"| {what} | {outcome} | {requests} | `{test}` |"


def _words(reasons: Iterable[str | None]) -> str:
    return " or ".join(sorted(FETCHED if reason is None else f"`{reason}`" for reason in reasons))


def _count(fault: Fault) -> str:
    return str(fault.least) if fault.least == fault.most else f"{fault.least} to {fault.most}"
