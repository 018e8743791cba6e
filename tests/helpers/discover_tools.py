"""Making discover stages and identities for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hqvox.config.discover import DiscoverConfig
from hqvox.config.file import merge
from hqvox.workspace.storage import Storage
from models.store import ModelStore
from pipelines.discover.stage import DiscoverStage

KEYS = {
    "HQVOX_GOOGLE_KEY": "AIzaSy-Not+A/Real=Key&0123",
    "HQVOX_GOOGLE_ENGINE": "0123456789:engine",
    "HQVOX_BRAVE_KEY": "BSAbravesecret'4567",
}
"""With characters that are written in other ways in urls, JSON and Python."""
APIS = ("wikimedia", "openverse", "google", "brave")
CONTACT = "crawler@example.org"


def api_settings(url: str, **more: Any) -> dict[str, Any]:
    """The APIs' sections of ``discover``: the local server, and no waiting."""
    common = {
        "base_url": url,
        "requests_per_second": 1000.0,
        "backoff_seconds": 0.01,
        "timeout_seconds": 5.0,
        "retries": 2,
        **more,
    }
    settings: dict[str, Any] = {name: dict(common) for name in APIS}
    settings["wikimedia"]["wikidata_url"] = url
    return settings


def make_stage(
    url: str, root: Path, sources: Sequence[str], api: dict[str, Any], settings: dict[str, Any]
) -> DiscoverStage:
    """A stage that asks the server at ``url``; ``api`` overrides every API's settings."""
    values = merge(api_settings(url, **api), {"sources": list(sources), **settings})
    config = DiscoverConfig.model_validate(values)
    return DiscoverStage(config, ModelStore(root / "cache"), Storage(root), CONTACT)


def person(key: str = "id1", name: str = "Ada_Lovelace", **more: Any) -> dict[str, Any]:
    """An identity row."""
    row = {
        "identity_id": key,
        "name": name,
        "subset": "vox1",
        "gender": "f",
        "nationality": "UK",
        "row": 0,
        "folder": None,
        "shard": "00000",
    }
    return row | more


def rows_of(stage: DiscoverStage, identity: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """What the stage finds for one identity."""
    return stage.process([identity or person()], None)  # type: ignore[arg-type]
