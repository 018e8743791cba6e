"""What all pages look like: Streamlit's own theme, light or dark, with less air above."""

from __future__ import annotations

import re

import streamlit as st

CSS = """
<style>
  .stMainBlockContainer { padding: 3.75rem 1.5rem 1rem; max-width: 112rem; }
  @media (max-width: 640px) { .stMainBlockContainer { padding: 3.75rem .75rem 1rem; } }
</style>
"""


def apply() -> None:
    """Put the rules into the page."""
    st.html(CSS)


def plain(text: str) -> str:
    """Markdown that shows ``text`` as it is: whatever a name holds stays text."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", text)
