"""Google's Programmable Search, Custom Search JSON API, for images.

Documented at https://developers.google.com/custom-search/v1/reference/rest/v1/cse/list: ten
results a request, a hundred a query. Google takes no new customers for it and ends it in 2027.
"""

from __future__ import annotations

from typing import Any, ClassVar

from hqvox.config.discover import GoogleConfig
from pipelines.discover.api import ApiClient, ApiResponse, Failure, KeyRefused, Spent
from pipelines.discover.paged import ApiSource, ResultPage, Token
from pipelines.discover.source import Candidate, objects_of, part_of, size_of, text_of, url_of

PER_PAGE = 10
MOST = 100
"""Most results of one query; Google refuses further pages."""
DAILY = ("per day", "daily limit", "dailylimit", "perday")
"""Words of an error about the daily quota, not that per minute."""


class GoogleSource(ApiSource[GoogleConfig]):
    """Pictures that Google finds for each query."""

    name = "google"
    keys: ClassVar = {
        "HQVOX_GOOGLE_KEY": "API key of the Custom Search JSON API",
        "HQVOX_GOOGLE_ENGINE": "id of the Programmable Search engine",
    }
    day_zone = "America/Los_Angeles"

    def page(self, client: ApiClient, token: Token) -> ResultPage:
        """Ten results from ``token["start"]`` on, counted from 1."""
        start = int(token.get("start", 1))
        parameters: dict[str, Any] = {
            "q": token["q"],
            "searchType": "image",
            "num": PER_PAGE,
            "start": start,
            "safe": "active" if self.config.safe else "off",
        }
        if self.config.image_type != "any":
            parameters["imgType"] = self.config.image_type
        secret = {
            "key": self.secrets["HQVOX_GOOGLE_KEY"],
            "cx": self.secrets["HQVOX_GOOGLE_ENGINE"],
        }
        body = client.get(f"{self.config.base_url}/customsearch/v1", parameters, secret)
        candidates = []
        for item in objects_of(body.get("items")):
            if url := url_of(item.get("link")):
                candidates.append(
                    Candidate(
                        url,
                        page_url=url_of(part_of(item, "image", "contextLink")),
                        title=text_of(item.get("title")),
                        width_px=size_of(part_of(item, "image", "width")),
                        height_px=size_of(part_of(item, "image", "height")),
                    )
                )
        after = objects_of(part_of(body, "queries", "nextPage"))
        following = size_of(after[0].get("startIndex")) if after else None
        more = following is not None and start < following <= MOST - PER_PAGE + 1
        return ResultPage(candidates, {"q": token["q"], "start": following} if more else None)

    def classify(self, answer: ApiResponse) -> Failure | KeyRefused | Spent | None:
        """403, 429: the daily quota, which is spent, or that per minute, which is transient.

        400: the key is none, or another parameter is wrong; the error's words say which.
        """
        if answer.status not in (400, 403, 429):
            return None
        error = part_of(answer.body, "error")
        texts = [part_of(error, "message")]
        texts += [
            e.get(k) for e in objects_of(part_of(error, "errors")) for k in ("reason", "message")
        ]
        for detail in objects_of(part_of(error, "details")):
            texts += [part_of(detail, "metadata", k) for k in ("quota_limit", "quota_unit")]
            texts.append(detail.get("reason"))
        words = " ".join(text for text in texts if isinstance(text, str)).lower()
        if answer.status == 400:
            refused = "api key" in words or "api_key" in words or "keyinvalid" in words
            return KeyRefused() if refused else None
        if any(name in words for name in DAILY) or "quotaexceeded" in words:
            return Spent()
        if answer.status == 403 and "ratelimitexceeded" in words:
            return Failure("answered 403 (too many requests)")
        return None
