"""What the search APIs have in common: queries, and pages that are asked for once."""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from hqvox.config.discover import ApiConfig
from hqvox.errors import HqvoxError
from hqvox.workspace.storage import Storage
from hqvox.workspace.tables import Row
from pipelines.discover.api import Answer, ApiClient, Failed, Spent
from pipelines.discover.budget import Budget
from pipelines.discover.kept import KeptPages, Page, Token
from pipelines.discover.secrets import from_environment, keep_out_of_logs
from pipelines.discover.source import Candidate, Stream, render_queries

MAX_PAGES = 200
"""Of one query: an API that always names a next page ends too."""

OPERATION = frozenset(ApiConfig.model_fields) | {"wikidata_url"}
"""Settings that decide where and how fast an API is asked, not what; queries are listed apart."""


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
        self,
        config: Config,
        queries: list[str],
        storage: Storage | None,
        contact: str,
        stopping: threading.Event,
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
            self.client = ApiClient(
                self.name, config, contact, budget, self.secrets, self.judge, stopping
            )

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

    def forecast(self, identities: Sequence[Row]) -> str:
        """The fewest requests that the identities take, and how long those last."""
        requests = sum(len(self.searches(identity)) for identity in identities)
        days = requests / self.config.requests_per_second / 86_400
        pace = f"{self.config.requests_per_second:g} a second"
        budget = self.config.daily_requests
        if budget is not None and requests > budget * max(days, 1):
            days = requests / budget if budget else math.inf
            pace = f"{budget:,} a day"
        length = f"{days:,.0f} days" if days >= 2 else f"{24 * days:,.1f} hours"
        return f"{self.name}: {requests:,} requests or more, {length} at {pace}"

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
                self.client.work_for(kept.shard)
                page = self.page(self.client, token)
                kept.put(token, search.query, page)
            yield from page.candidates
            token = page.next

    def _storage(self) -> Storage:
        if self.storage is None:
            raise HqvoxError(f"{self.name}: needs a workspace to keep its answers in")
        return self.storage
