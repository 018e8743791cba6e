"""Openverse: openly licensed pictures of many collections.

Documented at https://api.openverse.org/v1/: without registering, 20 results a request, 240 a query.
"""

from __future__ import annotations

from typing import Any

from hqvox.config.discover import OpenverseConfig
from pipelines.discover.api import ApiClient
from pipelines.discover.paged import ApiSource, ResultPage, Token
from pipelines.discover.source import Candidate, objects_of, size_of, text_of, url_of

TOKEN = "HQVOX_OPENVERSE_TOKEN"
PUBLIC = {"cc0": "CC0", "pdm": "Public Domain Mark"}


class OpenverseSource(ApiSource[OpenverseConfig]):
    """Pictures that Openverse finds for each query."""

    name = "openverse"
    optional_keys = (TOKEN,)

    def page(self, client: ApiClient, token: Token) -> ResultPage:
        """ResultPage ``token["page"]`` of the results, counted from 1."""
        number = int(token.get("page", 1))
        parameters = {"q": token["q"], "page": number, "page_size": self.config.page_size}
        secret = {"Authorization": f"Bearer {self.secrets[TOKEN]}"} if TOKEN in self.secrets else {}
        address = f"{self.config.base_url}/v1/images/"
        body = client.get(address, parameters, secret_headers=secret)
        results = objects_of(body.get("results"))
        candidates = []
        for result in results:
            if url := url_of(result.get("url")):
                candidates.append(
                    Candidate(
                        url,
                        page_url=url_of(result.get("foreign_landing_url")),
                        title=text_of(result.get("title")),
                        licence=_licence(result),
                        licence_url=url_of(result.get("license_url")),
                        author=text_of(result.get("creator")),
                        width_px=size_of(result.get("width")),
                        height_px=size_of(result.get("height")),
                    )
                )
        pages = size_of(body.get("page_count")) or 0
        more = bool(results) and number < pages
        return ResultPage(candidates, {"q": token["q"], "page": number + 1} if more else None)


def _licence(result: dict[str, Any]) -> str | None:
    """The licence as people write it: ``by-sa``, ``2.0`` is CC BY-SA 2.0."""
    code, version = text_of(result.get("license")), text_of(result.get("license_version"))
    if code is None:
        return None
    name = PUBLIC.get(code.lower(), f"CC {code.upper()}")
    return f"{name} {version}" if version else name
