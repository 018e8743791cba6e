"""What was taken down, so that no later crawl or build brings it back.

``<workspace>/tombstones.jsonl``, one line a takedown, only ever added to:

    {"date": "2026-01-31", "kind": "photo", "value": "<SHA-256 of its bytes>", "reason": "…"}

It holds no more about people than it must in order to work: the SHA-256 of photographs, identity
ids, hosts, and of urls only the SHA-256 of their normalised form.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, Literal, get_args
from urllib.parse import quote, unquote, urlsplit

from hqvox.errors import HqvoxError
from hqvox.workspace.covered import Owner

if TYPE_CHECKING:
    from hqvox.workspace.layout import Workspace

FILE = "tombstones.jsonl"
Kind = Literal["identity", "photo", "host", "url"]
TAKEDOWNS_FILE = Owner("takedowns", (FILE,), None)


@dataclass(frozen=True)
class Takedown:
    """One thing that was taken down."""

    kind: Kind
    value: str
    """Identity id, SHA-256 of the photo's bytes (hex), host, or :func:`url_digest`."""
    reason: str = ""
    """Free text of whoever took it down."""
    date: str = ""
    """UTC day, ISO 8601."""


class Takedowns:
    """Everything that was taken down in a workspace."""

    def __init__(self, entries: Iterable[Takedown] = ()) -> None:
        self.entries = tuple(entries)
        self._of: dict[str, frozenset[str]] = {
            kind: frozenset(e.value for e in self.entries if e.kind == kind)
            for kind in get_args(Kind)
        }

    @classmethod
    def read(cls, workspace: Workspace) -> Takedowns:
        """The workspace's list; empty where nothing was taken down.

        Raises HqvoxError where a line is damaged: what it named must not come back unseen.
        """
        try:
            lines = workspace.storage.read(FILE).decode().splitlines()
        except FileNotFoundError:
            return cls()
        except UnicodeDecodeError:
            raise _damaged(workspace, 1) from None
        return cls(_parsed(workspace, number, line) for number, line in enumerate(lines, 1))

    def covers_identity(self, identity_id: str) -> bool:
        """Whether the identity was taken down."""
        return identity_id in self._of["identity"]

    def covers_photo(self, sha256: str | None) -> bool:
        """Whether a photo with these bytes (SHA-256, hex) was taken down; None is none."""
        return sha256 in self._of["photo"]

    def covers_url(self, url: str | None) -> bool:
        """Whether the url was taken down, or its host, or a domain above its host.

        Ask for each address that leads to a photo: its url, its final url and its page. A
        relative url (folder source) has no host; None is covered by nothing.
        """
        if not url or not (self._of["host"] or self._of["url"]):
            return False
        if self._of["url"] and url_digest(url) in self._of["url"]:
            return True
        return bool(self._of["host"]) and self._covers_host(host_of(url))

    def missing(self, wanted: Iterable[Takedown]) -> list[Takedown]:
        """Those of ``wanted`` that the list does not hold yet, each once."""
        unique = {(e.kind, e.value): e for e in wanted}
        return [e for e in unique.values() if e.value not in self._of[e.kind]]

    def added(self, wanted: Iterable[Takedown]) -> Takedowns:
        """This list with ``wanted`` at its end; nothing is written."""
        return Takedowns((*self.entries, *self.missing(wanted)))

    def add(
        self, workspace: Workspace, wanted: Iterable[Takedown], today: date | None = None
    ) -> Takedowns:
        """Write the list with ``wanted`` added, whole or not at all; return it.

        The caller holds ``workspace.lock()``. Raises HqvoxError where the disk refuses.
        """
        day = (today or datetime.now(UTC).date()).isoformat()
        new = [Takedown(e.kind, e.value, e.reason, e.date or day) for e in self.missing(wanted)]
        if not new:
            return self
        both = Takedowns((*self.entries, *new))
        lines = [json.dumps(asdict(e), ensure_ascii=False, sort_keys=True) for e in both.entries]
        workspace.storage.write(FILE, ("\n".join(lines) + "\n").encode())
        return both

    def _covers_host(self, host: str) -> bool:
        parts = host.split(".")
        return any(".".join(parts[i:]) in self._of["host"] for i in range(len(parts)))


def host_of(url: str) -> str:
    """Host of a url in lower-case ASCII (IDNA), without port; "" where there is none."""
    try:
        return normalised_host(urlsplit(url).hostname or "")
    except ValueError:  # brackets that are no IPv6 address
        return ""


def normalised_host(host: str) -> str:
    """A host name in lower-case ASCII (IDNA), without the root's dot."""
    host = host.strip().rstrip(".").lower()
    try:
        return host.encode("idna").decode() if not host.isascii() else host
    except UnicodeError:  # a label that IDNA has no form for: compared as it is written
        return host


def normalised_url(url: str) -> str:
    """One form for the ways to write an address.

    The scheme (http and https serve the same pictures), the fragment, user names and default
    ports go; host and percent-encoding get one spelling. A relative url only gets the latter.
    """
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:  # no url: compared as it is written
        return url.strip()
    host = normalised_host(parts.hostname or "")
    if port is not None and (parts.scheme, port) not in (("http", 80), ("https", 443)):
        host = f"{host}:{port}"
    path = _one_spelling(parts.path or ("/" if host else ""))
    query = f"?{_one_spelling(parts.query)}" if parts.query else ""
    return f"//{host}{path}{query}" if host else f"{path}{query}"


def url_digest(url: str) -> str:
    """SHA-256 of the normalised url, hex: what a takedown keeps of it."""
    return hashlib.sha256(normalised_url(url).encode("utf-8", "surrogatepass")).hexdigest()


_RESERVED = "!$&'()*+,;=:@/?[]"


def _one_spelling(text: str) -> str:
    """Percent-encoding with one spelling, but what is encoded for its meaning left encoded."""
    kept = re.split(r"(%(?:2[0-9A-CFa-cf]|3[A-Fa-f]|40|5[BbDd]))", text)  # reserved characters, %
    return "".join(
        part.upper() if number % 2 else quote(unquote(part, errors="surrogateescape"),
                                              safe=_RESERVED + "~", errors="surrogateescape")
        for number, part in enumerate(kept)
    )  # fmt: skip


def _parsed(workspace: Workspace, number: int, line: str) -> Takedown:
    try:
        record: dict[str, Any] = json.loads(line)
        entry = Takedown(**record)
    except (json.JSONDecodeError, TypeError):
        raise _damaged(workspace, number) from None
    if entry.kind not in get_args(Kind) or not isinstance(entry.value, str) or not entry.value:
        raise _damaged(workspace, number)
    return entry


def _damaged(workspace: Workspace, number: int) -> HqvoxError:
    return HqvoxError(
        f"{workspace.storage.path(FILE)}:{number}: not a takedown; restore the file from a copy, "
        "or delete the line if you know what it named and take that down again"
    )
