"""A local server that answers as Wikimedia, Openverse, Google and Brave document it, and counts."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

PERSON = {"P31": ["Q5"], "P21": ["Q6581097"]}


@dataclass
class Reply:
    """What the server says; ``body`` bytes as they are, anything else as JSON."""

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    slow_seconds: float = 0.0
    """Between single bytes of the body."""
    cut: int = 0
    """Bytes of the body that are announced and never sent."""


@dataclass
class Asked:
    """A request that came."""

    path: str
    parameters: dict[str, str]
    headers: dict[str, str]

    @property
    def what(self) -> tuple[str, ...]:
        """What it asked for, whoever asks: its path and parameters, without keys."""
        kept = sorted((k, v) for k, v in self.parameters.items() if k not in ("key", "cx"))
        return (self.path, *(f"{k}={v}" for k, v in kept))


class FakeApis:
    """The server. ``results`` is how many photographs every query finds; ``fault`` may step in."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.results = 25
        self.fault: Callable[[int, Asked], Reply | None] = lambda number, asked: None
        """Number of the request from 1, and the request, to a reply instead of the usual one."""
        self.items: dict[str, dict[str, Any]] = {}
        """Wikidata: id to name, claims, sitelinks."""
        self.categories: dict[str, int] = {}
        """Commons: category to how many files are in it."""
        self.url = ""
        self._lock = threading.Lock()

    def take(self, asked: Asked) -> Reply:
        with self._lock:
            self.asked.append(asked)
            number = len(self.asked)
        return self.fault(number, asked) or self.usual(asked)

    def usual(self, asked: Asked) -> Reply:
        answers: dict[str, Callable[[dict[str, str]], Reply]] = {
            "/customsearch/v1": self.google,
            "/res/v1/images/search": self.brave,
            "/v1/images/": self.openverse,
            "/w/api.php": self.mediawiki,
        }
        answer = answers.get(asked.path)
        return answer(asked.parameters) if answer else Reply({"detail": "Not found."}, 404)

    def google(self, p: dict[str, str]) -> Reply:
        start = int(p["start"])
        if start > 91:
            return Reply(google_error(400, "Request contains an invalid argument."), 400)
        numbers = range(start, min(start + int(p["num"]), self.results + 1))
        queries: dict[str, Any] = {"request": [{"searchTerms": p["q"], "startIndex": start}]}
        if start + 10 <= self.results:
            queries["nextPage"] = [{"searchTerms": p["q"], "count": 10, "startIndex": start + 10}]
        body: dict[str, Any] = {
            "kind": "customsearch#search",
            "queries": queries,
            "searchInformation": {"totalResults": str(self.results)},
        }
        items = [
            {
                "kind": "customsearch#result",
                "title": f"{p['q']} – {n}",
                "link": photo("google", p["q"], n),
                "displayLink": "photos.example",
                "mime": "image/jpeg",
                "image": {
                    "contextLink": f"https://photos.example/{n}.html",
                    "height": 800,
                    "width": 600,
                    "byteSize": 90000,
                    "thumbnailLink": "https://thumbs.example/t",
                },
            }
            for n in numbers
        ]
        return Reply(body | ({"items": items} if items else {}))

    def brave(self, p: dict[str, str]) -> Reply:
        results = [
            {
                "type": "image_result",
                "title": f"{p['q']} {n}",
                "url": f"https://photos.example/{n}.html",
                "source": "photos.example",
                "thumbnail": {
                    "src": "https://imgs.search.brave.com/t",
                    "width": 500,
                    "height": 400,
                },
                "properties": {
                    "url": photo("brave", p["q"], n),
                    "placeholder": "https://imgs.search.brave.com/p",
                    "width": 640,
                    "height": 480,
                },
                "confidence": "high",
            }
            for n in range(1, min(int(p["count"]), self.results) + 1)
        ]
        query = {"original": p["q"], "spellcheck_off": True}
        return Reply({"type": "images", "query": query, "results": results, "extra": {}})

    def openverse(self, p: dict[str, str]) -> Reply:
        page, size = int(p["page"]), int(p["page_size"])
        pages = -(-self.results // size)
        if size > 20:
            return Reply({"detail": "page_size may not exceed 20 for anonymous requests"}, 401)
        if page > max(pages, 1):
            return Reply({"detail": "Invalid page."}, 404)
        results = [
            {
                "id": f"0000-{n}",
                "title": f"{p['q']} {n}",
                "foreign_landing_url": f"https://photos.example/{n}.html",
                "url": photo("openverse", p["q"], n),
                "creator": "José Ñandú",
                "license": "by-sa",
                "license_version": "2.0",
                "license_url": "https://creativecommons.org/licenses/by-sa/2.0/",
                "provider": "flickr",
                "width": 1024,
                "height": 768,
            }
            for n in range((page - 1) * size + 1, min(page * size, self.results) + 1)
        ]
        counts = {"result_count": self.results, "page_count": pages, "page_size": size}
        return Reply({**counts, "page": page, "results": results, "warnings": []})

    def mediawiki(self, p: dict[str, str]) -> Reply:
        if p["action"] == "wbsearchentities":
            found = [
                {"id": key, "label": item["name"], "description": "somebody",
                 "match": {"type": "label", "language": "en", "text": item["name"]}}
                for key, item in self.items.items()
                if item["name"].lower().startswith(p["search"].lower())
            ]  # fmt: skip
            return Reply({"searchinfo": {"search": p["search"]}, "search": found, "success": 1})
        if p["action"] == "wbgetentities":
            entities = {
                key: {"id": key, "claims": claims(self.items[key]["claims"]),
                      "sitelinks": {site: {} for site in self.items[key].get("sitelinks", [])}}
                if key in self.items else {"id": key, "missing": ""}
                for key in p["ids"].split("|")
            }  # fmt: skip
            return Reply({"entities": entities, "success": 1})
        if "titles" in p:
            pages = [
                commons_file(title, n, p.get("iiurlwidth"))
                for n, title in enumerate(p["titles"].split("|"))
            ]
            return Reply({"batchcomplete": True, "query": {"pages": pages}})
        generator = p["generator"]
        start = int(p.get("gcmcontinue" if generator == "categorymembers" else "gsroffset", 0))
        if generator == "categorymembers":
            name = p["gcmtitle"].removeprefix("Category:")
            total, size = self.categories.get(name, 0), int(p["gcmlimit"])
        else:
            name, total, size = p["gsrsearch"], self.results, int(p["gsrlimit"])
        body: dict[str, Any] = {"batchcomplete": True}
        numbers = range(start, min(start + size, total))
        if numbers:
            width = p.get("iiurlwidth")
            files = [commons_file(f"File:{name} {n}.jpg", n, width) for n in numbers]
            if generator == "search":  # which answers in no order, and numbers its results
                files = [f | {"index": n + 1} for n, f in zip(numbers, files, strict=True)][::-1]
            body["query"] = {"pages": files}
        if start + size < total:
            key = "gcmcontinue" if generator == "categorymembers" else "gsroffset"
            body["continue"] = {key: str(start + size), "continue": f"{key}||"}
        return Reply(body)


def photo(source: str, query: str, number: int) -> str:
    """Url of a photograph that a source names; not served."""
    return f"https://{source}.example/{query.replace(' ', '_')}/{number}.jpg"


def claims(values: dict[str, list[str]]) -> dict[str, Any]:
    """Wikidata's statements: property to values, items as ids."""

    def value(text: str) -> Any:
        item = text[:1] == "Q" and text[1:].isdigit()
        return {"entity-type": "item", "id": text} if item else text

    return {
        name: [
            {"mainsnak": {"snaktype": "value", "property": name,
                          "datavalue": {"value": value(text), "type": "any"}},
             "type": "statement", "rank": "normal"}
            for text in texts
        ]
        for name, texts in values.items()
    }  # fmt: skip


def commons_file(title: str, number: int, width: str | None = None) -> dict[str, Any]:
    """A page of Commons with its file; every seventh is no picture.

    ``width``: to scale it to, if it is wider.
    """
    leaf = title.removeprefix("File:").replace(" ", "_")
    scaled: dict[str, Any] = {}
    if width is not None:
        narrow = min(int(width), 1200)
        place = f"https://upload.example/{leaf}"
        if narrow < 1200:
            place = f"https://upload.example/thumb/{leaf}/{narrow}px-{leaf}"
        scaled = {"thumburl": place, "thumbwidth": narrow, "thumbheight": narrow * 4 // 3}
    return {
        "pageid": 1000 + number,
        "ns": 6,
        "title": title,
        "imageinfo": [
            {
                "size": 123456,
                "width": 1200,
                "height": 1600,
                "url": f"https://upload.example/{leaf}",
                "descriptionurl": f"https://commons.example/wiki/File:{leaf}",
                "mime": "application/pdf" if number % 7 == 6 else "image/jpeg",
                "extmetadata": {
                    "LicenseShortName": {"value": "CC BY-SA 4.0", "source": "commons-desc-page"},
                    "LicenseUrl": {"value": "https://creativecommons.org/licenses/by-sa/4.0"},
                    "Artist": {"value": '<a href="//x.example">Jos&eacute; <b>Photo</b></a>'},
                    "ObjectName": {"value": leaf.removesuffix(".jpg")},
                },
            }
            | scaled
        ],
    }


def google_error(status: int, message: str, reason: str = "badRequest") -> dict[str, Any]:
    """Google's form of an error."""
    errors = [{"message": message, "domain": "global", "reason": reason}]
    return {"error": {"code": status, "message": message, "errors": errors}}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    apis: FakeApis

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that went away are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet
    server: _Server

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        parameters = {k: v[0] for k, v in parse_qs(parts.query, keep_blank_values=True).items()}
        reply = self.server.apis.take(Asked(parts.path, parameters, dict(self.headers)))
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        try:
            self.send_response(reply.status)
            self.send_header("Content-Type", "application/json; charset=utf-8")
            self.send_header("Content-Length", str(len(body) + reply.cut))
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            if reply.slow_seconds:
                for byte in body:
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                    time.sleep(reply.slow_seconds)
            else:
                self.wfile.write(body)
        except OSError:  # the client went away
            self.close_connection = True
        self.close_connection |= bool(reply.cut)

    def log_message(self, *arguments: Any) -> None:
        pass


@contextmanager
def serving() -> Iterator[FakeApis]:
    """The server, on a free port of this machine, until the block ends."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.apis = FakeApis()
        server.apis.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server.apis
        finally:
            server.shutdown()
            thread.join()
