"""One shard of a crawl: what is to be fetched, what comes in, and its commit.

What was fetched before is found by its url, in the committed table or in what a killed crawl left,
and is not fetched again unless that is asked for.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hqvox.errors import HqvoxError
from hqvox.runner.crawl.spool import Spool
from hqvox.runner.plan import ShardTask
from hqvox.runner.worker import withdraw
from hqvox.workspace.covered import Covered, Owner
from hqvox.workspace.layout import Workspace
from hqvox.workspace.parquet import filtered, read_parquet
from hqvox.workspace.shards import ShardReader
from hqvox.workspace.tables import ATTEMPTS, Row, stage_schema
from hqvox.workspace.takedowns import Takedowns
from pipelines.chain import Tallies, Tally
from pipelines.discover.stage import DiscoverStage
from pipelines.download import DownloadStage, covered, is_local, judge
from pipelines.fetch.engine import FetchResult

DOWNLOAD = 1
"""Position of the download stage; the crawl runs what is before it, and it."""
_ASK_AGAIN = frozenset({"too_large", "opted_out", "robots_disallowed", "taken_down"})
"""Reasons that depend on settings: asked again where these have changed."""
_RULES = ("robots", "opt_out")
_OWN = DownloadStage.writes
ATTEMPTS_FOLDER = "attempts"


@dataclass(frozen=True)
class Wish:
    """A url to ask for; the validators of what is at hand, where only a change is of interest."""

    url: str
    etag: str | None = None
    last_modified: str | None = None


class ShardCrawl:
    """The work on one shard. Methods that touch files run in threads, ``take`` in the loop."""

    def __init__(
        self,
        workspace: Workspace,
        task: ShardTask,
        records: Sequence[Mapping[str, Any]],
        stage: DownloadStage,
    ) -> None:
        self.workspace = workspace
        self.task = task
        self.records = records
        self.stage = stage
        self.takedowns: Takedowns = stage.takedowns
        self.rows: list[Row] = []
        self._pages: defaultdict[str, set[str]] = defaultdict(set)
        self._old = _committed_rows(workspace, task.shard)
        self._spool: Spool | None = None
        self._reader: ShardReader | None = None

    def prepare(self, rows: list[Row], *, retry_failed: bool, refresh: bool) -> list[Wish]:
        """Take the shard's candidates; say which urls must be asked for."""
        self.rows = rows
        for row in rows:
            if row["page_url"] is not None:
                self._pages[row["url"]].add(row["page_url"])
        self._open_spool()
        now = self.records[DOWNLOAD]["parts"]["config"]
        before = self.workspace.committed("download", self.task.shard)
        committed_under = now if before is None else before["parts"]["config"]
        wishes: dict[str, Wish] = {}
        for row in rows:
            url = row["url"]
            if is_local(row) or covered(self.takedowns, row) or url in wishes:
                continue
            known = self._known(url)
            if known is None:
                wishes[url] = Wish(url)
                continue
            under = self.spool.settings if url in self.spool.found else committed_under
            again = retry_failed and known["reason"] in DownloadStage.passing
            again |= refresh and url not in self.spool.asked
            again |= known["reason"] in _ASK_AGAIN and under != now
            again |= known["reason"] is None and any(under.get(n) != now[n] for n in _RULES)
            if again:
                at_hand = known["reason"] is None
                wishes[url] = (
                    Wish(url, known["etag"], known["last_modified"]) if at_hand else Wish(url)
                )
        return list(wishes.values())

    def take(self, outcome: FetchResult) -> None:
        """What became of a url. Raises HqvoxError, OSError where the disk refuses."""
        known = self._known(outcome.url)
        unchanged = outcome.answer is not None and outcome.answer.status == 304
        row = None
        if (
            known is None
            or known["reason"] is not None
            or not (unchanged or outcome.reason in DownloadStage.passing)
        ):  # else it still holds: a failure that may pass takes nothing away
            row = self._judged(outcome)
            outcome.reason = row["reason"]
            outcome.attempts[-1]["reason"] = outcome.reason
        self.spool.note(outcome.url, row, outcome.attempts, pages=self._pages[outcome.url])

    def _judged(self, outcome: FetchResult) -> Row:
        row: Row = dict.fromkeys(_OWN)
        row["requested_url"] = outcome.url
        row["final_url"], row["host"] = outcome.final_url, outcome.host
        row["reason"] = outcome.reason
        answer = outcome.answer
        if answer is None:
            return row
        row["http_status"] = answer.status
        if outcome.reason is not None:
            return row
        row["retrieved_at"] = answer.time.astimezone(UTC).replace(microsecond=0)
        row["etag"], row["last_modified"] = answer.etag, answer.last_modified
        row["photo_bytes"], row["photo_id"] = len(answer.body), answer.sha256 or None
        if self.takedowns.covers_photo(row["photo_id"]):
            return _taken_down(outcome.url)
        row["reason"] = judge(row, answer.body, self.stage.config)
        if row["reason"] is None:
            row["photo_offset"], row["photo_bytes"] = self.spool.store(answer.sha256, answer.body)
        return row

    # Commit --------------------------------------------------------------------------------------

    def commit(self, found: list[Row] | None) -> Mapping[str, Tallies]:
        """Write the shard's tables and tar; tallies by identity.

        ``found``: what discover found, where it ran as well. A shard in which nothing changed keeps
        its tables, so what follows it stays up to date. Raises HqvoxError, OSError.
        """
        local = {id(row): self._read_local(row) for row in self.rows if is_local(row)}
        results = [local.get(id(row)) or self._result(row) for row in self.rows]
        table = pa.Table.from_pylist(
            [
                {**{k: row[k] for k in ("identity_id", "candidate", "face")}, **result}
                for row, result in zip(self.rows, results, strict=True)
            ],
            stage_schema(_OWN),
        )
        self._write_attempts()
        if self._is_as_before(found, table):
            self.spool.done()
            return tallies(found, table)
        withdraw(self.workspace, self.task, self.records)
        if found is not None:
            write_found(self.workspace, self.task.shard, found, self.records[0])
        places = [(result["photo_offset"], result["photo_bytes"]) for result in results]
        self.spool.commit_tar({place for place in places if place[0] is not None})
        self.workspace.write_stage("download", self.task.shard, table, self.records[DOWNLOAD])
        self.spool.done()
        return tallies(found, table)

    def close(self) -> None:
        """Leave the shard as it is, for the next crawl to go on."""
        if self._spool is not None:
            self._spool.close()
        if self._reader is not None:
            self._reader.close()

    @property
    def spool(self) -> Spool:
        """Where photos and records go until the commit."""
        assert self._spool is not None
        return self._spool

    def _open_spool(self) -> None:
        settings = self.records[DOWNLOAD]["parts"]["config"]
        self._spool = Spool(self.workspace, self.task.shard, settings)
        if any(self._is_taken_down(row) for row in self._spool.found.values()):
            self._spool.done()  # its tar must not bring back what was taken down
            self._spool = Spool(self.workspace, self.task.shard, settings)

    def _is_taken_down(self, row: Row) -> bool:
        return self.takedowns.covers_photo(row["photo_id"]) or any(
            self.takedowns.covers_url(row[name]) for name in ("requested_url", "final_url")
        )

    def _result(self, row: Row) -> Row:
        """The download columns of a candidate, its photo in the spool."""
        url = row["url"]
        if covered(self.takedowns, row):
            return _taken_down(None)
        known = self.spool.found.get(url) or self._carried_over(url)
        covers = covered(self.takedowns, {**row, "final_url": known["final_url"]})
        if covers or self.takedowns.covers_photo(known["photo_id"]):
            return _taken_down(None)
        return known

    def _carried_over(self, url: str) -> Row:
        """What is committed of a url, judged anew, its photo copied into the spool."""
        row = dict(self._old[url])
        if row["reason"] is None:
            data = self._committed_photo(row)
            row["photo_offset"] = None
            if hashlib.sha256(data).hexdigest() != row["photo_id"]:
                row["reason"] = "unreadable"  # the disk lost it; --retry-failed fetches it again
            elif len(data) > self.stage.config.max_bytes:
                row["reason"] = "too_large"
            else:
                row["reason"] = judge(row, data, self.stage.config)
            if row["reason"] is None and not self.takedowns.covers_photo(row["photo_id"]):
                row["photo_offset"], row["photo_bytes"] = self.spool.store(row["photo_id"], data)
        self.spool.note(url, row, [], asked=False, pages=self._pages[url])
        return row

    def _known(self, url: str) -> Row | None:
        return self.spool.found.get(url) or self._old.get(url)

    def _committed_photo(self, row: Row) -> bytes:
        if self._reader is None:
            name = self.workspace.tar_name("download", self.task.shard)
            self._reader = ShardReader(self.workspace.storage, name)
        return self._reader.read(row["photo_offset"], row["photo_bytes"])

    def _read_local(self, row: Row) -> Row:
        values: Row = dict(row) | dict.fromkeys(_OWN)
        values["reason"], data = self.stage.read_file(values)
        if values["reason"] is None:
            values["photo_offset"], values["photo_bytes"] = self.spool.store(
                values["photo_id"], data
            )
        return {name: values[name] for name in (*_OWN, "reason")}

    def _is_as_before(self, found: list[Row] | None, table: pa.Table) -> bool:
        """Whether the committed tables say the same under the same fingerprints."""
        now = {"download": table.drop_columns(["photo_offset"])}
        if found is not None:
            now["discover"] = found_table(found)
        for index, stage in enumerate(("discover", "download")):
            if stage not in now:
                continue
            record = self.workspace.committed(stage, self.task.shard)
            if record is None or record["hash"] != self.records[index]["hash"]:
                return False
            names = now[stage].schema.names
            before = self.workspace.read_stage(stage, self.task.shard)
            if before is None or before.select(names).to_pylist() != now[stage].to_pylist():
                return False
        return True

    def _write_attempts(self) -> None:
        """Add this crawl's attempts to the shard's; those written before a kill are not doubled."""
        name = attempts_name(self.task.shard)
        storage = self.workspace.storage
        new = pa.Table.from_pylist(self.spool.attempts, ATTEMPTS)
        if storage.exists(name):
            try:
                with storage.open(name) as file:
                    old = read_parquet(file)
            except (OSError, pa.ArrowException) as error:
                raise HqvoxError(
                    f"{storage.path(name)}: cannot be read ({error}); delete it: it is a record "
                    "of requests that nothing depends on"
                ) from None
            key = ("url", "final_url", "time")
            seen = {tuple(row[k] for k in key) for row in old.select(key).to_pylist()}
            fresh = [tuple(row[k] for k in key) not in seen for row in new.to_pylist()]
            new = pa.concat_tables([old.cast(ATTEMPTS), new.filter(pa.array(fresh, pa.bool_()))])
        with storage.writing(name) as file:
            pq.write_table(new, file, compression="zstd")


def attempts_name(shard: str) -> str:
    """Relative name of a shard's table of attempts."""
    return f"{ATTEMPTS_FOLDER}/{shard}.parquet"


def erase_attempts(covered: Covered) -> None:
    """Erase the attempts at covered addresses."""
    storage = covered.workspace.storage
    for leaf in storage.names(ATTEMPTS_FOLDER):
        name = f"{ATTEMPTS_FOLDER}/{leaf}"
        try:
            with storage.open(name) as file:
                table = read_parquet(file)
        except (OSError, pa.ArrowException):  # damaged: what it holds cannot be known
            storage.remove(name)
            continue
        pairs = zip(table["url"].to_pylist(), table["final_url"].to_pylist(), strict=True)
        keep = [not (covered.address(url) or covered.address(final)) for url, final in pairs]
        if not all(keep):
            with storage.writing(name) as file:
                pq.write_table(filtered(table, keep), file, compression="zstd")


ATTEMPTS_FILES = Owner("attempts", (f"{ATTEMPTS_FOLDER}/*.parquet",), erase_attempts)


def write_found(
    workspace: Workspace, shard: str, found: list[Row], record: Mapping[str, Any]
) -> None:
    """Commit a shard's discover table."""
    workspace.write_stage("discover", shard, found_table(found), record)


def found_table(found: list[Row]) -> pa.Table:
    """The discover stage's table of what it found."""
    schema = stage_schema(DiscoverStage.writes)
    return pa.Table.from_pylist([{n: row[n] for n in schema.names} for row in found], schema)


def tallies(found: list[Row] | None, table: pa.Table | None) -> dict[str, Tallies]:
    """What happened to each identity's rows."""
    by_identity: dict[str, Tallies] = {}

    def tally(identity_id: str, stage: str) -> Tally:
        own = by_identity.setdefault(identity_id, Tallies())
        return own.stages.setdefault(stage, Tally())

    for row in found or []:
        tally(row["identity_id"], "discover").entered += 1
    for row in table.select(["identity_id", "reason"]).to_pylist() if table is not None else []:
        own = tally(row["identity_id"], "download")
        own.entered += 1
        if row["reason"] is not None:
            own.rejected[row["reason"]] += 1
    for whole in by_identity.values():
        whole.photos = max(stage.entered for stage in whole.stages.values())
    return by_identity


def _committed_rows(workspace: Workspace, shard: str) -> dict[str, Row]:
    """By url, the download columns and reason of what is committed, stale or not."""
    if workspace.committed("download", shard) is None:
        return {}
    table = workspace.read_stage("download", shard)
    if table is None or "requested_url" not in table.schema.names:
        return {}
    missing = [name for name in _OWN if name not in table.schema.names]
    if missing:
        return {}
    rows = table.select([*_OWN, "reason"]).to_pylist()
    return {row["requested_url"]: row for row in rows if row["requested_url"] is not None}


def _taken_down(url: str | None) -> Row:
    """The row of a photo that was taken down: nothing is kept of it but that."""
    return {**dict.fromkeys(_OWN), "requested_url": url, "reason": "taken_down"}
