"""The log of decisions as Progress and History read it, kept for all sessions of a server."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from annotator.log.decisions import Entry
from annotator.log.store import Store
from annotator.screens.session import Context

KEPT_SECONDS = 60.0
"""So long at most something that a takedown erased can still be seen here."""


@dataclass(frozen=True)
class Log:
    """All entries, in order, without the faces that were shown."""

    entries: tuple[Entry, ...]
    undone: frozenset[int]
    """Numbers of the entries that were taken back."""


def read(context: Context) -> Log:
    """The log as it is now."""
    return _read(context.workspace.url, context.store.last_seq(), context.store)


@st.cache_resource(ttl=KEPT_SECONDS, max_entries=2, show_spinner=False)
def _read(root: str, last_seq: int, _store: Store) -> Log:
    entries = tuple(_store.entries(shown=False))
    undone = (entry.decision.undoes for entry in entries)
    return Log(entries, frozenset(seq for seq in undone if seq is not None))
