"""What the search APIs have in common: queries, pages, and answers that are kept.

Every page that an API answered is kept in ``discover/<source>/<shard>/<identity>.jsonl``, one line
a page, candidates only: a rerun asks for what is missing and for nothing twice. Deleting files
there makes the next run of discover ask again.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Generic, TypeVar
from urllib.parse import quote

from hqvox.config_discover import ApiConfig
from hqvox.errors import HqvoxError
from hqvox.storage import Storage
from hqvox.tables import Row
from pipelines.discover.api import Answer, ApiClient, Failed, Spent
from pipelines.discover.budget import Budget
from pipelines.discover.secrets import from_environment, keep_out_of_logs
from pipelines.discover.source import Candidate, Stream, render_queries

Token = dict[str, Any]
"""Which page: JSON values that name it wholly, without secrets."""

MAX_PAGES = 200
"""Of one query: an API that always names a next page ends too."""

OPERATION = frozenset(ApiConfig.model_fields) | {"wikidata_url"}
"""Settings that decide where and how fast an API is asked, not what; queries are listed apart."""


@dataclass(frozen=True)
class Page:
    """One answer: its candidates, best first, and the token of the next page, if there is one."""

    candidates: list[Candidate] = field(default_factory=list)
    next: Token | None = None


@dataclass(frozen=True)
class Search:
    """A query and the token of its first page."""

    query: str
    first: Token


Config = TypeVar("Config", bound=ApiConfig)


class ApiSource(ABC, Generic[Config]):
    """A source that is a search API. Subclasses say what to ask for and how to read it."""

    name: str
    remote = True
    keys: ClassVar[Mapping[str, str]] = {}
    """Environment variables that must be set, and what they hold."""
    optional_keys: ClassVar[tuple[str, ...]] = ()
    day_zone: ClassVar[str] = "UTC"
    """Time zone in which the quota's day begins."""

    def __init__(
        self, config: Config, queries: list[str], storage: Storage | None, contact: str
    ) -> None:
        """``queries``: templates where the section has none of its own."""
        self.config = config
        self.queries = queries if config.queries is None else config.queries
        self.storage = storage
        self.secrets = {
            variable: value
            for variable in (*self.keys, *self.optional_keys)
            if (value := from_environment(variable))
        }
        keep_out_of_logs(self.secrets.values())
        self.client: ApiClient | None = None
        if storage is not None:
            budget = Budget(storage, self.name, config.daily_requests, self.day_zone)
            self.client = ApiClient(self.name, config, contact, budget, self.secrets, self.judge)

    @abstractmethod
    def page(self, client: ApiClient, token: Token) -> Page:
        """Ask for one page. What is malformed in it is left out, candidate by candidate."""

    def searches(self, identity: Row) -> list[Search]:
        """What to ask for an identity; by default its queries, one by one."""
        return [Search(q, {"q": q}) for q in render_queries(self.queries, identity)]

    def judge(self, answer: Answer) -> Failed | Spent | None:
        """What the source alone knows of an answer; see :class:`ApiClient`."""
        return None

    def streams(self, identity: Row) -> list[Stream]:
        """One stream a search, read page by page."""
        kept = KeptPages(self._storage(), self.name, identity, self.settings())
        return [
            Stream(search.query, self._read(search, kept)) for search in self.searches(identity)
        ]

    def listing(self, identity: Row) -> list[Any]:
        """What would be asked."""
        return [[search.query, search.first] for search in self.searches(identity)]

    def settings(self) -> dict[str, Any]:
        """Options that change the answer."""
        return self.config.model_dump(mode="json", exclude=set(OPERATION))

    def missing(self) -> list[str]:
        """Environment variables that are not set."""
        return [
            f"{self.name}: set the environment variable {variable} ({meaning})"
            for variable, meaning in self.keys.items()
            if variable not in self.secrets
        ]

    def _read(self, search: Search, kept: KeptPages) -> Iterator[Candidate]:
        token: Token | None = search.first
        for _ in range(MAX_PAGES):
            if token is None:
                return
            page = kept.get(token)
            if page is None:
                if self.missing():
                    raise HqvoxError(self.missing()[0])
                assert self.client is not None  # made with the storage, which _storage() saw to
                page = self.page(self.client, token)
                kept.put(token, search.query, page)
            yield from page.candidates
            token = page.next

    def _storage(self) -> Storage:
        if self.storage is None:
            raise HqvoxError(f"{self.name}: needs a workspace to keep its answers in")
        return self.storage


class KeptPages:
    """An identity's answers on disk."""

    def __init__(
        self, storage: Storage, source: str, identity: Row, settings: Mapping[str, Any]
    ) -> None:
        self.storage = storage
        self.settings = settings
        leaf = quote(str(identity["identity_id"]), safe=" ") or "_"
        self.file = f"discover/{source}/{identity.get('shard') or '_'}/{leaf}.jsonl"
        self._lines: list[str] = []
        self._pages: dict[str, Page] = {}
        try:
            text = storage.read(self.file).decode("utf-8", "replace")
        except FileNotFoundError:
            return
        for line in text.split("\n"):  # titles may hold other separators
            try:
                record = json.loads(line)
                found = [Candidate(**c) for c in record["candidates"]]
                self._pages[record["page"]] = Page(found, record["next"])
            except (ValueError, KeyError, TypeError):
                continue  # damaged: the page is asked for again
            self._lines.append(line)

    def get(self, token: Token) -> Page | None:
        """A page that was answered before, else None."""
        return self._pages.get(self._name(token))

    def put(self, token: Token, query: str, page: Page) -> None:
        """Keep a page, on disk when this returns. Raises HqvoxError where the disk refuses."""
        name = self._name(token)
        self._pages[name] = page
        candidates = [
            {key: value for key, value in asdict(c).items() if value is not None}
            for c in page.candidates
        ]
        record = {"page": name, "query": query, "next": page.next, "candidates": candidates}
        self._lines.append(json.dumps(record, ensure_ascii=False))
        text = "\n".join([*self._lines, ""])
        self.storage.write(self.file, text.encode("utf-8", "replace"))

    def _name(self, token: Token) -> str:
        asked = json.dumps([self.settings, token], sort_keys=True)
        return hashlib.sha256(asked.encode()).hexdigest()[:24]
