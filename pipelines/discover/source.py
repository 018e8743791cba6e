"""What a source of photographs is: an identity in, candidates out, best first, page by page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any, Protocol
from urllib.parse import urlsplit

from hqvox.workspace.tables import Row


@dataclass(frozen=True)
class Candidate:
    """A photograph that a source names. What the source does not say is None."""

    url: str
    """Of the photograph itself; folder source: percent-encoded relative path."""
    page_url: str | None = None
    title: str | None = None
    licence: str | None = None
    licence_url: str | None = None
    author: str | None = None
    width_px: int | None = None
    height_px: int | None = None


@dataclass(frozen=True)
class Stream:
    """The answer to one query: candidates, best first; asked for only as far as it is read."""

    query: str | None
    candidates: Iterator[Candidate]


class Source(Protocol):
    """One place to look for photographs."""

    name: str
    remote: bool
    """Whether its candidates are urls to fetch, rather than files of this machine."""

    def streams(self, identity: Row) -> list[Stream]:
        """One stream for each variant of the query.

        Reading a stream raises :class:`SourceError` where the source cannot answer now, and
        HqvoxError where the user must mend something first.
        """
        ...

    def listing(self, identity: Row) -> Any:
        """What makes discovery stale when it changes, as JSON values; asks nobody."""
        ...

    def settings(self) -> dict[str, Any]:
        """The part of its configuration that decides what it answers, as JSON values."""
        ...

    def missing(self) -> list[str]:
        """What must be set before it can be asked, one line each; empty where it is ready."""
        ...

    def forecast(self, identities: Sequence[Row]) -> str:
        """What looking for these identities comes to, in one line; asks nobody."""
        ...


class SourceError(Exception):
    """A source cannot answer now; ``str()`` is one line, without secrets.

    The shard at hand stays uncommitted and the rest goes on: it is no HqvoxError, which would end
    the build. What was answered before is kept, and a rerun asks only for what is missing.
    """


class QuotaSpent(SourceError):
    """A source's quota is used up; ``str()`` says how far, and when to run again."""


GENDERS = {"m": "male", "f": "female"}


def render_query(template: str, identity: Mapping[str, Any]) -> str:
    """A query template with an identity's fields filled in; unknown ones are left out.

    ``_`` in names (VoxCeleb writes them so) becomes a space.
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
    """Every template's query, each once, in order."""
    return list(dict.fromkeys(render_query(template, identity) for template in templates))


LONGEST_TEXT = 2_000
"""Characters of a title, licence or author that are kept."""


def text_of(value: Any) -> str | None:
    """A text that a source gave, on one line, printable; None where it is none, or empty."""
    if not isinstance(value, str):
        return None
    # Lone surrogates, which JSON can hold, are not printable either: no table could store them.
    line = "".join(c if c.isprintable() else " " for c in value[: 4 * LONGEST_TEXT])
    return " ".join(line.split())[:LONGEST_TEXT] or None


def url_of(value: Any) -> str | None:
    """An http(s) address that a source gave; None where it is none."""
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
    """A width or height that a source gave, in pixels; None where it is no sensible number."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:12])
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and 0 < value < 2**31 else None


def part_of(value: Any, *path: str) -> Any:
    """What stands at ``path`` within nested JSON objects; None where one of them is none."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def objects_of(value: Any) -> list[dict[str, Any]]:
    """The objects of a JSON array; empty where it is none."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
