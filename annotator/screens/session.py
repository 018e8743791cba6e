"""What every page works with: the workspace, opened once for all sessions, its log, the user."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import streamlit as st

from annotator.log.access import Actor
from annotator.log.decisions import Entry
from annotator.log.store import Store
from annotator.screens import look, sign_in
from annotator.server.credentials import Credentials, credentials
from annotator.server.launch import Options, is_loopback
from annotator.server.opened import Shared, is_open, opened
from hqvox.errors import HqvoxError

_LOG = logging.getLogger(__name__)
LOG_KEPT_SECONDS = 60.0
"""How long, at most, the pages can still show what a takedown has erased, s."""


@dataclass(frozen=True)
class Context(Shared):
    """What a page gets: see :class:`Shared`, and who is looking at it."""

    actor: Actor


def context() -> Context | None:
    """The context of this session; None where nobody is signed in, or nobody any more.

    Ends the script run with a line where the workspace cannot be opened.
    """
    try:
        known = credentials()
        actor = _actor(known)
        if actor is None:
            return None
        root = known.options.workspace
        if not is_open(root):
            with st.spinner("Opening the workspace …"):
                opened(root)
        parts = opened(root).parts()
    except HqvoxError as error:
        _LOG.warning("%s", error)
        st.error(look.problem(error), icon=":material/error:")
        st.stop()
    return Context(**vars(parts), actor=actor)


def renewed(context: Context) -> Context | None:
    """The context as it is now, for a fragment that runs again without the rest of the page.

    None where the access was removed or has changed: run the whole app.
    """
    if _actor(credentials()) != context.actor:
        return None
    parts = opened(Options.parse(sys.argv[1:]).workspace).parts()
    if parts.queue is context.queue:
        return context
    return Context(**vars(parts), actor=context.actor)


def _actor(known: Credentials) -> Actor | None:
    """Who is here, asked of the store of tokens now; None: nobody, or nobody any more.

    Raises HqvoxError where anyone could be.
    """
    if known.local:
        _check_local(st.context.headers)
    by_cookie = known.actor(st.context.cookies)
    return by_cookie or (sign_in.by_openid(known) if known.openid else None)


def _check_local(headers: Mapping[str, str]) -> None:
    """Raises HqvoxError where a request came to a loopback address, but from elsewhere.

    Through a proxy everybody would be the lead; another host name may be that of a web page which
    resolves to this machine (DNS rebinding).
    """
    forwarded = any(name.lower() in ("forwarded", "x-forwarded-for") for name in headers)
    if forwarded or not is_loopback(urlsplit(f"//{headers.get('Host', 'localhost')}").hostname):
        raise HqvoxError(
            "this review was started for its own machine alone, and this request comes from "
            "elsewhere; start it with `hqvox review WORKSPACE --sign-in` to let others in"
        )


@dataclass(frozen=True)
class Log:
    """All entries, in order, without the faces that were shown."""

    entries: tuple[Entry, ...]
    undone: frozenset[int]
    """``seq`` of the entries that are undone."""


def read_log(context: Context) -> Log:
    """The log as it is now, cached for all sessions of a server."""
    return _read_log(context.workspace.url, context.store.last_seq(), context.store)


@st.cache_resource(ttl=LOG_KEPT_SECONDS, max_entries=2, show_spinner=False)
def _read_log(root: str, last_seq: int, _store: Store) -> Log:
    entries = tuple(_store.entries(shown=False))
    undone = (entry.decision.undoes for entry in entries)
    return Log(entries, frozenset(seq for seq in undone if seq is not None))
