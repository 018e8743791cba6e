"""Photo bytes: read, typed by content, measured from the header, hashed, stored.

Nothing is decoded here, so a picture of 30,000 × 30,000 pixels is refused from its header.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from hqvox.tables import Row
from pipelines.decode import read_header
from pipelines.discover.folder import local_path
from pipelines.stage import Needs, Pixels, Scope, Stage, UndecodableError


class DownloadStage(Stage):
    """Brings the bytes of every candidate into the workspace."""

    name = "download"
    reads = ("url", "source")
    writes = (
        "photo_id",
        "media_type",
        "width_px",
        "height_px",
        "retrieved_at",
        "photo_offset",
        "photo_bytes",
    )
    reasons = ()
    failures = (
        "not_found",
        "unreadable",
        "not_a_file",
        "empty_file",
        "not_an_image",
        "too_large",
    )
    passing = ("not_found", "unreadable")
    """Reasons that may be gone next time: ``--retry-failed`` tries these rows again."""
    needs = Needs.BYTES
    scope = Scope.PHOTO
    version = 1

    def __init__(self, config, store, photos: str = "") -> None:
        super().__init__(config, store)
        self.photos = photos

    def process(self, rows: Sequence[Row], pixels: Pixels) -> list[Row]:
        """Fetch each row's bytes; a row that cannot be had gets its reason and null columns."""
        for row in rows:
            row.update(dict.fromkeys(self.writes))
            row["reason"] = self._fetch(row, pixels)
        return list(rows)

    def _fetch(self, row: Row, pixels: Pixels) -> str | None:
        path = local_path(self.photos, row["url"])
        try:
            status = os.stat(path)
            if not stat.S_ISREG(status.st_mode):
                return "not_a_file"
            row["photo_bytes"] = status.st_size
            row["retrieved_at"] = datetime.fromtimestamp(int(status.st_mtime), UTC)
            if status.st_size == 0:
                return "empty_file"
            if status.st_size > self.config.max_bytes:
                return "too_large"
            data = Path(path).read_bytes()
        except OSError as error:
            missing = error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR)
            return "not_found" if missing else "unreadable"
        row["photo_id"] = hashlib.sha256(data).hexdigest()
        try:
            header = read_header(data)
        except UndecodableError:
            return "not_an_image"
        row["media_type"] = header.media_type
        row["width_px"], row["height_px"] = header.width_px, header.height_px
        if header.width_px * header.height_px > self.config.max_pixels:
            return "too_large"
        pixels.keep_photo(row, data)
        return None
