"""Who a browser is, by the cookie that the server gave it for a token.

On the machine's own address the token is that of the address which `hqvox review` prints, new at
each start. Where people sign in, it is their named token. Either is exchanged once for a cookie
that scripts of a page cannot read; see :mod:`annotator.server.guard`.
"""

from __future__ import annotations

import hmac
import secrets
import sys
import threading
from collections.abc import Mapping
from functools import partial

import streamlit as st

from annotator.log.access import Actor, TokenFile, local_key
from annotator.server.launch import Options, check_access, has_openid, must_sign_in, user_name
from hqvox.workspace.layout import Workspace

LOCAL_TOKEN = secrets.token_urlsafe(32)
"""Opens the review on the machine's own address; of this process."""
_BROWSER_TOKENS = {secrets.token_urlsafe(32)}
"""For the browser that the command opens. It is on that command's line, which other users of the
machine can read, so it works once."""


class Credentials:
    """Exchanges tokens for cookies, and tells who a cookie belongs to."""

    def __init__(self, options: Options, address: str | None, port: int) -> None:
        """Raises HqvoxError where the workspace or its local key cannot be read."""
        self.options = options
        self.address = address
        self.workspace = Workspace.open(options.workspace)
        self.local = not must_sign_in(address, options)
        self.cookie_name = f"hqvox_review_{port}"
        """Cookies of one host are shared by its ports."""
        self._local_cookie = ""
        if self.local:
            key = local_key(self.workspace)
            self._local_cookie = hmac.digest(key, b"hqvox review, local lead", "sha256").hex()

    @property
    def openid(self) -> bool:
        """Whether people may sign in with accounts."""
        return (
            not self.local
            and has_openid(self.workspace)
            and bool(self.workspace.config().review.allow)
        )

    def exchange(self, token: str) -> str | None:
        """The cookie for a token, or None for one that is not known."""
        if self.local:
            return self._local_cookie if _is_local(token) else None
        return token if self._named(token) is not None else None

    def check_anybody_can_enter(self) -> None:
        """Raise HqvoxError where nobody could sign in."""
        if not self.local:
            check_access(self.address, self.options, bool(self._tokens().names()), self.openid)

    def actor(self, cookies: Mapping[str, str]) -> Actor | None:
        """Who a browser with these cookies is; None: nobody, or someone whose token was removed.

        Named tokens are looked up at every call. Raises HqvoxError where they cannot be read.
        """
        cookie = cookies.get(self.cookie_name, "")
        if self.local:
            if not _equal(cookie, self._local_cookie):
                return None
            return Actor(self.options.name or user_name(), "lead")
        known = self._named(cookie)
        if known is None:
            return None
        return Actor(known.name, known.role, partial(self._named, cookie))

    def _named(self, token: str) -> Actor | None:
        return self._tokens().check(token) if token else None

    def _tokens(self) -> TokenFile:
        return TokenFile(self.workspace)


def _is_local(token: str) -> bool:
    if _equal(token, LOCAL_TOKEN):
        return True
    for once in list(_BROWSER_TOKENS):
        if _equal(token, once):
            _BROWSER_TOKENS.discard(once)
            return True
    return False


def _equal(one: str, two: str) -> bool:
    return hmac.compare_digest(one.encode("utf-8", "replace"), two.encode())


def entrance(url: str, local: bool, once: bool = False) -> str:
    """The address to open: with a token, where nobody signs in.

    ``once``: with the one for the browser that the command itself opens.
    """
    if not local:
        return url
    return f"{url}/?token={next(iter(_BROWSER_TOKENS), LOCAL_TOKEN) if once else LOCAL_TOKEN}"


_lock = threading.Lock()
_of_process: list[Credentials] = []


def credentials() -> Credentials:
    """Those of this process, by its command line and Streamlit's settings. Raises HqvoxError."""
    with _lock:
        if not _of_process:
            options = Options.parse(sys.argv[1:])
            address, port = st.get_option("server.address"), st.get_option("server.port")
            _of_process.append(Credentials(options, address, int(port)))
        return _of_process[0]
