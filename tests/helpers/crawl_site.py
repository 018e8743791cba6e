"""A server that answers byte for byte what a test tells it to, and builds that crawl it."""

from __future__ import annotations

import asyncio
import csv
import io
import ssl
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from hqvox.runner.build import BuildResult, plan_build, run_build
from hqvox.workspace import identities
from hqvox.workspace.layout import Workspace
from hqvox.workspace.tables import Row
from models.store import ModelStore

QUICK = {
    "contact": "test@example.org",
    "host_connections": 8,
    "host_requests_per_second": 1000.0,
    "backoff_seconds": 0.02,
    "longest_backoff_seconds": 0.2,
    "host_patience_seconds": 0.3,
    "retries": 2,
    "connect_seconds": 2.0,
    "read_seconds": 1.0,
    "total_seconds": 5.0,
}
"""Settings of a crawl that gives up within a second."""


RULES = ("/robots.txt", "/.well-known/tdmrep.json")
"""Paths of files that say what may be requested."""


@dataclass
class Request:
    """What a client asked for."""

    path: str
    headers: dict[str, str]
    number: int
    """How often this path was asked for before."""


Handler = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Site:
    """Routes by path; use as a context manager. Paths without a route answer 404."""

    routes: dict[str, bytes | Handler] = field(default_factory=dict)
    tls: ssl.SSLContext | None = None
    requests: list[Request] = field(default_factory=list)
    port: int = 0

    def __enter__(self) -> Site:
        ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(10)
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def url(self, path: str) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}{path}"

    def asked(self) -> Counter[str]:
        """How often each path was asked for, but for files of rules."""
        return Counter(r.path for r in self.requests if r.path not in RULES)

    def _serve(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._main(ready))
        self._loop.close()

    async def _main(self, ready: threading.Event) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._client, "127.0.0.1", self.port, ssl=self.tls)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await self._stop.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                first, *lines = head.split("\r\n")
                path = first.split(" ")[1]
                pairs = [line.split(":", 1) for line in lines if ":" in line]
                headers = {k.strip().lower(): v.strip() for k, v in pairs}
                request = Request(path, headers, sum(r.path == path for r in self.requests))
                self.requests.append(request)
                route = self.routes.get(path, answer(404, b"nothing here"))
                if isinstance(route, bytes):
                    writer.write(route)
                    await writer.drain()
                else:
                    await route(request, writer)
                if writer.is_closing():
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError, ssl.SSLError):
            return  # the client is done, or the test is over
        finally:
            writer.close()


def answer(status: int, body: bytes = b"", *headers: str, length: int | None = None) -> bytes:
    """A whole answer; ``length``: what Content-Length announces."""
    size = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {size}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def picture(seed: int = 0, side: int = 32, kind: str = "JPEG") -> bytes:
    """A small picture of noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    sink = io.BytesIO()
    Image.fromarray(noise).save(sink, kind)
    return sink.getvalue()


def in_turn(*answers: bytes) -> Handler:
    """The first answer to the first request of a path, and so on; the last one from then on."""

    async def say(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(answers[min(request.number, len(answers) - 1)])
        await writer.drain()

    return say


def make(root: Path, urls: list[tuple[str, str]], **download: Any) -> Workspace:
    """A workspace whose candidates are (identity, url) pairs."""
    listed = root.parent / f"{root.name}.csv"
    write_urls(listed, urls)
    names = list(dict.fromkeys(identity for identity, _ in urls))
    people = root.parent / f"{root.name}-people.csv"
    people.write_text("id,name\n" + "".join(f"{name},{name}\n" for name in names))
    values = {
        "format": 1,
        "discover": {"sources": ["urls"], "urls": {"file": str(listed)}},
        "download": {**QUICK, **download},
    }
    rows = identities.read_csv(people)
    return Workspace.create(str(root), yaml.safe_dump(values), identities.to_table(rows))


def write_urls(file: Path, urls: list[tuple[str, str]]) -> None:
    """The file that the urls source reads."""
    with open(file, "w", newline="") as out:
        csv.writer(out).writerows([("identity_id", "url"), *urls])


def build(
    workspace: Workspace, settings: tuple[str, ...] = (), workers: int = 0, **which: Any
) -> BuildResult:
    """Bring download (or another target) up to date."""
    config = workspace.config(settings)
    again = {name: which.get(name, False) for name in ("retry_failed", "refresh")}
    with workspace.lock():
        jobs = plan_build(workspace, config, ModelStore(), **{"target": "download", **which})
        return run_build(workspace, config, jobs, workers=workers, **again)


def rows(workspace: Workspace) -> list[Row]:
    """All download rows, with the url that discover found."""
    found: list[Row] = []
    for shard in workspace.shards():
        urls = workspace.read_stage("discover", shard)
        table = workspace.read_stage("download", shard)
        assert urls is not None
        assert table is not None
        named = {(r["identity_id"], r["candidate"]): r["url"] for r in urls.to_pylist()}
        for row in table.to_pylist():
            row["url"] = named[row["identity_id"], row["candidate"]]
            found.append({**row, "shard": shard})
    return found


def reasons(workspace: Workspace) -> dict[str, str | None]:
    """Reason of each path asked for."""
    return {"/" + row["url"].split("/", 3)[3]: row["reason"] for row in rows(workspace)}
