"""Keys of search APIs: read from the environment, removed from all that is written or shown."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, quote_plus

HIDDEN = "***"
MIN_LENGTH = 5
"""Shorter strings occur in ordinary words; no API's key is that short."""


def from_environment(variable: str) -> str:
    """The variable's value without surrounding space; "" if it is not set."""
    return os.environ.get(variable, "").strip()


class Redactor:
    """Removes secrets from text, also in escaped forms."""

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = set()
        for secret in secrets:
            if len(secret) >= MIN_LENGTH:
                forms |= {secret, quote(secret, safe=""), quote(secret), quote_plus(secret)}
                forms |= {json.dumps(secret)[1:-1], repr(secret)[1:-1]}
        self._forms = sorted(forms, key=len, reverse=True)

    def text(self, text: str) -> str:
        """The text without secrets."""
        for form in self._forms:
            text = text.replace(form, HIDDEN)
        return text

    def value(self, value: Any) -> Any:
        """A JSON value whose strings hold no secrets."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.value(item) for item in value]
        if isinstance(value, dict):
            return {self.text(key): self.value(item) for key, item in value.items()}
        return value


class _LogFilter(logging.Filter):
    """urllib3 can log the url of every request, and some hold keys."""

    def __init__(self) -> None:
        super().__init__()
        self.redactors: dict[frozenset[str], Redactor] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        for redactor in self.redactors.values():
            message = redactor.text(message)
        record.msg, record.args = message, ()
        return True


_LOG_FILTER = _LogFilter()


def keep_out_of_logs(secrets: Iterable[str]) -> None:
    """Remove these secrets from the logs of the HTTP libraries."""
    known = frozenset(secrets)
    _LOG_FILTER.redactors[known] = Redactor(known)
    for name in ("urllib3.connectionpool", "urllib3.util.retry", "requests"):
        logging.getLogger(name).addFilter(_LOG_FILTER)  # adding it again does nothing
