"""The pages, and who sees which."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Literal

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from annotator.screens import look, session, sign_in
from annotator.server.credentials import credentials

_ICON = Path(__file__).parents[1] / "components/icon.svg"


@dataclass(frozen=True)
class AppPage:
    """A page of the app: the module of annotator/screens that renders it."""

    module: str
    title: str
    icon: str
    roles: tuple[str, ...] = ("annotator", "lead")


PAGES = (
    AppPage("review", "Review", ":material/done_all:"),
    AppPage("explore", "Explore", ":material/tune:", ("lead",)),
    AppPage("progress", "Progress", ":material/monitoring:"),
    AppPage("history", "History", ":material/history:"),
)


def main() -> None:
    """One script run: who is here, which pages there are for them, and the one that is asked for.

    A page's module is loaded when it is first opened, so that the first screen waits for nothing
    else.
    """
    st.set_page_config("hqvox review", str(_ICON), layout="wide", initial_sidebar_state="collapsed")
    look.apply()
    context = session.context()
    if context is None:
        # The pages are there, unseen: else Streamlit would lead to the first of them.
        _navigation(PAGES, lambda of: _nothing, "hidden").run()
        sign_in.ask(credentials())
        return

    def page(of: AppPage) -> Callable[[], None]:
        return lambda: import_module(f"annotator.screens.{of.module}").render(context)

    chosen = _navigation([of for of in PAGES if context.actor.role in of.roles], page, "top")
    with st.sidebar:  # closed at first
        where = f", {_name(context.workspace.url)}" if context.actor.is_lead else ""
        st.text(f"{context.actor.name}\n{context.actor.role}{where}")
        sign_in.offer_sign_out(credentials())
    chosen.run()


def _navigation(
    pages: Sequence[AppPage],
    render: Callable[[AppPage], Callable[[], None]],
    position: Literal["top", "hidden"],
) -> StreamlitPage:
    return st.navigation(
        [
            st.Page(
                render(of), title=of.title, icon=of.icon, url_path=of.module, default=not number
            )
            for number, of in enumerate(pages)
        ],
        position=position,
    )


def _nothing() -> None:
    pass


def _name(url: str) -> str:
    """A workspace's name, without where on the server it is."""
    return PurePosixPath(url).name
