"""What all pages look like: Streamlit's own theme, light or dark, with less air above."""

from __future__ import annotations

import streamlit as st

from annotator import sign_in

CSS = """
<style>
  .stMainBlockContainer { padding: 3.75rem 1.5rem 1rem; max-width: 112rem; }
  @media (max-width: 640px) { .stMainBlockContainer { padding: 3.75rem .75rem 1rem; } }
</style>
"""


def apply() -> None:
    """Put the rules into the page."""
    st.html(CSS)


def who(name: str, role: str, workspace: str) -> None:
    """Who is here and at what, in the bar at the side, which is closed at first."""
    with st.sidebar:
        st.text(f"{name}\n{role} of {workspace}")
        if sign_in.by_sign_in():
            st.button("Sign out", on_click=sign_in.sign_out)
