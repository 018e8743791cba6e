"""Brave's image search API.

Documented at https://api-dashboard.search.brave.com/app/documentation/image-search: up to 200
results in one answer, which has no further pages; the plan's limits are in the headers.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import ClassVar

from hqvox.config.discover import BraveConfig
from pipelines.discover.api import ApiClient, ApiResponse, Failure, KeyRefused, Spent
from pipelines.discover.paged import ApiSource, ResultPage, Token
from pipelines.discover.source import Candidate, objects_of, part_of, size_of, text_of, url_of

MOST = 200


class BraveSource(ApiSource[BraveConfig]):
    """Pictures that Brave finds for each query."""

    name = "brave"
    keys: ClassVar = {"HQVOX_BRAVE_KEY": "API key of the Brave Search API"}

    def page(self, client: ApiClient, token: Token) -> ResultPage:
        """The whole answer: there is one page."""
        parameters = {
            "q": token["q"],
            "count": MOST,
            "country": self.config.country,
            "safesearch": "strict" if self.config.safe else "off",
            "spellcheck": "false",  # names are to be taken as they are
        }
        secret = {"X-Subscription-Token": self.secrets["HQVOX_BRAVE_KEY"]}
        address = f"{self.config.base_url}/res/v1/images/search"
        body = client.get(address, parameters, secret_headers=secret)
        candidates = []
        for result in objects_of(body.get("results")):
            if url := url_of(part_of(result, "properties", "url")):
                candidates.append(
                    Candidate(
                        url,
                        page_url=url_of(result.get("url")),
                        title=text_of(result.get("title")),
                        width_px=size_of(part_of(result, "properties", "width")),
                        height_px=size_of(part_of(result, "properties", "height")),
                    )
                )
        return ResultPage(candidates)

    def classify(self, answer: ApiResponse) -> Failure | KeyRefused | Spent | None:
        """429: the limit per second, which is transient, or the plan's, which is spent.

        422: the key is none, or another parameter is wrong; the error's code says which.
        """
        code = part_of(answer.body, "error", "code")
        if answer.status == 422 and isinstance(code, str) and "TOKEN" in code.upper():
            return KeyRefused()
        if answer.status == 402:
            return Spent()
        if answer.status != 429:
            return None
        # "1, 15000" requests are left within windows that end in "1, 1419704" seconds.
        left = _numbers(answer.headers.get("X-RateLimit-Remaining"))
        ends = _numbers(answer.headers.get("X-RateLimit-Reset"))
        if len(left) > 1 and len(left) == len(ends):
            over = [end for count, end in zip(left[1:], ends[1:], strict=True) if count == 0]
            if over:
                return Spent(datetime.now(UTC) + timedelta(seconds=max(over)))
        return Spent() if isinstance(code, str) and "QUOTA" in code.upper() else None


def _numbers(header: str | None) -> list[int]:
    parts = [part.strip() for part in (header or "").split(",")]
    return [int(part[:9]) for part in parts] if all(p.isdigit() for p in parts) else []
