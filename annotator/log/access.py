"""Who may review: names, roles, and access tokens.

``<workspace>/review-tokens.json`` (mode 0600) holds of each token its SHA-256 only. A token is 256
random bits, so a slow hash would add nothing: there is no dictionary to try.
``<workspace>/review-local.key`` (mode 0600) is the key of the cookies for the machine itself.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import shlex
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from hqvox.errors import HqvoxError
from hqvox.workspace.covered import Owner
from hqvox.workspace.layout import Workspace
from hqvox.workspace.locks import file_lock
from hqvox.workspace.storage import disk_error

FILE = "review-tokens.json"
KEY_FILE = "review-local.key"
_LOCK = ".review-tokens.lock"
TOKENS = Owner("tokens of reviewers", (FILE, KEY_FILE, _LOCK), None)
FORMAT = 1
Role = Literal["annotator", "lead"]
ROLES: tuple[str, ...] = get_args(Role)
NAME_LENGTH = 80
"""Most characters of a name."""
_PREFIX = "hqv_"


class AccessRemovedError(HqvoxError):
    """Who acts may no longer do so, or no longer in that role."""


@dataclass(frozen=True)
class Actor:
    """A reviewer's name and role. Raises HqvoxError for an invalid one."""

    name: str
    """1 to 80 printable characters, not beginning or ending with a space."""
    role: Role = "annotator"
    confirm: Callable[[], Actor | None] | None = field(default=None, compare=False, repr=False)
    """Who the credential of this session belongs to now, None for nobody.

    Without it, the access cannot be removed: a command, or somebody at the machine itself.
    """

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise HqvoxError("a reviewer needs a name")
        if self.name != self.name.strip() or not self.name.isprintable():
            raise HqvoxError(
                f"reviewer {self.name!r}: use letters that can be printed, no space at either end"
            )
        if len(self.name) > NAME_LENGTH:
            raise HqvoxError(f"reviewer {self.name[:20]}…: at most {NAME_LENGTH} characters")
        if self.role not in ROLES:
            raise HqvoxError(f"{self.role!r} is no role; use {' or '.join(ROLES)}")

    @property
    def is_lead(self) -> bool:
        """Whether they may settle disputes and undo what others decided."""
        return self.role == "lead"

    def check(self) -> None:
        """Raise AccessRemovedError where the access was removed, or has another role now.

        Asked at every write, so never cached.
        """
        if self.confirm is None:
            return
        now = self.confirm()
        if now is None:
            raise AccessRemovedError("Your access was removed; nothing was saved.")
        if now != self:
            raise AccessRemovedError("Your role has changed; nothing was saved. Reload the page.")


class TokenFile:
    """The named tokens of a workspace."""

    def __init__(self, workspace: Workspace) -> None:
        """Raises HqvoxError where the workspace is on object storage."""
        if not workspace.storage.local:
            raise HqvoxError(
                f"{workspace.url}: tokens are kept on a local disk; use a workspace there, or log "
                "in by OpenID Connect"
            )
        self.path = Path(workspace.storage.path(FILE))

    def add(self, name: str, role: Role) -> str:
        """Make a token and return its text, which is stored nowhere.

        Raises HqvoxError where the name has one already.
        """
        actor = Actor(name, role)
        token = _PREFIX + secrets.token_urlsafe(32)
        with self._locked():
            known = self._read()
            if name in known:
                raise HqvoxError(
                    f"{name} has a token already; remove it first with "
                    f"`hqvox review token remove {self.path.parent} {name}`"
                )
            self._write(known | {name: (actor.role, _digest(token))})
        return token

    def remove(self, name: str) -> None:
        """Remove a token; it stops working at once. Raises HqvoxError where there is none."""
        with self._locked():
            known = self._read()
            if name not in known:
                names = ", ".join(sorted(known)) or "nobody yet"
                raise HqvoxError(f"{name} has no token (who has: {names})")
            del known[name]
            self._write(known)

    def check(self, token: str) -> Actor | None:
        """The owner of a token, or None. Takes the same time for wrong and right tokens."""
        digest = _digest(token)
        owner: Actor | None = None
        for name, (role, known) in self._read().items():
            if hmac.compare_digest(digest, known):
                owner = Actor(name, role)
        return owner

    def names(self) -> dict[str, Role]:
        """Name to role of everybody who has a token, sorted."""
        return {name: role for name, (role, _) in sorted(self._read().items())}

    def _read(self) -> dict[str, tuple[Role, str]]:
        try:
            with self.path.open(encoding="utf-8") as file:
                others_write = os.fstat(file.fileno()).st_mode & 0o022
                text = file.read()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise disk_error(error, str(self.path)) from None
        except UnicodeDecodeError:
            text = ""
        if others_write:
            raise HqvoxError(
                f"{self.path}: other users may write it and so grant themselves access; check "
                f"`hqvox review token list`, after: chmod 600 {shlex.quote(str(self.path))}"
            )
        try:
            record = json.loads(text)
            newer = record["format"] > FORMAT
            tokens = {} if newer else dict(map(_from_json, record["tokens"].items()))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise HqvoxError(
                f"{self.path}: damaged; delete it, and make new tokens with hqvox review token add"
            ) from None
        if newer:
            raise HqvoxError(
                f"{self.path}: a newer hqvox wrote it; upgrade with: pip install --upgrade hqvox"
            )
        return tokens

    def _write(self, tokens: dict[str, tuple[Role, str]]) -> None:
        record = {
            "format": FORMAT,
            "tokens": {n: {"role": role, "sha256": digest} for n, (role, digest) in tokens.items()},
        }
        data = json.dumps(record, indent=1, ensure_ascii=False, sort_keys=True).encode()
        temporary = self.path.with_name(f".{FILE}.{os.getpid()}.tmp")
        try:
            # Not hqvox.workspace.storage: the file must never be there with another mode, not even
            # empty.
            temporary.unlink(missing_ok=True)
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise disk_error(error, str(self.path)) from None

    def _locked(self) -> AbstractContextManager[int]:
        """One change at a time."""
        return file_lock(self.path.with_name(_LOCK), mode=0o600)


def local_key(workspace: Workspace) -> bytes:
    """The key of the cookies that the machine's own address gives out.

    Kept in the workspace, so that an open page goes on after the server was restarted; new at each
    start where the workspace is on object storage. Delete the file to end those sessions.
    """
    if not workspace.storage.local:
        return secrets.token_bytes(32)
    path = Path(workspace.storage.path(KEY_FILE))
    try:
        with file_lock(path.with_name(_LOCK), mode=0o600):
            if not path.exists() or path.stat().st_size == 0:
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                with os.fdopen(handle, "w") as file:
                    file.write(secrets.token_hex(32))
            return path.read_bytes()
    except OSError as error:
        raise disk_error(error, str(path)) from None


def _from_json(item: tuple[str, dict[str, str]]) -> tuple[str, tuple[Role, str]]:
    """A name's role and hash. Raises ValueError, KeyError, TypeError or AttributeError."""
    name, token = item
    try:
        actor = Actor(name, token["role"])  # type: ignore[arg-type]  # which it checks
    except HqvoxError as error:
        raise ValueError(error) from None
    if not re.fullmatch("[0-9a-f]{64}", token["sha256"]):
        raise ValueError
    return actor.name, (actor.role, token["sha256"])


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
