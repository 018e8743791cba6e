"""What all pages share in looks: Streamlit's theme with less space above, names shown as text."""

from __future__ import annotations

import re

import streamlit as st

from annotator.log.messages import without_paths

CSS = """
<style>
  .stMainBlockContainer { padding: 3.75rem 1.5rem 1rem; max-width: 112rem; }
  @media (max-width: 700px), (max-height: 560px) {
    .stAppHeader { height: 3rem; min-height: 3rem; }
    .stMainBlockContainer { padding: 3rem .75rem 1rem; }
  }
  @media (pointer: coarse) {
    .stAppHeader :is(button, a), [data-testid="stSidebarHeader"] button,
    [data-testid="stSidebarNavLink"], .stMainBlockContainer :is(.stButton, .stDownloadButton,
    .stButtonGroup, .stPopover) button { min-height: 44px; min-width: 44px; }
    .stMainBlockContainer :is(.stSelectbox, .stTextInput, .stDateInput) input,
    [data-testid^="stPagination"] { min-height: 44px; }
  }
  /* On a phone small columns stand side by side, two in a row. */
  @media (max-width: 640px) {
    .stHorizontalBlock:has(> .stColumn:nth-child(4)) > .stColumn, .stColumn .stColumn
      { min-width: calc(50% - .5rem); flex: 1 1 calc(50% - .5rem); }
  }
  /* The review fills the window: see components/review/review.css. */
  .stMainBlockContainer:has(.st-key-hqvox_review) { padding-bottom: 0; max-width: none; }
  [class*="st-key-hqvox_pictures"], .st-key-hqvox_close_up { position: absolute; }
  /* Streamlit's word that the server is gone, below ours on what is not saved. */
  .stDialog { align-items: end; background: none; }
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
