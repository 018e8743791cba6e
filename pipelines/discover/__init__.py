"""Where candidate photographs are: one file per source."""

from pipelines.discover.stage import DiscoverStage

__all__ = ["DiscoverStage"]
