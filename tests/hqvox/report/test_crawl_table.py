"""What the report says of a crawl."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hqvox.errors import HqvoxError
from hqvox.report.crawl import UNSTATED, read_crawl
from hqvox.report.html import render_report
from hqvox.workspace.layout import Workspace
from hqvox.workspace.tables import ATTEMPTS
from tests.helpers.synthetic_build import make_build


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    root = tmp_path_factory.mktemp("crawl_table")
    return make_build(root / "w", root / "photos", photos_per_identity=4)


def attempts(workspace: Workspace, shard: str, hosts: list[str]) -> None:
    """Write a shard's attempts, one for each host."""
    rows = [
        {"url": f"http://{host}/{n}", "final_url": f"http://{host}/{n}", "host": host}
        | {"time": datetime(2026, 1, 1, tzinfo=UTC), "status": None if host == "silent" else 200}
        | {"reason": "timed_out" if host == "silent" else None, "bytes": 100, "seconds": 0.5}
        for n, host in enumerate(hosts)
    ]
    with workspace.storage.writing(f"attempts/{shard}.parquet") as file:
        pq.write_table(pa.Table.from_pylist(rows, ATTEMPTS), file)


def test_crawl_is_added_up_over_shards(build: Workspace) -> None:
    assert read_crawl(build) is None
    assert 'id="crawl"' not in render_report(build, None)
    attempts(build, "00000", ["a.example", "a.example", "b.example"])
    attempts(build, "00001", ["b.example"] * 6 + ["silent"])
    stats = read_crawl(build)
    assert stats is not None
    # Two people have four photos each, one of which is no picture; a third has two good ones.
    assert (stats.candidates, stats.fetched) == (10, 8)
    assert stats.reasons == [("not_an_image", 2, False)]
    assert (stats.attempts, stats.hosts) == (10, {"a.example", "b.example"})
    assert stats.licences == {UNSTATED: 8}
    assert [(host.name, host.requests, host.answered) for host in stats.busiest] == [
        ("b.example", 7, 7),
        ("a.example", 2, 2),
        ("silent", 1, 0),
    ]
    assert [host.failed for host in stats.busiest] == [0, 0, 1]
    assert (stats.busiest[0].bytes, stats.busiest[0].mean_seconds) == (700, 0.5)
    tables = [build.read_stage("download", shard) for shard in build.shards()]
    rows = [row for table in tables if table is not None for row in table.to_pylist()]
    assert stats.bytes == sum(row["photo_bytes"] for row in rows if row["reason"] is None) > 0
    page = re.sub(r"\s+", " ", render_report(build, None))
    assert "8 of 10 photographs arrived" in page
    assert "in 10 attempts; 2 hosts answered." in page
    assert '<tr><th>b.example</th><td class="n">7</td><td class="n">7</td>' in page
    assert '<tr><th>not an image</th><td class="n">2</td><td>no</td></tr>' in page


def test_damaged_attempts_are_one_clear_line(build: Workspace, tmp_path: Path) -> None:
    build.storage.write("attempts/00000.parquet", b"PAR1 no more")
    with pytest.raises(HqvoxError, match=r"attempts/00000\.parquet: cannot be read"):
        read_crawl(build)
