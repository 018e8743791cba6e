"""Tables without Streamlit's own tools: its CSV would let a name compute in a spreadsheet."""

from __future__ import annotations

import streamlit as st

_STYLE = """
<style>
  .stMainBlockContainer [data-testid="stElementToolbar"] { display: none; }
</style>
"""


def plain_tables() -> None:
    """Take the tools away that appear over the tables of this page."""
    st.html(_STYLE)
