"""Values of a release's tables in forms that any reader takes."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from hqvox.workspace.tables import Row


def face_values(face: Row) -> Row:
    """A manifest row as JSON takes it: times as ISO 8601, probabilities as a dict."""
    return {name: _plain(value) for name, value in face.items()}


def without_person(face: Row, identity: Row) -> Row:
    """A face's own values: without what its person's row says already."""
    return {name: value for name, value in face_values(face).items() if name not in identity}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, list) and value and isinstance(value[0], tuple):
        return dict(value)
    return value
