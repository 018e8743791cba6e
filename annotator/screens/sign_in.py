"""Who is here: a named token, or an account that an OpenID provider vouches for.

The token is typed, or follows ``#token=`` in the address, which browsers never send to a server.
The browser keeps it for the tab, so that a reload signs in again; the server keeps it in the
session's memory, and asks the file again every minute: a removed token ends its sessions.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import streamlit as st

from annotator.log.access import Actor, TokenFile
from annotator.screens.look import plain
from hqvox.config.build import BuildConfig

TOKEN, CHECKED, ACTOR, REFUSED, FORGET = (
    f"hqvox_{what}" for what in ("token", "token_checked", "actor", "refused", "forget")
)
CHECK_SECONDS = 60.0
REFUSAL_SECONDS = 0.5
"""How long a wrong token is kept waiting."""

_COMPONENTS = Path(__file__).parents[1] / "components"


@st.cache_resource
def _component() -> Any:
    return st.components.v2.component(
        "hqvox_sign_in",
        html=(_COMPONENTS / "sign_in.html").read_text(),
        css=(_COMPONENTS / "sign_in.css").read_text(),
        js=(_COMPONENTS / "sign_in.js").read_text(),
    )


def signed_in(tokens: TokenFile, config: BuildConfig, openid: bool) -> Actor:
    """Who signed in; where nobody did, shows how to, and ends the script run."""
    actor = _by_token(tokens) or (_by_openid(config) if openid else None)
    if actor is None:
        _show(tokens, openid)
        st.stop()
    return actor


def still(tokens: TokenFile, actor: Actor) -> bool:
    """Whether whoever signed in may still be here."""
    return TOKEN not in st.session_state or _by_token(tokens) == actor


def by_sign_in() -> bool:
    """Whether somebody signed in, rather than sits at the machine itself."""
    return ACTOR in st.session_state or bool(getattr(st.user, "is_logged_in", False))


def sign_out() -> None:
    """Forget who is here, on the server and in the browser."""
    for key in (TOKEN, CHECKED, ACTOR):
        st.session_state.pop(key, None)
    st.session_state[FORGET] = True
    if getattr(st.user, "is_logged_in", False):
        st.logout()


def _by_token(tokens: TokenFile) -> Actor | None:
    state = st.session_state
    if TOKEN not in state:
        return None
    if time.monotonic() - state.get(CHECKED, -CHECK_SECONDS) >= CHECK_SECONDS:
        state[ACTOR], state[CHECKED] = tokens.check(state[TOKEN]), time.monotonic()
        if state[ACTOR] is None:
            time.sleep(REFUSAL_SECONDS)
            del state[TOKEN], state[CHECKED], state[ACTOR]
            state[REFUSED] = state[FORGET] = True
            return None
    actor: Actor = state[ACTOR]
    return actor


def _by_openid(config: BuildConfig) -> Actor | None:
    if not st.user.is_logged_in:
        return None
    email = str(st.user.get("email") or "").lower()
    verified = st.user.get("email_verified", True) not in (False, "false")
    roles = {address.lower(): role for address, role in config.review.allow.items()}
    if verified and email in roles:
        return Actor(email, roles[email])
    shown = email or "an account without an e-mail address"
    why = "is not among those allowed here" if verified else "has not been verified"
    st.error(plain(f"You signed in as {shown}, which {why}; ask the lead."))
    st.button("Sign out", on_click=sign_out)
    st.stop()
    return None


def _show(tokens: TokenFile, openid: bool) -> None:
    state = st.session_state
    _, middle, _ = st.columns([1, 2, 1])
    with middle:
        st.title("hqvox review")
        if tokens.names():
            _component()(
                key="hqvox_sign_in",
                data={"refused": state.pop(REFUSED, False), "forget": state.pop(FORGET, False)},
                on_token_change=_typed,
            )
        if openid:
            st.button("Sign in with your account", on_click=st.login, type="primary")


def _typed() -> None:
    # The state is gone if an earlier token was accepted in the meantime.
    token = st.session_state.get("hqvox_sign_in", {}).get("token")
    if isinstance(token, str):
        st.session_state[TOKEN] = token.strip()
