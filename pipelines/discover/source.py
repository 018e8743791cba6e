"""The contract of a source: an identity in, candidates out, best first, page by page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any, Protocol
from urllib.parse import urlsplit

from hqvox.workspace.tables import Row


@dataclass(frozen=True)
class Candidate:
    """A photograph that a source names. Fields that it does not state are None."""

    url: str
    """Of the photograph itself; folder source: percent-encoded relative path."""
    page_url: str | None = None
    title: str | None = None
    licence: str | None = None
    licence_url: str | None = None
    author: str | None = None
    width_px: int | None = None
    height_px: int | None = None
    restrictions: str | None = None


@dataclass(frozen=True)
class Stream:
    """The results of one query, best first; requested only as far as they are read."""

    query: str | None
    candidates: Iterator[Candidate]


class Source(Protocol):
    """One place to look for photographs."""

    name: str

    def streams(self, identity: Row) -> list[Stream]:
        """One stream for each variant of the query.

        Reading a stream raises :class:`SourceError` if the source cannot answer now, and HqvoxError
        if the user has to change something first.
        """
        ...

    def listing(self, identity: Row) -> Any:
        """What makes discovery stale when it changes, as JSON values. Makes no request."""
        ...

    def settings(self) -> dict[str, Any]:
        """The settings that change its results, as JSON values."""
        ...

    def missing(self) -> list[str]:
        """Settings that it needs and does not have, one line each; empty if it is ready."""
        ...

    def forecast(self, identities: Sequence[Row]) -> str:
        """Requests and time that these identities need, in one line. Makes no request."""
        ...


class SourceError(Exception):
    """A source cannot answer now; ``str()`` is one line, without secrets.

    The shard stays uncommitted and the others go on; an HqvoxError would end the build. Earlier
    results are cached, and a rerun requests only what is missing.
    """


class QuotaSpent(SourceError):
    """A source's quota is used up; ``str()`` says how much, and when to run again."""

    candidates: Sequence[Row] = ()
    """What the other sources of the build answered meanwhile; empty where there are none."""


GENDERS = {"m": "male", "f": "female"}


def render_query(template: str, identity: Mapping[str, Any]) -> str:
    """A query template with an identity's fields filled in; unknown ones become empty.

    ``_`` in names, as VoxCeleb writes them, becomes a space.
    """
    fields = {
        "name": str(identity["name"]).replace("_", " "),
        "id": identity["identity_id"],
        "gender": GENDERS.get(identity.get("gender") or "", ""),
        "nationality": (identity.get("nationality") or "").replace("_", " "),
        "subset": identity.get("subset") or "",
    }
    return " ".join(Formatter().vformat(template, (), fields).split())


def render_queries(templates: list[str], identity: Mapping[str, Any]) -> list[str]:
    """The templates' queries in order, without repeats."""
    return list(dict.fromkeys(render_query(template, identity) for template in templates))


LONGEST_TEXT = 2_000
"""Characters of a title, licence or author that are kept."""


def text_of(value: Any) -> str | None:
    """A source's text on one line, printable characters only; None if it is no text or empty."""
    if not isinstance(value, str):
        return None
    # JSON can hold lone surrogates, which no table can store: they are not printable either.
    line = "".join(c if c.isprintable() else " " for c in value[: 4 * LONGEST_TEXT])
    return " ".join(line.split())[:LONGEST_TEXT] or None


def url_of(value: Any) -> str | None:
    """A source's http(s) url; None if it is not one."""
    if not isinstance(value, str) or len(value) > 8 * LONGEST_TEXT:
        return None
    url = value.strip()
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    printable = url.isprintable() and " " not in url
    return url if parts.scheme in ("http", "https") and parts.hostname and printable else None


def size_of(value: Any) -> int | None:
    """A source's width or height in pixels; None if it is not a sensible number."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:12])
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and 0 < value < 2**31 else None


def part_of(value: Any, *path: str) -> Any:
    """The value at ``path`` in nested JSON objects; None if there is none."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def objects_of(value: Any) -> list[dict[str, Any]]:
    """The objects in a JSON array; empty if it is not an array."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
