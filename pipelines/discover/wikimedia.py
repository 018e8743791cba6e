"""Wikimedia: a person's item on Wikidata, its picture and category on Commons, Commons' search.

Both answer MediaWiki's action API, documented at https://www.mediawiki.org/wiki/API:Main_page.
Every file comes with its licence and author.
"""

from __future__ import annotations

import html
import re
import unicodedata
from typing import Any

from hqvox.config.discover import WikimediaConfig
from hqvox.workspace.tables import Row
from pipelines.discover.api import ApiClient, ApiResponse, Failure, Spent, wait_seconds
from pipelines.discover.paged import ApiSource, ResultPage, Search, Token
from pipelines.discover.source import (
    Candidate,
    objects_of,
    part_of,
    render_query,
    size_of,
    text_of,
    url_of,
)

PER_PAGE = 50
"""Files a request: the most for which Commons gives every licence in one answer."""
ITEMS = 5
"""People of one name that are considered."""
HUMAN = "Q5"
SEX = {"m": "Q6581097", "f": "Q6581072"}
TRANSIENT = frozenset({"maxlag", "ratelimited", "readonly"})
PICTURES = frozenset({"image/jpeg", "image/png", "image/webp", "image/tiff", "image/gif"})
ITEM = re.compile(r"Q[1-9]\d*")


class WikimediaSource(ApiSource[WikimediaConfig]):
    """Pictures of the person's item first, then the results of each query on Commons."""

    name = "wikimedia"

    def searches(self, identity: Row) -> list[Search]:
        """The item, by id where the identity's is one of Wikidata's, else by name; then queries."""
        name, key = render_query("{name}", identity), identity["identity_id"]
        if ITEM.fullmatch(key):
            item: Token = {"step": "item", "ids": [key], "sex": None}
        else:
            item = {"step": "find", "name": name, "sex": SEX.get(identity["gender"] or "")}
        commons = [
            Search(search.query, {"step": "search"} | search.first)
            for search in super().searches(identity)
        ]
        return [Search(f"Wikidata: {key if 'ids' in item else name}", item), *commons]

    def page(self, client: ApiClient, token: Token) -> ResultPage:
        """One step: find the item, read it, its pictures, its category, or a Commons search."""
        steps = {
            "find": self._find,
            "item": self._item,
            "files": self._files,
            "category": self._category,
            "search": self._search,
        }
        return steps[token["step"]](client, token)

    def classify(self, answer: ApiResponse) -> Failure | Spent | None:
        """MediaWiki sends errors with status 200."""
        error = part_of(answer.body, "error")
        if not isinstance(error, dict):
            return None
        code = text_of(error.get("code")) or "unknown"
        wait = wait_seconds(answer.headers)
        return Failure(f"answered with the error {code}", code in TRANSIENT, wait)

    def _find(self, client: ApiClient, token: Token) -> ResultPage:
        body = client.get(
            f"{self.config.wikidata_url}/w/api.php",
            {
                "action": "wbsearchentities",
                "search": token["name"],
                "language": "en",
                "type": "item",
                "limit": 4 * ITEMS,
                "format": "json",
                "maxlag": 5,
            },
        )
        ids = []
        for entry in objects_of(body.get("search")):
            key, wanted = text_of(entry.get("id")), _letters(token["name"])
            names = (part_of(entry, "match", "text"), entry.get("label"))
            # The search also answers with longer names: those are other people.
            if key and ITEM.fullmatch(key) and wanted in [_letters(n) for n in names if n]:
                ids.append(key)
        ids = list(dict.fromkeys(ids))[:ITEMS]
        return ResultPage(next={"step": "item", "ids": ids, "sex": token["sex"]} if ids else None)

    def _item(self, client: ApiClient, token: Token) -> ResultPage:
        body = client.get(
            f"{self.config.wikidata_url}/w/api.php",
            {
                "action": "wbgetentities",
                "ids": "|".join(token["ids"]),
                "props": "claims|sitelinks",
                "format": "json",
                "maxlag": 5,
            },
        )
        entities = [part_of(body, "entities", key) for key in token["ids"]]
        people = [e for e in entities if isinstance(e, dict) and self._fits(e, token["sex"])]
        if not people:
            return ResultPage()
        claims = max(people, key=self._likeliness)["claims"]
        titles = [f"File:{name}" for name in _values(claims, "P18")][:PER_PAGE]
        category = next(iter(_values(claims, "P373")), None)
        return ResultPage(next=_onward({"step": "files", "titles": titles, "category": category}))

    def _files(self, client: ApiClient, token: Token) -> ResultPage:
        body = self._commons(client, {"titles": "|".join(token["titles"])})
        return ResultPage(
            _candidates(body), _onward({"step": "files", "category": token["category"]})
        )

    def _category(self, client: ApiClient, token: Token) -> ResultPage:
        body = self._commons(
            client,
            {
                "generator": "categorymembers",
                "gcmtitle": f"Category:{token['category']}",
                "gcmtype": "file",
                "gcmlimit": PER_PAGE,
                **token.get("continue", {}),
            },
        )
        return ResultPage(_candidates(body), _continued(token, body))

    def _search(self, client: ApiClient, token: Token) -> ResultPage:
        body = self._commons(
            client,
            {
                "generator": "search",
                "gsrsearch": f"filetype:bitmap {token['q']}",
                "gsrnamespace": 6,
                "gsrlimit": PER_PAGE,
                **token.get("continue", {}),
            },
        )
        return ResultPage(_candidates(body), _continued(token, body))

    def _commons(self, client: ApiClient, parameters: dict[str, Any]) -> dict[str, Any]:
        width = self.config.width_px
        if width is not None:  # a smaller file is answered in its own size
            parameters = {"iiurlwidth": width, **parameters}
        return client.get(
            f"{self.config.base_url}/w/api.php",
            {
                "action": "query",
                "prop": "imageinfo",
                "iiprop": "url|size|mime|extmetadata",
                "iiextmetadatafilter": "LicenseShortName|LicenseUrl|Artist|Attribution|"
                "ObjectName|Restrictions",
                "iiextmetadatalanguage": "en",
                "format": "json",
                "formatversion": 2,
                "maxlag": 5,
                **parameters,
            },
        )

    def _fits(self, entity: dict[str, Any], sex: str | None) -> bool:
        """Whether an item is a person, and of the identity's sex where both are known."""
        claims = entity.get("claims")
        if HUMAN not in _values(claims, "P31"):
            return False
        stated = [s for s in _values(claims, "P21") if s in SEX.values()]
        return sex is None or not stated or sex in stated

    def _likeliness(self, entity: dict[str, Any]) -> tuple[bool, int]:
        """Order among people of one name: wanted occupations first, then the best known."""
        wanted = set(self.config.occupations) & set(_values(entity["claims"], "P106"))
        links = entity.get("sitelinks")
        return bool(wanted), len(links) if isinstance(links, dict) else 0


def _onward(token: Token) -> Token | None:
    """The next page of an item: its pictures, then its category."""
    if token.get("titles"):
        return token
    category = token.get("category")
    return {"step": "category", "category": category} if category else None


def _continued(token: Token, body: dict[str, Any]) -> Token | None:
    """The next page of a query, as MediaWiki names it."""
    onward = body.get("continue")
    if not isinstance(onward, dict) or onward == token.get("continue"):
        return None
    return token | {"continue": onward}


def _values(claims: Any, name: str) -> list[str]:
    """Values of a property: texts, or ids of items; preferred ones first, deprecated ones not."""
    texts: list[tuple[bool, str]] = []
    for claim in objects_of(part_of(claims, name)):
        value = part_of(claim, "mainsnak", "datavalue", "value")
        text = text_of(value.get("id") if isinstance(value, dict) else value)
        if text and claim.get("rank") != "deprecated":
            texts.append((claim.get("rank") != "preferred", text))
    return [text for _, text in sorted(texts, key=lambda pair: pair[0])]


def _candidates(body: dict[str, Any]) -> list[Candidate]:
    """The pictures among the files of an answer, in its order."""
    pages = part_of(body, "query", "pages")
    listed = objects_of(list(pages.values()) if isinstance(pages, dict) else pages)
    # A search numbers its results; without numbers the order is the answer's own.
    listed.sort(key=lambda page: size_of(page.get("index")) or 0)
    candidates = []
    for page in listed:
        for info in objects_of(page.get("imageinfo"))[:1]:
            thumbnail = url_of(info.get("thumburl"))
            scaled = "thumb" if thumbnail else ""
            url = thumbnail or url_of(info.get("url"))
            if url is None or info.get("mime") not in PICTURES:
                continue
            metadata = info.get("extmetadata")
            name = text_of(page.get("title"))
            candidates.append(
                Candidate(
                    url,
                    page_url=url_of(info.get("descriptionurl")),
                    title=_plain(metadata, "ObjectName")
                    or (name or "").removeprefix("File:")
                    or None,
                    licence=_plain(metadata, "LicenseShortName"),
                    licence_url=url_of(part_of(metadata, "LicenseUrl", "value")),
                    author=_plain(metadata, "Attribution") or _plain(metadata, "Artist"),
                    width_px=size_of(info.get(f"{scaled}width")),
                    height_px=size_of(info.get(f"{scaled}height")),
                    restrictions=_plain(metadata, "Restrictions"),
                )
            )
    return candidates


def _plain(metadata: Any, name: str) -> str | None:
    """A value of a file's metadata as text: Commons gives HTML."""
    value = part_of(metadata, name, "value")
    if not isinstance(value, str):
        return None
    return text_of(html.unescape(re.sub(r"<[^>]*>", " ", value)))


def _letters(name: Any) -> str:
    """A name's letters and digits, without case, accents, dots and spaces."""
    flat = unicodedata.normalize("NFKD", str(name)).casefold()
    return "".join(c for c in flat if c.isalnum())
