"""Two people in one shard of a workspace, crawled from a site of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

import hqvox.runner.crawl.shard
import hqvox.workspace.identities
from hqvox.phantom.website import Website, urls_csv
from hqvox.runner.build import plan_build, run_build
from hqvox.takedown.purge import PurgePlan, plan_purge, run_purge
from hqvox.workspace.identities import read_folders, to_table
from hqvox.workspace.layout import Workspace
from hqvox.workspace.tables import Row
from hqvox.workspace.takedowns import Takedown
from models.store import ModelStore
from tests.helpers.crawl_site import RULES

PEOPLE, PICTURES = ("Ada", "Bob"), 6


class KilledError(BaseException):
    """Replaces SIGKILL within this process."""


@dataclass
class Crawled:
    """A workspace and the site that it crawls."""

    workspace: Workspace
    site: Website

    def build(self, start: str | None = None) -> int:
        """Bring download up to date; return the requests for pictures that it took."""
        before = self.pictures()
        config = self.workspace.config()
        with self.workspace.lock():
            tasks = plan_build(self.workspace, config, ModelStore(), target="download", start=start)
            result = run_build(self.workspace, config, tasks, workers=0)
        assert result.failed == []
        return self.pictures() - before

    def build_until_killed(self) -> None:
        """Crawl everything again, and die before the shard is committed."""

        def die(*args: object) -> None:
            raise KilledError

        self.workspace.storage.remove("stages/download/00000.parquet")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(hqvox.runner.crawl.shard.ShardCrawl, "commit", die)
            with pytest.raises(KilledError):
                self.build()

    def pictures(self) -> int:
        """Requests for pictures so far."""
        return sum(n for path, n in self.site.requests.items() if path not in RULES)

    def purge(self, *asked: Takedown) -> PurgePlan:
        with self.workspace.lock(purging=True):
            plan = plan_purge(self.workspace, asked)
            run_purge(self.workspace, plan)
        return plan

    def rows(self) -> list[Row]:
        """Download rows with their urls."""
        found = []
        for shard in self.workspace.shards():
            tables = [self.workspace.read_stage(s, shard) for s in ("discover", "download")]
            first, second = (table.to_pylist() for table in tables if table is not None)
            urls = {(row["identity_id"], row["candidate"]): row["url"] for row in first}
            found += [r | {"url": urls[r["identity_id"], r["candidate"]]} for r in second]
        return found

    def kept(self, place: int) -> Row:
        """Ada's photo of that place, which arrived."""
        return next(
            row
            for row in self.rows()
            if row["url"].endswith(f"/photos/Ada/{place:03d}.jpg") and row["reason"] is None
        )


@contextmanager
def crawling(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Crawled]:
    """The workspace, made but not crawled yet."""
    monkeypatch.setattr(hqvox.workspace.identities, "shard_size", lambda count: 2)
    monkeypatch.setattr("hqvox.phantom.website.SLOW_SECONDS", 0.0)
    monkeypatch.setattr("hqvox.phantom.website.RETRY_AFTER_SECONDS", 0)
    for number, name in enumerate(PEOPLE):
        folder = root / "world/photos" / name
        folder.mkdir(parents=True)
        for shot in range(PICTURES):
            noise = np.random.default_rng([number, shot]).integers(0, 256, (40, 40, 3), np.uint8)
            (folder / f"{shot:03d}.jpg").write_bytes(cv2.imencode(".jpg", noise)[1].tobytes())
    with Website(root / "world") as site:
        (root / "urls.csv").write_bytes(urls_csv(root / "world", site.url))
        text = yaml.safe_dump(
            {
                "discover": {"sources": ["urls"], "urls": {"file": str(root / "urls.csv")}},
                "download": {
                    "contact": "tests",
                    "allow_hosts": [f"127.0.0.1:{site.port}"],
                    "host_requests_per_second": 1000.0,
                    "backoff_seconds": 0.01,
                },
            }
        )
        people = to_table(read_folders(root / "world/photos"))
        yield Crawled(Workspace.create(root / "w", text, people), site)
