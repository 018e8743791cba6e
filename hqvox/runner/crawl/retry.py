"""The retry rule of the crawl: which urls are requested, and which answers replace what is known.

Retries happen on three levels:

1. Within a crawl, requests that fail for a transient reason are repeated with growing pauses, up to
   ``download.retries`` times (``Engine._retry_or_give_up`` in :mod:`pipelines.fetch.engine`).
2. In a later build, this module decides, from the row of a url in the committed table or in the
   journal of an interrupted crawl.
3. A crawling process that dies is started again for its unfinished shards
   (:mod:`hqvox.runner.jobs`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hqvox.workspace.tables import Row
from pipelines.download import DownloadStage
from pipelines.fetch.engine import FetchResult

DEPENDS_ON_SETTINGS = frozenset(
    {"too_large", "opted_out", "robots_disallowed", "rights_reserved", "taken_down"}
)
"""Reasons that are requested again where the settings of the download changed."""
CONSENT_SETTINGS = ("robots", "opt_out")
"""Where these settings changed, photos are requested again: they may be refused now."""


@dataclass(frozen=True)
class Request:
    """A url to request; the validators of the photo that we have, if we ask only for a change."""

    url: str
    etag: str | None = None
    last_modified: str | None = None


def request_for(
    url: str,
    known: Row | None,
    settings_then: Mapping[str, Any],
    settings_now: Mapping[str, Any],
    *,
    retry_failed: bool,
    refresh: bool,
) -> Request | None:
    """The request for a url, or None where what is known of it is enough.

    ``known``: its row, whose ``reason`` is null if we have the photo; None if it was never
    requested. ``settings_then``: those of the row. ``retry_failed``, ``refresh``: as given to the
    build, but ``refresh`` is false for urls that the crawl had requested before it was interrupted.
    """
    if known is None:
        return Request(url)
    reason = known["reason"]
    again = (
        refresh
        or (retry_failed and reason in DownloadStage.transient)
        or (reason in DEPENDS_ON_SETTINGS and settings_then != settings_now)
        or (
            reason is None
            and any(settings_then.get(name) != settings_now[name] for name in CONSENT_SETTINGS)
        )
    )
    if not again:
        return None
    return Request(url, known["etag"], known["last_modified"]) if reason is None else Request(url)


def replaces(outcome: FetchResult, known: Row | None) -> bool:
    """Whether the outcome of a request replaces the url's row.

    A photo that we have stays if it did not change (304) or the failure is transient.
    """
    if known is None or known["reason"] is not None:
        return True
    unchanged = outcome.answer is not None and outcome.answer.status == 304
    return not (unchanged or outcome.reason in DownloadStage.transient)
