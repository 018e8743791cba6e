"""What every request passes before it reaches Streamlit: sign-in, origin, headers, closed paths.

Nothing of the review, neither a page nor a picture nor the websocket, is answered to a browser
without a cookie of :mod:`annotator.server.credentials`. Where an OpenID provider is configured,
Streamlit itself shows its sign-in, and :mod:`annotator.screens.sign_in` decides.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import html
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from functools import cache
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, quote, urlencode, urlsplit

import streamlit as st
from streamlit import config

from annotator.log.messages import without_paths
from annotator.server.credentials import Credentials, credentials
from hqvox.errors import HqvoxError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Message, Receive, Send], Awaitable[None]]

_LOG = logging.getLogger(__name__)
_COMPONENTS = Path(__file__).parents[1] / "components"
REFUSAL_SECONDS = 0.5
"""How long a wrong token is kept waiting."""
FORM_BYTES = 4096
"""Most bytes of the sign-in form."""
CORE = ("health", "host-config", "stream", "bidi-components")
"""What is open under ``/_stcore/``: not metrics, uploads, nor the interface for programs."""
_FILES = {
    "sign-in.css": ("text/css", "sign_in.css"),
    "sign-in.js": ("text/javascript", "sign_in.js"),
}
_HOST = re.compile(r"[A-Za-z0-9.:\[\]_-]{1,255}")
UNKNOWN = "This token is not known here: check that you copied all of it, or ask for a new one."
EXPIRED = "This token is not valid any more; use the address that hqvox review printed last."


class Guard:
    """ASGI middleware around Streamlit's app."""

    def __init__(self, app: AsgiApp) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer the request, or pass it on."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        request = _Request(scope)
        http = scope["type"] == "http"
        out = _with_headers(request, send) if http else send
        if request.core is not None and request.core not in CORE:
            await _close(http, out, 404)
            return
        if http and request.path.endswith("/_stcore/health"):
            await self.app(scope, receive, out)
            return
        try:
            known = await asyncio.to_thread(credentials)
            if http and await _entry(known, request, receive, out):
                return
            inside = await asyncio.to_thread(known.actor, request.cookies) is not None
            passed = inside or known.openid
        except HqvoxError as error:
            _LOG.warning("%s", error)
            await _close(http, out, 503, _page("./", without_paths(str(error))))
            return
        if not http and not request.from_own_page:
            _LOG.warning("a websocket from %r was refused", request.header("origin"))
            await _close(http, out, 403)
        elif passed:
            await self.app(scope, receive, out)
        elif http and request.wants_page:
            await _close(http, out, 401, await asyncio.to_thread(_sign_in_page, known, request))
        else:
            await _close(http, out, 401)


async def _entry(known: Credentials, request: _Request, receive: Receive, send: Send) -> bool:
    """Answer what belongs to signing in and out; whether it did."""
    name = request.name
    if name in _FILES and request.method == "GET":
        kind, file = _FILES[name]
        await _answer(send, 200, (_COMPONENTS / file).read_bytes(), kind)
        return True
    if name == "sign-out" and request.method == "GET":
        await _answer(send, 303, headers=[("location", "sign-in"), _cookie(known, request, None)])
        return True
    if name == "sign-in" and request.method == "POST":
        await _sign_in(known, request, receive, send)
        return True
    if name == "sign-in":
        await _close(True, send, 200, await asyncio.to_thread(_sign_in_page, known, request))
        return True
    token = request.query.get("token")
    if known.local and token and request.method == "GET" and request.core is None:
        cookie = known.exchange(token)
        if cookie is None and await asyncio.to_thread(known.actor, request.cookies) is None:
            await asyncio.sleep(REFUSAL_SECONDS)
            await _close(True, send, 401, _page(request.path, EXPIRED, local=True))
            return True
        rest = urlencode([(k, v) for k, v in request.query.items() if k != "token"])
        # The address bar, and the history, keep no token.
        path = _own_path(quote(request.path))
        headers = [("location", path + (f"?{rest}" if rest else ""))]
        if cookie is not None:
            headers.append(_cookie(known, request, cookie))
        await _answer(send, 303, headers=headers)
        return True
    return False


async def _sign_in(known: Credentials, request: _Request, receive: Receive, send: Send) -> None:
    form = parse_qs(await _body(receive))
    token = form.get("token", [""])[0].strip()
    wanted = form.get("next", ["./"])[0]
    if not request.from_own_page:
        await _close(True, send, 403)
        return
    cookie = await asyncio.to_thread(known.exchange, token)
    if cookie is None:
        await asyncio.sleep(REFUSAL_SECONDS)
        message = EXPIRED if known.local else UNKNOWN
        await _close(True, send, 401, _page(wanted, message, known.local))
        return
    headers = [("location", _own_path(wanted)), _cookie(known, request, cookie)]
    await _answer(send, 303, headers=headers)


async def _body(receive: Receive) -> str:
    """The form; empty where it is too large."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > FORM_BYTES or message["type"] == "http.disconnect":
            return ""
        if not message.get("more_body"):
            return body.decode("utf-8", "replace")


class _Request:
    """What the guard reads of a request."""

    def __init__(self, scope: Message) -> None:
        self._headers = [
            (key.decode("latin-1").lower(), value.decode("latin-1"))
            for key, value in scope.get("headers", ())
        ]
        self.method = scope.get("method", "GET")
        self.path: str = scope["path"]
        query = scope.get("query_string", b"").decode("latin-1")
        self.query = dict(parse_qsl(query, keep_blank_values=True))
        forwarded = (self.header("x-forwarded-proto") or "").split(",")[0].strip().lower()
        self.tls = "https" in (forwarded, scope.get("scheme")) or scope.get("scheme") == "wss"

    def header(self, name: str) -> str | None:
        return next((value for key, value in self._headers if key == name), None)

    @property
    def name(self) -> str:
        """The last part of the path; the review may be under a path of its own."""
        return self.path.rpartition("/")[2]

    @property
    def core(self) -> str | None:
        """What is asked of Streamlit's own interface, if anything."""
        _, mark, rest = self.path.partition("/_stcore/")
        return rest.split("/")[0] if mark else None

    @property
    def cookies(self) -> dict[str, str]:
        jar: SimpleCookie = SimpleCookie()
        try:
            for key, value in self._headers:
                if key == "cookie":
                    jar.load(value)
        except CookieError:
            return {}
        return {name: morsel.value for name, morsel in jar.items()}

    @property
    def wants_page(self) -> bool:
        return self.method == "GET" and "text/html" in (self.header("accept") or "")

    @property
    def from_own_page(self) -> bool:
        """Whether a page of this review sent it. Browsers always tell the origin here."""
        origin = self.header("origin")
        if not origin:
            return False
        parts = urlsplit(origin)
        if parts.netloc and parts.netloc == self.header("host"):
            return True
        # Behind a proxy that passes another Host on.
        public = None
        if config.is_manually_set("browser.serverAddress"):
            public = st.get_option("browser.serverAddress")
        return bool(public) and parts.hostname == public


def _sign_in_page(known: Credentials, request: _Request) -> bytes:
    wanted = "./" if request.name == "sign-in" else request.path
    try:
        known.check_anybody_can_enter()
    except HqvoxError as error:
        return _page(wanted, without_paths(str(error)))
    return _page(wanted, local=known.local)


def _page(wanted: str, message: str = "", local: bool = False) -> bytes:
    """The sign-in page; ``wanted``: where it leads to."""
    template = (_COMPONENTS / "sign_in.html").read_text("utf-8")
    hint = (
        "Open the address that hqvox review printed, or paste the token at its end."
        if local
        else "Whoever runs this review made it for you and shows it once. Paste it here."
    )
    for mark, text in (("NEXT", _own_path(wanted)), ("MESSAGE", message), ("HINT", hint)):
        template = template.replace(f"{{{{{mark}}}}}", html.escape(text))
    return template.encode()


def _own_path(wanted: str) -> str:
    """A path of this server, or that of its first page."""
    safe = re.fullmatch(r"(\./|/([\w.~%-][\w.~%/-]*)?)", wanted, re.ASCII)
    return wanted if safe and "//" not in wanted else "./"


def _cookie(known: Credentials, request: _Request, value: str | None) -> tuple[str, str]:
    """The header that sets the cookie; None deletes it."""
    # Lax, not strict: a link in a message leads to the page, not to the sign-in.
    parts = [f"{known.cookie_name}={value or ''}", "Path=/", "HttpOnly", "SameSite=Lax"]
    parts += [] if value else ["Max-Age=0"]
    parts += ["Secure"] if request.tls else []
    return "set-cookie", "; ".join(parts)


async def _close(http: bool, send: Send, status: int, page: bytes | None = None) -> None:
    """Refuse, or show a page of the guard's own."""
    if not http:
        await send({"type": "websocket.close", "code": 1008})
    elif page is not None:
        await _answer(send, status, page, "text/html")
    else:
        await _answer(send, status, b"not available\n", "text/plain")


async def _answer(
    send: Send,
    status: int,
    body: bytes = b"",
    kind: str = "text/plain",
    headers: Iterable[tuple[str, str]] = (),
) -> None:
    every = [
        ("content-type", f"{kind}; charset=utf-8"),
        ("content-length", str(len(body))),
        ("cache-control", "no-store"),
        *headers,
    ]
    raw = [(key.encode("latin-1"), value.encode("latin-1")) for key, value in every]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def _with_headers(request: _Request, send: Send) -> Send:
    """``send``, with the headers that every answer has, and safe attributes of every cookie."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [
                (key, _safe_cookie(value, request.tls) if key.lower() == b"set-cookie" else value)
                for key, value in message.get("headers", ())
            ]
            headers += [
                (b"content-security-policy", _policy(request.header("host") or "").encode()),
                (b"x-content-type-options", b"nosniff"),
                (b"referrer-policy", b"same-origin"),
                (b"x-frame-options", b"DENY"),
            ]
            message = {**message, "headers": headers}
        await send(message)

    return sending


def _safe_cookie(value: bytes, tls: bool) -> bytes:
    """A cookie of Streamlit's with SameSite, HttpOnly, and Secure behind TLS.

    Its XSRF cookie, which its scripts must read, is needed for uploads, which are closed, and for
    accounts of an OpenID provider.
    """
    name = value.partition(b"=")[0].strip()
    given = {part.partition(b"=")[0].strip().lower() for part in value.split(b";")[1:]}
    if b"samesite" not in given:
        value += b"; SameSite=Lax"
    if b"httponly" not in given and not (name == b"_streamlit_xsrf" and _has_openid()):
        value += b"; HttpOnly"
    if tls and b"secure" not in given:
        value += b"; Secure"
    return value


def _has_openid() -> bool:
    try:
        return credentials().openid
    except HqvoxError:
        return False


def _policy(host: str) -> str:
    """The Content-Security-Policy of a page at that host."""
    own = f" ws://{host} wss://{host}" if _HOST.fullmatch(host) else ""
    return "; ".join(
        (
            "default-src 'self'",
            f"script-src 'self' blob: {_inline_scripts()}",  # components are blobs
            "style-src 'self' 'unsafe-inline' blob:",
            "img-src 'self' data: blob:",
            "font-src 'self' data:",
            f"connect-src 'self' blob: data:{own}",  # not every browser counts ws as 'self'
            "worker-src 'self' blob:",
            "object-src 'none'",
            "frame-src 'none'",
            "frame-ancestors 'none'",
            "base-uri 'self'",
            "form-action 'self'",
        )
    )


@cache
def _inline_scripts() -> str:
    """The hashes of the scripts that stand in Streamlit's page itself."""
    page = (Path(st.__file__).parent / "static/index.html").read_text("utf-8")
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digests = (hashlib.sha256(text.encode()).digest() for text in scripts)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
