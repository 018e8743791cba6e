"""What all pages share in looks: Streamlit's theme with less space above, names shown as text."""

from __future__ import annotations

import re

import streamlit as st

CSS = """
<style>
  .stMainBlockContainer { padding: 3.75rem 1.5rem 1rem; max-width: 112rem; }
  @media (max-width: 640px) { .stMainBlockContainer { padding: 3.75rem .75rem 1rem; } }
</style>
"""

_NO_TABLE_TOOLS = """
<style>
  .stMainBlockContainer [data-testid="stElementToolbar"] { display: none; }
</style>
"""


def apply() -> None:
    """Apply the style to the page."""
    st.html(CSS)


def plain(text: str) -> str:
    """Escape text as Markdown, so that it is shown as it is, whatever a name holds."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", text)


def plain_tables() -> None:
    """Hide Streamlit's tools over the tables of this page.

    Its CSV export would let a name be a formula in a spreadsheet.
    """
    st.html(_NO_TABLE_TOOLS)
