"""The pages, and who sees which."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import streamlit as st

from annotator.screens import look, session, sign_in

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

    def page(of: AppPage) -> Callable[[], None]:
        return lambda: import_module(f"annotator.screens.{of.module}").render(context)

    chosen = st.navigation(
        [
            st.Page(page(of), title=of.title, icon=of.icon, url_path=of.module, default=not number)
            for number, of in enumerate(PAGES)
            if context.actor.role in of.roles
        ],
        position="top",
    )
    with st.sidebar:  # closed at first
        st.text(f"{context.actor.name}\n{context.actor.role}, {context.workspace.url}")
        if sign_in.by_sign_in():
            st.button("Sign out", on_click=sign_in.sign_out)
    chosen.run()
