"""The crawl: discover and download for shards whose photographs lie on the network.

One process with one engine crawls all shards, so each host sees one polite visitor. A shard is
reported as soon as it is committed; other processes then run the stages after download on it while
the crawl goes on.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from hqvox.config.build import BuildConfig
from hqvox.errors import HqvoxError
from hqvox.runner.crawl.hosts import OperatorsFile, host_files, write_status
from hqvox.runner.crawl.retry import Request
from hqvox.runner.crawl.shard import ShardCrawl, tallies, write_candidates
from hqvox.runner.jobs import Failed, Finished, Work, one_line, run_here
from hqvox.runner.plan import DOWNLOAD, LEFT_OUT, Fingerprints, ShardJob, first_stale
from hqvox.runner.worker import Crawling, Event, Progress, job_input, withdraw
from hqvox.workspace.layout import Workspace
from hqvox.workspace.storage import disk_error
from hqvox.workspace.tables import Row
from hqvox.workspace.takedowns import Takedowns
from models.errors import ModelError
from models.store import ModelStore
from pipelines.chain import STAGE_NAMES, Stages, Tallies
from pipelines.discover.source import QuotaSpent, SourceError
from pipelines.fetch.engine import Engine, FetchResult

SHARDS_IN_FLIGHT = 8
"""Shards crawled at a time, so that slow hosts of one do not leave the connections idle."""
URLS_AHEAD = 10_000
"""Another shard is started while fewer urls than this wait."""
REPORT_SECONDS = 1.0
REMOTE_REREAD_SECONDS = 30.0
"""How often the operator's file is read where the workspace is on object storage."""

OBJECTS_BETWEEN_COLLECTIONS = 20_000

T = TypeVar("T")


@dataclass(frozen=True)
class CrawlOrder:
    """What to crawl, and how."""

    jobs: tuple[ShardJob, ...] = ()
    """Their first stage is discover or download; stages after download are left to others."""
    retry_failed: bool = False
    """Request again what failed for a transient reason."""
    refresh: bool = False
    """Ask of every photo whether it changed."""


def start_crawl(root: str, config: BuildConfig, order: CrawlOrder) -> Work[ShardJob]:
    """The crawl as work on a batch of the order's jobs."""
    return lambda jobs, report: crawl(root, config, replace(order, jobs=tuple(jobs)), report)


def crawl_here(
    root: str, config: BuildConfig, order: CrawlOrder, on_event: Callable[[Event], None]
) -> list[ShardJob]:
    """Crawl in this process; return the jobs for the stages after download.

    Raises HqvoxError where the disk refuses or the user must fix something first.
    """
    return run_here([order.jobs], start_crawl(root, config, order), on_event)


def crawl(
    root: str,
    config: BuildConfig,
    order: CrawlOrder,
    report: Callable[[Event], None],
) -> None:
    """Crawl, reporting every event from one thread. A finished job may lead to a next one.

    Raises HqvoxError where the disk refuses or the user must fix something first.
    """
    with _rare_collections():
        asyncio.run(Crawler(root, config, order, report).run())


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Look for reference cycles less often.

    A crawl keeps many rows and makes few cycles; looking takes a tenth of its time otherwise.
    """
    before = gc.get_threshold()
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


@dataclass
class Crawler:
    """The work of one crawl; see :func:`crawl`."""

    root: str
    config: BuildConfig
    order: CrawlOrder
    report: Callable[[Event], None]
    _started: float = field(default_factory=time.monotonic)
    _urls: int = 0

    def __post_init__(self) -> None:
        self._workspace = Workspace(self.root)
        stages = Stages(self.config, ModelStore(), self._workspace.storage)
        self._fingerprints = Fingerprints(stages)
        self._discover, self._download = stages.discover, stages.download
        self._download.takedowns = Takedowns.read(self._workspace)
        self._identities = self._workspace.shards()
        self._threads = ThreadPoolExecutor(SHARDS_IN_FLIGHT, thread_name_prefix="crawl")
        self._stopping = threading.Event()
        self._stopped = ""
        """Why the crawl stopped before its end, in one line."""
        self._operators = OperatorsFile(self._workspace)
        self._reread_at = 0.0

    async def run(self) -> None:
        """Crawl all shards of the order."""
        waiting = deque(self.order.jobs)
        running: set[asyncio.Task[None]] = set()
        reported = 0.0
        takedowns = self._download.takedowns

        def refuse(url: str) -> str | None:
            return "taken_down" if takedowns.covers_url(url) else None

        try:
            kept = host_files(self._workspace)
            if self.order.refresh:
                kept.unlink(missing_ok=True)
            respect = self.config.policy.respect
            async with Engine(
                self.config.download, refuse=refuse, kept=kept, respect=respect
            ) as engine:
                self._halted = asyncio.Event()
                self._reread(engine)
                if self._operators.problem:
                    raise HqvoxError(self._operators.problem)
                try:
                    while waiting or running:
                        ready = engine.waiting < URLS_AHEAD or engine.halted
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
                            self._reread(engine)
                            self._report_state(engine)
                            await self._stop_at_limits(engine)
                    self._report_state(engine)
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

    def _reread(self, engine: Engine) -> None:
        """Read the operator's file, now and then, and let it hold."""
        now = time.monotonic()
        if now >= self._reread_at:
            local = self._workspace.storage.local
            self._reread_at = now + (REPORT_SECONDS if local else REMOTE_REREAD_SECONDS)
            if self._operators.reread():
                engine.limit_hosts(self._operators.hosts)

    async def _stop_at_limits(self, engine: Engine) -> None:
        """Stop where the settings say so; shards that are not complete fail, and can go on."""
        config = self.config.download
        hours = (time.monotonic() - self._started) / 3600
        megabytes = engine.counts.bytes / 1e6
        if config.stop_after_mb is not None and megabytes >= config.stop_after_mb:
            why = f"{megabytes:,.0f} MB fetched (download.stop_after_mb)"
        elif config.stop_after_hours is not None and hours >= config.stop_after_hours:
            why = f"{config.stop_after_hours:g} h have passed (download.stop_after_hours)"
        else:
            return
        if not self._stopped:
            self._stopped = f"crawl stopped: {why}; run again to go on"
            self._discover.stop()
            await engine.halt()
            self._halted.set()

    async def _shard(self, engine: Engine, job: ShardJob) -> None:
        started = time.perf_counter()
        crawled = replace(job, last=min(job.last, DOWNLOAD))
        if self._stopped:
            self.report(Failed(crawled, self._stopped, self._stopped))
            return
        try:
            by_identity, spent = await self._crawl(engine, crawled)
            next_job = await self._in_thread(self._next_job, job)
        except SourceError as error:  # quota, an API that is down: the rest of the crawl goes on
            line = self._stopped or str(error)
            self.report(Failed(crawled, line, line))
            return
        except (HqvoxError, ModelError, OSError):
            raise
        except Exception as error:  # a defect: the shard is marked, the rest goes on
            self.report(Failed(crawled, one_line(error), traceback.format_exc()))
            return
        for identity_id, identity_tallies in by_identity.items():
            self.report(Progress(job.shard, identity_id, identity_tallies))
        if spent is not None:  # what the other sources answered is committed, but marked stale
            self.report(Failed(crawled, str(spent), str(spent), next_job))
            return
        self.report(Finished(crawled, time.perf_counter() - started, next_job))

    async def _crawl(
        self, engine: Engine, job: ShardJob
    ) -> tuple[Mapping[str, Tallies], QuotaSpent | None]:
        """Crawl and commit a shard; tallies by identity, and whether a quota was spent.

        Raises SourceError where there is nothing to commit.
        """
        # Computed before any request: if an input changes meanwhile, the next plan sees it.
        identities = self._identities[job.shard]
        built = self._workspace.committed(STAGE_NAMES[0], job.shard) if job.first else None
        records = await self._in_thread(self._fingerprints.of, identities, built)
        candidates, spent = await self._in_thread(self._find, job, identities)
        if candidates is not None:
            records[0][LEFT_OUT] = await self._in_thread(
                self._discover.left_out, identities, candidates
            )
        if job.last < DOWNLOAD:
            if spent is not None:
                raise spent
            await self._in_thread(self._commit_candidates, job, candidates, records)
            return tallies(candidates, None), None
        shard = await self._in_thread(ShardCrawl, self._workspace, job, records, self._download)
        try:
            rows = (
                candidates
                if candidates is not None
                else await self._in_thread(self._committed_rows, job)
            )
            order = self.order
            prepare = partial(
                shard.prepare, rows, retry_failed=order.retry_failed, refresh=order.refresh
            )
            requests = await self._in_thread(prepare)
            self._urls += len(requests)
            if not await _fetch(engine, shard, requests, self._halted):
                raise SourceError(self._stopped)
            return await self._in_thread(shard.commit, candidates, spent is not None), spent
        finally:
            shard.close()

    def _find(
        self, job: ShardJob, identities: Sequence[Row]
    ) -> tuple[list[Row] | None, QuotaSpent | None]:
        """Run discover, where the job begins with it, except for identities taken down.

        Where the quota of one of several sources is spent, the candidates are those of the others.
        """
        if job.first > 0:
            return None, None
        candidates: list[Row] = []
        failure: SourceError | None = None
        spent: QuotaSpent | None = None
        for identity in identities:
            if self._stopping.is_set():
                raise SourceError("stopped")
            if self._download.takedowns.covers_identity(identity["identity_id"]):
                continue
            try:
                candidates += self._discover.process([dict(identity)], _NO_PIXELS)
            except QuotaSpent as error:
                spent = error
                candidates += error.candidates
            except SourceError as error:  # the shard fails, but the source's answers are kept
                failure = error
        failure = failure or (spent if not candidates else None)
        if failure is not None:
            raise failure
        return candidates, spent

    def _committed_rows(self, job: ShardJob) -> list[Row]:
        inputs = job_input(self._workspace, job, self._identities[job.shard])
        return [row for _, rows in inputs for row in rows]

    def _commit_candidates(self, job: ShardJob, candidates: list[Row], records: list[Any]) -> None:
        """Commit discover alone. The download table stays, marked stale, to be used again."""
        downloaded = self._workspace.read_stage("download", job.shard)
        before = self._workspace.committed("download", job.shard)
        withdraw(self._workspace, replace(job, first=DOWNLOAD + 1, last=0), records)
        write_candidates(self._workspace, job.shard, candidates, records[0])
        if downloaded is not None and before is not None:
            stale = {**before, "hash": ""}
            self._workspace.write_stage("download", job.shard, downloaded, stale)

    def _next_job(self, job: ShardJob) -> ShardJob | None:
        """The stages after download that are stale, if any."""
        if job.last <= DOWNLOAD:
            return None
        built = self._workspace.committed(STAGE_NAMES[0], job.shard)
        expected = self._fingerprints.of(self._identities[job.shard], built)
        begin = DOWNLOAD + 1  # also where what was crawled is marked stale, for lack of a quota
        first, why = first_stale(self._workspace, job.shard, expected, job.last, begin)
        return ShardJob(job.shard, first, job.last, why) if first <= job.last else None

    def _report_state(self, engine: Engine) -> None:
        counts = engine.counts
        state = Crawling(
            urls=self._urls,
            waiting=engine.waiting,
            fetched=counts.fetched,
            unchanged=counts.unchanged,
            failed=dict(counts.failed),
            bytes=counts.bytes,
            hosts_waiting=engine.hosts_waiting(),
            problem=self._operators.problem,
            requests=engine.client.requests,
            seconds=time.monotonic() - self._started,
        )
        self.report(state)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        hosts = {"stopped": self._stopped, "hosts": engine.hosts_state()}
        write_status(self._workspace, {"time": now, **asdict(state), **hosts})

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)


async def _fetch(
    engine: Engine, shard: ShardCrawl, requests: Sequence[Request], halted: asyncio.Event
) -> bool:
    """Have the engine make the requests; return when the shard has the last outcome.

    False where the engine was halted before.
    """
    if not requests:
        return True
    left = len(requests)
    finished = asyncio.Event()

    def take(outcome: FetchResult) -> None:
        nonlocal left
        shard.take(outcome)
        left -= 1
        if not left:
            finished.set()

    for request in requests:
        engine.add(request.url, take, request.etag, request.last_modified)
    waits = [asyncio.create_task(event.wait()) for event in (finished, halted)]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waits:
            task.cancel()
    return finished.is_set()


_NO_PIXELS: Any = None
"""Discover does not read pixels."""
