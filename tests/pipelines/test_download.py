"""The download stage reads local files only; a crawl fetches the rest by the same rules."""

from __future__ import annotations

from pathlib import Path

import pytest

from hqvox.config.build import BuildConfig, DownloadConfig
from hqvox.imaging.pictures import encode_jpeg
from models.store import ModelStore
from pipelines.chain import Stages
from pipelines.download import DownloadStage
from tests.helpers.stage_fakes import STORE, MemoryPixels, plain_photo


def test_a_remote_candidate_never_reaches_the_stage() -> None:
    stage = DownloadStage(DownloadConfig(), STORE)
    row = {"identity_id": "a", "candidate": 0, "source": "urls", "url": "http://x/1.jpg"}
    with pytest.raises(AssertionError, match="urls: remote candidates are crawled"):
        stage.process([row], MemoryPixels({}))


@pytest.mark.parametrize(
    ("size", "reason"), [((100, 100), None), ((101, 100), "too_large"), (None, "not_an_image")]
)
def test_fetched_bytes_follow_the_stage_s_limits(
    size: tuple[int, int] | None, reason: str | None
) -> None:
    stage = DownloadStage(DownloadConfig(max_pixels=10_000), STORE)
    data = b"text" if size is None else encode_jpeg(plain_photo(90, *size), 90)
    row: dict = {"photo_bytes": len(data)}
    assert stage.inspect(row, data) == reason
    assert (row.get("width_px"), row.get("height_px")) == (size or (None, None))


@pytest.mark.parametrize(("sources", "remote"), [(["folder"], False), (["folder", "urls"], True)])
def test_a_build_is_remote_with_any_source_besides_folders(
    sources: list[str], remote: bool, tmp_path: Path
) -> None:
    values = {"discover": {"sources": sources, "photos": "p", "urls": {"file": "u.csv"}}}
    stages = Stages(BuildConfig.model_validate(values), ModelStore(tmp_path))
    assert stages.download.remote is remote
    assert ("robots" in stages.download.settings()) is remote
