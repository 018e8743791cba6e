"""What a server's headers ask of us: when to come again, and what not to use.

- Retry-After (RFC 9110, 10.2.3);
- opt-outs: ``X-Robots-Tag: noai``, or for one agent, ``X-Robots-Tag: hqvox: noimageindex``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_LONGEST_SECONDS = 1e9
_NUMBER = re.compile(r"\d{1,4000}(\.\d{1,100})?", re.ASCII)
_VALUED = {"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"}
"""Directives that take a value after a colon: their name is not a user agent."""
_IMPLIES = {"none": ("noindex",)}


def retry_after_seconds(value: str | None, date: str | None = None) -> float | None:
    """Seconds to wait from now, or None if ``value`` is neither a number nor a date.

    ``date``: the response's Date header. A date in ``value`` is counted from it, so that a wrong
    clock of the server does not matter.
    """
    if value is None:
        return None
    text = value.strip()
    if _NUMBER.fullmatch(text):
        return min(float(text), _LONGEST_SECONDS)
    until = _moment(text)
    if until is None:
        return None
    now = _moment(date) or datetime.now(UTC)
    return min(max(0.0, (until - now).total_seconds()), _LONGEST_SECONDS)


def _moment(text: str | None) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text or "")
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def opted_out(headers: Iterable[str], agent: str, refusing: Collection[str]) -> str | None:
    """The first directive in X-Robots-Tag ``headers`` that is in ``refusing`` and applies to us.

    A user agent before a colon limits the rest of that header to it; ``agent`` is our own name.
    Google describes the header: developers.google.com/search/docs, "Robots meta tag".
    """
    for header in headers:
        ours = True
        for part in header.lower().split(","):
            name, colon, rest = part.strip().partition(":")
            directive = part.strip()
            if colon and name.strip() not in _VALUED:
                ours = name.strip() in (agent.lower(), "*")
                directive = rest.strip()
            for implied in (directive, *_IMPLIES.get(directive, ())):
                if ours and implied in refusing:
                    return implied
    return None
