"""What the search APIs have in common: queries, and pages that are cached on disk."""

from __future__ import annotations

import hashlib
import json
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Generic, TypeVar
from urllib.parse import quote

from hqvox.config.discover import ApiConfig
from hqvox.errors import HqvoxError
from hqvox.workspace.covered import Covered, Owner
from hqvox.workspace.storage import Storage
from hqvox.workspace.tables import Row
from pipelines.discover.api import ApiClient, ApiResponse, Failure, KeyRefused, Spent
from pipelines.discover.budget import Budget
from pipelines.discover.secrets import from_environment, keep_out_of_logs
from pipelines.discover.source import Candidate, Stream, render_queries

MAX_PAGES = 200
"""Limit for one query, against an API that always names a next page."""

OPERATION = frozenset(ApiConfig.model_fields) | {"wikidata_url"}
"""Settings that do not change the results. Queries are listed separately."""


FOLDER = "discover"
"""Folder of cached results, below the workspace."""

Token = dict[str, Any]
"""Names one page: JSON values, without secrets."""


@dataclass(frozen=True)
class ResultPage:
    """One page of results: candidates, best first, and the token of the next page or None."""

    candidates: list[Candidate] = field(default_factory=list)
    next: Token | None = None


class KeptPages:
    """An identity's cached pages: lines of ``discover/<source>/<shard>/<identity>.jsonl``.

    A rerun requests only pages that are missing. After deleting such files, the next discover
    requests them again.
    """

    def __init__(
        self, storage: Storage, source: str, identity: Row, settings: Mapping[str, Any]
    ) -> None:
        self.storage = storage
        self.settings = settings
        self.shard: str = identity["shard"]
        self.file = f"{FOLDER}/{source}/{self.shard}/{_leaf(identity['identity_id'])}"
        self._lines: list[str] = []
        self._pages: dict[str, ResultPage] = {}
        try:
            text = storage.read(self.file).decode("utf-8", "replace")
        except FileNotFoundError:
            return
        for line in text.split("\n"):  # not splitlines: titles may hold other separators
            try:
                record = json.loads(line)
                candidates = [Candidate(**c) for c in record["candidates"]]
                self._pages[record["page"]] = ResultPage(candidates, record["next"])
            except (ValueError, KeyError, TypeError):
                continue  # damaged: the page is requested again
            self._lines.append(line)

    def get(self, token: Token) -> ResultPage | None:
        """A cached page, or None."""
        return self._pages.get(self._name(token))

    def put(self, token: Token, query: str, page: ResultPage) -> None:
        """Store a page; it is on disk when this returns. Raises HqvoxError if the disk fails."""
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
        request = json.dumps([self.settings, token], sort_keys=True)
        return hashlib.sha256(request.encode()).hexdigest()[:24]


def erase_answers(covered: Covered) -> None:
    """Erase covered identities and candidates; pages stay, and are not asked for again."""
    storage = covered.workspace.storage
    for source in storage.names(FOLDER):
        folder = f"{FOLDER}/{source}"
        for shard, identity_id in covered.identities:
            storage.remove(f"{folder}/{shard}/{_leaf(identity_id)}")
        for shard in storage.names(folder):
            for leaf in storage.names(f"{folder}/{shard}"):
                if leaf.endswith(".jsonl"):
                    _erase_candidates(storage, f"{folder}/{shard}/{leaf}", covered)


ANSWERS = Owner("answers of sources", (f"{FOLDER}/*/*/*.jsonl",), erase_answers)


def _erase_candidates(storage: Storage, name: str, covered: Covered) -> None:
    lines = storage.read(name).decode("utf-8", "replace").split("\n")
    kept = []
    for line in lines:
        try:
            page = json.loads(line)
            candidates = page["candidates"]
            page["candidates"] = [
                c
                for c in candidates
                if not (covered.address(c.get("url")) or covered.address(c.get("page_url")))
            ]
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # no reader uses such a line
        changed = len(page["candidates"]) < len(candidates)
        kept.append(json.dumps(page, ensure_ascii=False) if changed else line)
    if kept != [line for line in lines if line]:
        text = "\n".join([*kept, ""])
        storage.write(name, text.encode("utf-8", "replace"))


def _leaf(identity_id: str) -> str:
    return f"{quote(identity_id, safe=' ') or '_'}.jsonl"


@dataclass(frozen=True)
class Search:
    """A query and the token of its first page."""

    query: str
    first: Token


Config = TypeVar("Config", bound=ApiConfig)


class ApiSource(ABC, Generic[Config]):
    """A source that is a search API. Subclasses define the requests and read the responses."""

    name: str
    keys: ClassVar[Mapping[str, str]] = {}
    """Required environment variables, and what they hold."""
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
        """``queries``: templates, used if the section has none."""
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
                self.name, config, contact, budget, self.secrets, self.classify, stopping
            )

    @abstractmethod
    def page(self, client: ApiClient, token: Token) -> ResultPage:
        """Request one page. Malformed candidates are left out."""

    def searches(self, identity: Row) -> list[Search]:
        """What to request for an identity; by default one search per query."""
        return [Search(q, {"q": q}) for q in render_queries(self.queries, identity)]

    def classify(self, answer: ApiResponse) -> Failure | KeyRefused | Spent | None:
        """The source's own reading of a response; see :class:`ApiClient`."""
        return None

    def streams(self, identity: Row) -> list[Stream]:
        """One stream a search, read page by page."""
        kept = KeptPages(self._storage(), self.name, identity, self.settings())
        return [
            Stream(search.query, self._read(search, kept)) for search in self.searches(identity)
        ]

    def listing(self, identity: Row) -> list[Any]:
        """What would be requested."""
        return [[search.query, search.first] for search in self.searches(identity)]

    def settings(self) -> dict[str, Any]:
        """Settings that change the results."""
        return self.config.model_dump(mode="json", exclude=set(OPERATION))

    def missing(self) -> list[str]:
        """Environment variables that are not set."""
        return [
            f"{self.name}: set the environment variable {variable} ({meaning})"
            for variable, meaning in self.keys.items()
            if variable not in self.secrets
        ]

    def forecast(self, identities: Sequence[Row]) -> str:
        """The minimum of requests for the identities, and how long they take."""
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
                assert self.client is not None  # made together with the storage, see _storage()
                self.client.work_for(kept.shard)
                page = self.page(self.client, token)
                kept.put(token, search.query, page)
            yield from page.candidates
            token = page.next

    def _storage(self) -> Storage:
        if self.storage is None:
            raise HqvoxError(f"{self.name}: needs a workspace to keep its answers in")
        return self.storage
