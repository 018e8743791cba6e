"""Crawling: shards whose photographs lie on the network, discovered and downloaded.

One process with one engine does all of it, so each host sees one polite visitor, however many
shards are in hand. Committed shards are handed on at once: while the crawl goes on, other processes
take them through the stages that compute.
"""

from __future__ import annotations

import asyncio
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from hqvox.config.build import BuildConfig
from hqvox.errors import HqvoxError
from hqvox.runner.crawl.shard import DOWNLOAD, ShardCrawl, tallies, write_found
from hqvox.runner.plan import Fingerprints, ShardTask, first_stale
from hqvox.runner.processes import one_line
from hqvox.runner.worker import Progress, download_stage, task_input, withdraw
from hqvox.workspace.layout import Workspace
from hqvox.workspace.storage import disk_error
from hqvox.workspace.tables import Row
from hqvox.workspace.takedowns import Takedowns
from models.errors import ModelError
from models.store import ModelStore
from pipelines.chain import make_stages
from pipelines.discover.source import SourceError
from pipelines.discover.stage import DiscoverStage
from pipelines.fetch.engine import Engine, FetchResult
from pipelines.fetch.guard import Lookup, system_lookup

SHARDS_IN_FLIGHT = 8
"""Most shards in hand at a time: slow hosts of one must not keep the connections idle."""
URLS_AHEAD = 10_000
"""Another shard is taken up while fewer urls than this wait."""
REPORT_SECONDS = 1.0

T = TypeVar("T")


@dataclass(frozen=True)
class CrawlOrder:
    """What is to be crawled, and how."""

    tasks: tuple[ShardTask, ...] = ()
    """Their first stage is discover or download; stages after download are left to others."""
    retry_failed: bool = False
    """Ask again for what failed for a passing reason."""
    refresh: bool = False
    """Ask for everything whether it changed."""


@dataclass(frozen=True)
class Crawling:
    """How the crawl stands."""

    urls: int
    """Known so far: done and waiting."""
    waiting: int
    fetched: int
    unchanged: int
    failed: dict[str, int]
    bytes: int
    hosts_waiting: int
    requests: int
    seconds: float


@dataclass(frozen=True)
class Crawled:
    """A shard is committed; ``rest`` is what it needs from the stages that follow, if anything."""

    task: ShardTask
    seconds: float
    rest: ShardTask | None


@dataclass(frozen=True)
class NotCrawled:
    """A shard could not be finished; ``trace`` says what happened, for the log."""

    task: ShardTask
    error: str
    trace: str


CrawlEvent = Progress | Crawling | Crawled | NotCrawled


def crawl(
    root: str,
    config: BuildConfig,
    order: CrawlOrder,
    say: Callable[[CrawlEvent], None],
    lookup: Lookup = system_lookup,
) -> None:
    """Crawl in this process. ``say`` is told what happens, from one thread.

    Raises HqvoxError where the disk refuses or the user must mend something first.
    """
    asyncio.run(Crawler(root, config, order, say, lookup).run())


@dataclass
class Crawler:
    """The work of one crawl; see :func:`crawl`."""

    root: str
    config: BuildConfig
    order: CrawlOrder
    say: Callable[[CrawlEvent], None]
    lookup: Lookup = system_lookup
    _started: float = field(default_factory=time.monotonic)
    _urls: int = 0

    def __post_init__(self) -> None:
        self._workspace = Workspace(self.root)
        store = ModelStore()
        self._stages = make_stages(self.config, store, self._workspace.storage)
        self._fingerprints = Fingerprints(self._stages, self.config, store)
        self._download = download_stage(self._stages)
        self._download.takedowns = Takedowns.read(self._workspace)
        self._discover = next(s for s in self._stages if isinstance(s, DiscoverStage))
        self._identities = self._workspace.shards()
        self._threads = ThreadPoolExecutor(SHARDS_IN_FLIGHT, thread_name_prefix="crawl")
        self._stopping = threading.Event()

    async def run(self) -> None:
        """Crawl all shards of the order."""
        waiting = deque(self.order.tasks)
        running: set[asyncio.Task[None]] = set()
        reported = 0.0
        takedowns = self._download.takedowns

        def refuse(url: str) -> str | None:
            return "taken_down" if takedowns.covers_url(url) else None

        try:
            async with Engine(self.config.download, self.lookup, refuse) as engine:
                try:
                    while waiting or running:
                        ready = engine.waiting < URLS_AHEAD
                        while waiting and len(running) < SHARDS_IN_FLIGHT and ready:
                            running.add(asyncio.create_task(self._shard(engine, waiting.popleft())))
                        done, running = await asyncio.wait(
                            running, timeout=0.1, return_when=asyncio.FIRST_COMPLETED
                        )
                        for task in done:
                            task.result()
                        engine.check()
                        if time.monotonic() - reported >= REPORT_SECONDS:
                            reported = time.monotonic()
                            self._report(engine)
                    self._report(engine)
                finally:
                    self._stopping.set()
                    self._discover.stop()
                    for task in running:
                        task.cancel()
                    await asyncio.gather(*running, return_exceptions=True)
        except OSError as error:
            raise disk_error(error, str(error.filename or self.root)) from error
        finally:
            self._threads.shutdown(cancel_futures=True)

    async def _shard(self, engine: Engine, task: ShardTask) -> None:
        started = time.perf_counter()
        own = replace(task, last=min(task.last, DOWNLOAD))
        try:
            by_identity = await self._crawl(engine, own)
            rest = await self._in_thread(self._rest, task)
        except SourceError as error:  # quota, an API that is down: the rest of the crawl goes on
            self.say(NotCrawled(own, str(error), str(error)))
            return
        except (HqvoxError, ModelError, OSError):
            raise
        except Exception as error:  # a defect: the shard is marked, the rest goes on
            self.say(NotCrawled(own, one_line(error), traceback.format_exc()))
            return
        for identity_id, own_tallies in by_identity.items():
            self.say(Progress(task.shard, identity_id, own_tallies))
        self.say(Crawled(own, time.perf_counter() - started, rest))

    async def _crawl(self, engine: Engine, task: ShardTask) -> dict[str, Any]:
        # Taken before anything is asked for: what changes meanwhile makes the next plan stale.
        identities = self._identities[task.shard]
        records = await self._in_thread(self._fingerprints.of, identities)
        found = await self._in_thread(self._find, task, identities)
        if task.last < DOWNLOAD:
            await self._in_thread(self._commit_found, task, found, records)
            return dict(tallies(found, None))
        shard = await self._in_thread(ShardCrawl, self._workspace, task, records, self._download)
        try:
            rows = found if found is not None else await self._in_thread(self._found_before, task)
            order = self.order
            prepare = partial(
                shard.prepare, rows, retry_failed=order.retry_failed, refresh=order.refresh
            )
            wishes = await self._in_thread(prepare)
            self._urls += len(wishes)
            await _fetch(engine, shard, wishes)
            return dict(await self._in_thread(shard.commit, found))
        finally:
            shard.close()

    def _find(self, task: ShardTask, identities: Sequence[Row]) -> list[Row] | None:
        """Run discover, where the task begins with it; identities taken down are not looked for."""
        if task.first > 0:
            return None
        found: list[Row] = []
        failure: SourceError | None = None
        for identity in identities:
            if self._stopping.is_set():
                raise SourceError("stopped")
            if self._download.takedowns.covers_identity(identity["identity_id"]):
                continue
            try:
                found += self._discover.process([dict(identity)], _NO_PIXELS)
            except SourceError as error:  # the shard waits, but answers for the others are kept
                failure = error
        if failure is not None:
            raise failure
        return found

    def _found_before(self, task: ShardTask) -> list[Row]:
        inputs = task_input(self._workspace, task, self._identities[task.shard])
        return [row for _, rows in inputs for row in rows]

    def _commit_found(self, task: ShardTask, found: list[Row], records: list[Any]) -> None:
        """Commit discover alone. What is downloaded stays, if only to be used again."""
        kept = replace(task, last=0)
        downloaded = self._workspace.read_stage("download", task.shard)
        before = self._workspace.committed("download", task.shard)
        withdraw(self._workspace, replace(kept, first=DOWNLOAD + 1), records)
        write_found(self._workspace, task.shard, found, records[0])
        if downloaded is not None and before is not None:
            stale = {**before, "hash": ""}
            self._workspace.write_stage("download", task.shard, downloaded, stale)

    def _rest(self, task: ShardTask) -> ShardTask | None:
        if task.last <= DOWNLOAD:
            return None
        expected = self._fingerprints.of(self._identities[task.shard])
        first, why = first_stale(self._workspace, task.shard, expected, task.last)
        first = max(first, DOWNLOAD + 1)
        return ShardTask(task.shard, first, task.last, why) if first <= task.last else None

    def _report(self, engine: Engine) -> None:
        counts = engine.counts
        self.say(
            Crawling(
                urls=self._urls,
                waiting=engine.waiting,
                fetched=counts.fetched,
                unchanged=counts.unchanged,
                failed=dict(counts.failed),
                bytes=counts.bytes,
                hosts_waiting=engine.hosts_waiting(),
                requests=engine.client.requests,
                seconds=time.monotonic() - self._started,
            )
        )

    async def _in_thread(self, what: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, what, *arguments)


async def _fetch(engine: Engine, shard: ShardCrawl, wishes: Sequence[Any]) -> None:
    """Have the engine fetch the wishes; return when the shard has taken the last one."""
    if not wishes:
        return
    left = len(wishes)
    through = asyncio.Event()

    def take(outcome: FetchResult) -> None:
        nonlocal left
        shard.take(outcome)
        left -= 1
        if not left:
            through.set()

    for wish in wishes:
        engine.add(wish.url, take, wish.etag, wish.last_modified)
    await through.wait()


_NO_PIXELS: Any = None
"""Discover looks at no pixels."""
