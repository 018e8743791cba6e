"""The section ``discover`` of hqvox.yaml: where photographs are looked for, source by source."""

from __future__ import annotations

from string import Formatter
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from hqvox.config.section import Section, StageSection


class UrlsConfig(Section):
    """A file that names the photographs' urls: CSV, TSV, JSONL or Parquet, each also .gz."""

    file: str = Field("", description="path of the file; the rest are names of its columns")
    identity: str = Field("identity_id", description="column of the identity's id, or its name")
    url: str = Field("url", description="column of the photo's url; best photos first")
    page_url: str = Field("page_url", description="column of the page that shows it, if any")
    title: str = Field("title", description="column of its title, if any")
    licence: str = Field("licence", description="column of its licence, if any")
    licence_url: str = Field("licence_url", description="column of the licence's page, if any")
    author: str = Field("author", description="column of its author, if any")
    width: str = Field("width", description="column of its width in pixels, if any")
    height: str = Field("height", description="column of its height in pixels, if any")


class ApiConfig(Section):
    """What every search API has."""

    base_url: str = Field("", description="where the API is")
    queries: list[str] | None = Field(None, description="null: those of discover.queries")
    requests_per_second: float = Field(1.0, gt=0, le=1000, description="at most (house)")
    daily_requests: int | None = Field(None, ge=0, description="budget a day; null: none")
    timeout_seconds: float = Field(30.0, gt=0, le=600, description="for one answer (house)")
    retries: int = Field(4, ge=0, le=20, description="after what can pass (house)")
    backoff_seconds: float = Field(
        1.0, ge=0, le=600, description="before the first retry; doubles, with jitter (house)"
    )
    longest_wait_seconds: float = Field(
        120.0,
        ge=0,
        le=86_400,
        description="a longer Retry-After means that the quota is spent (house)",
    )

    @field_validator("base_url", "wikidata_url", check_fields=False)
    @classmethod
    def _is_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise ValueError("an address like https://host, without user name")
        return url.rstrip("/")

    @field_validator("queries")
    @classmethod
    def _are_queries(cls, queries: list[str] | None) -> list[str] | None:
        return None if queries is None else checked_queries(queries)


class WikimediaConfig(ApiConfig):
    """Wikidata's item of a person, its picture and category on Commons, then Commons' search."""

    base_url: str = Field("https://commons.wikimedia.org", description="Wikimedia Commons")
    wikidata_url: str = Field("https://www.wikidata.org", description="Wikidata")
    queries: list[str] | None = Field(
        ["{name}"], description="Commons finds only files with every word; null: discover.queries"
    )
    requests_per_second: float = Field(2.0, gt=0, le=1000, description="at most (house)")
    width_px: Literal[960, 1280, 1920, 3840] | None = Field(
        1920,
        description="to ask for, px, of those that Wikimedia has ready; null: the original (house: "
        "faces are looked for at decode.working_side_px)",
    )
    occupations: list[str] = Field(
        ["Q33999", "Q177220", "Q639669", "Q82955", "Q2066131", "Q245068", "Q947873", "Q1930187"],
        description="of people of one name, prefer these: actor, singer, musician, politician, "
        "athlete, comedian, television presenter, journalist (house)",
    )


class OpenverseConfig(ApiConfig):
    """Openverse: openly licensed pictures. HQVOX_OPENVERSE_TOKEN: of a registered app, if any."""

    base_url: str = Field("https://api.openverse.org", description="Openverse")
    requests_per_second: float = Field(
        0.33, gt=0, le=1000, description="at most (Openverse: 20 a minute without registering)"
    )
    daily_requests: int | None = Field(
        200, ge=0, description="budget a day; null: none (Openverse: 200 without registering)"
    )
    page_size: int = Field(
        20, ge=1, le=500, description="photos per request (Openverse: 20 without registering)"
    )


class GoogleConfig(ApiConfig):
    """Google's Programmable Search; key in HQVOX_GOOGLE_KEY, engine id in HQVOX_GOOGLE_ENGINE."""

    base_url: str = Field("https://www.googleapis.com", description="Custom Search JSON API")
    daily_requests: int | None = Field(
        100, ge=0, description="budget a day; null: none (Google: 100 are free)"
    )
    image_type: Literal["face", "photo", "any"] = Field(
        "face", description="kind of picture to ask for (house)"
    )
    safe: bool = Field(True, description="leave out what Google holds for explicit")


class BraveConfig(ApiConfig):
    """Brave's image search; key in HQVOX_BRAVE_KEY."""

    base_url: str = Field("https://api.search.brave.com", description="Brave Search API")
    daily_requests: int | None = Field(
        1000, ge=0, description="budget a day; null: none (house: a plan of 30,000 a month)"
    )
    country: str = Field("ALL", pattern="^[A-Z]{2,3}$", description="two letters, or ALL")
    safe: bool = Field(True, description="leave out what Brave holds for explicit")


QUERY_FIELDS = ("name", "id", "gender", "nationality", "subset")
"""What a query template can name."""


def checked_queries(queries: list[str]) -> list[str]:
    """Query templates as given. Raises ValueError naming the field that does not exist."""
    for query in queries:
        try:
            parts = list(Formatter().parse(query))
        except ValueError as error:
            raise ValueError(
                f"a template with fields in braces: {query!r} is none ({error})"
            ) from None
        fields = [field for _, field, _, _ in parts if field is not None]
        unknown = [field for field in fields if field not in QUERY_FIELDS]
        if unknown:
            raise ValueError(
                f"made of the fields {', '.join(QUERY_FIELDS)}: there is no {unknown[0]!r}"
            )
        if any(form or conversion for _, _, form, conversion in parts):
            raise ValueError(f"plain fields like {{name}}, without a format: {query!r}")
        if "name" not in fields and "id" not in fields:
            raise ValueError(f"about the person: {query!r} names neither {{name}} nor {{id}}")
    if not queries:
        raise ValueError("at least one query, for example '{name} face'")
    return queries


MOST_FOUND = 300
"""Photographs per identity where ``limit`` is null and they come from elsewhere (paper)."""


class DiscoverConfig(StageSection):
    """Where candidate photos are."""

    sources: list[Literal["folder", "urls", "wikimedia", "openverse", "google", "brave"]] = Field(
        ["folder"], min_length=1, description="where to look; several take turns"
    )
    photos: str = Field("", description="folder source: the folder that holds the folders")
    limit: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description="photos per identity; null: all of one's own folder, 300 with any other source "
        "(paper: 300)",
    )
    queries: list[str] = Field(
        ["{name}", "{name} face", "{name} portrait"],
        description="what to ask the search APIs; they take turns (house: Google answers at most "
        "100 to one query, the paper has 300)",
    )
    urls: UrlsConfig = Field(UrlsConfig(), description="urls source: a file")
    wikimedia: WikimediaConfig = Field(WikimediaConfig(), description="Wikidata and Commons")
    openverse: OpenverseConfig = Field(OpenverseConfig(), description="Openverse")
    google: GoogleConfig = Field(GoogleConfig(), description="Google's Programmable Search")
    brave: BraveConfig = Field(BraveConfig(), description="Brave's image search")

    @property
    def remote(self) -> bool:
        """Whether candidates are urls to fetch, rather than files of this machine."""
        return self.sources != ["folder"]

    @field_validator("queries")
    @classmethod
    def _are_queries(cls, queries: list[str]) -> list[str]:
        return checked_queries(queries)

    @property
    def most(self) -> int | None:
        """Photographs per identity; null: no limit."""
        return self.limit or (MOST_FOUND if self.remote else None)

    @field_validator("sources")
    @classmethod
    def _are_distinct(cls, sources: list[str]) -> list[str]:
        if len(set(sources)) < len(sources):
            raise ValueError("a list that names each source once")
        return sources
