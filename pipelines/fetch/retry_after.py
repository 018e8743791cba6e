"""Retry-After: how long a server asks us to wait (RFC 9110, 10.2.3)."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_LONGEST_SECONDS = 1e9
_NUMBER = re.compile(r"\d{1,4000}(\.\d{1,100})?", re.ASCII)


def retry_after_seconds(value: str | None, date: str | None = None) -> float | None:
    """Seconds from now that ``value`` asks for, a number or a date; None where it says nothing.

    ``date``: the answer's own Date header. A date is counted from it, so that a server whose clock
    is wrong is waited for as long as it means.
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
