"""Photo bytes: read, typed by content, measured from the header, hashed, stored.

Nothing is decoded here, so a picture of 30,000 × 30,000 pixels is refused from its header. The
stage reads local files only. A build with remote sources is crawled before the stages run
(:mod:`hqvox.runner.crawl`); the crawl fetches many photos at a time, writes this stage's table
itself, and applies the same rules by :meth:`DownloadStage.inspect`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from hqvox.config.build import BuildConfig, DownloadConfig
from hqvox.config.policy import PolicyConfig
from hqvox.imaging.codec import UndecodableError, read_header
from hqvox.workspace.storage import Storage
from hqvox.workspace.tables import Row
from hqvox.workspace.takedowns import Takedowns
from models.store import ModelStore
from pipelines.discover.folder import FolderSource, local_path
from pipelines.fetch.content import unsupported_type
from pipelines.stage import Pixels, Stage

RESERVED = ("robots_disallowed", "opted_out", "rights_reserved", "personality_rights")
"""Reasons of photos whose owners, or the people shown, do not want them used."""


class DownloadStage(Stage):
    """Brings the bytes of every candidate into the workspace."""

    name = "download"
    reads = ("url", "page_url", "source", "restrictions")
    writes = (
        "photo_id",
        "media_type",
        "width_px",
        "height_px",
        "retrieved_at",
        "photo_offset",
        "photo_bytes",
        "requested_url",
        "final_url",
        "host",
        "http_status",
        "etag",
        "last_modified",
        "reservations",
    )
    reasons = ()
    failures = (
        # files
        "not_found",
        "unreadable",
        "not_a_file",
        # files and network alike
        "empty_file",
        "not_an_image",
        "unsupported_type",
        "too_large",
        "taken_down",
        # network
        "bad_url",
        "refused_address",
        "robots_disallowed",
        "opted_out",
        "rights_reserved",
        "personality_rights",
        "host_blocked",
        "dns_failed",
        "connection_failed",
        "tls_error",
        "timed_out",
        "too_slow",
        "truncated",
        "malformed_response",
        "unsupported_encoding",
        "too_many_redirects",
        "rate_limited",
        "http_client_error",
        "http_server_error",
    )
    transient = (
        "not_found",
        "unreadable",
        "refused_address",
        "dns_failed",
        "connection_failed",
        "tls_error",
        "timed_out",
        "too_slow",
        "truncated",
        "malformed_response",
        "rate_limited",
        "http_server_error",
        "host_blocked",
    )
    """Reasons that may not recur: ``--retry-failed`` tries these rows again."""
    version = 2

    def __init__(
        self,
        config: DownloadConfig,
        store: ModelStore,
        photos: str = "",
        remote: bool = False,
        policy: PolicyConfig | None = None,
    ) -> None:
        """``photos``: folder of local photos; ``remote``: some candidates lie on the network."""
        super().__init__(config, store)
        self.photos = photos
        self.remote = remote
        self.policy = policy or PolicyConfig()
        self.takedowns = Takedowns()
        """The workspace's takedowns; set by whoever runs the stage."""

    @classmethod
    def of_build(cls, config: BuildConfig, store: ModelStore, storage: Storage | None) -> Self:
        """The stage of a build. ``storage``: the workspace's."""
        photos, remote = config.discover.photos, config.discover.remote
        return cls(config.download, store, photos, remote, config.policy)

    def settings(self) -> dict[str, Any]:
        """The part of the configuration that decides what is kept, rather than how it is fetched.

        Not ``allow_hosts``: a workspace's own server may have another port each time.
        """
        names = {"enabled", "max_bytes", "max_pixels"}
        if not self.remote:
            return self.config.model_dump(mode="json", include=names)
        names |= {"robots", "opt_out"}
        settings = self.config.model_dump(mode="json", include=names)
        return settings | {"respect": sorted(self.policy.respect)}

    def restricted(self, row: Row) -> str | None:
        """``personality_rights`` where the source states such restrictions and they count."""
        stated = re.split(r"[|,;\s]+", (row.get("restrictions") or "").lower())
        counts = "personality" in self.policy.respect and "personality" in stated
        return "personality_rights" if counts else None

    def reserved(self, row: Row) -> str | None:
        """``rights_reserved`` where one of the row's reservations counts."""
        seen = set(row["reservations"] or ()) & set(self.policy.respect)
        return "rights_reserved" if seen else None

    def measure(self, rows: Sequence[Row], pixels: Pixels) -> list[Row]:
        """Read each row's local file; a row whose file cannot be used gets the reason."""
        for row in rows:
            assert is_local(row), f"{row['source']}: remote candidates are crawled"
            row.update(dict.fromkeys(self.writes))
            row["reason"], data = self.read_file(row)
            if row["reason"] is None:
                pixels.keep_photo(row, data)
        return list(rows)

    def read_file(self, row: Row) -> tuple[str | None, bytes]:
        """Reason and bytes of a local row; sets its columns, except where the bytes are stored."""
        if covered(self.takedowns, row):
            return "taken_down", b""
        path = local_path(self.photos, row["url"])
        try:
            status = os.stat(path)
            if not stat.S_ISREG(status.st_mode):
                return "not_a_file", b""
            row["photo_bytes"] = status.st_size
            if status.st_size == 0:
                return "empty_file", b""
            if self.verdict(row) is not None:
                return "too_large", b""
            data = Path(path).read_bytes()
        except OSError as error:
            missing = error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR)
            return "not_found" if missing else "unreadable", b""
        row["photo_id"] = hashlib.sha256(data).hexdigest()
        if self.takedowns.covers_photo(row["photo_id"]):
            row.update(dict.fromkeys(self.writes))
            return "taken_down", b""
        return self.inspect(row, data), data

    def inspect(self, row: Row, data: bytes) -> str | None:
        """Type and size by content; sets ``media_type``, ``width_px`` and ``height_px``.

        Returns ``empty_file``, ``not_an_image``, ``unsupported_type``, ``too_large`` or None.
        """
        if not data:
            return "empty_file"
        try:
            header = read_header(data)
        except UndecodableError:
            row["media_type"] = unsupported_type(data)
            return "not_an_image" if row["media_type"] is None else "unsupported_type"
        row["media_type"] = header.media_type
        row["width_px"], row["height_px"] = header.width_px, header.height_px
        return self.verdict(row)


def is_local(row: Row) -> bool:
    """Whether a candidate is a file of this machine."""
    return bool(row["source"] == FolderSource.name)


def covered(takedowns: Takedowns, row: Row) -> bool:
    """Whether a candidate is known to be taken down before it is fetched."""
    return takedowns.covers_identity(row["identity_id"]) or any(
        takedowns.covers_url(row.get(name)) for name in ("url", "page_url", "final_url")
    )
