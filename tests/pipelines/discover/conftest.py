"""What tests of search APIs share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.discover.stage import DiscoverStage
from tests.helpers.discover_tools import KEYS, make_stage
from tests.helpers.fake_apis import FakeApis, serving


@pytest.fixture
def apis() -> Iterator[FakeApis]:
    """The search APIs, on this machine."""
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HQVOX_OPENVERSE_TOKEN", raising=False)
    for variable, value in KEYS.items():
        monkeypatch.setenv(variable, value)


@pytest.fixture
def stage(apis: FakeApis, tmp_path: Path) -> Callable[..., DiscoverStage]:
    """Make a discover stage that asks the local APIs; ``limit`` and so on override."""

    def make(*sources: str, api: dict[str, Any] | None = None, **settings: Any) -> DiscoverStage:
        return make_stage(apis.url, tmp_path / "w", sources, api or {}, settings)

    return make
