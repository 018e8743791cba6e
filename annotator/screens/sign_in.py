"""What somebody without access sees, and accounts that an OpenID provider vouches for.

Tokens are taken before Streamlit: see :mod:`annotator.server.guard`. A script without an actor
therefore runs for someone whose token was removed while the page was open, or, where a provider is
configured, for someone who has not signed in yet.
"""

from __future__ import annotations

from functools import partial

import streamlit as st

from annotator.log.access import Actor
from annotator.screens.look import plain
from annotator.server.credentials import Credentials
from hqvox.workspace.layout import Workspace


def ask(known: Credentials) -> None:
    """Show how to sign in."""
    _, middle, _ = st.columns([1, 2, 1])
    with middle:
        st.title("hqvox review")
        if st.context.cookies.get(known.cookie_name):
            st.error("Your access was removed; nothing was saved.", icon=":material/lock:")
        _link("sign-in", "Sign in with a token")
        if known.openid:
            st.button("Sign in with your account", on_click=st.login, type="primary")


def offer_sign_out(known: Credentials) -> None:
    """Show how to sign out, where somebody signed in."""
    if known.local:
        return
    if getattr(st.user, "is_logged_in", False):
        st.button("Sign out", on_click=st.logout)
    else:
        _link("sign-out", "Sign out")


def by_openid(known: Credentials) -> Actor | None:
    """Who signed in with an account; None: nobody.

    Ends the script run, with a word, for an account that is not allowed.
    """
    if not st.user.is_logged_in:
        return None
    email = str(st.user.get("email") or "").lower()
    verified = st.user.get("email_verified", True) not in (False, "false")
    actor = _allowed(known.workspace, email) if verified else None
    if actor is not None:
        return actor
    shown = email or "an account without an e-mail address"
    why = "is not among those allowed here" if verified else "has not been verified"
    st.error(plain(f"You signed in as {shown}, which {why}; ask the lead."))
    st.button("Sign out", on_click=st.logout)
    st.stop()
    return None


def _allowed(workspace: Workspace, email: str) -> Actor | None:
    """The actor with that address, by ``review.allow`` of hqvox.yaml as it is now."""
    allowed = workspace.config().review.allow.items()
    roles = {address.lower(): role for address, role in allowed}
    if email not in roles:
        return None
    return Actor(email, roles[email], partial(_allowed, workspace, email))


def _link(path: str, text: str) -> None:
    """A link that leaves Streamlit's page, which one of its own would not."""
    st.html(f'<a href="{path}" target="_self">{text}</a>')
