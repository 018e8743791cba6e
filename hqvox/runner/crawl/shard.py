"""One shard of a crawl: its requests, their outcomes, and its commit.

What was fetched before is looked up by url, in the committed table or in the spool of an
interrupted crawl. :mod:`hqvox.runner.crawl.retry` decides what is requested again.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hqvox.errors import HqvoxError
from hqvox.imaging.location import without_location
from hqvox.imaging.metadata import Spans, metadata_spans
from hqvox.runner.crawl.retry import Request, replaces, request_for
from hqvox.runner.crawl.spool import Spool
from hqvox.runner.plan import DOWNLOAD, ShardJob
from hqvox.runner.worker import withdraw
from hqvox.workspace.covered import Covered, Owner
from hqvox.workspace.layout import Workspace
from hqvox.workspace.parquet import filtered, read_parquet
from hqvox.workspace.shards import ShardReader
from hqvox.workspace.tables import ADDED, ATTEMPTS, KEYS, Row, stage_schema
from hqvox.workspace.takedowns import Takedowns
from pipelines.chain import Tallies, Tally
from pipelines.discover.stage import DiscoverStage
from pipelines.download import DownloadStage, covered, is_local
from pipelines.fetch.engine import FetchResult
from pipelines.fetch.reservations import embedded

_COLUMNS = DownloadStage.writes
ATTEMPTS_FOLDER = "attempts"


class ShardCrawl:
    """The crawl of one shard. ``take`` runs in the event loop, the other methods in threads."""

    def __init__(
        self,
        workspace: Workspace,
        job: ShardJob,
        records: Sequence[Mapping[str, Any]],
        stage: DownloadStage,
    ) -> None:
        self.workspace = workspace
        self.job = job
        self.records = records
        self.stage = stage
        self.takedowns: Takedowns = stage.takedowns
        self.rows: list[Row] = []
        self._pages: defaultdict[str, set[str]] = defaultdict(set)
        self._committed = _committed_rows(workspace, job.shard)
        self._spool: Spool | None = None
        self._reader: ShardReader | None = None

    def prepare(self, rows: list[Row], *, retry_failed: bool, refresh: bool) -> list[Request]:
        """Take the shard's candidates; return the requests to make, one per url."""
        self.rows = rows
        for row in rows:
            if row["page_url"] is not None:
                self._pages[row["url"]].add(row["page_url"])
        self._open_spool()
        now = self.records[DOWNLOAD]["parts"]["config"]
        before = self.workspace.committed("download", self.job.shard)
        committed_under = now if before is None else before["parts"]["config"]
        requests: dict[str, Request] = {}
        for row in rows:
            url = row["url"]
            if is_local(row) or self._refusal(row) is not None or url in requests:
                continue
            request = request_for(
                url,
                self._known(url),
                self.spool.settings if url in self.spool.rows else committed_under,
                now,
                retry_failed=retry_failed,
                refresh=refresh and url not in self.spool.requested,
            )
            if request is not None:
                requests[url] = request
        return list(requests.values())

    def take(self, outcome: FetchResult) -> None:
        """Record the outcome of a request. Raises HqvoxError, OSError where the disk refuses."""
        row = None
        if replaces(outcome, self._known(outcome.url)):
            row = self._row(outcome)
            outcome.reason = row["reason"]
            outcome.attempts[-1]["reason"] = outcome.reason
        self.spool.note(outcome.url, row, outcome.attempts, pages=self._pages[outcome.url])

    def _row(self, outcome: FetchResult) -> Row:
        """The download columns of an outcome; stores its photo."""
        row: Row = dict.fromkeys(_COLUMNS)
        row["requested_url"] = outcome.url
        row["final_url"], row["host"] = outcome.final_url, outcome.host
        row["reason"] = outcome.reason
        answer = outcome.answer
        if answer is None:
            return row
        row["http_status"] = answer.status
        row["reservations"] = ["tdm_header"] if answer.tdm_reserved else []
        if outcome.reason is not None:
            return row
        row["retrieved_at"] = answer.time.astimezone(UTC).replace(microsecond=0)
        row["etag"], row["last_modified"] = answer.etag, answer.last_modified
        row["photo_bytes"], row["photo_id"] = len(answer.body), answer.sha256 or None
        if not self._take_photo(row, answer.body, self.stage.config.keep_location):
            return _refused(outcome.url, "taken_down")
        return row

    def _take_photo(self, row: Row, data: bytes, keep_location: bool) -> bool:
        """Set what the bytes say, the reason too, and store them where there is none.

        ``photo_id`` is that of the bytes as they came; it becomes that of the stored ones. Returns
        whether neither was taken down.
        """
        if self.takedowns.covers_photo(row["photo_id"]):
            return False
        row["reason"] = self.stage.inspect(row, data)
        spans: Spans = []
        if row["reason"] is None:
            spans = metadata_spans(data)
            row["reservations"] = sorted({*(row["reservations"] or ()), *embedded(data, spans)})
            row["reason"] = self.stage.reserved(row)
        if row["reason"] is not None:
            return True
        stored = data if keep_location else without_location(data, spans)
        if stored is not data:
            row["photo_id"] = hashlib.sha256(stored).hexdigest()
            if self.takedowns.covers_photo(row["photo_id"]):
                return False
        row["photo_offset"], row["photo_bytes"] = self.spool.store(row["photo_id"], stored)
        return True

    def _refusal(self, row: Row) -> str | None:
        """The reason why a candidate is not even requested."""
        return "taken_down" if covered(self.takedowns, row) else self.stage.restricted(row)

    # Commit --------------------------------------------------------------------------------------

    def commit(self, candidates: list[Row] | None, stale: bool = False) -> Mapping[str, Tallies]:
        """Write the shard's tables and tar; return tallies by identity.

        ``candidates``: rows of discover if it ran too. ``stale``: candidates are missing, so that
        the next build is to run discover again. A shard without a change keeps its
        tables, so the stages after download stay up to date. Raises HqvoxError, OSError.
        """
        local = {id(row): self._read_local(row) for row in self.rows if is_local(row)}
        results = [local.get(id(row)) or self._result(row) for row in self.rows]
        table = pa.Table.from_pylist(
            [
                {**{k: row[k] for k in ("identity_id", "candidate", "face")}, **result}
                for row, result in zip(self.rows, results, strict=True)
            ],
            stage_schema(_COLUMNS),
        )
        self._write_attempts()
        records = [{**record, "hash": ""} for record in self.records] if stale else self.records
        if self._unchanged(candidates, table, records):
            self.spool.remove()
            return tallies(candidates, table)
        withdraw(self.workspace, self.job, self.records)
        if candidates is not None:
            write_candidates(self.workspace, self.job.shard, candidates, records[0])
        places = [(result["photo_offset"], result["photo_bytes"]) for result in results]
        self.spool.commit_tar({place for place in places if place[0] is not None})
        self.workspace.write_stage("download", self.job.shard, table, records[DOWNLOAD])
        self.spool.remove()
        return tallies(candidates, table)

    def close(self) -> None:
        """Close the files; the spool stays for the next crawl to continue."""
        if self._spool is not None:
            self._spool.close()
        if self._reader is not None:
            self._reader.close()

    @property
    def spool(self) -> Spool:
        """Photos and records that are not committed yet."""
        assert self._spool is not None
        return self._spool

    def _open_spool(self) -> None:
        settings = self.records[DOWNLOAD]["parts"]["config"]
        self._spool = Spool(self.workspace, self.job.shard, settings)
        if any(self._is_taken_down(row) for row in self._spool.rows.values()):
            self._spool.remove()  # its tar must not bring back what was taken down
            self._spool = Spool(self.workspace, self.job.shard, settings)

    def _is_taken_down(self, row: Row) -> bool:
        return self.takedowns.covers_photo(row["photo_id"]) or any(
            self.takedowns.covers_url(row[name]) for name in ("requested_url", "final_url")
        )

    def _result(self, row: Row) -> Row:
        """The download columns of a candidate, whose photo is in the spool."""
        url = row["url"]
        refusal = self._refusal(row)
        if refusal is not None:
            return _refused(None, refusal)
        known = self.spool.rows.get(url) or self._carried_over(url)
        covers = covered(self.takedowns, {**row, "final_url": known["final_url"]})
        if covers or self.takedowns.covers_photo(known["photo_id"]):
            return _refused(None, "taken_down")
        if known["reason"] is None:  # fetched before the settings became stricter, then killed
            reason = self.stage.verdict(known) or self.stage.reserved(known)
            if reason is not None:
                return {**known, "reason": reason, "photo_offset": None}
        return known

    def _carried_over(self, url: str) -> Row:
        """The committed row of a url, checked against the current settings.

        Its photo is copied into the spool.
        """
        row = dict(self._committed[url])
        if row["reason"] is None:
            data = self._committed_photo(row)
            row["photo_offset"] = None
            if hashlib.sha256(data).hexdigest() != row["photo_id"]:
                row["reason"] = "unreadable"  # the disk lost it; --retry-failed fetches it again
            elif not self._take_photo(row, data, keep_location=True):  # its id stays
                return _refused(None, "taken_down")
        self.spool.note(url, row, [], requested=False, pages=self._pages[url])
        return row

    def _known(self, url: str) -> Row | None:
        return self.spool.rows.get(url) or self._committed.get(url)

    def _committed_photo(self, row: Row) -> bytes:
        if self._reader is None:
            name = self.workspace.tar_name("download", self.job.shard)
            self._reader = ShardReader(self.workspace.storage, name)
        return self._reader.read(row["photo_offset"], row["photo_bytes"])

    def _read_local(self, row: Row) -> Row:
        values: Row = dict(row) | dict.fromkeys(_COLUMNS)
        values["reason"], data = self.stage.read_file(values)
        if values["reason"] is None:
            values["photo_offset"], values["photo_bytes"] = self.spool.store(
                values["photo_id"], data
            )
        return {name: values[name] for name in (*_COLUMNS, "reason")}

    def _unchanged(
        self,
        candidates: list[Row] | None,
        table: pa.Table,
        records: Sequence[Mapping[str, Any]],
    ) -> bool:
        """Whether the committed tables have the same rows under the same fingerprints."""
        now = {"download": table.drop_columns(["photo_offset"])}
        if candidates is not None:
            now["discover"] = candidates_table(candidates)
        for index, stage in enumerate(("discover", "download")):
            if stage not in now:
                continue
            record = self.workspace.committed(stage, self.job.shard)
            if record is None or record["hash"] != records[index]["hash"]:
                return False
            names = now[stage].schema.names
            columns = [name for name in names if name not in KEYS]
            before = self.workspace.read_stage(stage, self.job.shard, columns)
            if before is None or before.select(names).to_pylist() != now[stage].to_pylist():
                return False
        return True

    def _write_attempts(self) -> None:
        """Add this crawl's attempts to the shard's table, without those that it has already.

        An interrupted crawl may have written them.
        """
        name = attempts_name(self.job.shard)
        storage = self.workspace.storage
        new = pa.Table.from_pylist(self.spool.attempts, ATTEMPTS)
        if storage.exists(name):
            try:
                with storage.open(name) as file:
                    old = read_parquet(file)
            except (OSError, pa.ArrowException) as error:
                raise HqvoxError(
                    f"{storage.shown(name)}: cannot be read ({error}); delete it: it is a record "
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


def write_candidates(
    workspace: Workspace, shard: str, candidates: list[Row], record: Mapping[str, Any]
) -> None:
    """Commit a shard's discover table."""
    workspace.write_stage("discover", shard, candidates_table(candidates), record)


def candidates_table(candidates: list[Row]) -> pa.Table:
    """The table of discover's rows."""
    schema = stage_schema(DiscoverStage.writes)
    return pa.Table.from_pylist([{n: row[n] for n in schema.names} for row in candidates], schema)


def tallies(candidates: list[Row] | None, table: pa.Table | None) -> dict[str, Tallies]:
    """Tallies of each identity's rows, by its id."""
    by_identity: dict[str, Tallies] = {}

    def tally(identity_id: str, stage: str) -> Tally:
        identity = by_identity.setdefault(identity_id, Tallies())
        return identity.stages.setdefault(stage, Tally())

    for row in candidates or []:
        discover = tally(row["identity_id"], "discover")
        discover.entered += 1
        discover.kept += 1
    for row in table.select(["identity_id", "reason"]).to_pylist() if table is not None else []:
        download = tally(row["identity_id"], "download")
        download.entered += 1
        if row["reason"] is None:
            download.kept += 1
        else:
            download.rejected[row["reason"]] += 1
    for identity in by_identity.values():
        identity.photos = max(stage.entered for stage in identity.stages.values())
    return by_identity


def _committed_rows(workspace: Workspace, shard: str) -> dict[str, Row]:
    """Download columns and reason of the committed rows, stale or not, by url."""
    if workspace.committed("download", shard) is None:
        return {}
    table = workspace.read_stage("download", shard)
    if table is None or "requested_url" not in table.schema.names:
        return {}
    missing = [name for name in _COLUMNS if name not in table.schema.names]
    if not set(missing) <= ADDED.keys():
        return {}
    rows = [dict.fromkeys(missing) | row for row in table.to_pylist()]
    rows = [{name: row[name] for name in (*_COLUMNS, "reason")} for row in rows]
    return {row["requested_url"]: row for row in rows if row["requested_url"] is not None}


def _refused(url: str | None, reason: str) -> Row:
    """The row of a photo that must not be had: only the url and the reason are kept."""
    return {**dict.fromkeys(_COLUMNS), "requested_url": url, "reason": reason}
