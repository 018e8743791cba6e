"""What all pages share in looks: Streamlit's theme with less space above, names shown as text."""

from __future__ import annotations

import re

import streamlit as st

from annotator.log.messages import without_paths

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


def problem(error: Exception) -> str:
    """An error as Markdown for the page, without the paths of the server."""
    return plain(without_paths(str(error)))


def plain_tables() -> None:
    """Hide Streamlit's tools over the tables of this page.

    Its CSV export would let a name be a formula in a spreadsheet.
    """
    st.html(_NO_TABLE_TOOLS)
