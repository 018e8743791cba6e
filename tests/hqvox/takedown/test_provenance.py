"""Where a photograph came from follows it into the release."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from hqvox.cli.explain import explain
from hqvox.release.read import Release
from hqvox.release.write import write_release
from hqvox.workspace.layout import Workspace
from hqvox.workspace.tables import Row, stage_schema
from pipelines.chain import COLUMNS_OF
from tests.helpers.synthetic_build import make_build

FETCHED = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


def rewrite(workspace: Workspace, stage: str, values: Row) -> None:
    """Give the first photo of every identity other values, under the same fingerprint."""
    for shard in workspace.shards():
        table, record = workspace.read_stage(stage, shard), workspace.committed(stage, shard)
        assert table is not None
        assert record is not None
        rows = [row | (values if row["candidate"] == 0 else {}) for row in table.to_pylist()]
        schema = stage_schema(COLUMNS_OF[stage])
        workspace.write_stage(stage, shard, pa.Table.from_pylist(rows, schema), record)


def test_provenance_follows_the_photograph_into_the_manifest(tmp_path: Path) -> None:
    workspace = make_build(tmp_path / "w", tmp_path / "photos")
    found = {
        "url": "https://example.org/1.jpg",
        "page_url": "https://example.org/people/ada",
        "source": "urls",
        "licence": "CC BY 4.0",
        "author": "Jo Ångström",
    }
    rewrite(workspace, "discover", found)
    rewrite(workspace, "download", {"retrieved_at": FETCHED})
    write_release(workspace, "first", workspace.config(), auto=True)
    rows = Release(workspace, "first").manifest().to_pylist()
    crawled = [row for row in rows if row["candidate"] == 0]
    assert crawled
    for row in crawled:
        assert {name: row[name] for name in found} == found
        assert row["retrieved_at"] == FETCHED
        assert len(row["photo_id"]) == 64
        assert row["phash"] is not None


def test_explain_says_where_a_photograph_came_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = make_build(tmp_path / "w", tmp_path / "photos")
    url = "https://example.org/people/Ad%C3%A9.jpg"
    rewrite(workspace, "discover", {"url": url, "source": "urls", "licence": "CC BY 4.0"})
    explain(workspace.url, "id0", out=tmp_path / "all.jpg")
    assert " Adé.jpg " in capsys.readouterr().out
    digest = workspace.read_stage("download", "00000", ["photo_id"])["photo_id"][0].as_py()
    explain(workspace.url, digest, out=tmp_path / "one.jpg")
    said = capsys.readouterr().out
    assert "Ada Lovelace: Adé.jpg" in said
    assert f"from {url}, licence CC BY 4.0\n" in said


def test_when_a_local_file_was_touched_is_not_the_datasets(tmp_path: Path) -> None:
    workspace = make_build(tmp_path / "w", tmp_path / "photos")
    rewrite(workspace, "download", {"retrieved_at": FETCHED})
    write_release(workspace, "first", workspace.config(), auto=True)
    rows = Release(workspace, "first").manifest().to_pylist()
    assert [row["retrieved_at"] for row in rows] == [None] * len(rows)
