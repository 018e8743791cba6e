"""The discover stage: asks every source, and merges the results into one list per identity."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from hqvox.config.build import BuildConfig
from hqvox.config.discover import MOST_FOUND, DiscoverConfig
from hqvox.workspace.storage import Storage
from hqvox.workspace.tables import Row
from hqvox.workspace.takedowns import normalised_url, original_url
from models.store import ModelStore
from pipelines.discover.brave import BraveSource
from pipelines.discover.folder import FolderSource
from pipelines.discover.google import GoogleSource
from pipelines.discover.openverse import OpenverseSource
from pipelines.discover.paged import FOLDER, ApiSource
from pipelines.discover.source import Candidate, QuotaSpent, Source, SourceError, Stream
from pipelines.discover.urls import UrlsSource
from pipelines.discover.wikimedia import WikimediaSource
from pipelines.stage import Pixels, Stage

APIS: dict[str, type[ApiSource]] = {
    source.name: source for source in (WikimediaSource, OpenverseSource, GoogleSource, BraveSource)
}


class DiscoverStage(Stage):
    """Lists the candidate photographs of an identity.

    Its input is one row per identity (``identity_id``, ``name``, ``folder``, …); its output one
    row per candidate. Several sources and several queries take turns until the limit is reached. A
    url that came before is skipped.
    """

    name = "discover"
    reads = ()
    writes = (
        "url",
        "page_url",
        "source",
        "query",
        "rank",
        "title",
        "licence",
        "licence_url",
        "author",
        "stated_width_px",
        "stated_height_px",
        "restrictions",
    )
    reasons = ()
    compares = True
    version = 2

    def __init__(
        self,
        config: DiscoverConfig,
        store: ModelStore,
        storage: Storage | None = None,
        contact: str = "",
    ) -> None:
        """``storage``: the workspace's; results are cached there, and remote sources need it.

        ``contact``: e-mail address or page of the operator, for the User-Agent header.
        """
        super().__init__(config, store)
        self._stopping = threading.Event()
        cache = store.cache_dir if storage is None or not storage.local else Path(storage.path(""))
        self.sources: list[Source] = []
        for name in config.sources:
            if name == "folder":
                self.sources.append(FolderSource(config, storage))
            elif name == "urls":
                self.sources.append(UrlsSource(config.urls, cache / FOLDER / name))
            else:
                section = getattr(config, name)
                self.sources.append(
                    APIS[name](section, config.queries, storage, contact, self._stopping)
                )

    def missing(self) -> list[str]:
        """Settings that the sources need and do not have, one line each."""
        return [line for source in self.sources for line in source.missing()]

    def stop(self) -> None:
        """End all waits for a source, in every thread, with a SourceError."""
        self._stopping.set()

    def forecast(self, identities: Sequence[Row]) -> list[str]:
        """Requests and time that these identities need: one line a source. Makes no request."""
        return [source.forecast(identities) for source in self.sources]

    @classmethod
    def of_build(cls, config: BuildConfig, store: ModelStore, storage: Storage | None) -> Self:
        """The stage of a build. ``storage``: the workspace's."""
        return cls(config.discover, store, storage, config.download.contact)

    def measure(self, rows: Sequence[Row], pixels: Pixels) -> list[Row]:
        """One row per candidate of each identity row; may be called from several threads.

        Raises SourceError if a source cannot answer now; the others are asked first, and their
        results are cached. With QuotaSpent come the candidates of the other sources.
        Raises HqvoxError if the user has to change something first.
        """
        return [row for identity in rows for row in self._discover(identity)]

    def listings(self, identities: Sequence[Row], by_time: bool = False) -> list[list[Any]]:
        """What makes candidates stale when it changes: of each identity, per source.

        ``by_time``: with files' times in place of hashes, as earlier versions recorded it.
        """
        listings = [
            [
                source.listing_by_time(identity)
                if by_time and isinstance(source, FolderSource)
                else source.listing(identity)
                for source in self.sources
            ]
            for identity in identities
        ]
        for source in self.sources:
            if isinstance(source, FolderSource):
                for shard in {identity.get("shard") or "" for identity in identities}:
                    source.save(shard)
        return listings

    def settings(self) -> dict[str, Any]:
        """The settings that change the result."""
        return {
            "enabled": self.config.enabled,
            "sources": list(self.config.sources),
            "limit": self.config.limit or MOST_FOUND,
        } | {source.name: source.settings() for source in self.sources if source.settings()}

    def left_out(self, identities: Sequence[Row], rows: Sequence[Row]) -> int:
        """How many photographs the limit left out of ``rows``, the candidates of ``identities``.

        Counts those of one's own folder and list; what a search would still have found is not
        known.
        """
        taken = {(row["identity_id"], normalised_url(row["url"])) for row in rows}
        listed = {identity_id for identity_id, _ in taken}
        named = {
            (identity["identity_id"], normalised_url(candidate.url))
            for identity in identities
            if identity["identity_id"] in listed  # those taken down are left out for that
            for source in self.sources
            if isinstance(source, FolderSource | UrlsSource)
            for stream in source.streams(identity)
            for candidate in stream.candidates
        }
        return len(named - taken)

    def _discover(self, identity: Row) -> list[Row]:
        streams = [
            (source, stream) for source in self.sources for stream in source.streams(identity)
        ]
        candidates: list[Row] = []
        try:
            self._merge(identity, streams, candidates)
        except QuotaSpent as error:
            if len(self.sources) > 1:
                error.candidates = candidates
            raise
        return candidates

    def _merge(
        self,
        identity: Row,
        streams: Sequence[tuple[Source, Stream]],
        candidates: list[Row],
    ) -> None:
        """Append a row per candidate. Raises SourceError at the end if a stream failed."""
        whole = FolderSource.name if self.config.limit is None else ""
        limit = self.config.limit or MOST_FOUND
        for source, query, rank, candidate in take_turns(streams, limit, whole):
            candidates.append(
                {
                    "identity_id": identity["identity_id"],
                    "candidate": len(candidates),
                    "face": None,
                    "url": candidate.url,
                    "page_url": candidate.page_url,
                    "source": source.name,
                    "query": query,
                    "rank": rank,
                    "title": candidate.title,
                    "licence": candidate.licence,
                    "licence_url": candidate.licence_url,
                    "author": candidate.author,
                    "stated_width_px": candidate.width_px,
                    "stated_height_px": candidate.height_px,
                    "restrictions": candidate.restrictions,
                    "reason": None,
                }
            )


def take_turns(
    streams: Sequence[tuple[Source, Stream]], limit: int, whole: str = ""
) -> Iterator[tuple[Source, str | None, int, Candidate]]:
    """Candidates of several streams, one from each in turn, each url once, up to ``limit``.

    The source named ``whole`` goes on beyond the limit, to its end. A stream that fails keeps its
    turns, so that the others are read as far as if it had worked; its SourceError is raised at the
    end. Yields (source, query, rank within the stream, candidate).
    """
    waiting = [(source, stream.query, enumerate(stream.candidates)) for source, stream in streams]
    seen: set[str] = set()
    failures: list[SourceError] = []
    missed = 0
    while waiting:
        for turn in list(waiting):
            if len(seen) + missed >= limit and turn[0].name != whole:
                waiting.remove(turn)
                continue
            source, query, numbered = turn
            try:
                rank, candidate = _next_new(numbered, seen)
            except StopIteration:
                waiting.remove(turn)
                continue
            except SourceError as error:
                failures.append(error)
                waiting.remove(turn)
                continue
            yield source, query, rank, candidate
        missed += len(failures)
    if failures:
        # One that says more than that a quota is spent goes first: nobody is to go on then.
        raise min(failures, key=lambda failure: isinstance(failure, QuotaSpent))


def _next_new(numbered: Iterator[tuple[int, Candidate]], seen: set[str]) -> tuple[int, Candidate]:
    """The stream's next candidate with a new url. Raises StopIteration at the end."""
    while True:
        rank, candidate = next(numbered)
        key = normalised_url(original_url(candidate.url))
        if key not in seen:
            seen.add(key)
            return rank, candidate
