"""The result of a crawl: photographs fetched, and failures by reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from hqvox.errors import HqvoxError
from hqvox.runner.crawl.shard import attempts_name
from hqvox.workspace.layout import Workspace
from hqvox.workspace.parquet import read_parquet
from pipelines.download import DownloadStage
from pipelines.fetch.engine import TRANSIENT

UNSTATED = "not stated"
SHOWN_HOSTS = 20


@dataclass
class HostStats:
    """Counts of one host."""

    name: str
    requests: int = 0
    """Those that it answered or that failed; not those refused beforehand."""
    answered: int = 0
    failed: int = 0
    """Requests that failed for a transient reason."""
    bytes: int = 0
    """Of bodies, as they came over the network."""
    seconds: float = 0.0

    @property
    def mean_seconds(self) -> float:
        """Of a request."""
        return self.seconds / max(self.requests, 1)


@dataclass
class CrawlStats:
    """Counts over all shards."""

    candidates: int = 0
    fetched: int = 0
    """Photographs that arrived and are pictures, including copies."""
    bytes: int = 0
    """Bytes of their distinct files."""
    attempts: int = 0
    """Requests, also those refused beforehand; including redirects and retries."""
    failed: Counter[str] = field(default_factory=Counter)
    hosts: set[str] = field(default_factory=set)
    """Hosts that answered."""
    by_host: dict[str, HostStats] = field(default_factory=dict)
    """Hosts to which requests were made, by name."""
    licences: Counter[str] = field(default_factory=Counter)
    """Licences of the photographs that arrived, as the sources state them."""

    @property
    def busiest(self) -> list[HostStats]:
        """The hosts with the most requests, most first."""
        hosts = sorted(self.by_host.values(), key=lambda host: (-host.requests, host.name))
        return hosts[:SHOWN_HOSTS]

    @property
    def reasons(self) -> list[tuple[str, int, bool]]:
        """Each reason with its count, most frequent first, and whether it is transient."""
        return [(r, n, r in DownloadStage.transient) for r, n in self.failed.most_common()]


def read_crawl(workspace: Workspace) -> CrawlStats | None:
    """Add up the download tables and attempts; None if nothing was crawled.

    Raises HqvoxError if a table is damaged.
    """
    stats = CrawlStats()
    for shard in workspace.shards():
        name = attempts_name(shard)
        if workspace.storage.exists(name):
            try:
                with workspace.storage.open(name) as file:
                    names = ["host", "status", "reason", "bytes", "seconds"]
                    attempts = read_parquet(file, names)
            except (OSError, pa.ArrowException) as error:
                where = workspace.storage.shown(name)
                raise HqvoxError(f"{where}: cannot be read ({error}); delete it") from None
            stats.attempts += attempts.num_rows
            _add_hosts(attempts, stats)
            answered = attempts.filter(attempts["status"].is_valid())["host"].cast(pa.string())
            stats.hosts |= set(pc.unique(answered).to_pylist()) - {None}
        _add_shard(workspace, shard, stats)
    return stats if stats.attempts else None


def _add_hosts(attempts: pa.Table, stats: CrawlStats) -> None:
    """Add a shard's requests to those of their hosts."""
    for row in attempts.to_pylist():
        asked = row["status"] is not None or row["reason"] in TRANSIENT
        if row["host"] is None or not asked:
            continue
        host = stats.by_host.setdefault(row["host"], HostStats(row["host"]))
        host.requests += 1
        host.answered += row["status"] is not None
        host.failed += row["reason"] in TRANSIENT
        host.bytes += row["bytes"] or 0
        host.seconds += row["seconds"] or 0.0


def _add_shard(workspace: Workspace, shard: str, stats: CrawlStats) -> None:
    columns = ["photo_id", "photo_bytes", "reason"]
    table = workspace.read_stage(DownloadStage.name, shard, columns)
    discovered = workspace.read_stage("discover", shard, ["licence"])
    if table is None or discovered is None:
        return
    places = zip(
        discovered["identity_id"].to_pylist(), discovered["candidate"].to_pylist(), strict=True
    )
    licence_of = dict(zip(places, discovered["licence"].to_pylist(), strict=True))
    sizes: dict[str, int] = {}
    for row in table.to_pylist():
        stats.candidates += 1
        if row["reason"] is not None:
            stats.failed[row["reason"]] += 1
            continue
        stats.fetched += 1
        sizes[row["photo_id"]] = row["photo_bytes"]
        licence = licence_of.get((row["identity_id"], row["candidate"]))
        stats.licences[licence or UNSTATED] += 1
    stats.bytes += sum(sizes.values())
