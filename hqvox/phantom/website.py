"""A phantom world as a web site on this machine, with the usual faults of the web.

Every identity has a page with its pictures. Some pictures have a transient fault (too many
requests, a broken connection), are slow or are redirected, and can be fetched all the same. Decoys
must not or cannot be fetched; each has the reason that a crawler should give. Faults and decoys
follow from the order of names and files alone.
"""

from __future__ import annotations

import csv
import html
import io
import shutil
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from urllib.parse import quote, unquote, urlsplit

HOST = "127.0.0.1"
CONNECTIONS = 64
"""Most connections that are served at a time; others wait, and are dropped after a while."""
WAIT_SECONDS = 10.0
"""How long a connection may be idle, or wait to be served."""
SLOW_SECONDS = 0.3
RETRY_AFTER_SECONDS = 1

DECOYS = {
    "gone": "http_client_error",  # 404
    "login": "not_an_image",  # a page with status 200 where a picture was promised
    "private": "robots_disallowed",  # robots.txt forbids it
    "reserved": "opted_out",  # X-Robots-Tag: noai
    "halved": "truncated",  # the body ends before its announced length
    "inside": "refused_address",  # leads to an address inside a network
}
"""Kinds of decoy, one per identity in turn, and the reason that a crawler should give."""
FAULTS = {"busy": 3, "broken_off": 7, "slow": 11, "moved": 5}
"""Transient faults, and the number of the picture (in its folder, from 0) that has each."""
BUSY_EVERY = 4
"""Of this many identities one has the fault ``busy``, since a crawler may then pause the host."""
URLS_COLUMNS = ("identity_id", "url", "page_url", "licence", "author", "title")
"""Columns of the list of urls."""
_LICENCES = ("CC0 1.0", "CC BY 4.0", "CC BY-SA 4.0")
_AUTHORS = ("Ilse Varga", "Tōru Brandt", "Ximena d'Aboville", "Kofi Lindqvist")
_ROBOTS = b"User-agent: *\nDisallow: /private/\n"
_INSIDE = "http://169.254.169.254/latest/meta-data/face.jpg"
_TYPES = {".jpg": "image/jpeg", ".png": "image/png"}


@dataclass(frozen=True)
class Listed:
    """A picture that the site's pages show."""

    identity: str
    """Name of the identity's folder."""
    path: str
    """Path of the url, percent-encoded, from the root."""
    file: str
    """File below the world's folder; of a decoy, the picture it pretends to be."""
    what: str
    """Transient fault or kind of decoy; "" for a plain picture."""


def listed(world: Path) -> Iterator[Listed]:
    """Yield every picture of the site: those of an identity in order, then its decoy."""
    folders = sorted(folder for folder in (world / "photos").iterdir() if folder.is_dir())
    for number, folder in enumerate(folders):
        files = sorted(file for file in folder.iterdir() if file.is_file())
        for place, file in enumerate(files):
            fault = next((what for what, at in FAULTS.items() if at == place), "")
            if fault == "busy" and number % BUSY_EVERY:
                fault = ""
            relative = f"photos/{folder.name}/{file.name}"
            yield Listed(folder.name, f"/{quote(relative)}", relative, fault)
        if files:
            kind = list(DECOYS)[number % len(DECOYS)]
            path = f"/{kind}/{quote(folder.name)}.jpg"
            yield Listed(folder.name, path, f"photos/{folder.name}/{files[0].name}", kind)


def urls_csv(world: Path, base_url: str) -> bytes:
    """The site's pictures as a list of urls, CSV with :data:`URLS_COLUMNS`, UTF-8.

    ``base_url``: of the site, without a slash at its end.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(URLS_COLUMNS)
    for number, picture in enumerate(listed(world)):
        writer.writerow(
            (
                picture.identity,
                base_url + picture.path,
                f"{base_url}/people/{quote(picture.identity)}.html",
                _LICENCES[number % len(_LICENCES)],
                _AUTHORS[number % len(_AUTHORS)],
                f"{picture.identity.replace('_', ' ')}, picture {number + 1}",
            )
        )
    return out.getvalue().encode()


def decoys(world: Path) -> dict[str, str]:
    """Return every decoy's path, as :func:`world_file` gives it, and the reason to expect."""
    return {
        world_file(picture.path): DECOYS[picture.what]
        for picture in listed(world)
        if picture.what in DECOYS
    }


def world_file(url: str) -> str:
    """Return the path of a url relative to the world's folder; for a decoy no file has it."""
    return unquote(urlsplit(url).path).removeprefix("/")


class Website:
    """Serves a world on the loopback address; use as a context manager."""

    def __init__(self, world: Path, port: int = 0) -> None:
        """``port``: 0 takes a free one. Raises OSError where the port is taken."""
        self.world = world
        self.requests: Counter[str] = Counter()
        """Number of requests for each decoded path, robots.txt and pages included."""
        # Clients encode urls differently, so paths are compared decoded.
        self._pictures = {unquote(picture.path): picture for picture in listed(world)}
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(CONNECTIONS)
        self._server = _Server((HOST, port), self)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )

    @property
    def port(self) -> int:
        """The port it serves on."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """Address of the site, without a slash at its end."""
        return f"http://{HOST}:{self.port}"

    def __enter__(self) -> Website:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def count(self, path: str) -> int:
        """Count a request; return its number among those of its path, from 1."""
        with self._lock:
            self.requests[path] += 1
            return self.requests[path]

    def page(self, path: str) -> bytes | None:
        """The front page, or an identity's page with its pictures, or None."""
        if path == "/":
            names = dict.fromkeys(picture.identity for picture in self._pictures.values())
            links = (
                f'<li><a href="/people/{quote(n)}.html">{html.escape(n)}</a></li>' for n in names
            )
            return _html("People who do not exist", f"<ul>{''.join(links)}</ul>")
        if not path.startswith("/people/"):
            return None
        name = unquote(path.removeprefix("/people/").removesuffix(".html"))
        pictures = [p for p in self._pictures.values() if p.identity == name]
        images = "".join(f'<img src="{html.escape(p.path)}" height="160">' for p in pictures)
        return _html(name.replace("_", " "), images) if pictures else None

    def picture(self, path: str) -> Listed | None:
        """The picture at a path, or None."""
        return self._pictures.get(unquote(path))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], site: Website) -> None:
        self.site = site
        super().__init__(address, _Handler)

    def verify_request(self, request: object, client_address: object) -> bool:
        return self.site._slots.acquire(timeout=WAIT_SECONDS)

    def process_request_thread(self, request: object, client_address: object) -> None:
        try:
            super().process_request_thread(request, client_address)  # type: ignore[arg-type]
        finally:
            self.site._slots.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that close their connection early."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = WAIT_SECONDS
    server: _Server

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        nth = self.server.site.count(unquote(path))
        if path == "/robots.txt":
            self._answer(_ROBOTS, "text/plain")
            return
        page = self.server.site.page(path)
        if page is not None:
            self._answer(page, "text/html; charset=utf-8")
            return
        elsewhere = path.startswith("/moved/")
        picture = self.server.site.picture(path.removeprefix("/moved"))
        if picture is None or picture.what == "gone":
            self._answer(_html("Not found", ""), "text/html; charset=utf-8", HTTPStatus.NOT_FOUND)
            return
        self._picture(picture, "" if elsewhere else picture.what, nth)

    def _picture(self, picture: Listed, what: str, nth: int) -> None:
        data = (self.server.site.world / picture.file).read_bytes()
        kind = _TYPES.get(Path(picture.file).suffix, "application/octet-stream")
        match what:
            case "busy" if nth == 1:
                wait = {"Retry-After": str(RETRY_AFTER_SECONDS)}
                self._answer(b"", "text/plain", HTTPStatus.TOO_MANY_REQUESTS, wait)
            case "broken_off" if nth == 1:
                self._answer(data, kind, send=len(data) // 2)
                # With a linger time of 0, closing discards unsent data and sends a reset.
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.close_connection = True
            case "slow":
                time.sleep(SLOW_SECONDS)
                self._answer(data, kind)
            case "moved":
                to = {"Location": f"/moved{picture.path}"}
                self._answer(b"", kind, HTTPStatus.FOUND, to)
            case "login":
                self._answer(_html("Please log in", ""), "text/html; charset=utf-8")
            case "reserved":
                self._answer(data, kind, headers={"X-Robots-Tag": "noai, noimageai"})
            case "halved":
                self._answer(data, kind, send=len(data) // 2)
                self.close_connection = True
            case "inside":
                self._answer(b"", kind, HTTPStatus.FOUND, {"Location": _INSIDE})
            case _:
                self._answer(data, kind)

    def _answer(
        self,
        body: bytes,
        kind: str,
        status: HTTPStatus = HTTPStatus.OK,
        headers: dict[str, str] | None = None,
        send: int | None = None,
    ) -> None:
        """Send an answer; ``send``: how many bytes of the announced body, by default all."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        shutil.copyfileobj(io.BytesIO(body[:send]), self.wfile)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing; the crawl records its results."""


def _html(title: str, body: str) -> bytes:
    text = html.escape(title)
    return (
        f"<!DOCTYPE html>\n<html><head><title>{text}</title></head>"
        f"<body><h1>{text}</h1>{body}</body></html>\n"
    ).encode()
