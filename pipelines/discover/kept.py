"""Answers of search APIs, kept: a rerun asks for what is missing and for nothing twice.

Every page that an API answered is a line of ``discover/<source>/<shard>/<identity>.jsonl``,
candidates only. Deleting files there makes the next run of discover ask again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import quote

from hqvox.workspace.storage import Storage
from hqvox.workspace.tables import Row
from pipelines.discover.source import Candidate

FOLDER = "discover"
"""Where sources keep what they were told, below the workspace."""

Token = dict[str, Any]
"""Which page: JSON values that name it wholly, without secrets."""


@dataclass(frozen=True)
class Page:
    """One answer: its candidates, best first, and the token of the next page, if there is one."""

    candidates: list[Candidate] = field(default_factory=list)
    next: Token | None = None


class KeptPages:
    """An identity's answers on disk."""

    def __init__(
        self, storage: Storage, source: str, identity: Row, settings: Mapping[str, Any]
    ) -> None:
        self.storage = storage
        self.settings = settings
        leaf = f"{quote(identity['identity_id'], safe=' ') or '_'}.jsonl"
        self.shard: str = identity["shard"]
        self.file = f"{FOLDER}/{source}/{self.shard}/{leaf}"
        self._lines: list[str] = []
        self._pages: dict[str, Page] = {}
        try:
            text = storage.read(self.file).decode("utf-8", "replace")
        except FileNotFoundError:
            return
        for line in text.split("\n"):  # titles may hold other separators
            try:
                record = json.loads(line)
                found = [Candidate(**c) for c in record["candidates"]]
                self._pages[record["page"]] = Page(found, record["next"])
            except (ValueError, KeyError, TypeError):
                continue  # damaged: the page is asked for again
            self._lines.append(line)

    def get(self, token: Token) -> Page | None:
        """A page that was answered before, else None."""
        return self._pages.get(self._name(token))

    def put(self, token: Token, query: str, page: Page) -> None:
        """Keep a page, on disk when this returns. Raises HqvoxError where the disk refuses."""
        name = self._name(token)
        self._pages[name] = page
        candidates = [
            {key: value for key, value in asdict(c).items() if value is not None}
            for c in page.candidates
        ]
        record = {"page": name, "query": query, "next": page.next, "candidates": candidates}
        self._lines.append(json.dumps(record, ensure_ascii=False))
        text = "\n".join([*self._lines, ""])
        self.storage.write(self.file, text.encode("utf-8", "replace"))

    def _name(self, token: Token) -> str:
        asked = json.dumps([self.settings, token], sort_keys=True)
        return hashlib.sha256(asked.encode()).hexdigest()[:24]
