"""What was taken down, so that no later crawl or build brings it back.

``<workspace>/tombstones.jsonl``, one line a takedown, only ever added to:

    {"date": "2026-01-31", "kind": "identity", "reason": "…", "salt": "…", "value": "<SHA-256>"}

It names nobody: a value is the SHA-256 of salt, kind, and what was taken down (an identity's id,
the SHA-256 of a photo's bytes, a host, or the SHA-256 of a normalised url). All lines that one
workspace writes have the same salt. Older versions wrote lines without a salt, with ids and hosts
in clear; those hold as before.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
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
    """Identity id, SHA-256 of the photo's bytes (hex), host, or :func:`url_digest`; with a salt,
    the :func:`salted` hash of that."""
    reason: str = ""
    """Free text of whoever took it down."""
    date: str = ""
    """UTC day, ISO 8601."""
    salt: str = ""
    """Hex; empty where the value is in clear, as in memory, and on lines of older versions."""


class Takedowns:
    """Everything that was taken down in a workspace."""

    def __init__(self, entries: Iterable[Takedown] = ()) -> None:
        self.entries = tuple(entries)
        self._values = frozenset((e.kind, e.salt, e.value) for e in self.entries)
        self._salts: dict[str, frozenset[str]] = {
            kind: frozenset(e.salt for e in self.entries if e.kind == kind)
            for kind in get_args(Kind)
        }
        self._hosts: dict[str, bool] = {}  # by host, what covers_url found

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

    def covers_identity(self, identity_id: str | None) -> bool:
        """Whether the identity was taken down; false for None (not known)."""
        return identity_id is not None and self._covers("identity", identity_id)

    def covers_photo(self, sha256: str | None) -> bool:
        """Whether a photo with these bytes (SHA-256, hex) was taken down; false for None."""
        return sha256 is not None and self._covers("photo", sha256)

    def covers_url(self, url: str | None) -> bool:
        """Whether the url was taken down, or its host, or a domain above its host.

        Ask for each address that leads to a photo: its url, its final url and its page. A
        relative url (folder source) has no host. False for None.
        """
        if not url or not (self._salts["url"] or self._salts["host"]):
            return False
        addresses = {url, original_url(url)}
        if self._salts["url"] and any(self._covers("url", url_digest(a)) for a in addresses):
            return True
        return bool(self._salts["host"]) and self._covers_host(host_of(url))

    def missing(self, wanted: Iterable[Takedown]) -> list[Takedown]:
        """Those of ``wanted`` that the list does not hold yet, each once."""
        unique = {(e.kind, e.value): e for e in wanted}
        return [e for e in unique.values() if not self._covers(e.kind, e.value)]

    def added(self, wanted: Iterable[Takedown]) -> Takedowns:
        """This list with ``wanted`` at its end; nothing is written."""
        return Takedowns((*self.entries, *self.missing(wanted)))

    def add(
        self, workspace: Workspace, wanted: Iterable[Takedown], today: date | None = None
    ) -> Takedowns:
        """Write the list with ``wanted`` added, salted, whole or not at all; return it.

        The caller holds ``workspace.lock()``. Raises HqvoxError where the disk refuses.
        """
        day = (today or datetime.now(UTC).date()).isoformat()
        missing = self.missing(wanted)
        if not missing:
            return self
        salt = next((e.salt for e in reversed(self.entries) if e.salt), "") or new_salt()
        new = [
            Takedown(e.kind, salted(salt, e.kind, e.value), e.reason, e.date or day, salt)
            for e in missing
        ]
        both = Takedowns((*self.entries, *new))
        lines = [_line(entry) for entry in both.entries]
        workspace.storage.write(FILE, ("\n".join(lines) + "\n").encode())
        return both

    def _covers(self, kind: Kind, value: str) -> bool:
        return any(
            (kind, salt, salted(salt, kind, value)) in self._values for salt in self._salts[kind]
        )

    def _covers_host(self, host: str) -> bool:
        if host not in self._hosts:
            parts = host.split(".")
            names = (".".join(parts[i:]) for i in range(len(parts)))
            self._hosts[host] = any(self._covers("host", name) for name in names)
        return self._hosts[host]


def new_salt() -> str:
    """128 random bits, hex."""
    return secrets.token_hex(16)


def salted(salt: str, kind: Kind, value: str) -> str:
    """What a line keeps of a value: SHA-256 with the salt, hex; without a salt the value itself."""
    if not salt:
        return value
    text = f"{salt}\n{kind}\n{value}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


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


def original_url(url: str) -> str:
    """Of a scaled picture of Wikimedia the original's address, else the url as it is."""
    return _SCALED.sub(r"\1\2", url)


def url_digest(url: str) -> str:
    """SHA-256 of the normalised url, hex: what a takedown keeps of it."""
    return hashlib.sha256(normalised_url(url).encode("utf-8", "surrogatepass")).hexdigest()


_SCALED = re.compile(
    r"^(https?://upload\.wikimedia\.org/[^/]+/[^/]+)/thumb(/[0-9a-f]/[0-9a-f]{2}/[^/]+)/[^/]+$"
)
_RESERVED = "!$&'()*+,;=:@/?[]"


def _one_spelling(text: str) -> str:
    """Percent-encoding with one spelling, but what is encoded for its meaning left encoded."""
    kept = re.split(r"(%(?:2[0-9A-CFa-cf]|3[A-Fa-f]|40|5[BbDd]))", text)  # reserved characters, %
    return "".join(
        part.upper() if number % 2 else quote(unquote(part, errors="surrogateescape"),
                                              safe=_RESERVED + "~", errors="surrogateescape")
        for number, part in enumerate(kept)
    )  # fmt: skip


def _line(entry: Takedown) -> str:
    record = {name: value for name, value in asdict(entry).items() if name != "salt" or value}
    return json.dumps(record, ensure_ascii=False, sort_keys=True)


def _parsed(workspace: Workspace, number: int, line: str) -> Takedown:
    try:
        record: dict[str, Any] = json.loads(line)
        entry = Takedown(**record)
    except (json.JSONDecodeError, TypeError):
        raise _damaged(workspace, number) from None
    texts = isinstance(entry.value, str) and isinstance(entry.salt, str)
    if entry.kind not in get_args(Kind) or not texts or not entry.value:
        raise _damaged(workspace, number)
    return entry


def _damaged(workspace: Workspace, number: int) -> HqvoxError:
    return HqvoxError(
        f"{workspace.storage.shown(FILE)}:{number}: not a takedown; restore the file from a copy, "
        "or delete the line if you know what it named and take that down again"
    )
